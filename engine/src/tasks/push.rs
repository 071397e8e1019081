//! The thread of a push job: pushes the image and announces it.

use crate::image::push::{self, PushRequest};
use crate::tasks::task::Task;
use sampan_ipc::engine::Done;

impl Task {
    /// Runs the push job; call it on a thread of its own. `subject` names the target in announcements.
    pub fn push(self, subject: &str, request: &PushRequest) {
        let announcer = &self.shared.announcer;
        announcer.job("start", self.job, "push", subject, &[]);
        let (store, limits) = (&self.shared.store, &self.shared.limits);
        let outcome = match push::push(store, limits, request, &self.progress, &self.cancel) {
            Ok(pushed) => {
                let (name, digest) = (pushed.reference.to_string(), pushed.digest.to_string());
                let (id, size) = (pushed.id.to_string(), pushed.size.to_string());
                let unchanged = if pushed.unchanged { "true" } else { "" };
                let facts = [
                    ("digest", digest.as_str()),
                    ("imageId", &id),
                    ("size", &size),
                    ("source", &request.source),
                    ("unchanged", unchanged),
                ];
                announcer.image("push", &name, &facts, Some(&pushed.labels));
                Ok(Done { reference: name, digest, unchanged: pushed.unchanged, ..Done::default() })
            }
            Err(error) => {
                let failure = error.failure(subject);
                self.announce_failure("push-error", subject, &failure);
                Err(failure)
            }
        };
        self.end("push", subject, outcome);
    }
}
