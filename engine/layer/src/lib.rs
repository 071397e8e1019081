//! Layers: unpacks an untrusted tar into a directory that overlayfs can mount.
//!
//! Called by the store, by the engine's image jobs, and for containers' root directories. Resolves a link that
//! leads out of the layer inside the layer's root, as chroot(2) would. Refuses a name that leads out, and never trusts a
//! length. Knows no network and no store.
//!
//! | module | what it owns |
//! |---|---|
//! | [`decompress`] | decompresses gzip and zstd, detected by their first bytes |
//! | [`tar`] | reads the tar format, entry by entry |
//! | [`unpack`] | creates the entries, and refuses dangerous names, links and devices |
//! | [`implied_dirs`] | gives directories without an entry the attributes that lower layers define |
//! | [`compare`] | compares two unpacked layers, entry by entry |
//! | [`userns`] | the user namespace in which an ordinary user's layers are unpacked |
#![forbid(unsafe_code)]
// Untrusted bytes must never cause a panic.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing))]

pub mod compare;
pub mod decompress;
pub mod implied_dirs;
pub mod tar;
pub mod unpack;
pub mod userns;
