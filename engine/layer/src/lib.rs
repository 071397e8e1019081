//! Layers: from a tar that a stranger made to a directory that overlayfs mounts.
//!
//! Called by the store, by the engine's image jobs, and by containers for their root directories. Never follows a link or
//! a name out of a layer, and never trusts a length. Knows no network and no store.
//!
//! | module | what it owns |
//! |---|---|
//! | [`decompress`] | gzip, zstd or neither, told by the first bytes |
//! | [`tar`] | the tar format, entry by entry |
//! | [`unpack`] | makes the entries: names, links and devices that are refused are refused here |
//! | [`implied_dirs`] | directories without an entry of their own: lower layers say what they are |
//! | [`compare`] | two unpacked layers, entry by entry |
//! | [`userns`] | the user namespace that an ordinary user's layers are unpacked in |
#![forbid(unsafe_code)]

pub mod compare;
pub mod decompress;
pub mod implied_dirs;
pub mod tar;
pub mod unpack;
pub mod userns;
