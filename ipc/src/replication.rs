//! Replication, as clients see it: what an execution does, its states, and its report.
//!
//! An *execution* is one command or one trigger of a policy. It has a *task* for each repository, a task has an
//! *artifact* for each tag or digest, and an artifact has *blobs*. The engine owns the executions; this module defines
//! how it describes them on `engine.sock` ([`crate::engine`]). Enum variants are numbered by position: append, never
//! reorder. Does no I/O.

use crate::credential::Credential;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of an execution, a task or an artifact. The names are Harbor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Waits for its turn.
    #[default]
    Pending,
    /// Has been taken up by a thread.
    Running,
    /// Opens source and destination, and lists the tags if none were given.
    Initialize,
    /// Checks that the destination can be written to.
    Check,
    /// Reads the manifest of the next artifact, and finds out which blobs the destination lacks.
    PullManifest,
    /// Copies the blobs that the destination lacks.
    TransferBlob,
    /// Sends the artifact's manifests, the tag last.
    PushManifest,
    /// Deletes tags at the destination.
    Delete,
    /// Waits for its next attempt.
    Retrying,
    /// Has succeeded. Final.
    Finished,
    /// Was stopped, and can be resumed. Final.
    Stopped,
    /// Was canceled, and its upload sessions were deleted. Final.
    Canceled,
    /// Has failed. Final.
    Error,
    /// Did not run, because its policy was busy. Final; only an execution can be skipped.
    Skipped,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [State; 14] = [
        State::Pending,
        State::Running,
        State::Initialize,
        State::Check,
        State::PullManifest,
        State::TransferBlob,
        State::PushManifest,
        State::Delete,
        State::Retrying,
        State::Finished,
        State::Stopped,
        State::Canceled,
        State::Error,
        State::Skipped,
    ];

    /// The name of the state in events, reports and drawings.
    pub fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Initialize => "initialize",
            State::Check => "check",
            State::PullManifest => "pull_manifest",
            State::TransferBlob => "transfer_blob",
            State::PushManifest => "push_manifest",
            State::Delete => "delete",
            State::Retrying => "retrying",
            State::Finished => "finished",
            State::Stopped => "stopped",
            State::Canceled => "canceled",
            State::Error => "error",
            State::Skipped => "skipped",
        }
    }

    /// Whether the state never changes again.
    pub fn is_final(self) -> bool {
        matches!(self, State::Finished | State::Stopped | State::Canceled | State::Error | State::Skipped)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a task does with its artifacts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Copies artifacts from the source to the destination.
    #[default]
    Transfer,
    /// Deletes artifacts at the destination.
    Delete,
}

/// What happened to an artifact or a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing yet, or it failed.
    #[default]
    None,
    /// Copied to the destination.
    Copied,
    /// The destination had it.
    Unchanged,
    /// Taken by the destination from another of its repositories.
    Mounted,
    /// Left alone: the destination has another artifact under this tag, and may not replace it; or a foreign layer,
    /// which is at the URLs of its descriptor.
    Skipped,
    /// Deleted at the destination.
    Deleted,
}

impl Outcome {
    /// The name of the outcome in reports.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::None => "",
            Outcome::Copied => "copied",
            Outcome::Unchanged => "unchanged",
            Outcome::Mounted => "mounted",
            Outcome::Skipped => "skipped",
            Outcome::Deleted => "deleted",
        }
    }
}

/// How a failure is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// No failure.
    #[default]
    None,
    /// The network or the registry failed in a way that another attempt may cure.
    Temporary,
    /// The credentials were refused.
    Denied,
    /// The artifact or blob is not at the source.
    NotFound,
    /// The bytes have another digest or size than their descriptor says.
    Corrupt,
    /// The registry refuses the artifact or the operation.
    Refused,
    /// This host failed: its disk is full, or a file cannot be read or written.
    Host,
}

impl ErrorClass {
    /// The name of the class in reports; empty for no failure.
    pub fn word(self) -> &'static str {
        match self {
            ErrorClass::None => "",
            ErrorClass::Temporary => "temporary",
            ErrorClass::Denied => "denied",
            ErrorClass::NotFound => "not-found",
            ErrorClass::Corrupt => "corrupt",
            ErrorClass::Refused => "refused",
            ErrorClass::Host => "host",
        }
    }
}

/// The last failure of an execution, a task, an artifact or a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// How the failure is treated.
    pub class: ErrorClass,
    /// One line: what was attempted, on what, and why it failed; empty without a failure.
    pub message: String,
}

/// Counts of bytes of blobs. An artifact's manifests are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Bytes of all blobs that are known so far.
    pub total: u64,
    /// Bytes that were sent to the destination and acknowledged by it.
    pub done: u64,
    /// Bytes of blobs that the destination had.
    pub skipped: u64,
    /// Bytes of blobs that the destination mounted from another of its repositories.
    pub mounted: u64,
}

impl Bytes {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: Bytes) {
        self.total = self.total.saturating_add(other.total);
        self.done = self.done.saturating_add(other.done);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.mounted = self.mounted.saturating_add(other.mounted);
    }
}

/// Counts of artifacts, by what has become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifacts {
    /// All artifacts that are known so far.
    pub total: u32,
    /// Copied or deleted.
    pub done: u32,
    /// Unchanged, or left alone.
    pub unchanged: u32,
    /// Failed.
    pub failed: u32,
}

/// One blob of an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The blob's digest.
    pub digest: String,
    /// The blob's size in bytes.
    pub size: u64,
    /// Bytes that the destination has acknowledged.
    pub sent: u64,
    /// What happened to the blob; [`Outcome::None`] while it is copied, and after a failure.
    pub outcome: Outcome,
    /// Number of attempts, from 1; 0 before the first.
    pub attempts: u32,
    /// The last failure.
    pub error: LastError,
}

/// One tag or digest of a task's repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// The tag or digest at the source; for a deletion, at the destination.
    pub source: String,
    /// The tag or digest at the destination.
    pub target: String,
    /// The artifact's state.
    pub state: State,
    /// What happened to the artifact.
    pub outcome: Outcome,
    /// The manifest's digest; empty before it is known.
    pub digest: String,
    /// The counts of the artifact's blobs.
    pub bytes: Bytes,
    /// Number of attempts, from 1; 0 before the first.
    pub attempts: u32,
    /// The last failure.
    pub error: LastError,
    /// Anything else the operator must know: the source tag moved, foreign layers were left out; empty otherwise.
    pub note: String,
    /// The artifact's blobs. Only the blobs that failed or are being copied once the artifact's state is final.
    pub blobs: Vec<Blob>,
}

/// The work on one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Position in the execution, from 0.
    pub index: u32,
    /// The repository at the source, such as `registry.example/team/app`.
    pub source: String,
    /// The repository at the destination.
    pub destination: String,
    /// What the task does.
    pub operation: Operation,
    /// The task's state.
    pub state: State,
    /// Number of attempts, from 1; 0 before the first. News of an earlier attempt is ignored.
    pub attempts: u32,
    /// Number of the task's artifacts, by what has become of them.
    pub artifacts: Artifacts,
    /// The sum of the artifacts' counts.
    pub bytes: Bytes,
    /// The last failure.
    pub error: LastError,
}

/// Why an execution was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// A person's command.
    #[default]
    Manual,
    /// The schedule of its policy.
    Cron,
    /// An event on this host, with this sequence number.
    Event(u64),
    /// A command to continue or repeat this earlier execution.
    Again(u64),
}

/// An execution, without its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// The execution's number, which is also the number of its job.
    pub id: u64,
    /// The name of its policy; empty for a command.
    pub policy: String,
    /// The source as the person or the policy wrote it.
    pub source: String,
    /// The destination as the person or the policy wrote it.
    pub destination: String,
    /// Why it was started.
    pub trigger: Trigger,
    /// Whether it only makes a plan: it reads both sides and changes nothing.
    pub dry_run: bool,
    /// The execution's state. A wait for the next attempt is [`State::Retrying`], never [`State::Error`].
    pub state: State,
    /// When it was requested, in nanoseconds since the epoch.
    pub started: i64,
    /// When it ended, in nanoseconds since the epoch; 0 before that.
    pub ended: i64,
    /// Number of its tasks.
    pub tasks: u32,
    /// The sum of the tasks' counts.
    pub artifacts: Artifacts,
    /// The sum of the tasks' counts.
    pub bytes: Bytes,
    /// The last failure.
    pub error: LastError,
    /// Upload sessions that the destination no longer answers for, so that they could not be deleted.
    pub lost_sessions: Vec<String>,
}

/// How an index is copied if only some platforms are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sparse {
    /// Writes a new index that names only the copied manifests. Its digest differs, so signatures of it do not count.
    #[default]
    Rewrite,
    /// Copies the index unchanged, although manifests that it names are absent at the destination. Some registries
    /// refuse such an index.
    Keep,
}

/// The name of an artifact: its repository with a tag or a digest; the repository alone without one.
pub fn artifact_name(repository: &str, target: &str) -> String {
    match target {
        "" => repository.to_owned(),
        // A tag has no colon.
        digest if digest.contains(':') => format!("{repository}@{digest}"),
        tag => format!("{repository}:{tag}"),
    }
}

/// Whether a text selects by wildcards.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// Splits the name of a repository in a registry, as a person writes it, into its host, if it has one, and the rest. The
/// last value tells whether the name stands for several repositories: a pattern, or a host alone.
pub fn split_name(name: &str) -> (Option<&str>, &str, bool) {
    let (front, rest) = name.split_once('/').unwrap_or((name, ""));
    let is_address = front.starts_with('[');
    let domain = front.split(':').next().unwrap_or(front);
    // Without a slash, `alpine:3` is an image; only a domain stands for a whole registry.
    let is_host = match name.contains('/') {
        true => is_address || front.contains(['.', ':']) || front == "localhost",
        false => is_address || domain.contains('.') || domain == "localhost",
    };
    // The brackets of an IPv6 address are no wildcard.
    let has_many = is_pattern(if is_address { rest } else { name });
    match is_host {
        true => (Some(front), rest, has_many || rest.is_empty() || rest.ends_with('/')),
        false => (None, name, has_many),
    }
}

/// What an execution copies, and how. Used by commands and by policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Copy all tags of the repositories.
    pub all_tags: bool,
    /// Copy only these platforms of an index: `os/arch[/variant]`; all platforms if empty.
    pub platforms: Vec<String>,
    /// What becomes of an index if `platforms` is not empty.
    pub sparse: Sparse,
    /// Also copy the referrers of each manifest, and cosign's signature, attestation and SBOM tags.
    pub referrers: bool,
    /// Never replace a tag of the destination that names another manifest.
    pub keep_existing: bool,
    /// After the copy, delete the destination's tags that are not at the source.
    pub prune: bool,
    /// Largest share of a repository's tags, in percent, that `prune` may delete.
    pub prune_max_percent: u8,
    /// Compare the children and blobs of an artifact even if the destination has its digest.
    pub verify: bool,
    /// Only make a plan.
    pub dry_run: bool,
    /// Most bytes per second of this execution; 0 means no limit.
    pub bytes_per_second: u64,
    /// Most requests per second to each host; 0 means no limit.
    pub requests_per_second: u32,
    /// Allow plain HTTP and unverified certificates for the source's registry.
    pub insecure_source: bool,
    /// Allow plain HTTP and unverified certificates for the destination's registry.
    pub insecure_destination: bool,
}

/// Arguments of [`crate::engine::Request::Replicate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicate {
    /// `docker://HOST/REPOSITORY[:TAG|@DIGEST]`, where the repository may be a glob, `oci:DIR[:NAME]` or
    /// `store:[REFERENCE]`.
    pub source: String,
    /// Where to: the same forms, or only the front of a repository's name.
    pub destination: String,
    /// How to copy.
    pub options: Options,
    /// Answer at once, by the job and `Done`.
    pub detach: bool,
    /// Credentials from the client's own files, which take precedence over the engine's.
    pub credentials: Vec<Credential>,
}

/// Arguments of [`crate::engine::Request::Executions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Only executions of this policy; all if empty.
    pub policy: String,
    /// Only executions that were requested at this time or later, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Most executions to list, the newest first; 0 means no limit.
    pub limit: u32,
}

/// What to do with an execution. Arguments of [`crate::engine::Request::Execution`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutionRequest {
    /// Describe it; answered by `Execution`, `Task` and `Artifacts`, then `Done`.
    Show,
    /// Stop it, and keep its upload sessions so that it can be resumed.
    Stop,
    /// Stop it, and delete its upload sessions at the destination.
    Cancel,
    /// Continue a stopped or failed execution as a new one, at the bytes that the destination has.
    Resume,
    /// Repeat the failed artifacts of an execution as a new one.
    Retry,
}

/// A policy of the engine, and what it does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The name of the policy, which is the name of its file without `.toml`.
    pub name: String,
    /// The policy's file.
    pub file: String,
    /// The source as the file has it.
    pub source: String,
    /// The destination as the file has it.
    pub destination: String,
    /// `manual`, `cron EXPRESSION` or `event WORD,…`.
    pub trigger: String,
    /// Whether the policy may run.
    pub enabled: bool,
    /// When it runs next, in nanoseconds since the epoch; 0 if it has no schedule.
    pub next: i64,
    /// The number of its last execution; 0 if there was none.
    pub last: u64,
    /// The state of its last execution.
    pub last_state: State,
    /// Why the file cannot be used: file, line and key; empty if it can.
    pub error: String,
}
