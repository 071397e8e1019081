//! The thread of a replication job: runs one execution, from its order or from its journal, and announces its end.

use crate::error;
use crate::image::resolve;
use crate::replication::oci_layout_side::OciLayoutPlace;
use crate::replication::report;
use crate::replication::store_side::StorePlace;
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done, Failure};
use sampan_ipc::replication::{Execution, State};
use sampan_job::cancel::Cancel;
use sampan_replication::command::{Location, Wanted};
use sampan_replication::control::Control;
use sampan_replication::execution::{self, Host};
use sampan_replication::journal::Journal;
use sampan_replication::record::{Order, Record};
use sampan_replication::registry_side::RegistryPlace;
use sampan_replication::run::Events;
use sampan_replication::side::{FailureKind, Place, SideError};
use std::sync::Arc;

/// The events of one execution, for the announcer.
struct JobEvents<'a> {
    task: &'a Task,
    subject: &'a str,
    /// What happens to an image of this host by its arrival: `push`, or `pull` if it arrives in the store.
    arrival: &'static str,
}

impl Events for JobEvents<'_> {
    fn job(&self, action: &str, facts: &[(&str, &str)]) {
        self.task.shared.announcer.job(action, self.task.job, "replicate", self.subject, facts);
    }

    fn pushed(&self, name: &str, digest: &str, source: &str) {
        let job = self.task.job.to_string();
        let facts = [("digest", digest), ("source", source), ("execution", &job)];
        self.task.shared.announcer.image(self.arrival, name, &facts, None);
    }
}

impl Task {
    /// Runs the execution of `journal`; call it on a thread of its own. `is_new` is false if an earlier engine has begun
    /// it.
    pub fn replicate(self, journal: &Journal, is_new: bool, subject: &str, control: &Control) {
        let outcome = self.try_replicate(journal, is_new, subject, control);
        self.end("replicate", subject, outcome);
    }

    fn try_replicate(
        &self,
        journal: &Journal,
        is_new: bool,
        subject: &str,
        control: &Control,
    ) -> Result<Done, Failure> {
        let order = journal.read(|model| model.order.clone());
        let (action, policy) = (if is_new { "start" } else { "resume" }, order.policy.as_str());
        self.shared.announcer.job(action, self.job, "replicate", subject, &[("policy", policy)]);
        let ran = self.run(journal, &order, subject, control);
        self.lift_rate_limits(&order);
        let state = match ran {
            Ok(Some(state)) => state,
            // The next engine takes the execution up.
            Ok(None) => return Err(error::new(Code::Cancelled, "the engine is stopping", RESUMES)),
            Err(side) => {
                let message = sampan_ipc::report::chain(&side);
                let error = sampan_ipc::replication::LastError { class: side.class(), message };
                let at = sampan_ipc::time::now();
                let record = Record::Execution { state: State::Error, at, error };
                journal.record(record).map_err(|error| failed(&sampan_ipc::report::chain(&error)))?;
                State::Error
            }
        };
        let (ended, tasks) = journal.read(|model| {
            let tasks = model.tasks.iter().map(|task| (task.describe(), task.artifacts.clone()));
            (model.describe(), tasks.collect::<Vec<_>>())
        });
        self.shared.replication.journals.finish(self.job);
        report::run_on_done(&order, &ended, &tasks, &self.shared.config.replication, &control.soft);
        self.outcome(state, &ended)
    }

    fn run(
        &self,
        journal: &Journal,
        order: &Order,
        subject: &str,
        control: &Control,
    ) -> Result<Option<State>, SideError> {
        let wanted =
            Wanted::of(order).map_err(|error| SideError::new(FailureKind::Refused, error.to_string()))?;
        let source = self.place(&wanted.source, order, order.options.insecure_source)?;
        let destination = self.place(&wanted.destination, order, order.options.insecure_destination)?;
        let arrival = if wanted.destination == Location::Store { "pull" } else { "push" };
        let events = JobEvents { task: self, subject, arrival };
        let known = self.shared.replication.known(&destination.key());
        let host = Host {
            limits: &self.shared.limits,
            buffers: &self.shared.replication.buffers,
            source,
            destination,
            known: &known,
            events: &events,
            progress: Arc::clone(&self.progress),
            control,
        };
        Ok(execution::run(journal, &wanted, host))
    }

    /// Lifts the limit of requests per second that this execution has set.
    fn lift_rate_limits(&self, order: &Order) {
        let Ok(wanted) = Wanted::of(order) else { return };
        for location in [&wanted.source, &wanted.destination] {
            if let (Location::Registry(host), 1..) = (location, order.options.requests_per_second) {
                resolve::gates().limit(host, 0.0);
            }
        }
    }

    fn place(&self, at: &Location, order: &Order, insecure: bool) -> Result<Arc<dyn Place>, SideError> {
        Ok(match at {
            Location::Registry(host) => {
                let rate = f64::from(order.options.requests_per_second);
                if rate > 0.0 {
                    resolve::gates().limit(host, rate);
                }
                let access = resolve::access(&self.shared.config, insecure, order.credentials.clone());
                let access = access
                    .map_err(|error| SideError { kind: FailureKind::Refused, source: Box::new(error) })?;
                Arc::new(RegistryPlace::new(host.clone(), access))
            }
            Location::OciLayout(directory) => Arc::new(OciLayoutPlace::open(directory)?),
            Location::Store => Arc::new(StorePlace::new(Arc::clone(&self.shared))?),
        })
    }

    /// The answer to clients that follow the job. What became of each artifact is in the report.
    fn outcome(&self, state: State, ended: &Execution) -> Result<Done, Failure> {
        let (counts, id) = (ended.artifacts, ended.id);
        match state {
            State::Finished => Ok(Done {
                reference: ended.destination.clone(),
                unchanged: counts.total == counts.unchanged,
                ..Done::default()
            }),
            State::Stopped => Err(error::new(
                Code::Cancelled,
                format!("replication {id} was stopped"),
                &format!("sampan replication resume {id}"),
            )),
            State::Canceled => Err(error::new(Code::Cancelled, format!("replication {id} was canceled"), "")),
            _ => {
                let what = match counts.failed {
                    0 => format!("replication {id} failed"),
                    failed => format!("replication {id}: {failed} of {} artifacts failed", counts.total),
                };
                let message = format!("{what}: {}", ended.error.message);
                Err(error::new(Code::Failed, message, &format!("sampan replication show {id}")))
            }
        }
    }
}

/// The hint of an execution that the end of the engine interrupts.
pub const RESUMES: &str = "the execution goes on when the engine is back";

fn failed(message: &str) -> Failure {
    error::new(Code::Failed, message, "")
}

/// Lets a stop of the whole engine suspend the execution.
pub fn suspend_with(cancel: &Cancel, control: &Arc<Control>) {
    let control = Arc::clone(control);
    cancel.on_cancel(move || control.suspend());
}
