//! The records of an execution's journal, and what an execution is asked to do.
//!
//! Each change of an execution is one [`Record`]. The journal appends it, and [`crate::model`] applies it. So a
//! restarted engine has the state that its predecessor had. Pure.

use sampan_ipc::engine::Credential;
use sampan_ipc::replication::{
    Artifact, Blob, Bytes, Execution, LastError, Operation, Options, Outcome, State, Task, Trigger,
};
use serde::{Deserialize, Serialize};

/// What an execution is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The name of the policy; empty for a command.
    pub policy: String,
    /// The source as it was written.
    pub source: String,
    /// The destination as it was written.
    pub destination: String,
    /// How to copy.
    pub options: Options,
    /// Why it was started.
    pub trigger: Trigger,
    /// Credentials of the client that gave the command. They are in the journal, so that a restarted engine can go on;
    /// the journal is readable by its owner only, and goes when the execution is compacted.
    pub credentials: Vec<Credential>,
    /// The text of the policy's file, so that a change of the file does not change a running execution; empty for a
    /// command.
    pub policy_text: String,
    /// Only these repositories and tags of the source; everything that the source selects if empty.
    pub only: Vec<Selection>,
}

/// Artifacts of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The repository at the source, without the place.
    pub repository: String,
    /// Tags or digests; all of them if empty.
    pub artifacts: Vec<String>,
}

/// An upload session, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    /// The repository at the destination, without the place.
    pub repository: String,
    /// The blob's digest.
    pub digest: String,
    /// The blob's size in bytes.
    pub size: u64,
    /// Where the session is: see [`crate::side::Session`].
    pub location: String,
    /// Fewest bytes of a chunk.
    pub chunk_min: u64,
    /// Bytes that the destination has acknowledged.
    pub offset: u64,
}

/// News of an artifact. Absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactNews {
    /// The artifact's new state.
    pub state: State,
    /// What happened to it.
    pub outcome: Option<Outcome>,
    /// The manifest's digest.
    pub digest: Option<String>,
    /// The counts of its blobs.
    pub bytes: Option<Bytes>,
    /// The last failure.
    pub error: Option<LastError>,
    /// What the operator must know.
    pub note: Option<String>,
}

/// One change of an execution. Variants are numbered by position: append, never reorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first record: the execution was requested.
    Begun {
        /// The execution's number.
        id: u64,
        /// When, in nanoseconds since the epoch.
        at: i64,
        /// What it is asked to do.
        order: Box<Order>,
    },
    /// The execution has this state and this last failure. A final state ends the journal.
    Execution {
        /// The state.
        state: State,
        /// When, in nanoseconds since the epoch.
        at: i64,
        /// The last failure; an empty one keeps the failure before.
        error: LastError,
    },
    /// A task was planned; its number is the number of tasks before it.
    Planned {
        /// The repository at the source, without the place.
        source: String,
        /// The repository at the destination, without the place.
        destination: String,
        /// What the task does.
        operation: Operation,
    },
    /// Artifacts of a task, as source and target; in several records if there are many.
    Artifacts {
        /// The task's number.
        task: u32,
        /// Tags or digests at source and destination.
        artifacts: Vec<(String, String)>,
    },
    /// A task enters a state. Written before the state's work begins.
    Task {
        /// The task's number.
        task: u32,
        /// The state.
        state: State,
        /// The last failure; an empty one keeps the failure before.
        error: LastError,
    },
    /// News of an artifact.
    Artifact {
        /// The task's number.
        task: u32,
        /// The attempt of the task that found this out. Ignored if it is not the task's present attempt.
        attempt: u32,
        /// The artifact's number in the task.
        artifact: u32,
        /// The news.
        news: ArtifactNews,
    },
    /// A blob of an artifact was copied, mounted or found, or has failed.
    Blob {
        /// The task's number.
        task: u32,
        /// The attempt of the task that found this out.
        attempt: u32,
        /// The artifact's number in the task.
        artifact: u32,
        /// The blob's digest.
        digest: String,
        /// The blob's size in bytes.
        size: u64,
        /// What happened to the blob.
        outcome: Outcome,
        /// The failure, if it failed.
        error: LastError,
    },
    /// An upload session has begun, or the destination has acknowledged more bytes.
    Session(SavedSession),
    /// An upload session has ended.
    SessionEnded {
        /// The repository at the destination, without the place.
        repository: String,
        /// The blob's digest.
        digest: String,
        /// Whether the destination no longer knew the session, so that its bytes may remain there for a while.
        is_lost: bool,
    },
    /// A task as it was when the journal was rewritten; its number is the number of tasks before it. Only the journal
    /// itself writes this record and those below.
    TaskSnapshot(Box<Task>),
    /// Artifacts of a task as they were when the journal was rewritten, without their blobs; in several records if
    /// there are many.
    ArtifactSnapshots {
        /// The task's number.
        task: u32,
        /// The artifacts, which follow those that the task has.
        artifacts: Vec<Artifact>,
    },
    /// Blobs of an artifact as they were when the journal was rewritten; in several records if there are many.
    BlobSnapshots {
        /// The task's number.
        task: u32,
        /// The artifact's number in the task.
        artifact: u32,
        /// The blobs, which follow those that the artifact has.
        blobs: Vec<Blob>,
    },
    /// The execution as it was when the journal was rewritten, without its lost sessions.
    ExecutionSnapshot(Box<Execution>),
    /// Lost sessions of the execution when the journal was rewritten; in several records if there are many.
    LostSessions(Vec<String>),
}

/// Most artifacts of one record.
const ARTIFACTS_MAX: usize = 1000;

impl Record {
    /// The records for the artifacts of a task, as source and target.
    pub fn artifacts(task: u32, artifacts: &[(String, String)]) -> impl Iterator<Item = Record> {
        artifacts.chunks(ARTIFACTS_MAX).map(move |part| Record::Artifacts { task, artifacts: part.to_vec() })
    }

    /// Whether the record must be on the disk before the copier goes on.
    pub fn is_urgent(&self) -> bool {
        match self {
            // Reading changes nothing, and what is unchanged or left alone is found again.
            Record::Artifact { news, .. } => {
                let is_read = matches!(news.state, State::Pending | State::PullManifest);
                !is_read && !matches!(news.outcome, Some(Outcome::Unchanged | Outcome::Skipped))
            }
            Record::Artifacts { .. } | Record::Planned { .. } => false,
            Record::Blob { outcome, .. } => *outcome != Outcome::Unchanged,
            _ => true,
        }
    }
}
