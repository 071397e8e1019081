//! The engine: pulls, stores and serves images, runs containers, and announces events about both.
//!
//! The program is `main.rs`; this library lets tests and fuzzers call its modules. A module imports only modules that
//! stand below it in this table:
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the event loop: clients, requests, jobs |
//! | [`tasks`] | the work of each job's thread |
//! | [`container`] | containers: create, start, watch, remove |
//! | [`replication`] | the sides of a replication on this host: OCI layouts, the store |
//! | [`image`] | images: pull, push, load, save, serve, verify |
//! | [`context`], [`outbox`] | state that all threads share, and their channel to the event loop |
//! | [`job_ids`] | the numbers of jobs, which go on after a restart |
//! | [`fifos`], [`roots`] | monitord's FIFOs, held open; the directories that the engine works in |
//! | [`config`], [`error`] | the configuration; errors in the form that clients receive |
#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod config;
pub mod container;
pub mod context;
pub mod error;
pub mod fifos;
pub mod image;
pub mod job_ids;
pub mod outbox;
pub mod replication;
pub mod roots;
pub mod server;
pub mod tasks;

use sampan_os::memory::{self, HeapBounds};

/// Bounds the memory that the allocator keeps, in engine and shims. Call it first in `main`, before any thread.
///
/// With two arenas, many short-lived threads do not each keep memory of their own. Below the mmap threshold, a layer's
/// buffers reuse freed memory instead of a new mapping each. Freed memory is kept until it is trimmed, soon after a
/// job.
pub fn limit_memory() {
    memory::bound_heap(HeapBounds { arenas: 2, mmap_threshold: 1 << 20, trim_threshold: 8 << 20 });
}
