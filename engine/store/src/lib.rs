//! The image layout on disk: blobs, unpacked layers, and the names of images.
//!
//! Called by the engine's image jobs, and by containers for the layers that they mount. Knows no registry, no archive and no
//! container: who needs an image says so.
//!
//! | module | what it owns |
//! |---|---|
//! | `store` | the directory, its blobs and layers, what jobs have pinned (the type [`Store`]) |
//! | `open` | what happens when a store is opened |
//! | `files`, `temp` | temporary files, and small files that are replaced as a whole |
//! | [`images`] | which images there are, what is used, what may go |
//! | `index` | `index.json`: an entry for each image and name |
//! | `durability` | what power loss would take, and how that is kept little |
//! | `gc` | garbage, and what is broken, goes |
//! | [`partial_blob`] | blobs that are not whole yet |
//! | `reserve` | room for an index on a full disk |
//! | [`disk_usage`] | what takes how much |
#![forbid(unsafe_code)]

pub mod disk_usage;
mod durability;
mod error;
mod files;
mod gc;
pub mod images;
mod index;
mod open;
pub mod partial_blob;
mod reserve;
mod store;
mod temp;

pub use durability::state::Lost;
pub use error::{StoreError, file_error};
pub use store::{Pin, Store};
pub use temp::Temp;
