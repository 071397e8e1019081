//! Replication: copies images between registries, OCI layouts and the local store, by policies and by commands.
//!
//! Called by the engine's jobs. This crate knows no store: the engine gives the local store as one side.
//!
//! | module | what it owns |
//! |---|---|
//! | [`command`] | what an order selects: places, repositories, names at the destination |
//! | [`execution`] | one execution, from its plan to its end; [`control`] stops it |
//! | `task`, `copy`, `tree`, `selection` | one repository; one artifact; its manifests; which artifacts |
//! | [`blob`], `blob_reader` | copies one blob, and reads it in chunks |
//! | [`run`] | what all threads of an execution share; `attempts` decides on retries, `rows` shows progress |
//! | [`machine`] | a generic state machine |
//! | [`table`] | the transitions of a task, and their drawing |
//! | [`record`], [`model`] | what happens to an execution, and the state that follows from it |
//! | [`journal`] | the executions on the disk: those that run, those that can be resumed, and the history |
//! | [`known_blobs`] | which blobs this engine has put into which repositories of a destination |
//! | [`side`] | source and destination, as traits |
//! | [`registry_side`] | a registry as a side |
//! | [`artifact`] | what a manifest refers to |
//! | [`policy`] | the policies of replication.d: parsing, filters, target names, schedules; no I/O but reading that directory |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod artifact;
mod attempts;
pub mod blob;
mod blob_reader;
pub mod command;
pub mod control;
mod copy;
pub mod execution;
pub mod journal;
pub mod known_blobs;
pub mod machine;
pub mod model;
pub mod policy;
pub mod record;
pub mod registry_side;
mod rows;
pub mod run;
mod selection;
pub mod side;
pub mod table;
mod task;
mod tree;
