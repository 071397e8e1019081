//! Replication: copies images between registries, OCI layouts and the local store, by policies and by commands.
//!
//! Called by the engine's jobs. This crate knows no store: the engine gives the local store as one side.
//!
//! | module | what it owns |
//! |---|---|
//! | [`machine`] | a generic state machine |
//! | [`table`] | the transitions of a task, and their drawing |
//! | [`record`], [`model`] | what happens to an execution, and the state that follows from it |
//! | [`journal`] | the executions on the disk: those that run, those that can be resumed, and the history |
//! | [`known_blobs`] | which blobs this engine has put into which repositories of a destination |
//! | [`side`] | source and destination, as traits |
//! | [`artifact`] | what a manifest refers to |
//! | [`policy`] | the policies of replication.d: parsing, filters, target names, schedules; no I/O but reading that directory |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod artifact;
pub mod journal;
pub mod known_blobs;
pub mod machine;
pub mod model;
pub mod policy;
pub mod record;
pub mod side;
pub mod table;
