//! The protocol of `engine.sock`: requests of clients and answers of the engine.
//!
//! Each connection carries one request. The client sends one [`Opening`], with the descriptors of the request by
//! SCM_RIGHTS on its first byte. The engine sends [`Answer`]s, the last of which is [`Answer::Done`] or
//! [`Answer::Error`]; the work is finished when that answer arrives. A stream without a last answer is broken. A
//! client cancels by closing the connection: see [`Pull::detach`]. Enum variants are numbered by position: append,
//! never reorder.

use crate::container;
use crate::pull;
use crate::replication;
use serde::{Deserialize, Serialize};

pub use crate::credential::Credential;
pub use crate::details::{ContainerDetail, EngineDetails, ImageDetail, Info, Step};
pub use crate::image::{Image, ImageUsage, Prune, Usage};

/// The version of this protocol.
pub const VERSION: u16 = 3;
/// Longest request, in bytes.
pub const REQUEST_MAX: usize = crate::frame::FRAME_MAX;
/// Most descriptors of one request.
pub const DESCRIPTORS_MAX: usize = 125;

/// The first frame of a connection. [`crate::watch::open`] reads it on the engine's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The protocol version of `request`.
    pub version: u16,
    /// The request.
    pub request: Request,
}

/// A request to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Report version, paths and state of the engine; answered by [`Answer::Info`].
    Info,
    /// Pull an image; answered by [`Answer::Job`], [`Answer::Rows`] and [`Answer::Done`].
    Pull(Pull),
    /// All jobs, running ones first; answered by [`Answer::Jobs`].
    Jobs,
    /// Follow a running or finished job; answered as [`Request::Pull`].
    Watch {
        /// The job's number.
        job: u64,
    },
    /// Cancel a running job, even if others watch it.
    Cancel {
        /// The job's number.
        job: u64,
    },
    /// All images; answered by [`Answer::Images`].
    Images,
    /// One image in full; answered by [`Answer::Json`].
    Inspect {
        /// Reference, digest or unique id prefix.
        name: String,
    },
    /// Add a reference to an image.
    Tag {
        /// Reference, digest or unique id prefix of the image.
        source: String,
        /// The new reference.
        target: String,
    },
    /// Remove a reference of an image. Removing the last reference also removes the image, and content that nothing
    /// else uses.
    Remove {
        /// Reference, digest or unique id prefix.
        name: String,
        /// Remove the image even if its ID has several references.
        force: bool,
    },
    /// Create an image from root file system tars (plain, gzip or zstd), one descriptor per layer, lowest first.
    Import(Import),
    /// Serve the store as a read-only registry until the client closes the connection; answered by [`Answer::Serving`].
    Serve(Serve),
    /// Load images from an archive or a layout, whose descriptor comes with the request; answered like
    /// [`Request::Pull`].
    Load(Load),
    /// Save images to the descriptor that comes with the request; answered like [`Request::Pull`].
    Save(Save),
    /// Push an image to a registry; answered like [`Request::Pull`].
    Push(Push),
    /// Check whether a registry accepts a credential; answered by [`Answer::Done`]. The engine does not store it.
    Login(Login),
    /// Report disk usage, and how much can be reclaimed; answered by [`Answer::Usage`].
    Usage,
    /// Remove images that nothing needs; answered by [`Answer::Done`].
    Prune(Prune),
    /// Read the whole store and report what is damaged; answered like [`Request::Pull`].
    Verify(Verify),
    /// Create a container; answered by [`Answer::Container`].
    Create(Box<container::Create>),
    /// Start a container that does not run. With [`Start::attach`], attach the client before the first byte of output.
    /// Answered by [`Answer::Done`] when the process runs, or by [`Answer::Error`] with the reason.
    Start(Start),
    /// Stop a running container; answered when the container has ended.
    Stop(Stop),
    /// Stop a container if it runs, and start it; answered when the container runs.
    Restart(Stop),
    /// Send a signal to the container's process.
    Kill {
        /// Id, name or unique id prefix.
        container: String,
        /// Name or number; `KILL` if empty.
        signal: String,
    },
    /// Pause a container.
    Pause {
        /// Id, name or unique id prefix.
        container: String,
    },
    /// Resume a paused container.
    Unpause {
        /// Id, name or unique id prefix.
        container: String,
    },
    /// Wait until a container stops; answered by [`Answer::Exit`].
    Wait {
        /// Id, name or unique id prefix.
        container: String,
        /// What to wait for.
        condition: container::Condition,
    },
    /// Remove a container.
    RemoveContainer {
        /// Id, name or unique id prefix.
        container: String,
        /// Whether to kill a running container first.
        force: bool,
    },
    /// List containers; answered by [`Answer::Containers`].
    Containers(container::Listing),
    /// One container in full; answered by [`Answer::Json`].
    InspectContainer {
        /// Id, name or unique id prefix.
        container: String,
        /// Include how much was written to the root file system.
        size: bool,
    },
    /// Open the log of a container; answered by [`Answer::Log`] with the descriptors of its files, oldest first.
    Logs {
        /// Id, name or unique id prefix.
        container: String,
    },
    /// Run another process in a container, with the descriptors that [`container::Exec::streams`] lists. Answered by
    /// [`Answer::Done`] when the process runs; its `reference` is the ID of the execution.
    Exec(Box<container::Exec>),
    /// Attach the client to the streams of a container; answered by [`Answer::Done`] when the client is attached.
    Attach {
        /// Id, name or unique id prefix.
        container: String,
        /// Which descriptors come with the request.
        streams: container::Streams,
        /// Rows and columns of the terminal.
        size: (u16, u16),
    },
    /// Rename a container.
    Rename {
        /// Id, name or unique id prefix.
        container: String,
        /// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
        name: String,
    },
    /// List the process IDs of a container, on the host; answered by [`Answer::Processes`].
    Top {
        /// Id, name or unique id prefix.
        container: String,
        /// Not used: the engine sends only process IDs, and the client runs ps(1) for the columns.
        columns: Vec<String>,
    },
    /// Remove containers that do not run; answered by [`Answer::Done`].
    PruneContainers {
        /// `until=TIME`, `label=KEY[=VALUE]`, `label!=…`.
        filters: Vec<String>,
    },
    /// Get the `credential-helpers` of containers-registries.conf(5), so that the client can run the helpers as its
    /// user; answered by [`Answer::CredentialHelpers`].
    CredentialHelpers,
    /// Start a container as a systemd unit: the client is the unit's main process, and becomes the shim by execve(2).
    /// Only for root. Answered by [`Answer::Shim`].
    StartUnit(Box<StartUnit>),
    /// Copy images from one place to another; answered like [`Request::Pull`]. The job goes on when no client watches
    /// it. Its number is the number of the execution.
    Replicate(Box<replication::Replicate>),
    /// List executions, the newest first; answered by [`Answer::Executions`].
    Executions(replication::Listing),
    /// Describe, stop or repeat an execution. Answered by [`Answer::Done`] after [`Answer::Execution`] for
    /// [`ExecutionRequest::Show`](replication::ExecutionRequest::Show), and after [`Answer::Job`] for a repetition.
    Execution {
        /// The number of the execution.
        id: u64,
        /// What to do.
        request: replication::ExecutionRequest,
    },
    /// List the replication policies; answered by [`Answer::Policies`].
    Policies,
    /// Run a policy now; answered like [`Request::Replicate`] with [`replication::Replicate::detach`].
    RunPolicy {
        /// The name of the policy.
        name: String,
        /// Only make a plan.
        dry_run: bool,
        /// See [`replication::Replicate::detach`].
        detach: bool,
    },
    /// The state machine of replication tasks, as Graphviz; answered by [`Answer::Text`].
    ReplicationGraph,
    /// Wait as [`Request::Wait`] does. The engine first sends [`Answer::Waiting`]: whatever another client requests
    /// after that, the wait does not miss its effect.
    AwaitExit {
        /// Id, name or unique id prefix.
        container: String,
        /// What to wait for.
        condition: container::Condition,
    },
    /// Set the size of the terminal of a container's process 1, or of an execution; answered by [`Answer::Done`].
    Resize {
        /// Id, name or unique id prefix.
        container: String,
        /// The ID of the execution; empty means process 1.
        execution: String,
        /// Rows of the terminal.
        rows: u16,
        /// Columns of the terminal.
        columns: u16,
    },
    /// Attach the client to a container from the container's next start on, before the first byte of output; to a
    /// container that runs, at once. Answered by [`Answer::Done`] when the engine has taken the descriptors. The
    /// messages of the shim follow on the control socket; the engine closes the socket if it cannot start the
    /// container, or if it ends before the start.
    AttachAtStart {
        /// Id, name or unique id prefix.
        container: String,
        /// Which descriptors come with the request.
        streams: container::Streams,
    },
    /// All images with their labels and users; answered by [`Answer::ImageDetails`].
    ImageDetails,
    /// The steps in which an image was built; answered by [`Answer::Images`] with this image, and [`Answer::History`].
    History {
        /// Reference, digest or unique id prefix.
        name: String,
    },
    /// List containers with their mounts and names; answered by [`Answer::ContainerDetails`].
    ContainerDetails(container::Listing),
    /// Report everything that [`Request::Info`] reports, and the settings for containers and registries; answered by
    /// [`Answer::EngineDetails`].
    EngineDetails,
    /// Pull an image for somebody else; answered as [`Request::Pull`], and by [`Answer::PulledImage`] and
    /// [`Answer::RegistryStatus`]. The job goes on when the connection breaks, unless the client has sent
    /// [`PullMessage::Release`](pull::PullMessage::Release) before. [`Pull::detach`] is not used.
    PullKept(Pull),
    /// As [`Request::Login`], and answered by [`Answer::RegistryStatus`], too.
    LoginWithStatus(Login),
    /// As [`Request::Prune`], with more conditions.
    PruneImages(pull::PruneImages),
}

/// Arguments of [`Request::Start`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Which descriptors come with the request, if the client attaches itself.
    pub attach: Option<container::Streams>,
    /// Rows and columns of the terminal.
    pub size: (u16, u16),
}

/// Arguments of [`Request::StartUnit`], from the environment that systemd gave to the main process of the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartUnit {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Which process notifies systemd. If absent: the container if it was created with that option, otherwise the shim.
    pub notify: Option<container::Notify>,
    /// NOTIFY_SOCKET. sd_notify(3).
    pub notify_socket: Option<String>,
    /// WATCHDOG_USEC. sd_watchdog_enabled(3).
    pub watchdog_us: Option<u64>,
    /// LISTEN_FDS: the number of descriptors, from 3 on, that process 1 of the container inherits. sd_listen_fds(3).
    pub listen: u32,
    /// LISTEN_FDNAMES.
    pub listen_names: Option<String>,
    /// Whether the container's stdout (first) and stderr (second) are copied to those of the unit.
    pub streams: [bool; 2],
    /// The client's process ID. Not on the wire: the engine gets it from the kernel.
    #[serde(skip)]
    pub pid: i32,
}

/// Arguments of [`Request::Stop`] and [`Request::Restart`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Seconds to wait before SIGKILL; a negative value means no limit. If absent, the container's stop timeout.
    pub timeout: Option<i64>,
    /// Name or number of the signal; the container's stop signal if absent.
    pub signal: Option<String>,
}

/// Arguments of [`Request::Pull`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The reference as the person typed it: `alpine`, `host:5000/name:tag`, `name@sha256:…`.
    pub reference: String,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// The job runs on when no client watches it. The request is answered at once, by [`Answer::Job`] and
    /// [`Answer::Done`].
    pub detach: bool,
    /// Allow plain HTTP, and HTTPS without verifying the certificate, for this registry.
    pub insecure: bool,
    /// Pull all tags of the repository; `reference` then has neither tag nor digest.
    pub all_tags: bool,
    /// Keep the layers' blobs and do not unpack them.
    pub no_unpack: bool,
    /// Most bytes per second from the network; 0 means no limit for this pull.
    pub bytes_per_second: u64,
    /// Credentials from the client's own files, which take precedence over the engine's.
    pub credentials: Vec<Credential>,
}

/// Arguments of [`Request::Load`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// What the descriptor refers to.
    pub source: Container,
    /// Load only the image with this name in the archive; all images if absent.
    pub select: Option<String>,
    /// Reference for the image, instead of its names in the archive.
    pub reference: Option<String>,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Keep the layers' blobs and do not unpack them.
    pub no_unpack: bool,
}

/// A form of images outside a store. containers-transports(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Container {
    /// A tar as `docker save` writes it. A request to load with this value also accepts a tar of an OCI image layout:
    /// the engine detects the format.
    #[default]
    DockerArchive,
    /// A tar of an OCI image layout.
    OciArchive,
    /// The directory of an OCI image layout; the descriptor refers to the directory.
    OciLayout,
}

/// Arguments of [`Request::Save`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    /// References, digests or unique id prefixes.
    pub names: Vec<String>,
    /// The form in which the engine writes to the descriptor.
    pub target: Container,
    /// Name in the archive, if `names` has one image; the image's reference if absent.
    pub rename: Option<String>,
}

/// Arguments of [`Request::Push`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Reference, digest or unique id prefix of the image.
    pub source: String,
    /// Destination, `host[:port]/path[:tag]`; the source's reference if absent.
    pub target: Option<String>,
    /// See [`Pull::detach`].
    pub detach: bool,
    /// See [`Pull::insecure`].
    pub insecure: bool,
    /// Most bytes per second to the network; 0 means no limit for this push.
    pub bytes_per_second: u64,
    /// See [`Pull::credentials`].
    pub credentials: Vec<Credential>,
}

/// Arguments of [`Request::Login`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The credential to check, and its registry.
    pub credential: Credential,
    /// See [`Pull::insecure`].
    pub insecure: bool,
}

/// Arguments of [`Request::Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Also compare each file of the unpacked layers with the layer's blob.
    pub deep: bool,
}

/// Arguments of [`Request::Import`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Reference for the new image.
    pub reference: String,
    /// Number of descriptors that come with the request, from 1 to [`DESCRIPTORS_MAX`].
    pub layers: u32,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Default command of the image.
    pub cmd: Vec<String>,
    /// Environment of the image: `KEY=value`.
    pub env: Vec<String>,
    /// Labels of the image.
    pub labels: Vec<(String, String)>,
}

/// Arguments of [`Request::Serve`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// `ADDRESS:PORT` to listen on; port 0 lets the kernel choose.
    pub listen: String,
    /// Most body bytes per second over all connections; 0 means no limit.
    pub bytes_per_second: u64,
}

/// An answer of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The request has succeeded; the last frame of a stream.
    Done(Done),
    /// The request has failed or is refused; the last frame of a stream.
    Error(Failure),
    /// The requested job with all its rows; the first frame about a job that the client watches.
    Job(Job),
    /// Rows that have changed since the last frame; sent at most every 100 ms.
    Rows {
        /// The job's number.
        job: u64,
        /// The rows that have changed.
        rows: Vec<Row>,
    },
    /// Answer to [`Request::Jobs`]; `Done` follows.
    Jobs(Vec<Job>),
    /// Answer to [`Request::Images`], in several frames if there are many images; `Done` follows.
    Images(Vec<Image>),
    /// Answer to [`Request::Inspect`] and [`Request::InspectContainer`]; `Done` follows.
    Json(String),
    /// Answer to [`Request::Info`]; `Done` follows.
    Info(Box<Info>),
    /// The registry listens; `Done` follows when the registry ends.
    Serving {
        /// `ADDRESS:PORT` that the registry listens on, with the port that the kernel chose for port 0.
        address: String,
    },
    /// A note that the client shows to the person; the work goes on.
    Note(String),
    /// Answer to [`Request::Usage`]; `Done` follows.
    Usage(Vec<Usage>),
    /// Disk usage of each image, in several frames if there are many images; sent after [`Answer::Usage`].
    ImageUsage(Vec<ImageUsage>),
    /// The new container; `Done` follows.
    Container {
        /// 64 hexadecimal digits.
        id: String,
        /// The container's name.
        name: String,
        /// Options that the engine left out because the host does not support them.
        warnings: Vec<String>,
    },
    /// Answer to [`Request::Containers`], in several frames if there are many containers; `Done` follows.
    Containers(Vec<container::Summary>),
    /// Answer to [`Request::Wait`]: the container has ended; `Done` follows.
    Exit {
        /// The container's exit code.
        code: i32,
        /// Why the container could not be started, or was declared dead; empty otherwise.
        error: String,
    },
    /// Answer to [`Request::Logs`], with the descriptors of the log's files, oldest first; `Done` follows.
    Log {
        /// The log driver: `json-file`, or a driver without files.
        driver: String,
        /// Number of descriptors that come with the answer.
        files: u32,
        /// Whether the container may still write to the log.
        is_open: bool,
    },
    /// Answer to [`Request::Top`]; `Done` follows.
    Processes(Vec<i32>),
    /// Answer to [`Request::CredentialHelpers`]: the helpers in the order of the configuration; `Done` follows.
    CredentialHelpers(Vec<String>),
    /// Answer to [`Request::StartUnit`], with the descriptor of the shim's standard input; `Done` follows.
    Shim {
        /// The program that the client executes in its place.
        program: String,
        /// The program's arguments, `argv[0]` first.
        words: Vec<String>,
    },
    /// Answer to [`Request::Executions`], in several frames if there are many; `Done` follows.
    Executions(Vec<replication::Execution>),
    /// The described execution; [`Answer::Task`]s follow.
    Execution(Box<replication::Execution>),
    /// A task of the described execution; its artifacts follow.
    Task(Box<replication::Task>),
    /// Artifacts of the task before, in several frames if there are many.
    Artifacts(Vec<replication::Artifact>),
    /// Answer to [`Request::Policies`]; `Done` follows.
    Policies(Vec<replication::Policy>),
    /// Answer to [`Request::ReplicationGraph`]; `Done` follows.
    Text(String),
    /// First answer to [`Request::AwaitExit`]: the engine waits; [`Answer::Exit`] follows.
    Waiting,
    /// Answer to [`Request::ImageDetails`], in several frames if there are many images; `Done` follows.
    ImageDetails(Vec<ImageDetail>),
    /// Steps of [`Request::History`], the newest first, in several frames if there are many; `Done` follows.
    History(Vec<Step>),
    /// Answer to [`Request::ContainerDetails`], in several frames if there are many containers; `Done` follows.
    ContainerDetails(Vec<ContainerDetail>),
    /// Answer to [`Request::EngineDetails`]; `Done` follows.
    EngineDetails(Box<EngineDetails>),
    /// An image of a pull has begun, or is complete.
    PulledImage(pull::PulledImage),
    /// The HTTP status with which a registry refused what was requested. [`Answer::Error`] follows.
    RegistryStatus(u16),
}

/// The result of a request that has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The canonical reference of the image, `host/name:tag`; empty if there is none.
    pub reference: String,
    /// The digest of the image's manifest, `sha256:…`; empty if there is none.
    pub digest: String,
    /// Whether there was nothing to do, because the image was up to date.
    pub unchanged: bool,
    /// References and digests that [`Request::Remove`] or [`Request::Prune`] has removed.
    pub removed: Vec<String>,
    /// References of all images, if there may be several: after [`Pull::all_tags`] and [`Request::Load`].
    pub references: Vec<String>,
    /// Bytes of disk space that the request has freed.
    pub freed: u64,
}

/// Why a request has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub code: Code,
    /// One line without a full stop: what was attempted, on what, and why it failed.
    pub message: String,
    /// What the person can do about the failure; empty if unknown.
    pub hint: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// The engine tried to do what was requested, and failed.
    #[default]
    Failed,
    /// The request is malformed, or an argument is invalid.
    Usage,
    /// There is no such image, container, job or reference.
    NotFound,
    /// A name is ambiguous, or the object is in use.
    Conflict,
    /// The job was cancelled.
    Cancelled,
    /// The engine does not speak the protocol version of the request.
    Version,
    /// A container's command cannot be executed: exit status 126 of `run` and `exec`.
    CannotRun,
    /// A container's command does not exist: exit status 127 of `run` and `exec`.
    NoCommand,
}

/// A job: work of the engine that clients can watch and cancel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The job's number; each new job has the next higher number.
    pub id: u64,
    /// The kind of job: `pull`, `import`, `serve`, `load`, `save`, `push` or `verify`.
    pub kind: String,
    /// The canonical reference of the image, or the address of the registry.
    pub subject: String,
    /// The job's state.
    pub state: JobState,
    /// One row per layer in manifest order, lowest layer first.
    pub rows: Vec<Row>,
    /// When the job began, in nanoseconds since the epoch.
    pub started: i64,
    /// When the job ended, in nanoseconds since the epoch; 0 while it runs.
    pub ended: i64,
    /// Why the job failed; empty otherwise.
    pub error: String,
    /// Number of clients that watch the job.
    pub watchers: u32,
    /// Whether the job goes on when no client watches it.
    pub detached: bool,
}

/// The state of a [`Job`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// The job runs.
    #[default]
    Running,
    /// The job has succeeded.
    Done,
    /// The job has failed; see [`Job::error`].
    Failed,
    /// A client cancelled the job, or the last client stopped watching a job without [`Job::detached`].
    Cancelled,
}

/// The progress of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Position in the manifest, from 0.
    pub index: u32,
    /// First 12 hex digits of the blob's digest.
    pub id: String,
    /// What the job is doing with the layer.
    pub phase: Phase,
    /// Bytes done of `total`.
    pub current: u64,
    /// Size of the blob in bytes, from the manifest.
    pub total: u64,
    /// Number of the attempt, from 1; 0 before the first attempt.
    pub attempt: u32,
    /// Why the job tries the layer again, or why the layer failed; empty otherwise.
    pub note: String,
}

/// What a job is doing with the blob of a [`Row`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing yet; the job waits for a free slot.
    #[default]
    Waiting,
    /// The job downloads the blob, and unpacks the bytes as they arrive.
    Downloading,
    /// The download is complete; the job compares digests.
    Verifying,
    /// The download is complete; the job unpacks the rest.
    Extracting,
    /// The layer is in the store.
    Complete,
    /// The layer was in the store before the job began.
    Exists,
    /// The job has given up; see [`Row::note`].
    Failed,
    /// The job sends the blob to a registry.
    Uploading,
    /// The job writes the blob to an archive or a layout.
    Saving,
}

impl Phase {
    /// The name of the phase in progress lines and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Downloading => "downloading",
            Phase::Verifying => "verifying",
            Phase::Extracting => "extracting",
            Phase::Complete => "complete",
            Phase::Exists => "exists",
            Phase::Failed => "failed",
            Phase::Uploading => "uploading",
            Phase::Saving => "saving",
        }
    }
}
