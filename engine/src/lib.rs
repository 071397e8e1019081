//! The engine: pulls, keeps and serves images, and tells of it.
//!
//! The program is `main.rs`; this library lets its pieces be tested and fuzzed. From above to below:
//! [`server`] is the event loop and calls the rest; [`work`] is what its threads do; [`pull`] and [`import`]
//! send layers through the [`pipeline`] into the [`store`], whose names [`images`] keeps; [`serve`] gives them
//! out again. [`registry`] is the client of other people's registries, [`sources`] of several that have the
//! same image, as [`registries`] says. [`load`] and [`save`] carry images from and to archives, whose documents
//! [`bundle`] reads. [`sampan_ipc::announce`] says what happened.
//! A module imports only what lies below it.
#![forbid(unsafe_code)]

pub mod archive;
pub mod bundle;
pub mod client;
pub mod config;
pub mod container;
pub mod failure;
pub mod feed;
pub mod fifos;
pub mod import;
pub mod layer;
pub mod layout;
pub mod load;
pub mod login;
pub mod members;
#[cfg(test)]
mod numbers;
pub mod outlet;
pub mod pipeline;
pub mod policy;
mod processor;
pub mod prune;
pub mod pull;
pub mod push;
pub mod reach;
pub mod relay;
pub mod room;
pub mod roots;
pub mod save;
pub mod seekable;
pub mod serve;
pub mod server;
pub mod signature;
pub mod staged;
pub mod verify;
pub mod work;

use sampan_os::memory::{self, HeapBounds};

/// Bounds what the allocator keeps, in the engine and in shims; to be called first thing, before any thread.
///
/// Two arenas, so that many short threads do not each keep memory; buffers of a layer come from memory that earlier ones
/// were in, not from a mapping for each. What is freed is kept until it is trimmed, soon after the work.
pub fn limit_memory() {
    memory::bound_heap(HeapBounds { arenas: 2, mmap_threshold: 1 << 20, trim_threshold: 8 << 20 });
}
