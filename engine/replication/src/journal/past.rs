//! What the history keeps of an execution: a description of bounded length, without credentials.
//!
//! Pure. Called by the history.

use crate::model::{Model, TaskModel};
use crate::record::Order;
use sampan_ipc::replication::{Artifact, Artifacts, Bytes, ErrorClass, Execution, State, Task};
use serde::{Deserialize, Serialize};

/// Most bytes of one execution in the history.
pub(super) const PAST_MAX: usize = 1 << 20;
/// Most bytes of an order. A longer one is left out: the execution can be shown, but not repeated.
const ORDER_MAX: usize = 384 << 10;
/// Most bytes of the list of lost sessions.
const LOST_MAX: usize = 128 << 10;
/// Most bytes of all tasks, without their artifacts.
const TASKS_MAX: usize = 256 << 10;

/// An execution with its tasks and their artifacts. The execution comes first, so that a listing parses nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The execution with all counts.
    pub execution: Execution,
    /// The tasks with all counts, each with its artifacts. The history leaves out artifacts and tasks that have
    /// succeeded if there are very many; the counts include them.
    pub tasks: Vec<(Task, Vec<Artifact>)>,
}

/// An execution in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) described: Described,
    /// What it was asked to do, without credentials; `None` if that is too long.
    pub(super) order: Option<Order>,
}

/// Describes an execution completely.
pub(super) fn describe(model: &Model) -> Described {
    let tasks = model.tasks.iter().map(|task| (task.describe(), task.artifacts.clone()));
    Described { execution: model.describe(), tasks: tasks.collect() }
}

/// Describes an execution for the history, in at most [`PAST_MAX`] bytes.
pub(super) fn past(model: &Model) -> Past {
    let order = Order { credentials: Vec::new(), ..model.order.clone() };
    let order = Some(order).filter(|order| len(order) <= ORDER_MAX);
    let mut execution = model.describe();
    let mut room = LOST_MAX;
    execution.lost_sessions.retain(|location| take(&mut room, len(location)));
    let tasks: Vec<Task> = model.tasks.iter().map(TaskModel::describe).collect();
    let mut room = TASKS_MAX;
    let kept = choose(&tasks, &mut room, |task| (task.state == State::Finished, len(task)));
    let fixed = len(&execution) + order.as_ref().map_or(0, len) + (TASKS_MAX - room);
    // Lengths of lists and the like take a few bytes more.
    let mut room = (PAST_MAX - 1024).saturating_sub(fixed + 8 * tasks.len());
    let kept_tasks = model.tasks.iter().zip(tasks).zip(kept).filter(|(_, kept)| *kept);
    let mut tasks: Vec<(Task, Vec<Artifact>)> =
        kept_tasks.map(|((model, task), _)| (task, model.artifacts.iter().map(shorten).collect())).collect();
    let artifacts: Vec<&Artifact> = tasks.iter().flat_map(|(_, artifacts)| artifacts).collect();
    let mut kept = choose(&artifacts, &mut room, |artifact| (is_done(artifact), len(*artifact))).into_iter();
    tasks.iter_mut().for_each(|(_, artifacts)| artifacts.retain(|_| kept.next().unwrap_or(false)));
    Past { described: Described { execution, tasks }, order }
}

/// The model of an execution in the history, for one that repeats it: without the counts, which follow from the
/// artifacts, and without upload sessions.
pub(super) fn model(past: Past) -> Option<(Order, Model)> {
    let order = past.order?;
    let uncounted = |(task, artifacts)| TaskModel {
        task: Task { artifacts: Artifacts::default(), bytes: Bytes::default(), ..task },
        artifacts,
    };
    let execution = Execution {
        tasks: 0,
        artifacts: Artifacts::default(),
        bytes: Bytes::default(),
        ..past.described.execution
    };
    let tasks = past.described.tasks.into_iter().map(uncounted).collect();
    Some((order.clone(), Model { order, execution, tasks, ..Model::default() }))
}

fn is_done(artifact: &Artifact) -> bool {
    artifact.state == State::Finished
}

/// The artifact with only the blobs that failed.
fn shorten(artifact: &Artifact) -> Artifact {
    let mut artifact = artifact.clone();
    artifact.blobs.retain(|blob| blob.error.class != ErrorClass::None);
    artifact
}

/// Chooses what fits into `room` bytes: first what has not succeeded, then the rest, each in order. `look` says whether
/// an element has succeeded, and its length.
fn choose<T>(list: &[T], room: &mut usize, look: impl Fn(&T) -> (bool, usize)) -> Vec<bool> {
    let looked: Vec<(bool, usize)> = list.iter().map(look).collect();
    let mut kept = vec![false; list.len()];
    for succeeded in [false, true] {
        for (kept, (_, len)) in kept.iter_mut().zip(&looked).filter(|(_, (done, _))| *done == succeeded) {
            *kept = take(room, *len);
        }
    }
    kept
}

fn take(room: &mut usize, len: usize) -> bool {
    match room.checked_sub(len) {
        Some(rest) => *room = rest,
        None => return false,
    }
    true
}

/// Length of the encoding.
fn len<T: Serialize>(value: &T) -> usize {
    // A writer that only counts needs no memory, but postcard offers one only as an experiment.
    postcard::to_allocvec(value).map_or(usize::MAX / 4, |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::super::tests::order;
    use super::*;
    use sampan_ipc::replication::{Blob, LastError, Outcome};

    fn artifact(nth: u32, state: State) -> Artifact {
        let failed = LastError { class: ErrorClass::Temporary, message: "the network failed".to_owned() };
        let good = Blob { digest: "sha256:1".to_owned(), outcome: Outcome::Copied, ..Blob::default() };
        let error = if state == State::Error { failed } else { LastError::default() };
        let bad = Blob { digest: "sha256:2".to_owned(), error: error.clone(), ..Blob::default() };
        Artifact {
            source: format!("{nth}"),
            state,
            outcome: Outcome::Copied,
            error,
            blobs: vec![good, bad],
            ..Artifact::default()
        }
    }

    #[test]
    fn a_huge_execution_keeps_its_counts_and_what_failed() {
        let mut model = Model { order: order(), ..Model::default() };
        model.execution.lost_sessions = vec!["https://".repeat(100); 1000];
        for nth in 0..3000 {
            let state = if nth == 2999 { State::Error } else { State::Finished };
            let task = Task { index: nth, state, source: "repository/".repeat(20), ..Task::default() };
            let artifacts = (0..20).map(|nth| artifact(nth, if nth == 19 { state } else { State::Finished }));
            model.tasks.push(TaskModel { task, artifacts: artifacts.collect() });
        }
        let past = past(&model);
        let bytes = len(&past);
        assert!(bytes <= PAST_MAX && bytes > PAST_MAX / 2, "{bytes}");
        let execution = &past.described.execution;
        assert_eq!(
            (execution.tasks, execution.artifacts.total, execution.artifacts.failed),
            (3000, 60_000, 1)
        );
        let (task, artifacts) = past.described.tasks.last().expect("a task");
        assert_eq!((task.index, task.artifacts.failed), (2999, 1));
        let failed = artifacts.last().expect("an artifact");
        assert_eq!((failed.source.as_str(), failed.blobs.len()), ("19", 1), "with the blob that failed");
        assert_eq!(past.order.as_ref().map(|order| order.credentials.len()), Some(0));
    }

    #[test]
    fn an_order_that_is_too_long_is_left_out_but_not_the_execution() {
        let mut model = Model { order: order(), ..Model::default() };
        model.order.policy_text = "x".repeat(2 << 20);
        model.execution.id = 7;
        let past = past(&model);
        assert!(len(&past) < PAST_MAX);
        assert_eq!((past.described.execution.id, past.order.is_none()), (7, true));
        assert_eq!(super::model(past), None);
    }

    #[test]
    fn the_model_from_the_history_counts_its_artifacts_once() {
        let mut model = Model { order: order(), ..Model::default() };
        let task = Task { state: State::Error, ..Task::default() };
        model.tasks = vec![TaskModel {
            task,
            artifacts: vec![artifact(1, State::Error), artifact(2, State::Finished)],
        }];
        let (_, again) = super::model(past(&model)).expect("an order");
        assert_eq!(again.describe(), model.describe());
    }
}
