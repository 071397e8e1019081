//! What the engine says of an execution: the execution, its tasks, their artifacts.

use sampan_ipc::engine::{Answer, Failure};
use sampan_ipc::replication::{Artifact, Execution, State, Task};

/// An execution with its tasks, and each task with its artifacts.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The execution.
    pub execution: Execution,
    /// Its tasks.
    pub tasks: Vec<(Task, Vec<Artifact>)>,
}

impl Report {
    /// Collects the answers to a request to show an execution.
    ///
    /// # Errors The engine refused the request.
    pub fn of(answers: Vec<Answer>) -> Result<Self, Failure> {
        let mut report = Report::default();
        for answer in answers {
            match answer {
                Answer::Execution(execution) => report.execution = *execution,
                Answer::Task(task) => report.tasks.push((*task, Vec::new())),
                Answer::Artifacts(artifacts) => {
                    report.tasks.last_mut().expect("a task comes before its artifacts").1.extend(artifacts);
                }
                Answer::Error(failure) => return Err(failure),
                _ => {}
            }
        }
        Ok(report)
    }

    /// State of the execution.
    pub fn state(&self) -> State {
        self.execution.state
    }

    /// All artifacts of all tasks.
    pub fn artifacts(&self) -> Vec<&Artifact> {
        self.tasks.iter().flat_map(|(_, artifacts)| artifacts).collect()
    }

    /// The artifact of this tag or digest at the source; panics if there is none.
    pub fn artifact(&self, source: &str) -> &Artifact {
        let found = self.artifacts().into_iter().find(|artifact| artifact.source == source);
        found.unwrap_or_else(|| panic!("no artifact {source} in {self:#?}"))
    }
}
