//! Containers in the protocol of `engine.sock`: arguments of requests, and the data of answers.
//!
//! Names and meanings are docker's: see docker-create(1), docker-run(1) and docker-ps(1). The types are plain data; the
//! engine checks the values. postcard numbers fields and variants by position: append, never reorder.

pub use crate::restart_policy::Restart;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Value of [`Create::stop_timeout`] that means no limit.
pub const FOR_EVER: u32 = u32::MAX;

/// Annotation with the value `true` of a container whose stdin ends when its first client ends its input: docker's
/// `StdinOnce`.
pub const STDIN_ONCE: &str = "io.sampan.stdin-once";

/// Options of a new container. An option that is empty, absent or 0 is taken from the image, or has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; the engine makes up a name if it is absent.
    pub name: Option<String>,
    /// Reference, digest or unique id prefix of the image.
    pub image: String,
    /// Arguments that replace the image's `Cmd`.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint` and clears its `Cmd`; an empty list clears both.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`; overrides the image's variable of that name.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Absolute path of the working directory.
    pub workdir: Option<String>,
    /// Host name; the first 12 digits of the container's ID if absent.
    pub hostname: Option<String>,
    /// A pseudo-terminal is the process's stdin, stdout and stderr.
    pub tty: bool,
    /// Stdin stays open while no client is attached.
    pub open_stdin: bool,
    /// Labels; each overrides the image's label with the same key.
    pub labels: Vec<(String, String)>,
    /// Bind mounts and tmpfs, in order.
    pub mounts: Vec<Mount>,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// The container's network.
    pub network: Network,
    /// Whether the container is started again after its process has ended.
    pub restart: Restart,
    /// The container is removed when it has ended.
    pub auto_remove: bool,
    /// Process 1 is a small init that reaps zombie processes.
    pub init: bool,
    /// All capabilities and devices, no masked paths, no seccomp profile.
    pub privileged: bool,
    /// Capabilities to add, with or without `CAP_`, in any case; or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, in the same form.
    pub cap_drop: Vec<String>,
    /// `HOST[:CONTAINER[:rwm]]`.
    pub devices: Vec<String>,
    /// `no-new-privileges[=BOOL]`, `seccomp=FILE|unconfined`, `apparmor=PROFILE`, `label=…`. The client reads a seccomp
    /// file and sends its content: `seccomp={…}`.
    pub security: Vec<String>,
    /// Name, soft limit and hard limit, such as `nofile`, 1024, 2048; -1 means no limit.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// Limit of memory and swap together, in bytes; -1 means no limit.
    pub memory_swap: Option<i64>,
    /// CPU limit in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Most processes; -1 means no limit.
    pub pids: Option<i64>,
    /// Size of /dev/shm in bytes; 64 MiB if absent.
    pub shm_size: Option<u64>,
    /// Name or number of the signal that `stop` sends.
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it sends SIGKILL; the configured value if absent. [`FOR_EVER`] means no limit.
    pub stop_timeout: Option<u32>,
    /// `json-file`, `journald` or `none`; the configured driver if absent.
    pub log_driver: Option<String>,
    /// `max-size`, `max-file`, …: the options of docker's driver of that name.
    pub log_options: Vec<(String, String)>,
    /// Name or path of the OCI runtime; the configured runtime if absent.
    pub runtime: Option<String>,
    /// The file that gets the ID of the container's process at each start.
    pub pidfile: Option<PathBuf>,
    /// Which process notifies the service manager that the container is ready.
    pub sdnotify: Notify,
    /// The socket for these notifications: the caller's `NOTIFY_SOCKET`. sd_notify(3).
    pub notify_socket: Option<String>,
    /// `os/arch[/variant]` that the image must be for; any if absent.
    pub platform: Option<String>,
    /// Keys that detach a terminal; `ctrl-p,ctrl-q` if absent.
    pub detach_keys: Option<String>,
    /// Supplementary groups of the process: names or numbers.
    pub group_add: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Annotations of the bundle.
    pub annotations: Vec<(String, String)>,
    /// The arguments of the command that created the container, for `sampan generate systemd`.
    pub command_line: Vec<String>,
}

/// A mount in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Bind mount or tmpfs.
    pub kind: MountKind,
    /// Absolute path on the host; empty for tmpfs.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// The container cannot write to it.
    pub read_only: bool,
    /// Further mount options, such as `rslave`, `exec` or `size=64m`. mount(8), and podman-run(1), "--volume".
    pub options: Vec<String>,
    /// A missing source is created as a directory, as docker's `-v` does; without this flag it is an error.
    pub make_source: bool,
}

/// Kinds of [`Mount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// A file system in memory.
    Tmpfs,
}

/// A container's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The configured network.
    #[default]
    Default,
    /// Only a loopback interface, which is up.
    None,
    /// The network namespace of the host.
    Host,
}

/// Which process notifies the service manager that a container is ready. podman-run(1), "--sdnotify".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    /// None.
    #[default]
    Ignore,
    /// The container's process, which gets the socket.
    Container,
    /// The shim, when the container has started.
    Conmon,
}

/// A process to run in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `KEY=value`; overrides the container's variable of that name.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; the container's user if absent.
    pub user: Option<String>,
    /// Absolute path of the working directory; the container's if absent.
    pub workdir: Option<String>,
    /// A pseudo-terminal is the process's stdin, stdout and stderr.
    pub tty: bool,
    /// The process gets all capabilities.
    pub privileged: bool,
    /// The client does not wait for the process.
    pub detach: bool,
    /// Which descriptors come with the request; none with `detach`.
    pub streams: Streams,
    /// Rows and columns of the terminal.
    pub size: (u16, u16),
    /// Keys that detach the terminal. The client itself watches for them.
    pub detach_keys: Option<String>,
}

/// Which descriptors come with a request that attaches a client.
///
/// The control socket always comes first; then a descriptor for each field that is true, in this order. Each is a pipe
/// or a stream socket that the client made, or a pipe that it inherited. With a terminal only `stdin` is true: one
/// stream socket carries both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// The container's stdin.
    pub stdin: bool,
    /// The container's stdout.
    pub stdout: bool,
    /// The container's stderr.
    pub stderr: bool,
}

impl Streams {
    /// Number of descriptors, including the control socket.
    pub fn count(self) -> usize {
        1 + usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// A message of a client on its control socket. That is one end of a pair of stream sockets that the client made; it
/// carries frames ([`crate::frame`]) of at most [`CONTROL_MAX`] bytes. Closing the socket detaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// The terminal now has this many rows and columns.
    Resize(u16, u16),
    /// Send a signal to the process.
    Signal(i32),
    /// The client detaches; the process runs on.
    Detach,
    /// The process's stdin ends when this client's stdin ends. docker's API, "StdinOnce".
    StdinOnce,
}

/// A message of the shim on a client's control socket. If the shim closes the socket without [`AttachMessage::Exited`]
/// or [`AttachMessage::Failed`], the shim itself has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMessage {
    /// The process runs; this is its ID on the host.
    Started(i32),
    /// The process could not be started: exit status 125, 126 or 127, and the reason.
    Failed(u8, String),
    /// The process has ended, and all its output is in the client's streams. The exit code, or 128 plus the signal that
    /// killed the process.
    Exited(u8),
    /// The client is detached, as it requested.
    Detached,
}

/// Longest frame on a control socket, in bytes.
pub const CONTROL_MAX: usize = 8 << 10;

/// Which containers to list. Filters with one key are OR, different keys are AND, several labels are AND. docker-ps(1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Include containers that do not run.
    pub all: bool,
    /// List only this number of the newest containers, running or not; 0 means no limit.
    pub last: u32,
    /// `KEY=VALUE`: id, name, label, exited, status, ancestor, before, since, volume, network.
    pub filters: Vec<String>,
    /// Include the number of bytes written to each root file system.
    pub size: bool,
}

/// One container in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The image as the request named it.
    pub image: String,
    /// The image's ID.
    pub image_id: String,
    /// The program and its arguments, joined by spaces and cropped.
    pub command: String,
    /// When the container was created, in nanoseconds since the epoch.
    pub created: i64,
    /// The container's phase.
    pub phase: Phase,
    /// ID of the container's process; 0 if none runs.
    pub pid: i32,
    /// The last exit code.
    pub exit_code: i32,
    /// When the container last started, in nanoseconds since the epoch; 0 if never.
    pub started: i64,
    /// When the container last ended, in nanoseconds since the epoch; 0 if never.
    pub finished: i64,
    /// Number of starts by the restart policy.
    pub restarts: u32,
    /// The container's labels.
    pub labels: Vec<(String, String)>,
    /// Targets and sources of the mounts.
    pub mounts: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// Bytes written to the root file system; `None` if the request did not include them.
    pub size: Option<u64>,
    /// Why the container could not be started, or was declared dead; empty otherwise.
    pub error: String,
}

/// The phase of a container. docker-ps(1), "status".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Created, never started.
    #[default]
    Created,
    /// The container's process runs.
    Running,
    /// All processes are paused.
    Paused,
    /// The process has ended, and the restart policy will start it again.
    Restarting,
    /// The process has ended.
    Exited,
    /// The container is being removed.
    Removing,
    /// The shim died, or the container could not be cleaned up.
    Dead,
}

impl Phase {
    /// Docker's name for the phase.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Restarting => "restarting",
            Phase::Exited => "exited",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether the container has a process.
    pub fn is_alive(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
    }
}

/// What `wait` waits for. docker's API, "ContainerWait".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The container does not run, or stops running.
    #[default]
    NotRunning,
    /// The container's process ends after the wait began.
    NextExit,
    /// The container was removed.
    Removed,
}
