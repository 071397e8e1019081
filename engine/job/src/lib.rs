//! What long work shares: it can be cancelled, keeps within limits, tells of its progress, and stands in a table.
//!
//! Called by every crate that moves many bytes, and by the engine's loop, which owns the table. Knows no image, no
//! registry and no store; does no I/O.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cancel`] | ends a job from outside |
//! | [`limits`] | what all jobs share: slots for transfers, bytes per second, one download of a blob at a time |
//! | [`cpu`] | the right of a thread to compute, and how it lends that to others while it waits |
//! | [`rate_limit`] | bytes per second |
//! | [`progress`] | a job's rows, milestones and notes |
//! | [`once_value`] | a value that several threads wait for |
//! | [`table`] | the jobs: which run, who watches, what came of them |
#![forbid(unsafe_code)]

pub mod cancel;
pub mod cpu;
pub mod limits;
pub mod once_value;
mod permits;
pub mod progress;
pub mod rate_limit;
pub mod table;
