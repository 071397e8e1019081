//! Where a fetch gets bytes from: an origin, or the supernode that owns the task.
//!
//! Called by the threads of fetches. Implementations block, and end soon after the fetch is cancelled. They follow
//! redirects and check addresses; the threads of fetches do neither.

use super::record::FileInfo;
use crate::origin::{Body, OriginError, Origins, Request, Validators};
use crate::task_id::TaskId;
use sampan_job::cancel::Cancel;

/// One request of a fetch.
pub struct Fetch<'a> {
    /// The task.
    pub task: &'a TaskId,
    /// The file.
    pub file: &'a FileInfo,
    /// What to ask for.
    pub request: &'a Request,
    /// Offset of the first byte that is wanted.
    pub from: u64,
    /// Offset after the last byte that is wanted; `None`: all bytes up to the end.
    pub to: Option<u64>,
    /// The version of the file that is wanted.
    pub validators: &'a Validators,
}

/// Where bytes come from.
pub trait Source: Send + Sync {
    /// Begins to read the bytes of `fetch`. A source that takes no ranges starts at 0 and sends the whole file.
    ///
    /// # Errors
    /// [`OriginError`]: there are no bytes. A failure in mid-transfer is an error of the body's reader.
    fn fetch<'a>(&'a self, fetch: &Fetch<'_>, cancel: &'a Cancel) -> Result<Body<'a>, OriginError>;

    /// Whether the bytes of `task` come from another supernode, which may itself wait for this one.
    fn is_near(&self, _task: &TaskId) -> bool {
        false
    }
}

impl Source for Origins {
    fn fetch<'a>(&'a self, fetch: &Fetch<'_>, cancel: &'a Cancel) -> Result<Body<'a>, OriginError> {
        Origins::fetch(self, fetch.request, fetch.from, fetch.to, fetch.validators, cancel)
    }
}
