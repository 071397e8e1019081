//! The actions that preheats ask of the event loop, and the results that the loop returns.
//!
//! Types without behaviour, between `manager`, `resolve` and the event loop.

use super::request::{Headers, PreheatRequest};
use crate::task_id::TaskId;

/// What the event loop does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the registry for the image, and then call [`on_resolved`](super::Preheats::on_resolved) with `run`.
    Resolve {
        /// Number of this request.
        run: u64,
        /// What is asked for.
        request: PreheatRequest,
    },
    /// Abort the request `run` to a registry. [`on_resolved`](super::Preheats::on_resolved) is still called for
    /// it.
    CancelResolve {
        /// Number of the request.
        run: u64,
    },
    /// Register the task and fetch its file, and call [`on_task_ended`](super::Preheats::on_task_ended) when it
    /// has ended, however it ends. If the file is complete on the disk, the call follows at once.
    StartTask(TaskRequest),
}

/// The task of a file that is downloaded in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// The ID of the task, and of the preheat.
    pub id: TaskId,
    /// What to fetch. [`PreheatRequest::task_url`] is the URL of the task; the headers are not filtered.
    pub request: PreheatRequest,
}

/// The blobs of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageBlobs {
    /// The URL of each blob.
    pub urls: Vec<String>,
    /// The headers with which the blobs can be fetched.
    pub headers: Headers,
    /// Whether the credential in the headers is a token that the supernode has got itself, and can get again.
    pub is_own_token: bool,
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// The whole error.
    pub why: String,
    /// Whether the origin has refused the credential, or the lack of one.
    pub is_denied: bool,
}
