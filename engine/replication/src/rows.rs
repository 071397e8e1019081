//! The progress rows of an execution: one summary row, and a row for each blob in flight.
//!
//! A row of a finished blob is used again for the next one, so that an execution of many thousand blobs has a handful
//! of rows. The threads of tasks call this; the engine's event loop sends the rows to clients.

use sampan_ipc::engine::Phase;
use sampan_job::progress::Progress;
use sampan_os::mutex::lock;
use std::sync::{Arc, Mutex};

/// The index of the summary row.
const SUMMARY: usize = 0;

/// The rows of one execution.
pub(crate) struct Rows {
    progress: Arc<Progress>,
    state: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Indices of rows without a blob.
    free: Vec<usize>,
    artifacts: u64,
    artifacts_done: u64,
    bytes: u64,
    bytes_done: u64,
    /// Why the execution waits; empty while it runs.
    waits: String,
}

/// The row of a blob in flight; dropping it frees the row.
pub(crate) struct BlobRow<'a> {
    rows: &'a Rows,
    index: usize,
    /// Bytes of the blob that the summary counts as done.
    counted: u64,
}

impl Rows {
    /// Makes the summary row.
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        progress.begin_with_summary("0/0".to_owned());
        Rows { progress, state: Mutex::default() }
    }

    /// Adds a note about the execution as a whole.
    pub(crate) fn note(&self, text: &str) {
        log::info!("{text}");
        self.progress.note(text);
    }

    /// Adds to the number of artifacts, and of those that have ended.
    pub(crate) fn artifacts(&self, more: u64, ended: u64) {
        self.count(|counts| {
            counts.artifacts += more;
            counts.artifacts_done += ended;
        });
    }

    /// How many of the artifacts have ended, in percent.
    pub(crate) fn percent(&self) -> u64 {
        let counts = lock(&self.state);
        (counts.artifacts_done * 100).checked_div(counts.artifacts).unwrap_or_default()
    }

    /// Adds to the bytes that are to be sent.
    pub(crate) fn to_send(&self, bytes: u64) {
        self.count(|counts| counts.bytes += bytes);
    }

    /// Takes off bytes that need not be sent: the destination has them, or has mounted them.
    pub(crate) fn need_not_send(&self, bytes: u64) {
        self.count(|counts| counts.bytes = counts.bytes.saturating_sub(bytes));
    }

    /// Shows in the summary row that the execution waits, and why; an empty reason ends that.
    pub(crate) fn wait(&self, why: &str) {
        self.count(|counts| why.clone_into(&mut counts.waits));
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = lock(&self.state);
        change(&mut counts);
        let id = format!("{}/{}", counts.artifacts_done, counts.artifacts);
        let phase = if counts.waits.is_empty() { Phase::Uploading } else { Phase::Waiting };
        let done = counts.bytes_done.min(counts.bytes);
        self.progress.replace(SUMMARY, id, counts.bytes, done, phase, &counts.waits);
    }

    /// Shows a blob, in a free row or a new one.
    pub(crate) fn blob(&self, id: &str, size: u64) -> BlobRow<'_> {
        let free = lock(&self.state).free.pop();
        let index = free.unwrap_or_else(|| self.progress.append(id.to_owned(), size));
        self.progress.replace(index, id.to_owned(), size, 0, Phase::Uploading, "");
        BlobRow { rows: self, index, counted: 0 }
    }
}

impl BlobRow<'_> {
    /// Shows that the destination has `sent` bytes of the blob.
    pub(crate) fn set(&mut self, sent: u64) {
        self.rows.progress.set(self.index, sent);
        let (before, now) = (self.counted, sent);
        self.counted = sent;
        self.rows.count(|counts| counts.bytes_done = (counts.bytes_done + now).saturating_sub(before));
    }

    /// Shows that the blob is tried again, and why.
    pub(crate) fn retry(&self, note: &str) {
        self.rows.progress.retry(self.index, note);
    }

    /// Shows how the blob ended. Bytes that were counted stay counted.
    pub(crate) fn end(self, phase: Phase) {
        self.rows.progress.phase(self.index, phase);
    }

    /// Shows that the blob failed, and takes back its bytes.
    pub(crate) fn fail(mut self, why: &str) {
        self.set(0);
        self.rows.progress.fail(self.index, why);
    }
}

impl Drop for BlobRow<'_> {
    fn drop(&mut self) {
        lock(&self.rows.state).free.push(self.index);
    }
}
