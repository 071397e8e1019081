//! The state of one execution: its tasks, their artifacts and blobs, its upload sessions.
//!
//! Changes only by [`Model::apply`], with the records that the journal holds. Rules: a final state never changes; news
//! of an earlier attempt of a task is ignored. Pure; owned by the journal, read by everybody who describes executions.

use crate::record::{ArtifactNews, Order, Record, SavedSession};
use sampan_ipc::replication::{
    Artifact, Artifacts, Blob, Bytes, ErrorClass, Execution, LastError, Outcome, State, Task,
};
use std::collections::BTreeMap;

/// Most lost sessions that a report names.
const LOST_MAX: usize = 1000;

/// The state of one execution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// What it is asked to do.
    pub order: Order,
    /// The execution, without its counts: [`Model::describe`] adds them.
    pub execution: Execution,
    /// The tasks, each with its artifacts.
    pub tasks: Vec<TaskModel>,
    /// Open upload sessions, by repository and digest.
    pub sessions: BTreeMap<(String, String), SavedSession>,
}

/// The state of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskModel {
    /// The task, without its counts.
    pub task: Task,
    /// Its artifacts.
    pub artifacts: Vec<Artifact>,
}

impl Model {
    /// Applies one record. Records that contradict the state are ignored, as late news is.
    pub fn apply(&mut self, record: &Record) {
        let is_late = !matches!(record, Record::SessionEnded { .. } | Record::LostSessions(_));
        if self.execution.state.is_final() && is_late {
            return;
        }
        match record {
            Record::Begun { id, at, order } => self.begin(*id, *at, order),
            Record::Execution { state, at, error } => {
                self.execution.state = *state;
                replace_error(&mut self.execution.error, error);
                if state.is_final() {
                    self.execution.ended = *at;
                }
            }
            Record::Planned { source, destination, operation } => {
                let index = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
                let (source, destination) = (source.clone(), destination.clone());
                let task = Task { index, source, destination, operation: *operation, ..Task::default() };
                self.tasks.push(TaskModel { task, artifacts: Vec::new() });
            }
            Record::Artifacts { task, artifacts } => {
                let Some(task) = self.tasks.get_mut(*task as usize) else { return };
                task.artifacts.extend(artifacts.iter().map(|(source, target)| Artifact {
                    source: source.clone(),
                    target: target.clone(),
                    ..Artifact::default()
                }));
            }
            Record::Task { task, state, error } => {
                let Some(task) = self.tasks.get_mut(*task as usize) else { return };
                task.enter(*state, error);
            }
            Record::Artifact { task, attempt, artifact, news } => {
                if let Some(artifact) = self.artifact(*task, *attempt, *artifact) {
                    update(artifact, news);
                }
            }
            Record::Blob { task, attempt, artifact, digest, size, outcome, error } => {
                if let Some(artifact) = self.artifact(*task, *attempt, *artifact) {
                    update_blob(artifact, digest, *size, *outcome, error);
                }
            }
            Record::Session(session) => {
                let key = (session.repository.clone(), session.digest.clone());
                self.sessions.insert(key, session.clone());
            }
            Record::SessionEnded { repository, digest, is_lost } => {
                let known = self.sessions.remove(&(repository.clone(), digest.clone()));
                if let Some(session) = known.filter(|_| *is_lost)
                    && self.execution.lost_sessions.len() < LOST_MAX
                {
                    self.execution.lost_sessions.push(session.location);
                }
            }
            Record::TaskSnapshot(task) => {
                self.tasks.push(TaskModel { task: (**task).clone(), artifacts: Vec::new() });
            }
            Record::ArtifactSnapshots { task, artifacts } => {
                let Some(task) = self.tasks.get_mut(*task as usize) else { return };
                task.artifacts.extend_from_slice(artifacts);
            }
            Record::BlobSnapshots { task, artifact, blobs } => {
                let Some(task) = self.tasks.get_mut(*task as usize) else { return };
                let Some(artifact) = task.artifacts.get_mut(*artifact as usize) else { return };
                artifact.blobs.extend_from_slice(blobs);
            }
            Record::ExecutionSnapshot(execution) => self.execution = (**execution).clone(),
            Record::LostSessions(locations) => self.execution.lost_sessions.extend_from_slice(locations),
        }
    }

    fn begin(&mut self, id: u64, at: i64, order: &Order) {
        self.order = order.clone();
        self.execution = Execution {
            id,
            policy: order.policy.clone(),
            source: order.source.clone(),
            destination: order.destination.clone(),
            trigger: order.trigger.clone(),
            dry_run: order.options.dry_run,
            started: at,
            ..Execution::default()
        };
    }

    /// The artifact that news of this attempt is about; `None` if the news comes too late.
    fn artifact(&mut self, task: u32, attempt: u32, artifact: u32) -> Option<&mut Artifact> {
        let task = self.tasks.get_mut(task as usize)?;
        let is_current = task.task.attempts == attempt && !task.task.state.is_final();
        let artifact = task.artifacts.get_mut(artifact as usize)?;
        (is_current && !artifact.state.is_final()).then_some(artifact)
    }

    /// Why the execution waits: the failure of the first task that does.
    pub fn last_error(&self) -> String {
        let waiting = self.tasks.iter().find(|task| task.task.state == State::Retrying);
        waiting.map_or_else(String::new, |task| format!("retrying: {}", task.task.error.message))
    }

    /// The execution with all counts.
    pub fn describe(&self) -> Execution {
        let mut execution = self.execution.clone();
        execution.tasks = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        for task in self.tasks.iter().map(TaskModel::describe) {
            execution.bytes.add(task.bytes);
            add(&mut execution.artifacts, task.artifacts);
        }
        execution
    }
}

impl TaskModel {
    /// The task with all counts.
    pub fn describe(&self) -> Task {
        let mut task = self.task.clone();
        for artifact in &self.artifacts {
            task.bytes.add(artifact.bytes);
            add(&mut task.artifacts, count(artifact));
        }
        task
    }

    fn enter(&mut self, state: State, error: &LastError) {
        if self.task.state.is_final() {
            return;
        }
        self.task.state = state;
        replace_error(&mut self.task.error, error);
        if state == State::Running {
            self.task.attempts += 1;
            // Everything that is not decided begins anew; what the destination has by now is found there.
            for artifact in self.artifacts.iter_mut().filter(|artifact| !artifact.state.is_final()) {
                artifact.state = State::Pending;
                artifact.bytes = Bytes::default();
                artifact.blobs.clear();
            }
        }
        if state.is_final() {
            let left = if state == State::Finished { State::Error } else { state };
            for artifact in self.artifacts.iter_mut().filter(|artifact| !artifact.state.is_final()) {
                artifact.state = left;
                if left == State::Error && artifact.error.class == ErrorClass::None {
                    artifact.error = self.task.error.clone();
                }
            }
        }
    }
}

fn replace_error(error: &mut LastError, newer: &LastError) {
    if newer.class != ErrorClass::None {
        *error = newer.clone();
    }
}

fn update(artifact: &mut Artifact, news: &ArtifactNews) {
    if news.state == State::PullManifest && artifact.state != State::PullManifest {
        artifact.attempts += 1;
    }
    artifact.state = news.state;
    news.outcome.inspect(|outcome| artifact.outcome = *outcome);
    news.bytes.inspect(|bytes| artifact.bytes = *bytes);
    if let Some(digest) = &news.digest {
        artifact.digest.clone_from(digest);
    }
    if let Some(error) = &news.error {
        artifact.error = error.clone();
    }
    if let Some(note) = &news.note {
        artifact.note.clone_from(note);
    }
    if news.state.is_final() {
        artifact.blobs.retain(|blob| blob.outcome == Outcome::None);
    }
}

fn update_blob(artifact: &mut Artifact, digest: &str, size: u64, outcome: Outcome, error: &LastError) {
    let at = artifact.blobs.iter().position(|blob| blob.digest == digest);
    let at = at.unwrap_or_else(|| {
        artifact.blobs.push(Blob { digest: digest.to_owned(), size, ..Blob::default() });
        artifact.blobs.len() - 1
    });
    let Some(blob) = artifact.blobs.get_mut(at) else { return };
    if blob.outcome != Outcome::None {
        return;
    }
    blob.attempts += 1;
    blob.outcome = outcome;
    replace_error(&mut blob.error, error);
    match outcome {
        Outcome::Copied => {
            blob.sent = size;
            artifact.bytes.done += size;
        }
        Outcome::Mounted => artifact.bytes.mounted += size,
        Outcome::Unchanged | Outcome::Skipped => artifact.bytes.skipped += size,
        Outcome::None | Outcome::Deleted => {}
    }
}

fn add(sum: &mut Artifacts, more: Artifacts) {
    sum.total = sum.total.saturating_add(more.total);
    sum.done = sum.done.saturating_add(more.done);
    sum.unchanged = sum.unchanged.saturating_add(more.unchanged);
    sum.failed = sum.failed.saturating_add(more.failed);
}

fn count(artifact: &Artifact) -> Artifacts {
    let outcome = |is: bool| u32::from(is && artifact.state == State::Finished);
    Artifacts {
        total: 1,
        done: outcome(matches!(artifact.outcome, Outcome::Copied | Outcome::Deleted | Outcome::Mounted)),
        unchanged: outcome(matches!(artifact.outcome, Outcome::Unchanged | Outcome::Skipped)),
        failed: u32::from(artifact.state == State::Error),
    }
}

/// The state of an execution, from the states of its tasks. A wait for a retry is never an error, whatever has failed
/// before; an execution ends when all of its tasks have ended.
pub fn execution_state(tasks: &[State]) -> State {
    let has = |wanted: &dyn Fn(State) -> bool| tasks.iter().any(|state| wanted(*state));
    let waits = |state: State| matches!(state, State::Pending | State::Retrying);
    if has(&|state| !state.is_final() && !waits(state)) {
        State::Running
    } else if has(&|state| state == State::Retrying) {
        State::Retrying
    } else if has(&|state| state == State::Pending) {
        if has(&State::is_final) { State::Running } else { State::Pending }
    } else if has(&|state| state == State::Canceled) {
        State::Canceled
    } else if has(&|state| state == State::Stopped) {
        State::Stopped
    } else if has(&|state| state == State::Error) {
        State::Error
    } else {
        State::Finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(artifacts: &[&str]) -> Model {
        let mut model = Model::default();
        model.apply(&Record::Begun { id: 7, at: 1, order: Box::default() });
        let (source, destination) = ("a".to_owned(), "b".to_owned());
        model.apply(&Record::Planned { source, destination, operation: Default::default() });
        let artifacts = artifacts.iter().map(|tag| ((*tag).to_owned(), (*tag).to_owned())).collect();
        model.apply(&Record::Artifacts { task: 0, artifacts });
        model
    }

    fn enter(model: &mut Model, state: State) {
        model.apply(&Record::Task { task: 0, state, error: LastError::default() });
    }

    fn news(model: &mut Model, attempt: u32, state: State, outcome: Outcome) {
        let news = ArtifactNews { state, outcome: Some(outcome), ..ArtifactNews::default() };
        model.apply(&Record::Artifact { task: 0, attempt, artifact: 0, news });
    }

    #[test]
    fn late_news_of_an_earlier_attempt_changes_nothing() {
        let mut model = planned(&["1"]);
        enter(&mut model, State::Running);
        enter(&mut model, State::Retrying);
        enter(&mut model, State::Running);
        news(&mut model, 1, State::Error, Outcome::None);
        assert_eq!(model.tasks[0].artifacts[0].state, State::Pending);
        news(&mut model, 2, State::Finished, Outcome::Copied);
        assert_eq!(model.describe().artifacts.done, 1);
    }

    #[test]
    fn a_final_state_never_changes() {
        let mut model = planned(&["1"]);
        enter(&mut model, State::Running);
        news(&mut model, 1, State::Finished, Outcome::Copied);
        news(&mut model, 1, State::Error, Outcome::None);
        assert_eq!(model.tasks[0].artifacts[0].state, State::Finished);
        enter(&mut model, State::Stopped);
        enter(&mut model, State::Running);
        assert_eq!(model.tasks[0].task.state, State::Stopped);
        let ended = |state| Record::Execution { state, at: 9, error: LastError::default() };
        model.apply(&ended(State::Stopped));
        model.apply(&ended(State::Finished));
        assert_eq!((model.execution.state, model.execution.ended), (State::Stopped, 9));
    }

    #[test]
    fn a_new_attempt_counts_the_bytes_of_undecided_artifacts_anew() {
        let mut model = planned(&["1", "2"]);
        enter(&mut model, State::Running);
        let blob = |artifact, outcome| Record::Blob {
            task: 0,
            attempt: 1,
            artifact,
            digest: "sha256:1".to_owned(),
            size: 5,
            outcome,
            error: LastError::default(),
        };
        model.apply(&blob(0, Outcome::Copied));
        model.apply(&blob(0, Outcome::Copied));
        assert_eq!(model.describe().bytes.done, 5, "a blob counts once");
        news(&mut model, 1, State::Finished, Outcome::Copied);
        model.apply(&blob(1, Outcome::Copied));
        assert_eq!(model.describe().bytes.done, 10);
        enter(&mut model, State::Running);
        assert_eq!(model.describe().bytes.done, 5);
    }

    #[test]
    fn an_execution_that_waits_for_a_retry_is_never_an_error() {
        use State::*;
        for (tasks, state) in [
            (&[Pending, Pending][..], Pending),
            (&[Finished, Pending], Running),
            (&[Error, Retrying], Retrying),
            (&[Error, PushManifest, Retrying], Running),
            (&[Error, Finished], Error),
            (&[Finished, Stopped, Error], Stopped),
            (&[Canceled, Stopped], Canceled),
            (&[Finished, Finished], Finished),
            (&[], Finished),
        ] {
            assert_eq!(execution_state(tasks), state, "{tasks:?}");
        }
    }
}
