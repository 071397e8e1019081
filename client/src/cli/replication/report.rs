//! An execution with all its tasks and artifacts: requests it from the engine, and decides whether it has succeeded.
//!
//! Prints nothing; `table_report` and `json_report` make the text.

use crate::cli::error::Failure;
use sampan_client::Engine;
use sampan_client::engine::{Answer, Request};
use sampan_ipc::replication::{
    Artifact, ErrorClass, Execution, ExecutionRequest, LastError, Operation, Outcome, State, Task,
    artifact_name,
};

/// An execution and what became of its artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub execution: Execution,
    pub tasks: Vec<TaskReport>,
}

/// The work on one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskReport {
    pub task: Task,
    pub artifacts: Vec<Artifact>,
}

/// A failure of an artifact, of a task before it had artifacts, or of an execution before it had tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The artifact, the repository, or the source.
    pub subject: String,
    pub message: String,
}

impl Report {
    /// Requests the description of an execution.
    pub(crate) fn request(engine: &Engine, id: u64) -> Result<Self, Failure> {
        let request = Request::Execution { id, request: ExecutionRequest::Show };
        let (mut execution, mut tasks) = (None, Vec::new());
        for answer in engine.request(request, &[])? {
            match answer? {
                Answer::Execution(described) => execution = Some(*described),
                Answer::Task(task) => tasks.push(TaskReport { task: *task, artifacts: Vec::new() }),
                Answer::Artifacts(more) => {
                    tasks.last_mut().into_iter().for_each(|last| last.artifacts.extend_from_slice(&more));
                }
                _ => {}
            }
        }
        let execution = execution.ok_or_else(|| Failure::new("the engine gave no answer"))?;
        Ok(Report { execution, tasks })
    }

    /// Each task with each of its artifacts.
    pub(crate) fn artifacts(&self) -> impl Iterator<Item = (&Task, &Artifact)> {
        self.tasks.iter().flat_map(|report| report.artifacts.iter().map(|artifact| (&report.task, artifact)))
    }

    /// The tasks that failed without a failed artifact.
    pub(crate) fn failed_tasks(&self) -> impl Iterator<Item = &Task> {
        let is_alone = |report: &&TaskReport| {
            report.task.state == State::Error && !report.artifacts.iter().any(has_failed)
        };
        self.tasks.iter().filter(is_alone).map(|report| &report.task)
    }

    /// The repositories of which the filter of the policy selects no tag.
    pub(crate) fn unselected(&self) -> impl Iterator<Item = &str> {
        let is_empty = |report: &&TaskReport| {
            let Task { operation, state, .. } = report.task;
            report.artifacts.is_empty() && operation == Operation::Transfer && state == State::Finished
        };
        self.tasks.iter().filter(is_empty).map(|report| report.task.source.as_str())
    }

    /// All failures. An execution that has failed has at least one.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let failed = self.artifacts().filter(|(_, artifact)| has_failed(artifact));
        let artifacts = failed.map(|(task, artifact)| problem(subject(task, artifact), &artifact.error));
        let tasks = self.failed_tasks().map(|task| problem(task.source.clone(), &task.error));
        let problems: Vec<Problem> = artifacts.chain(tasks).collect();
        match self.execution.state {
            State::Error if problems.is_empty() => {
                vec![problem(self.execution.source.clone(), &self.execution.error)]
            }
            _ => problems,
        }
    }

    /// Whether the execution has succeeded, or does not run because its policy is busy.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let Execution { id, state, .. } = self.execution;
        let failed = self.artifacts().filter(|(_, artifact)| has_failed(artifact)).count();
        let resume = || match state {
            State::Stopped if self.execution.dry_run => String::new(),
            State::Stopped => format!("sampan replication resume {id} continues it"),
            _ => self.hint(format!("sampan replication resume {id} continues it")),
        };
        match state {
            State::Stopped => Err(Failure::new(format!("execution {id} was stopped")).hint(resume())),
            State::Canceled => Err(Failure::new(format!("execution {id} was canceled"))),
            _ if failed > 0 => {
                let all = self.artifacts().count();
                let noun = if all == 1 { "artifact" } else { "artifacts" };
                let failure = Failure::new(format!("execution {id}: {failed} of {all} {noun} failed"));
                Err(failure.hint(self.hint(format!("sampan replication retry {id} repeats what failed"))))
            }
            State::Error => Err(Failure::new(format!("execution {id} failed")).hint(resume())),
            _ if self.failed_tasks().next().is_some() => {
                Err(Failure::new(format!("execution {id} failed")).hint(resume()))
            }
            _ => Ok(()),
        }
    }
}

impl Report {
    /// What a person can do about the failures: `repeat`, unless a repetition would fail in the same way.
    fn hint(&self, repeat: String) -> String {
        let Execution { dry_run, ref policy, ref source, ref error, .. } = self.execution;
        let failed = self.artifacts().map(|(_, artifact)| artifact).filter(|artifact| has_failed(artifact));
        let errors =
            failed.map(|artifact| &artifact.error).chain(self.failed_tasks().map(|task| &task.error));
        let errors: Vec<&LastError> = errors.chain((!error.message.is_empty()).then_some(error)).collect();
        let lasts = |error: &&LastError| {
            matches!(error.class, ErrorClass::NotFound | ErrorClass::Refused | ErrorClass::Denied)
        };
        if !dry_run && (errors.is_empty() || !errors.iter().all(lasts)) {
            return repeat;
        }
        if errors.iter().any(|error| error.message.contains("are not at the source, which is more than")) {
            return match policy.is_empty() {
                true => "--prune-max PERCENT allows a larger share".to_owned(),
                false => "delete-share-max of the policy allows a larger share".to_owned(),
            };
        }
        // The person has named no tag.
        let is_default = |error: &&LastError| {
            error.class == ErrorClass::NotFound && error.message.starts_with("latest is not in ")
        };
        match policy.is_empty() && self.artifacts().count() == 1 && !source.ends_with(":latest") {
            true if errors.iter().any(is_default) => "--all-tags copies all tags".to_owned(),
            _ => String::new(),
        }
    }
}

fn problem(subject: String, error: &LastError) -> Problem {
    let message = match error.message.as_str() {
        "" => "failed for an unknown reason".to_owned(),
        message => message.to_owned(),
    };
    Problem { subject, message }
}

fn has_failed(artifact: &Artifact) -> bool {
    artifact.state == State::Error
}

/// The full name of the artifact that a message is about. What is deleted is at the destination only.
pub(crate) fn subject(task: &Task, artifact: &Artifact) -> String {
    match task.operation {
        Operation::Transfer => source(task, artifact),
        Operation::Delete => destination(task, artifact),
    }
}

/// The full name of an artifact at the source.
pub(crate) fn source(task: &Task, artifact: &Artifact) -> String {
    artifact_name(&task.source, &artifact.source)
}

/// The full name of an artifact at the destination.
pub(crate) fn destination(task: &Task, artifact: &Artifact) -> String {
    artifact_name(&task.destination, &artifact.target)
}

/// What became of an artifact: its outcome, or its state if it has no outcome.
pub(crate) fn result(artifact: &Artifact) -> &'static str {
    match (artifact.state, artifact.outcome) {
        (State::Error, _) => "failed",
        (State::Finished, Outcome::None) => "done",
        (State::Finished, outcome) => outcome.word(),
        (state, _) => state.word(),
    }
}

/// What an execution would do with an artifact.
pub(crate) fn plan(task: &Task, artifact: &Artifact) -> &'static str {
    match (artifact.state, artifact.outcome) {
        (State::Error, _) => "failed",
        (_, Outcome::Unchanged) => "unchanged",
        (_, Outcome::Skipped) => "skip",
        (_, Outcome::Deleted) => "delete",
        _ if task.operation == Operation::Delete => "delete",
        _ => "copy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::FAILED;

    fn report(state: State, states: &[State]) -> Report {
        let artifact = |(nth, state): (usize, &State)| Artifact {
            source: format!("{nth}"),
            state: *state,
            error: LastError { message: format!("why {nth}"), ..LastError::default() },
            ..Artifact::default()
        };
        let artifacts = states.iter().enumerate().map(artifact).collect();
        let task = Task { source: "a.example/x".into(), ..Task::default() };
        let execution = Execution { id: 7, state, ..Execution::default() };
        Report { execution, tasks: vec![TaskReport { task, artifacts }] }
    }

    #[test]
    fn an_artifact_that_failed_fails_the_command() {
        let finished = report(State::Finished, &[State::Finished, State::Finished]);
        assert!(finished.verdict().is_ok() && finished.problems().is_empty());
        let failed = report(State::Error, &[State::Finished, State::Error]);
        let failure = failed.verdict().expect_err("it failed");
        assert_eq!(
            (failure.status, failure.message.as_str()),
            (FAILED, "execution 7: 1 of 2 artifacts failed")
        );
        assert_eq!(failed.problems(), [Problem { subject: "a.example/x:1".into(), message: "why 1".into() }]);
        let stopped = report(State::Stopped, &[State::Stopped]);
        assert!(stopped.verdict().expect_err("stopped").hint.starts_with("sampan replication resume 7"));
        // The policy of a skipped execution is busy, which is no failure.
        assert!(report(State::Skipped, &[]).verdict().is_ok());
    }

    #[test]
    fn a_failure_before_the_first_artifact_is_a_problem_too() {
        let mut none = report(State::Error, &[]);
        none.execution.source = "docker://a.example/**".into();
        none.execution.error.message = "cannot list".into();
        let problem = Problem { subject: "docker://a.example/**".into(), message: "cannot list".into() };
        assert_eq!(none.problems(), [problem]);
        assert!(none.verdict().is_err());
        none.tasks[0].task.state = State::Error;
        assert_eq!(none.problems()[0].subject, "a.example/x");
    }

    #[test]
    fn a_hint_to_repeat_is_only_for_what_may_then_succeed() {
        let hint = |class, message: &str, change: &dyn Fn(&mut Report)| {
            let mut failed = report(State::Error, &[State::Error]);
            failed.tasks[0].artifacts[0].error = LastError { class, message: message.into() };
            change(&mut failed);
            failed.verdict().expect_err("it failed").hint
        };
        let as_it_is = |_: &mut Report| {};
        let repeat = "sampan replication retry 7 repeats what failed";
        assert_eq!(hint(ErrorClass::Temporary, "503", &as_it_is), repeat);
        assert_eq!(hint(ErrorClass::Temporary, "503", &|report| report.execution.dry_run = true), "");
        for class in [ErrorClass::NotFound, ErrorClass::Refused, ErrorClass::Denied] {
            assert_eq!(hint(class, "no", &as_it_is), "");
        }
        let absent = "latest is not in a.example/x";
        assert_eq!(hint(ErrorClass::NotFound, absent, &as_it_is), "--all-tags copies all tags");
        let named = |report: &mut Report| report.execution.source = "docker://a.example/x:latest".into();
        assert_eq!(hint(ErrorClass::NotFound, absent, &named), "");
        let share =
            "cannot delete in b: 2 of its 4 tags are not at the source, which is more than 30 percent";
        let mut kept = report(State::Error, &[State::Finished]);
        kept.execution.error = LastError { class: ErrorClass::Refused, message: share.into() };
        let of = |report: &Report| report.verdict().expect_err("it failed").hint;
        assert_eq!(of(&kept), "--prune-max PERCENT allows a larger share");
        kept.execution.policy = "nightly".into();
        assert_eq!(of(&kept), "delete-share-max of the policy allows a larger share");
        kept.execution.error.message = "x and y would both be copied to z".into();
        assert_eq!(of(&kept), "");
    }

    #[test]
    fn a_digest_is_told_from_a_tag_in_a_name() {
        assert_eq!(artifact_name("a/b", "1.0"), "a/b:1.0");
        assert_eq!(artifact_name("a/b", "sha256:00"), "a/b@sha256:00");
        assert_eq!(artifact_name("oci:/usb", ""), "oci:/usb");
    }
}
