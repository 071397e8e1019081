//! The thread of a `serve` job: serves the store as a registry.

use crate::error;
use crate::image::serve::{self, ServeError};
use crate::outbox::Message;
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done};

impl Task {
    /// Serves the store as a registry until the job is cancelled; call it on a thread of its own.
    pub fn serve(self, listen: String, bytes_per_second: u64) {
        let announcer = &self.shared.announcer;
        let on_listening = |address: &str| {
            announcer.job("start", self.job, "serve", address, &[]);
            self.shared.outbox.send(Message::Serving { job: self.job, address: address.to_owned() });
        };
        let result = serve::serve(&self.shared.store, &listen, bytes_per_second, &self.cancel, on_listening);
        let outcome = match result {
            Ok(address) => Ok(Done { reference: address, ..Done::default() }),
            Err(error) => {
                let hint = "give --listen ADDRESS:PORT of this host; port 0 lets the kernel choose";
                let code = if matches!(error, ServeError::Address(_)) { Code::Usage } else { Code::Failed };
                Err(error::new(code, sampan_ipc::report::chain(&error), hint))
            }
        };
        self.end("serve", &listen, outcome);
    }
}
