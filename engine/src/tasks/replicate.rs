//! The thread of a replication job: runs one execution, from its order or from its journal, and announces its end.

use crate::context::Shared;
use crate::error;
use crate::image::resolve;
use crate::replication::oci_layout_side::OciLayoutPlace;
use crate::replication::report;
use crate::replication::store_side::StorePlace;
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done, Failure};
use sampan_ipc::replication::{Execution, State, Trigger};
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

/// What the job begins with.
pub enum Begin {
    /// A command, or a trigger of a policy.
    Order(Box<Order>),
    /// An execution of a policy, which has just been written into its journal.
    Begun(Arc<Journal>),
    /// An execution that an earlier engine has not finished.
    Recovered(Arc<Journal>),
    /// Continue this execution, or repeat its failed artifacts.
    Again {
        /// The number of the earlier execution.
        id: u64,
        /// Only the artifacts that failed.
        only_failed: bool,
    },
}

/// The events of one execution, for the announcer.
struct JobEvents<'a> {
    task: &'a Task,
    subject: &'a str,
}

impl Events for JobEvents<'_> {
    fn job(&self, action: &str, facts: &[(&str, &str)]) {
        self.task.shared.announcer.job(action, self.task.job, "replicate", self.subject, facts);
    }

    fn pushed(&self, name: &str, digest: &str, source: &str) {
        let job = self.task.job.to_string();
        let facts = [("digest", digest), ("source", source), ("execution", &job)];
        self.task.shared.announcer.image("push", name, &facts, None);
    }
}

impl Task {
    /// Runs a replication job; call it on a thread of its own.
    pub fn replicate(self, begin: Begin, subject: &str, control: &Control) {
        let outcome = self.try_replicate(begin, subject, control);
        self.end("replicate", subject, outcome);
    }

    fn try_replicate(&self, begin: Begin, subject: &str, control: &Control) -> Result<Done, Failure> {
        let replication = &self.shared.replication;
        let is_recovered = matches!(begin, Begin::Recovered(_));
        let journal = self.begin(begin)?;
        let order = journal.read(|model| model.order.clone());
        let policy = order.policy.as_str();
        let action = if is_recovered { "resume" } else { "start" };
        self.shared.announcer.job(action, self.job, "replicate", subject, &[("policy", policy)]);
        let events = JobEvents { task: self, subject };
        let ran = self.run(&journal, &order, &events, control);
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
        let ended = journal.read(sampan_replication::model::Model::describe);
        let described = journal.read(|model| {
            let tasks = model.tasks.iter().map(|task| (task.describe(), task.artifacts.clone()));
            (model.describe(), tasks.collect::<Vec<_>>())
        });
        replication.journals.finish(self.job);
        report::run_on_done(
            &order,
            &described.0,
            &described.1,
            &self.shared.config.replication,
            &control.soft,
        );
        self.outcome(state, &ended)
    }

    /// Makes or finds the journal.
    fn begin(&self, begin: Begin) -> Result<Arc<Journal>, Failure> {
        let journals = &self.shared.replication.journals;
        let (order, records) = match begin {
            Begin::Begun(journal) | Begin::Recovered(journal) => return Ok(journal),
            Begin::Order(order) => (*order, Vec::new()),
            Begin::Again { id, only_failed } => {
                let Some((_, old)) = journals.order_of(id) else {
                    return Err(error::new(Code::NotFound, format!("there is no execution {id}"), LISTS));
                };
                if !old.execution.state.is_final() {
                    let message = format!("execution {id} is {}", old.execution.state);
                    return Err(error::new(
                        Code::Conflict,
                        message,
                        "stop it first: sampan replication stop",
                    ));
                }
                let takes = |state: State| match only_failed {
                    true => state == State::Error,
                    false => state != State::Finished,
                };
                let Some(found) = execution::continuation(&old, takes) else {
                    let message = format!("execution {id} has nothing left to do");
                    return Err(error::new(Code::Conflict, message, ""));
                };
                found
            }
        };
        let refused = |error| failed(&format!("cannot begin: {}", sampan_ipc::report::chain(&error)));
        let journal = journals.begin(self.job, order).map_err(refused)?;
        let is_again = !records.is_empty();
        for record in records {
            journal.record(record).map_err(refused)?;
        }
        if let (true, Trigger::Again(old)) = (is_again, journal.read(|model| model.order.trigger.clone())) {
            // Its upload sessions belong to the new execution now.
            journals.drop_kept(old);
        }
        Ok(journal)
    }

    fn run(
        &self,
        journal: &Journal,
        order: &Order,
        events: &JobEvents<'_>,
        control: &Control,
    ) -> Result<Option<State>, SideError> {
        let wanted =
            Wanted::of(order).map_err(|error| SideError::new(FailureKind::Refused, error.to_string()))?;
        let source = self.place(&wanted.source, order, order.options.insecure_source)?;
        let destination = self.place(&wanted.destination, order, order.options.insecure_destination)?;
        let known = self.shared.replication.known(&destination.key());
        let host = Host {
            limits: &self.shared.limits,
            buffers: &self.shared.replication.buffers,
            source,
            destination,
            known: &known,
            events,
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

const RESUMES: &str = "the execution goes on when the engine is back";
const LISTS: &str = "'sampan replication ls' lists executions";

fn failed(message: &str) -> Failure {
    error::new(Code::Failed, message, "")
}

/// Writes the order of a policy into a journal, before the policy's turn comes; call it on a thread. `None` if the
/// execution `is_skipped`, because its policy is busy: it then is recorded as such and ended.
///
/// # Errors
/// The journal cannot be written.
pub fn begin_execution(
    shared: &Shared,
    id: u64,
    order: Order,
    is_skipped: bool,
) -> Result<Option<Arc<Journal>>, Failure> {
    let journals = &shared.replication.journals;
    let policy = order.policy.clone();
    let begun = journals.begin(id, order).and_then(|journal| {
        if is_skipped {
            let (at, error) = (sampan_ipc::time::now(), Default::default());
            journal.record(Record::Execution { state: State::Skipped, at, error })?;
            journals.finish(id);
        }
        Ok(journal)
    });
    match begun {
        Ok(journal) if !is_skipped => Ok(Some(journal)),
        Ok(_) => {
            log::info!("execution {id} is skipped, because policy {policy} is busy");
            shared.announcer.job("skip", id, "replicate", &policy, &[("policy", &policy)]);
            Ok(None)
        }
        Err(error) => {
            let failure =
                failed(&format!("policy {policy} cannot run: {}", sampan_ipc::report::chain(&error)));
            log::error!("{}", failure.message);
            Err(failure)
        }
    }
}

/// Lets a stop of the whole engine suspend the execution.
pub fn suspend_with(cancel: &Cancel, control: &Arc<Control>) {
    let control = Arc::clone(control);
    cancel.on_cancel(move || control.suspend());
}
