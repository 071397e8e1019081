//! The store: images on the disk, as blobs, unpacked layers and an index of names.
//!
//! Called by the engine's image jobs, and by containers for the layers that they mount. This crate knows no registry,
//! no archive and no container: each job and container pins the images that it needs.
//!
//! | module | what it owns |
//! |---|---|
//! | `store` | the directory with its blobs and layers, and the pins of jobs (the type [`Store`]) |
//! | `open` | opening a store, and the recovery after power loss |
//! | `files`, `temp` | temporary files, and small files that are replaced as a whole |
//! | [`images`] | finding, naming, tagging and removing images |
//! | `index` | reading and writing `index.json` and `index.settled.json` |
//! | `durability` | which commits are on the disk, drawn as states |
//! | `sync` | making commits durable |
//! | `gc` | removing garbage, and blobs and layers that are broken |
//! | [`partial_blob`] | downloads that are not complete |
//! | `reserve` | space for an index on a full disk |
//! | [`inspect`] | an image in full, as docker describes it |
//! | [`disk_usage`] | how much disk space images, layers and partial blobs take |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod disk_usage;
mod durability;
mod error;
mod files;
mod gc;
pub mod images;
mod index;
pub mod inspect;
mod open;
pub mod partial_blob;
mod reserve;
mod store;
mod sync;
mod temp;

pub use durability::{Generation, Lost};
pub use error::{StoreError, file_error};
pub use store::{Pin, Store};
pub use temp::Temp;
