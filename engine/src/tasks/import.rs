//! The thread of an import job: imports the image and announces it.

use crate::error;
use crate::image::import::{self, ImportError, ImportRequest};
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done, Failure};

impl Task {
    /// Runs the import job `request`; call it on a thread of its own.
    pub fn import(self, request: ImportRequest) {
        let name = request.reference.to_string();
        let announcer = &self.shared.announcer;
        announcer.job("start", self.job, "import", &name, &[]);
        let labels = request.run.labels.clone();
        let outcome = match import::import(
            &self.shared.store,
            &self.shared.limits,
            request,
            &self.progress,
            &self.cancel,
        ) {
            Ok(imported) => {
                let (digest, id) = (imported.digest.to_string(), imported.id.to_string());
                announcer.image("import", &name, &[("digest", &digest), ("imageId", &id)], Some(&labels));
                Ok(Done { reference: name.clone(), digest, unchanged: imported.unchanged, ..Done::default() })
            }
            Err(error) => {
                let failure = import_failure(&name, &error);
                self.announce_failure("import-error", &name, &failure);
                Err(failure)
            }
        };
        self.end("import", &name, outcome);
    }
}

fn import_failure(name: &str, error: &ImportError) -> Failure {
    let code = if error.is_cancelled() { Code::Cancelled } else { Code::Failed };
    let message = format!("cannot import {name}: {}", sampan_ipc::report::chain(error));
    error::new(code, message, "a layer is a tar of a root file system, plain or compressed with gzip or zstd")
}
