//! What the engine's threads do, and what they announce: between the event loop and the modules that know how.
//!
//! One file a kind of job. Called by the server; calls `image` and `container`.

pub mod archive;
mod import;
mod pull;
mod push;
mod serve;
mod short_request;
mod task;
mod verify;

pub use self::pull::PullTask;
pub use self::short_request::{answer, log_in};
pub use self::task::{Task, progress, settle};
