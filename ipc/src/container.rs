//! What clients ask the engine about containers, and what they hear; part of the protocol of `engine.sock`.
//!
//! Plain data, pinned by position in postcard: append, never reorder. Names and meanings are docker's, as
//! docker-create(1), docker-run(1) and docker-ps(1) have them. Nothing here is checked: the engine does that.

pub use crate::restart_policy::Restart;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Seconds of [`Create::stop_timeout`] that have no end.
pub const FOR_EVER: u32 = u32::MAX;

/// How a container is to be made. What is empty, absent or 0 comes from the image, or is a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; made up if absent.
    pub name: Option<String>,
    /// Reference, digest or unique id prefix of the image.
    pub image: String,
    /// Arguments that replace the image's `Cmd`.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint` (and takes its `Cmd` away); `Some` of nothing clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`, over the image's.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Absolute path of the working directory.
    pub workdir: Option<String>,
    /// Host name; the first 12 digits of the id if absent.
    pub hostname: Option<String>,
    /// A pseudo-terminal is its stdin, stdout and stderr.
    pub tty: bool,
    /// Its stdin stays open without a client.
    pub open_stdin: bool,
    /// The owner's words.
    pub labels: Vec<(String, String)>,
    /// Bind mounts and tmpfs, in order.
    pub mounts: Vec<Mount>,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// Its network.
    pub network: Network,
    /// What happens when it ends by itself.
    pub restart: Restart,
    /// It goes when it has ended.
    pub auto_remove: bool,
    /// A small init is process 1 and reaps.
    pub init: bool,
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Capabilities to add: with or without `CAP_`, any case, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to take away.
    pub cap_drop: Vec<String>,
    /// `HOST[:CONTAINER[:rwm]]`.
    pub devices: Vec<String>,
    /// `no-new-privileges[=BOOL]`, `seccomp=FILE|unconfined`, `apparmor=PROFILE`, `label=…`. A seccomp file is
    /// sent as `seccomp={…}`, the profile itself.
    pub security: Vec<String>,
    /// Soft and hard limits by name: `nofile`, 1024, 2048. -1 is no limit.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Most processes; -1 is no limit.
    pub pids: Option<i64>,
    /// Bytes of /dev/shm; 64 MiB if absent.
    pub shm_size: Option<u64>,
    /// Name or number of the signal that `stop` sends.
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it kills; the configured ones if absent. [`FOR_EVER`] is no end.
    pub stop_timeout: Option<u32>,
    /// `json-file`, `journald` or `none`; the configured one if absent.
    pub log_driver: Option<String>,
    /// `max-size`, `max-file`, … as docker's driver of that name has them.
    pub log_options: Vec<(String, String)>,
    /// Name or path of the OCI runtime; the configured one if absent.
    pub runtime: Option<String>,
    /// Where the process id of the container goes when it starts.
    pub pidfile: Option<PathBuf>,
    /// Who says that the container is ready.
    pub sdnotify: Notify,
    /// The socket that `sdnotify` is told through, from the caller's `NOTIFY_SOCKET`.
    pub notify_socket: Option<String>,
    /// `os/arch[/variant]` that the image must be for; not looked at if absent.
    pub platform: Option<String>,
    /// What detaches a terminal: `ctrl-p,ctrl-q` if absent.
    pub detach_keys: Option<String>,
    /// Groups of the process beside its own: names or numbers.
    pub group_add: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Annotations of the bundle.
    pub annotations: Vec<(String, String)>,
    /// The words of the command line that made it, for `sampan generate systemd`.
    pub command_line: Vec<String>,
}

/// Something mounted into a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What kind.
    pub kind: MountKind,
    /// Absolute path on the host; empty for tmpfs.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
    /// More mount options, as mount(8) and podman-run(1), "--volume", have them: `rslave`, `exec`, `size=64m`, …
    pub options: Vec<String>,
    /// A source that is not there is made, a directory, as docker's `-v` does; else it is an error.
    pub make_source: bool,
}

/// Kinds of [`Mount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// Memory.
    Tmpfs,
}

/// A container's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The configured one.
    #[default]
    Default,
    /// Loopback alone, and up.
    None,
    /// The host's.
    Host,
}

/// Who tells the service manager that a container is ready. podman-run(1), "--sdnotify".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    /// Nobody.
    #[default]
    Ignore,
    /// The container itself: it gets the socket.
    Container,
    /// The shim, when the container has started.
    Conmon,
}

/// One more process in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// What is run.
    pub command: Vec<String>,
    /// `KEY=value`, over the container's.
    pub env: Vec<String>,
    /// As [`Create::user`]; the container's if absent.
    pub user: Option<String>,
    /// As [`Create::workdir`]; the container's if absent.
    pub workdir: Option<String>,
    /// A pseudo-terminal is its stdin, stdout and stderr.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// The client does not wait for it.
    pub detach: bool,
    /// Descriptors that come along, in this order; none if it is detached.
    pub streams: Streams,
    /// Rows and columns of the terminal.
    pub size: (u16, u16),
    /// As [`Create::detach_keys`]; only told, the client looks for them.
    pub detach_keys: Option<String>,
}

/// Which descriptors come with a request that attaches: the control socket first, always, then those that are
/// true here, in this order. Each is a pipe or a stream socket that the client made, or a pipe that it inherited.
/// With a terminal only `stdin` is set: one stream socket for both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// The container reads from it.
    pub stdin: bool,
    /// The container's stdout goes there.
    pub stdout: bool,
    /// The container's stderr goes there.
    pub stderr: bool,
}

impl Streams {
    /// How many descriptors come along, the control socket included.
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
}

/// A message of the shim on a client's control socket. If the shim closes the socket without [`AttachMessage::Exited`] or
/// [`AttachMessage::Failed`], the shim itself has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMessage {
    /// The process runs; its id on the host.
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

/// Which containers are listed. Values of one key are OR, keys are AND, labels are AND. docker-ps(1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, running or not; 0 is no limit.
    pub last: u32,
    /// `KEY=VALUE`: id, name, label, exited, status, ancestor, before, since, volume, network.
    pub filters: Vec<String>,
    /// With the bytes of what was written into the root file system.
    pub size: bool,
}

/// One container in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// What runs in it, in words.
    pub command: String,
    /// When it was made, in nanoseconds since the epoch.
    pub created: i64,
    /// Its phase.
    pub phase: Phase,
    /// Its process; 0 if none runs.
    pub pid: i32,
    /// Its last exit code.
    pub exit_code: i32,
    /// When it started last, in nanoseconds since the epoch; 0 if never.
    pub started: i64,
    /// When it ended last; 0 if never.
    pub finished: i64,
    /// How often it was started again by its policy.
    pub restarts: u32,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Targets and sources of its mounts.
    pub mounts: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// Bytes written into its root file system, if they were asked for.
    pub size: Option<u64>,
    /// Why it could not be started, or was declared dead; empty otherwise.
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

    /// True if it has a process.
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
