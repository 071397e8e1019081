//! The job of a thread that fetches or checks: its task, the way to the event loop, and shared limits.
//!
//! Made by the manager for each thread. Decides nothing: `fetch` and `check` do the work.

use super::error::CdnError;
use super::message::{CdnMessage, Content};
use super::record::FileInfo;
use super::source::Source;
use super::task_dir::TaskDir;
use crate::task_id::TaskId;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::rate_limit::RateLimit;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Values that all jobs share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn Source>,
    pub(super) send: Box<dyn Fn(CdnMessage) + Send + Sync>,
    /// Limit on the bytes of all fetches together.
    pub(super) rate: RateLimit,
    /// Bytes that came from origins.
    pub(super) origin_bytes: AtomicU64,
    /// Waits before another attempt.
    pub(super) pause: fn(&Cancel, Duration) -> Result<(), Cancelled>,
    /// The current boot of the host.
    pub(super) boot_id: Option<String>,
    /// Bytes that the disk still takes.
    #[cfg(test)]
    pub(super) space: AtomicU64,
}

/// The work of one thread for one task.
pub(super) struct Job {
    pub(super) task: TaskId,
    pub(super) number: u64,
    pub(super) file: FileInfo,
    pub(super) dir: TaskDir,
    /// Whether the pieces on the disk must be compared with their digests before they are offered.
    pub(super) must_verify: bool,
    pub(super) cancel: Arc<Cancel>,
    pub(super) shared: Arc<Shared>,
}

impl Job {
    /// Sends a message to the event loop.
    pub(super) fn send(&self, content: Content) {
        (self.shared.send)(CdnMessage { task: self.task, job: self.number, content });
    }

    /// Fails if the task was deleted or the process ends.
    ///
    /// # Errors
    /// [`CdnError::Cancelled`].
    pub(super) fn check_cancelled(&self) -> Result<(), CdnError> {
        self.cancel.check().map_err(|Cancelled| CdnError::Cancelled)
    }

    /// Writes a part of the content.
    pub(super) fn write(&self, content: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        {
            let len = bytes.len() as u64;
            let take = |space: u64| space.checked_sub(len);
            let taken = self.shared.space.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
            taken.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        content.write_all_at(bytes, at)
    }

    pub(super) fn count_bytes(&self, bytes: usize) {
        self.shared.origin_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
