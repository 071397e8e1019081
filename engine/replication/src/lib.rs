//! Replication: copies images between registries, OCI layouts and the local store, by policies and by commands.
//!
//! Called by the engine's jobs. This crate knows no store: the engine gives the local store as one side.
//!
//! | module | what it owns |
//! |---|---|
//! | [`policy`] | the policies of replication.d: parsing, filters, target names, schedules; no I/O but reading that directory |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod policy;
