//! Services for long-running jobs: cancellation, limits, progress, and the table of jobs.
//!
//! Called by every crate that transfers many bytes, and by the engine's event loop, which owns the table. Knows no
//! image, no registry and no store; does no I/O.
//!
//! | module | what it owns |
//! |---|---|
//! | [`buffers`] | a budget of memory that all jobs share |
//! | [`cancel`] | the cancellation of a job |
//! | [`limits`] | limits that all jobs share: transfers at a time, bytes per second, one download of a blob at a time |
//! | [`cpu`] | permits to compute, which threads lend to each other while they wait |
//! | [`rate_limit`] | a limit on bytes per second |
//! | [`progress`] | a job's rows, milestones and notes |
//! | [`once_value`] | a value that one thread sets and several wait for |
//! | [`table`] | the jobs: running and ended ones, with their watchers and results |
#![forbid(unsafe_code)]

pub mod buffers;
pub mod cancel;
pub mod cpu;
pub mod limits;
pub mod once_value;
mod permits;
pub mod progress;
pub mod rate_limit;
pub mod table;
