//! The work of the engine's threads: runs one job or one short request, and announces its events.
//!
//! One file for each kind of job. Called by `server`, each time on a new thread; calls `image` and `container`.

pub mod archive;
mod begin_execution;
mod import;
mod pull;
mod push;
mod replicate;
mod serve;
mod short_request;
mod task;
mod verify;

pub use self::begin_execution::{Wish, begin_execution};
pub use self::pull::PullTask;
pub use self::replicate::{RESUMES, suspend_with};
pub use self::short_request::{answer, log_in};
pub use self::task::{Task, progress, settle};
