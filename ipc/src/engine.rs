//! The protocol of `engine.sock`: requests of clients and answers of the engine.
//!
//! Each connection carries one request. The client sends one [`Opening`], with the descriptors of the request by SCM_RIGHTS
//! on its first byte. The engine sends [`Answer`]s, the last of which is [`Answer::Done`] or [`Answer::Error`]; only then is
//! the work finished. A stream that ends without either is broken. A client cancels by closing the connection: see
//! [`Pull::detach`]. Enum variants are numbered by position: append, never reorder.

use crate::container;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of this protocol.
pub const VERSION: u16 = 3;
/// Longest request, in bytes.
pub const REQUEST_MAX: usize = crate::frame::FRAME_MAX;
/// Most descriptors of one request.
pub const DESCRIPTORS_MAX: usize = 125;

/// The first frame of a connection. [`crate::watch::open`] reads it on the engine's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The version that `request` is of.
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
    /// Remove a reference of an image; with the last reference also the image, and content that nothing else uses.
    Remove {
        /// Reference, digest or unique id prefix.
        name: String,
        /// Also if an id has several references.
        force: bool,
    },
    /// Create an image from root file system tars (plain, gzip or zstd), one descriptor per layer, lowest first.
    Import(Import),
    /// Serve the store as a read-only registry until the client closes the connection; answered by [`Answer::Serving`].
    Serve(Serve),
    /// Load images from an archive or a layout, whose descriptor comes with the request; answered like [`Request::Pull`].
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
    /// Start a container that does not run. With [`Start::attach`] the client is attached before the first byte of
    /// output; answered by [`Answer::Done`] when the process runs, or by an error that says why not.
    Start(Start),
    /// Stop a running container; answered when it has ended.
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
        /// Kill a running container first.
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
    /// Run another process in a container; descriptors as [`container::Exec::streams`] says. Answered by [`Answer::Done`],
    /// whose `reference` is the ID of the execution, when the process runs.
    Exec(Box<container::Exec>),
    /// Attach the client to the streams of a container; answered by [`Answer::Done`] once it is attached.
    Attach {
        /// Id, name or unique id prefix.
        container: String,
        /// Descriptors that come along.
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
        /// Process ids alone are asked for: the client runs ps(1).
        columns: Vec<String>,
    },
    /// Remove containers that do not run; answered by [`Answer::Done`].
    PruneContainers {
        /// `until=TIME`, `label=KEY[=VALUE]`, `label!=…`.
        filters: Vec<String>,
    },
    /// The `credential-helpers` of containers-registries.conf(5), which the user's own process asks; answered by
    /// [`Answer::CredentialHelpers`].
    CredentialHelpers,
    /// Start a container as a systemd unit: the client is the unit's main process, and becomes the shim by execve(2). Only
    /// for root. Answered by [`Answer::Shim`].
    StartUnit(Box<StartUnit>),
}

/// Arguments of [`Request::Start`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Descriptors that come along: the client is attached.
    pub attach: Option<container::Streams>,
    /// Rows and columns of the terminal.
    pub size: (u16, u16),
}

/// Arguments of [`Request::StartUnit`]: what systemd has told the main process of the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartUnit {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Who says that the unit is ready; if absent, the container if it was made so, else the shim.
    pub notify: Option<container::Notify>,
    /// NOTIFY_SOCKET. sd_notify(3).
    pub notify_socket: Option<String>,
    /// WATCHDOG_USEC. sd_watchdog_enabled(3).
    pub watchdog_us: Option<u64>,
    /// LISTEN_FDS: how many descriptors from 3 on process 1 of the container gets. sd_listen_fds(3).
    pub listen: u32,
    /// LISTEN_FDNAMES.
    pub listen_names: Option<String>,
    /// The standard output and error of the unit get what the container writes.
    pub streams: [bool; 2],
    /// The client's process id. Never sent: the engine asks the kernel.
    #[serde(skip)]
    pub pid: i32,
}

/// Arguments of [`Request::Stop`] and [`Request::Restart`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Seconds to wait before SIGKILL; negative means without limit; if absent, the container's own.
    pub timeout: Option<i64>,
    /// Name or number; the container's if absent.
    pub signal: Option<String>,
}

/// Arguments of [`Request::Pull`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// What the person typed: `alpine`, `host:5000/name:tag`, `name@sha256:…`.
    pub reference: String,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// The job runs on when no client watches it; answered by [`Answer::Job`] and [`Answer::Done`] at once.
    pub detach: bool,
    /// Allow plain HTTP, and HTTPS without verifying the certificate, for this registry.
    pub insecure: bool,
    /// All tags of the repository; `reference` then has neither tag nor digest.
    pub all_tags: bool,
    /// Keep the layers' blobs and do not unpack them.
    pub no_unpack: bool,
    /// Most bytes per second from the network; 0 means no limit for this pull.
    pub bytes_per_second: u64,
    /// Credentials from the client's own files, which take precedence over the engine's.
    pub credentials: Vec<Credential>,
}

/// A credential for a registry. Its `Debug` form hides secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `host[:port][/path…]`, as the keys of containers-auth.json(5).
    pub registry: String,
    /// User name; empty with an identity token.
    pub username: String,
    /// Password; empty with an identity token.
    pub password: String,
    /// OAuth 2 refresh token; empty with a password.
    pub identity_token: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// Arguments of [`Request::Load`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// What the descriptor is.
    pub source: Container,
    /// Only the image of this name within; all images if absent.
    pub select: Option<String>,
    /// Reference that the image gets, instead of the names that it has there.
    pub reference: Option<String>,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Keep the layers' blobs and do not unpack them.
    pub no_unpack: bool,
}

/// What holds images outside of a store. containers-transports(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Container {
    /// A tar as `docker save` writes it. When loading, of either form: what it is shows.
    #[default]
    DockerArchive,
    /// A tar of an OCI image layout.
    OciArchive,
    /// The directory of an OCI image layout; the descriptor is of the directory.
    OciLayout,
}

/// Arguments of [`Request::Save`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    /// References, digests or unique id prefixes.
    pub names: Vec<String>,
    /// What the descriptor becomes.
    pub target: Container,
    /// Name of the one image within; the reference that was given if absent.
    pub rename: Option<String>,
}

/// Arguments of [`Request::Push`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Reference, digest or unique id prefix of the image.
    pub source: String,
    /// Where it goes: `host[:port]/path[:tag]`; the source's reference if absent.
    pub target: Option<String>,
    /// As [`Pull::detach`].
    pub detach: bool,
    /// As [`Pull::insecure`].
    pub insecure: bool,
    /// Most bytes per second to the network; 0 means no limit for this push.
    pub bytes_per_second: u64,
    /// As [`Pull::credentials`].
    pub credentials: Vec<Credential>,
}

/// Arguments of [`Request::Login`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// What is to be tried, and where.
    pub credential: Credential,
    /// As [`Pull::insecure`].
    pub insecure: bool,
}

/// Arguments of [`Request::Prune`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Also images that have a name, as long as nothing uses them.
    pub all: bool,
    /// Only images made before this time, in nanoseconds since the epoch.
    pub until: Option<i64>,
    /// Only images with these labels: `KEY` or `KEY=VALUE`.
    pub labels: Vec<String>,
}

/// Arguments of [`Request::Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Also compare the unpacked layers, file by file, with their blobs.
    pub deep: bool,
}

/// Arguments of [`Request::Import`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Reference that the new image gets.
    pub reference: String,
    /// How many descriptors come with the request: 1 to [`DESCRIPTORS_MAX`].
    pub layers: u32,
    /// `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Default command of the image.
    pub cmd: Vec<String>,
    /// `KEY=value` environment.
    pub env: Vec<String>,
    /// Labels of the image.
    pub labels: Vec<(String, String)>,
}

/// Arguments of [`Request::Serve`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// `ADDRESS:PORT` to listen on; port 0 lets the kernel choose.
    pub listen: String,
    /// At most so many body bytes per second, all connections together; 0 is no limit.
    pub bytes_per_second: u64,
}

/// What the engine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The work is finished, and well; the last frame of a stream.
    Done(Done),
    /// The work failed, or was refused; the last frame of a stream.
    Error(Failure),
    /// The job that the answer is about, with all its rows; the first frame of a watched job.
    Job(Job),
    /// Rows that changed since the last frame, at most every 100 ms.
    Rows {
        /// The job's number.
        job: u64,
        /// Only the changed ones.
        rows: Vec<Row>,
    },
    /// Answer to [`Request::Jobs`]; `Done` follows.
    Jobs(Vec<Job>),
    /// Answer to [`Request::Images`]; `Done` follows. Several frames if there are many.
    Images(Vec<Image>),
    /// Answer to [`Request::Inspect`]; `Done` follows.
    Json(String),
    /// Answer to [`Request::Info`]; `Done` follows.
    Info(Box<Info>),
    /// The registry listens; `Done` follows when it ends.
    Serving {
        /// `ADDRESS:PORT` that it listens on in truth.
        address: String,
    },
    /// Something that a person should read once; the work goes on.
    Note(String),
    /// Answer to [`Request::Usage`]; `Done` follows.
    Usage(Vec<Usage>),
    /// The same image by image, behind [`Answer::Usage`]. Several frames if there are many.
    ImageUsage(Vec<ImageUsage>),
    /// The container that was made: its id, and what a person should be told about it; `Done` follows.
    Container {
        /// 64 hexadecimal digits.
        id: String,
        /// Its name.
        name: String,
        /// What the host cannot do and was left out.
        warnings: Vec<String>,
    },
    /// Answer to [`Request::Containers`]; `Done` follows. Several frames if there are many.
    Containers(Vec<container::Summary>),
    /// It has ended; `Done` follows.
    Exit {
        /// Its exit code.
        code: i32,
        /// Why it could not be started, or was declared dead; empty otherwise.
        error: String,
    },
    /// The log's files come along, oldest first; `Done` follows.
    Log {
        /// `json-file`, or a driver whose log is not in files: then none come along.
        driver: String,
        /// How many descriptors come along.
        files: u32,
        /// True if the container may still write.
        is_open: bool,
    },
    /// Answer to [`Request::Top`]; `Done` follows.
    Processes(Vec<i32>),
    /// Answer to [`Request::CredentialHelpers`], in order; none if nothing is set. `Done` follows.
    CredentialHelpers(Vec<String>),
    /// Answer to [`Request::StartUnit`]. The shim's standard input comes along; `Done` follows.
    Shim {
        /// The program that the client becomes.
        program: String,
        /// Its words, its name first.
        words: Vec<String>,
    },
}

/// One kind of thing in the store, and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `images` (blobs and unpacked layers), `layers` (the unpacked layers, a part of `images`), `partials`, `containers`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// How many of them something names or uses.
    pub active: u64,
    /// Bytes that all of them take on the disk.
    pub size: u64,
    /// Bytes that would be free without those that nothing needs.
    pub reclaimable: u64,
}

/// One image, and what it takes on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    /// Which.
    pub image: Image,
    /// Bytes of its blobs and unpacked layers, as in `image`.
    pub size: u64,
    /// Those of them that no other image needs.
    pub unique: u64,
    /// True if a job needs it just now.
    pub in_use: bool,
}

/// How work ended well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The canonical reference that the work was about: `host/name:tag`, or empty.
    pub reference: String,
    /// The manifest's digest: `sha256:…`, or empty.
    pub digest: String,
    /// True if there was nothing to do (the image was up to date).
    pub unchanged: bool,
    /// References and digests that went, for [`Request::Remove`] and [`Request::Prune`].
    pub removed: Vec<String>,
    /// References that are there now, where there may be several: [`Pull::all_tags`], [`Request::Load`].
    pub references: Vec<String>,
    /// Bytes of the disk that became free.
    pub freed: u64,
}

/// How work failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it is.
    pub code: Code,
    /// What was attempted, on what, and why it failed; one line without a full stop.
    pub message: String,
    /// What the person may do about it; empty if nothing comes to mind.
    pub hint: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// The work was tried and failed.
    #[default]
    Failed,
    /// The request is malformed, or an argument makes no sense.
    Usage,
    /// There is no such image, job or reference.
    NotFound,
    /// A name stands for several things, or a thing is in use.
    Conflict,
    /// The job was cancelled.
    Cancelled,
    /// The protocol version is not spoken here.
    Version,
    /// A container's command cannot be run: exit status 126 of `run` and `exec`.
    CannotRun,
    /// A container's command is not there: exit status 127.
    NoCommand,
}

/// One piece of work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number, rising by one.
    pub id: u64,
    /// What it does: `pull`, `import`, `serve`, `load`, `save`, `push`, `verify`.
    pub kind: String,
    /// The canonical reference or address that it is about.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Its rows in manifest order, lowest layer first.
    pub rows: Vec<Row>,
    /// When it began, in nanoseconds since the epoch.
    pub started: i64,
    /// When it ended; 0 while it runs.
    pub ended: i64,
    /// Why it failed; empty otherwise.
    pub error: String,
    /// How many clients watch it.
    pub watchers: u32,
    /// True if it goes on when nobody watches.
    pub detached: bool,
}

/// Where a [`Job`] stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// At work.
    #[default]
    Running,
    /// Finished well.
    Done,
    /// Finished badly; see [`Job::error`].
    Failed,
    /// Ended by a person, or because nobody watched any more.
    Cancelled,
}

/// One line of progress: a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Position in the manifest, from 0.
    pub index: u32,
    /// First 12 hex digits of the blob's digest.
    pub id: String,
    /// What is being done.
    pub phase: Phase,
    /// Bytes done of `total`, of the blob as it is downloaded.
    pub current: u64,
    /// Size of the blob in bytes, known from the manifest.
    pub total: u64,
    /// Which try this is, from 1; 0 before the first.
    pub attempt: u32,
    /// What a person should know: why it is retried, why it failed; else empty.
    pub note: String,
}

/// What is being done to a [`Row`]'s blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing yet; a slot is awaited.
    #[default]
    Waiting,
    /// Bytes arrive (and are unpacked as they do).
    Downloading,
    /// All bytes are here; digests are compared.
    Verifying,
    /// All bytes are here; the rest is unpacked.
    Extracting,
    /// In the store.
    Complete,
    /// Was in the store before.
    Exists,
    /// Given up; see [`Row::note`].
    Failed,
    /// Bytes are sent to a registry.
    Uploading,
    /// Bytes are written to an archive or a layout.
    Saving,
}

impl Phase {
    /// The word for it, in progress lines and JSON.
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

/// One image of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its references, canonical; none for one that lost its last.
    pub references: Vec<String>,
    /// Digest of its manifest.
    pub digest: String,
    /// Digest of its config: the image's id.
    pub id: String,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Bytes that its blobs and unpacked layers take on the disk, whether or not other images share them.
    pub size: u64,
    /// Number of layers.
    pub layers: u32,
    /// When it was made, in nanoseconds since the epoch; `None` if it does not say.
    pub created: Option<i64>,
}

/// What the engine is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Time since start, in milliseconds.
    pub uptime_ms: u64,
    /// The store's directory.
    pub store: String,
    /// Number of images.
    pub images: u64,
    /// Number of jobs at work.
    pub jobs: u64,
    /// Events that wait to be written to the monitor FIFO.
    pub events_spooled: u64,
    /// Events given up since start.
    pub events_lost: u64,
    /// The OCI runtime and its version, or why there is none.
    pub runtime: String,
    /// Number of containers, and of those that run and are paused.
    pub containers: (u64, u64, u64),
    /// `v1`, `v2`, `hybrid`, and the driver: `cgroupfs` or `systemd`.
    pub cgroup: (String, String),
    /// How root file systems are made: `overlay`, or `copy` and why.
    pub rootfs: String,
    /// The default log driver.
    pub log_driver: String,
    /// Kernel security features at work: `seccomp`, `apparmor=PROFILE`, `selinux=TYPE`, `cgroupns`.
    pub security: Vec<String>,
}
