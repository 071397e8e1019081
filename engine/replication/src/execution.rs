//! One execution: plans its tasks, runs them, and ends with a report in its journal.
//!
//! Runs on the thread of its job, with a few threads for its tasks. Everything that it knows is in its journal, so an
//! execution that was interrupted goes on from there:
//!
//! ```text
//!  begun ──▶ plan: a task for each repository ──▶ run tasks, some at a time ──▶ plan and run deletions ──▶ end
//!                 │ listing failed                     ▲   │ all wait                                     │
//!                 └── retrying ── wait ── again        └───┴── retrying                                   │
//!                                                 open sessions are deleted, unless it can be resumed ◀────┘
//! ```

use crate::attempts;
use crate::blob::Sides;
use crate::command::Wanted;
use crate::control::Control;
use crate::journal::Journal;
use crate::known_blobs::KnownBlobs;
use crate::model;
use crate::record::{Order, Record, SavedSession};
use crate::rows::Rows;
use crate::run::{Events, Halt, Run};
use crate::selection;
use crate::side::{FailureKind, Place, Repository, Session, SideError};
use crate::task::{self, TaskOrder};
use sampan_ipc::replication::{LastError, Operation, State};
use sampan_job::buffers::Buffers;
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_job::rate_limit::RateLimit;
use sampan_os::mutex::lock;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Most tasks of one execution that run at a time.
const TASKS_MAX: usize = 4;
/// Stack of a task's thread, in bytes: enough for TLS.
const STACK: usize = 1 << 20;

/// What an execution needs from the engine.
pub struct Host<'a> {
    /// The limits of all jobs.
    pub limits: &'a Limits,
    /// The memory for chunks of all executions.
    pub buffers: &'a Buffers,
    /// Where artifacts come from.
    pub source: Arc<dyn Place>,
    /// Where artifacts go to.
    pub destination: Arc<dyn Place>,
    /// The blobs that this engine has put into the destination.
    pub known: &'a KnownBlobs,
    /// The execution's events.
    pub events: &'a dyn Events,
    /// The rows that clients see.
    pub progress: Arc<Progress>,
    /// Stops the execution.
    pub control: &'a Control,
}

/// Runs an execution, from its beginning or from where an earlier engine left it. Returns its final state, or `None` if
/// the engine ends before.
pub fn run(journal: &Journal, wanted: &Wanted, host: Host<'_>) -> Option<State> {
    let order = journal.read(|model| model.order.clone());
    let options = &order.options;
    let execution = Execution {
        wanted,
        source: host.source,
        destination: host.destination,
        control: host.control,
        run: Run {
            journal,
            order: &order,
            limits: host.limits,
            buffers: host.buffers,
            rate: RateLimit::new(options.bytes_per_second),
            rows: Rows::new(host.progress),
            events: host.events,
            known: host.known,
            destination_key: String::new(),
            is_same_place: wanted.source == wanted.destination,
            soft: Arc::clone(&host.control.soft),
            hard: Arc::clone(&host.control.hard),
            is_journal_failing: Default::default(),
        },
    };
    let state = execution.run();
    host.control.end();
    state
}

struct Execution<'a> {
    wanted: &'a Wanted,
    source: Arc<dyn Place>,
    destination: Arc<dyn Place>,
    control: &'a Control,
    run: Run<'a>,
}

impl Execution<'_> {
    fn run(mut self) -> Option<State> {
        self.run.destination_key = self.destination.key();
        let result = self.work();
        if self.control.is_suspended() {
            return None;
        }
        let (state, error) = match (self.control.wanted(), result) {
            (Some(wanted), _) => (wanted, LastError::default()),
            (None, Ok(())) => self.run.journal.read(|model| {
                let states: Vec<State> = model.tasks.iter().map(|task| task.task.state).collect();
                let failed = model.tasks.iter().find(|task| task.task.state == State::Error);
                let error = failed.map(|task| task.task.error.clone()).unwrap_or_default();
                (model::execution_state(&states), error)
            }),
            (None, Err(halt)) => (State::Error, halt.last_error()),
        };
        self.end(state, error).ok().map(|()| state)
    }

    fn work(&self) -> Result<(), Halt> {
        self.reset()?;
        if self.run.journal.read(|model| model.tasks.is_empty()) {
            self.plan()?;
        }
        let artifacts = self.run.journal.read(|model| model.describe().artifacts);
        self.run.rows.artifacts(u64::from(artifacts.total), u64::from(artifacts.done + artifacts.unchanged));
        self.set_state(State::Running)?;
        self.run_tasks(Operation::Transfer)?;
        if self.run.order.options.prune {
            let planned = self.plan_deletions();
            // A repository that keeps its tags does not keep the others from losing theirs.
            if !matches!(planned, Err(Halt::Stopped)) {
                self.run_tasks(Operation::Delete)?;
            }
            planned?;
        }
        Ok(())
    }

    /// Puts the tasks that an earlier engine has left in the middle back to the beginning.
    fn reset(&self) -> Result<(), Halt> {
        for (task, state) in self.states(|_| true) {
            if !state.is_final() && state != State::Pending {
                self.run.record(Record::Task { task, state: State::Pending, error: LastError::default() })?;
            }
        }
        Ok(())
    }

    fn states(&self, filter: impl Fn(Operation) -> bool) -> Vec<(u32, State)> {
        self.run.journal.read(|model| {
            let tasks = model.tasks.iter().map(|task| &task.task).filter(|task| filter(task.operation));
            tasks.map(|task| (task.index, task.state)).collect()
        })
    }

    /// Plans a task for each repository. Waits and tries again while the source cannot list them.
    fn plan(&self) -> Result<(), Halt> {
        let mut failed = 0;
        let pairs = loop {
            match self.repositories() {
                Ok(pairs) => break pairs,
                Err(halt) if halt.is_temporary() => {
                    failed += 1;
                    let Some(wait) = attempts::task_wait(failed) else { return Err(halt) };
                    let error = halt.last_error();
                    self.run
                        .events
                        .job("retry", &[("wait", &wait.as_secs().to_string()), ("reason", &error.message)]);
                    self.record_state(State::Retrying, error)?;
                    self.run.soft.wait(wait)?;
                }
                Err(halt) => return Err(halt),
            }
        };
        for (source, destination) in pairs {
            let task = self.run.journal.read(|model| u32::try_from(model.tasks.len()).unwrap_or(u32::MAX));
            self.run.record(Record::Planned {
                source: source.clone(),
                destination,
                operation: Operation::Transfer,
            })?;
            let only = self.run.order.only.iter().find(|only| only.repository == source);
            let artifacts: Vec<(String, String)> = match (only, self.wanted.only_artifact()) {
                (Some(only), _) if !only.artifacts.is_empty() => {
                    only.artifacts.iter().map(|artifact| (artifact.clone(), artifact.clone())).collect()
                }
                (_, Some(artifact)) => vec![artifact],
                _ => continue,
            };
            Record::artifacts(task, &artifacts).try_for_each(|record| self.run.record(record))?;
        }
        Ok(())
    }

    /// The wanted repositories, with their names at the destination.
    fn repositories(&self) -> Result<Vec<(String, String)>, Halt> {
        let only = &self.run.order.only;
        let names = match self.wanted.fixed_repositories() {
            _ if !only.is_empty() => only.iter().map(|only| only.repository.clone()).collect(),
            Some(names) => names,
            None => {
                let about = format!("repositories of {}", self.source.name());
                self.run.persist(&about, || self.source.repositories(&self.run.hard))?
            }
        };
        let mut pairs = Vec::new();
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let refuse = |why: String| Halt::Side(SideError::new(FailureKind::Refused, why));
        for name in names.into_iter().filter(|name| self.wanted.has_repository(name)) {
            let destination = self.wanted.destination_of(&name).map_err(|error| refuse(error.to_string()))?;
            if let Some(other) = taken.insert(destination.clone(), name.clone()) {
                let why = format!("{other} and {name} would both be copied to {destination}");
                return Err(refuse(why));
            }
            pairs.push((name, destination));
        }
        if pairs.is_empty() {
            let why =
                format!("{} has no repository that matches {}", self.source.name(), self.run.order.source);
            return Err(SideError::new(FailureKind::NotFound, why).into());
        }
        pairs.sort();
        Ok(pairs)
    }

    /// Runs all tasks of one operation that have not ended, some at a time.
    fn run_tasks(&self, operation: Operation) -> Result<(), Halt> {
        let waiting = self.states(|own| own == operation);
        let waiting: Vec<u32> =
            waiting.into_iter().filter(|(_, state)| !state.is_final()).map(|(task, _)| task).collect();
        let (next, stopped) = (AtomicUsize::new(0), Mutex::new(None));
        let worker = || {
            while let Some(task) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(halt) = self.run.check().and_then(|()| self.run_task(*task, operation)) {
                    lock(&stopped).get_or_insert(halt);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..TASKS_MAX.min(waiting.len()) {
                // If another thread cannot be started, the running ones do its work.
                let _ = sampan_os::thread::spawn_scoped(scope, "replicate", STACK, worker);
            }
            worker();
        });
        match lock(&stopped).take() {
            Some(halt) => Err(halt),
            None => Ok(()),
        }
    }

    fn run_task(&self, index: u32, operation: Operation) -> Result<(), Halt> {
        let names = self.run.journal.read(|model| {
            let task = model.tasks.get(index as usize).map(|task| &task.task);
            task.map(|task| (task.source.clone(), task.destination.clone()))
        });
        let Some((source_name, destination_name)) = names else { return Ok(()) };
        let links = Mutex::new(Vec::new());
        let open = || {
            lock(&links).clear();
            let source = self.source.repository(&source_name, false)?;
            let destination = self.destination.repository(&destination_name, true)?;
            for repository in [&source, &destination] {
                let repository: Arc<dyn Repository> = Arc::clone(repository);
                lock(&links).push(self.run.hard.link(move || repository.shutdown()));
            }
            let (source_name, destination_name) = (source_name.clone(), destination_name.clone());
            Ok(Sides { source, source_name, destination, destination_name })
        };
        let select = |sides: &Sides| selection::artifacts(&self.run, self.wanted, sides);
        let on_state = |state: State| self.on_task_state(index, state);
        let order = TaskOrder {
            index,
            operation,
            open: &open,
            select: &select,
            on_state: &on_state,
            is_suspended: self.control.suspended(),
        };
        task::run(&self.run, order, &|machine| self.control.add_machine(machine))
    }

    /// Announces a task's state, and derives the execution's state from those of all tasks.
    fn on_task_state(&self, task: u32, state: State) -> Result<(), Halt> {
        let name = self.run.journal.read(|model| {
            let name = model.tasks.get(task as usize).map(|task| task.task.destination.clone());
            name.unwrap_or_default()
        });
        let percent = self.run.rows.percent();
        self.run.events.job(
            "progress",
            &[
                ("task", &task.to_string()),
                ("repository", &name),
                ("state", state.word()),
                ("percent", &percent.to_string()),
            ],
        );
        let states: Vec<State> = self.states(|_| true).into_iter().map(|(_, state)| state).collect();
        match model::execution_state(&states) {
            // The end of an execution is more than the end of its tasks.
            state if state.is_final() => Ok(()),
            state => self.set_state(state),
        }
    }

    fn set_state(&self, state: State) -> Result<(), Halt> {
        let is_new = self.run.journal.read(|model| model.execution.state != state);
        if is_new { self.record_state(state, LastError::default()) } else { Ok(()) }
    }

    fn record_state(&self, state: State, error: LastError) -> Result<(), Halt> {
        let waits = self.run.journal.read(|model| match (state, error.message.as_str()) {
            (State::Retrying, "") => model.last_error(),
            (State::Retrying, message) => format!("retrying: {message}"),
            _ => String::new(),
        });
        self.run.rows.wait(&waits);
        self.run.record(Record::Execution { state, at: sampan_ipc::time::now(), error })
    }

    /// Plans the deletion of the destination's tags that the source does not have.
    fn plan_deletions(&self) -> Result<(), Halt> {
        let (transfers, planned) = self.run.journal.read(|model| {
            let of = |operation| {
                let tasks =
                    model.tasks.iter().map(|task| &task.task).filter(move |task| task.operation == operation);
                tasks.cloned().collect::<Vec<_>>()
            };
            (of(Operation::Transfer), of(Operation::Delete))
        });
        let planned: HashSet<String> = planned.into_iter().map(|task| task.source).collect();
        let mut refused = None;
        for task in transfers {
            // A repository whose copy failed keeps everything that it has.
            if task.state != State::Finished || planned.contains(&task.source) {
                continue;
            }
            let source = self.source.repository(&task.source, false)?;
            let destination = self.destination.repository(&task.destination, true)?;
            let (to_shut, also) = (Arc::clone(&source), Arc::clone(&destination));
            let _links =
                (self.run.hard.link(move || to_shut.shutdown()), self.run.hard.link(move || also.shutdown()));
            let about = format!("tags of {} and {}", source.name(), destination.name());
            let (there, here) = self.run.persist(&about, || Ok((source.tags()?, destination.tags()?)))?;
            let chosen = selection::deletions(self.wanted, &self.run.order.options, &there, here);
            let name = destination.name();
            let tags = match chosen {
                Ok(tags) => tags,
                Err(why) => {
                    self.run.rows.note(&format!("nothing is deleted in {name}: {why}"));
                    let why = format!("cannot delete in {name}: {why}");
                    refused.get_or_insert(SideError::new(FailureKind::Refused, why));
                    continue;
                }
            };
            if tags.is_empty() {
                continue;
            }
            self.run.rows.artifacts(tags.len() as u64, 0);
            let index = self.run.journal.read(|model| u32::try_from(model.tasks.len()).unwrap_or(u32::MAX));
            let (source, destination) = (task.source, task.destination);
            self.run.record(Record::Planned { source, destination, operation: Operation::Delete })?;
            let pairs: Vec<(String, String)> = tags.into_iter().map(|tag| (tag.clone(), tag)).collect();
            Record::artifacts(index, &pairs).try_for_each(|record| self.run.record(record))?;
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Ends all tasks that have not ended, deletes sessions that nobody will use, and records the final state.
    fn end(&self, state: State, error: LastError) -> Result<(), Halt> {
        for (task, own) in self.states(|_| true) {
            if !own.is_final() {
                self.run.record(Record::Task { task, state, error: error.clone() })?;
            }
        }
        // Stopped and failed executions can be resumed, and continue their sessions.
        if matches!(state, State::Finished | State::Canceled) {
            self.delete_sessions();
        }
        let facts = self.run.journal.read(model::Model::describe);
        let bytes = facts.bytes.done.to_string();
        let failed = facts.artifacts.failed.to_string();
        self.run.events.job("state", &[("state", state.word()), ("bytes", &bytes), ("failed", &failed)]);
        self.record_state(state, error)
    }

    fn delete_sessions(&self) {
        let sessions: Vec<SavedSession> =
            self.run.journal.read(|model| model.sessions.values().cloned().collect());
        for saved in sessions {
            let session = Session { location: saved.location.clone(), chunk_min: saved.chunk_min };
            let repository = self.destination.repository(&saved.repository, true);
            let is_deleted = repository.and_then(|repository| repository.cancel(&session));
            if let Err(error) = &is_deleted {
                log::warn!("cannot delete an upload session at {}: {error}", self.destination.name());
            }
            let is_lost = !is_deleted.unwrap_or(false);
            let (repository, digest) = (saved.repository, saved.digest);
            // If the disk refuses the record, the report lacks this session: no reason to wait.
            let _ = self.run.journal.record(Record::SessionEnded { repository, digest, is_lost });
        }
    }
}

/// The order and the first records of an execution that continues `old`: the undecided artifacts for which `takes` is
/// true, and the open upload sessions. `None` if nothing is left to do.
pub fn continuation(old: &model::Model, takes: impl Fn(State) -> bool) -> Option<(Order, Vec<Record>)> {
    let trigger = sampan_ipc::replication::Trigger::Again(old.execution.id);
    let order = Order { trigger, ..old.order.clone() };
    let (mut records, mut tasks) = (Vec::new(), 0);
    for task in &old.tasks {
        let left: Vec<(String, String)> = task
            .artifacts
            .iter()
            .filter(|artifact| takes(artifact.state))
            .map(|artifact| (artifact.source.clone(), artifact.target.clone()))
            .collect();
        // A task without artifacts has not listed them yet.
        if left.is_empty() && !(task.artifacts.is_empty() && takes(task.task.state)) {
            continue;
        }
        let (source, destination) = (task.task.source.clone(), task.task.destination.clone());
        records.push(Record::Planned { source, destination, operation: task.task.operation });
        records.extend(Record::artifacts(tasks, &left));
        tasks += 1;
    }
    if tasks == 0 && !(old.tasks.is_empty() && takes(old.execution.state)) {
        return None;
    }
    records.extend(old.sessions.values().cloned().map(Record::Session));
    Some((order, records))
}
