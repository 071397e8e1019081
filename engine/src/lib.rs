//! The engine: pulls, keeps and serves images, runs containers, and tells of both.
//!
//! The program is `main.rs`; this library lets its pieces be tested and fuzzed. From above to below; a module imports only
//! what lies below it:
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the event loop: clients, requests, jobs |
//! | [`tasks`] | what the threads of jobs do |
//! | [`container`] | containers: created, started, looked after, removed |
//! | [`image`] | images: pulled, pushed, loaded, saved, served, verified |
//! | [`context`], [`outbox`] | what all threads share, and how they tell the event loop |
//! | [`config`], [`error`] | the configuration; errors as clients get them |
#![forbid(unsafe_code)]

pub mod config;
pub mod container;
pub mod context;
pub mod error;
pub mod fifos;
pub mod image;
pub mod outbox;
pub mod roots;
pub mod server;
pub mod tasks;

use sampan_os::memory::{self, HeapBounds};

/// Bounds what the allocator keeps, in the engine and in shims; to be called first thing, before any thread.
///
/// Two arenas, so that many short threads do not each keep memory; buffers of a layer come from memory that earlier ones
/// were in, not from a mapping for each. What is freed is kept until it is trimmed, soon after the work.
pub fn limit_memory() {
    memory::bound_heap(HeapBounds { arenas: 2, mmap_threshold: 1 << 20, trim_threshold: 8 << 20 });
}
