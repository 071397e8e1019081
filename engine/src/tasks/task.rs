//! The state of a job's thread, and the steps that all jobs share: announcing a failure, ending, syncing the store.

use crate::context::Shared;
use crate::outbox::Message;
use sampan_ipc::announce::Announcer;
use sampan_ipc::engine::{Code, Done, Failure};
use sampan_job::cancel::Cancel;
use sampan_job::progress::Progress;
use sampan_store::Store;
use std::sync::Arc;
use std::time::Duration;

/// The delays of [`settle`]. The first delay is between the end of a job and the sync: the sync does not slow down the
/// client's next request, and jobs that end together share one sync. The other delays are between retries.
const SETTLE_AFTER: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// A job's thread: the job's number, its progress, and the means to cancel it.
pub struct Task {
    /// The state that all threads share.
    pub shared: Arc<Shared>,
    /// Number of the job.
    pub job: u64,
    /// Progress of the job.
    pub progress: Arc<Progress>,
    /// Cancels the job.
    pub cancel: Arc<Cancel>,
}

/// Makes a [`Progress`] that announces its milestones as events of the job.
pub fn progress(announcer: &Announcer, job: u64, kind: &'static str, subject: &str) -> Arc<Progress> {
    let (announcer, subject) = (announcer.clone(), subject.to_owned());
    Arc::new(Progress::new(Box::new(move |percent| {
        announcer.job("progress", job, kind, &subject, &[("percent", &percent.to_string())]);
    })))
}

impl Task {
    /// Announces that an operation on the image `name` failed, and why.
    pub(crate) fn announce_failure(&self, action: &str, name: &str, failure: &Failure) {
        self.shared.announcer.image(action, name, &[("reason", &failure.message)], None);
    }

    /// Announces the end of the job, sends its outcome to the event loop, and syncs the store.
    pub(crate) fn end(self, kind: &'static str, subject: &str, outcome: Result<Done, Failure>) {
        let announcer = &self.shared.announcer;
        match &outcome {
            Ok(done) => announcer.job("done", self.job, kind, subject, &[("digest", &done.digest)]),
            Err(failure) if failure.code == Code::Cancelled => {
                announcer.job("cancelled", self.job, kind, subject, &[]);
            }
            Err(failure) => {
                log::error!("job {}: {}", self.job, failure.message);
                announcer.job("failed", self.job, kind, subject, &[("reason", &failure.message)]);
            }
        }
        let (shared, job) = (Arc::clone(&self.shared), self.job);
        drop(self);
        shared.outbox.send(Message::Ended { job, outcome });
        // The client already has its answer, so it does not wait for this sync.
        settle(&shared.store);
    }
}

/// After a short delay, makes all content durable that was stored since the last sync. Retries if an index file cannot
/// be written, but not if syncfs(2) failed.
pub fn settle(store: &Store) {
    for wait in SETTLE_AFTER {
        if !store.needs_sync() {
            return;
        }
        std::thread::sleep(wait);
        if store.make_durable() {
            return;
        }
    }
}
