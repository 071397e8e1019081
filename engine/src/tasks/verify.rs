//! The thread of a verification: compares the store with its digests, and announces damaged content.

use crate::error;
use crate::image::verify::{self, Verify, VerifyError};
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done};

impl Task {
    /// Runs the verify job; call it on a thread of its own.
    pub fn verify(self, deep: bool) {
        let Task { shared, progress, cancel, .. } = &self;
        let subject = shared.store.root().display().to_string();
        shared.announcer.job("start", self.job, "verify", &subject, &[]);
        let window_log = shared.limits.bounds.zstd_window_log;
        let outcome = match (Verify { store: &shared.store, window_log, deep, progress, cancel }).run() {
            Ok(report) => {
                verify::announce(&shared.announcer, &report);
                report.failure().map_or_else(|| Ok(Done::default()), Err)
            }
            Err(VerifyError::Cancelled(_)) => Err(error::new(Code::Cancelled, "cancelled", "")),
            Err(error) => {
                let message = format!("cannot verify the store: {}", sampan_ipc::report::chain(&error));
                Err(error::new(Code::Failed, message, ""))
            }
        };
        self.end("verify", &subject, outcome);
    }
}
