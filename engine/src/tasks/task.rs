//! A job's thread: what all jobs do when they end, and what is announced of them.

use crate::context::Shared;
use crate::outbox::Message;
use sampan_ipc::announce::Announcer;
use sampan_ipc::engine::{Code, Done, Failure};
use sampan_job::cancel::Cancel;
use sampan_job::progress::Progress;
use sampan_store::Store;
use std::sync::Arc;
use std::time::Duration;

/// How long the disk is not asked yet to take what a job brought: whoever has its answer may have something to do first,
/// and jobs that end together are brought to the disk together. Then, how long until it is asked again, if a list could not be written; what it has lost it is not asked again.
const SETTLE_AFTER: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// A job's thread: its number, kind and subject for announcements.
pub struct Task {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The job's number.
    pub job: u64,
    /// Its progress.
    pub progress: Arc<Progress>,
    /// Ends it.
    pub cancel: Arc<Cancel>,
}

/// A progress map whose milestones are announced.
pub fn progress(announcer: &Announcer, job: u64, kind: &'static str, subject: &str) -> Arc<Progress> {
    let (announcer, subject) = (announcer.clone(), subject.to_owned());
    Arc::new(Progress::new(Box::new(move |percent| {
        announcer.job("progress", job, kind, &subject, &[("percent", &percent.to_string())]);
    })))
}

impl Task {
    /// Says that something failed, and why.
    pub(crate) fn announce_failure(&self, action: &str, name: &str, failure: &Failure) {
        self.shared.announcer.image(action, name, &[("reason", &failure.message)], None);
    }

    /// The job is over.
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
        // Nobody waits for the disk any more.
        settle(&shared.store);
    }
}

/// Brings to the disk, in a moment, what is not there for sure.
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
