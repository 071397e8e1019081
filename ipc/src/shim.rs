//! The protocol between the engine and a container's shim, and the state that a shim keeps on the disk.
//!
//! A shim serves `shim.sock` in the container's run directory (SOCK_STREAM; frames as everywhere, see [`crate::frame`];
//! descriptors by SCM_RIGHTS on the first byte of the frame that names them, as many as its [`Streams`] count). The
//! engine that starts a shim hands it one end of a socket pair as its stdin and sends [`Setup`] as the first frame;
//! an engine that comes later connects. Both ways look the same from then on: the engine sends [`ShimRequest`]s, the shim
//! [`ShimMessage`]s. A new connection first hears [`ShimMessage::State`]. Several may be connected. Append, never reorder.
//!
//! A shim that is the main process of a unit of systemd's has one more word on its command line, [`UNIT`], and reads one more
//! frame, a [`Unit`], behind the [`Setup`].

use crate::container::{Exec, Restart, Streams};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of [`Setup`], [`ShimRequest`] and [`ShimMessage`]; a shim of another one is asked nothing but to go on.
pub const VERSION: u16 = 1;
/// Name of the socket in the container's run directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the state's file in the container's directory.
pub const STATE: &str = "state";
/// The word behind the container's directory on the command line of a shim that reads a [`Unit`].
pub const UNIT: &str = "--unit";

/// `Delegate=` of a unit that is a container, where there are control groups of version 1. With `yes` systemd keeps devices
/// and blkio to itself, and moves the container out of its groups there as other units come and go: it could then open
/// any device.
pub const DELEGATE_V1: &str = "cpu cpuacct cpuset io blkio memory devices pids";

/// The configuration of a shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// [`VERSION`].
    pub version: u16,
    /// The container's identity, for its events.
    pub identity: Identity,
    /// The container's directory: [`STATE`] and the log are there.
    pub dir: PathBuf,
    /// Its run directory, gone after a reboot: [`SOCKET`], the runtime's log, console sockets.
    pub run: PathBuf,
    /// The monitor FIFO.
    pub fifo: PathBuf,
    /// The OCI runtime and its global arguments: `/usr/sbin/runc`, `--root`, …
    pub runtime: Vec<String>,
    /// The bundle: `config.json` is there.
    pub bundle: PathBuf,
    /// The root file system, mounted in a mount namespace of the shim's own.
    pub rootfs: Rootfs,
    /// As [`crate::container::Create::tty`].
    pub tty: bool,
    /// As [`crate::container::Create::open_stdin`].
    pub open_stdin: bool,
    /// Rows and columns that the terminal begins with.
    pub size: (u16, u16),
    /// Where the container's output goes.
    pub log: Log,
    /// What happens when the container ends by itself.
    pub restart: Restart,
    /// It goes when it has ended: the shim removes `dir` and `run`, and announces `destroy`.
    pub auto_remove: bool,
    /// The signal that `stop` sends.
    pub stop_signal: i32,
    /// How long `stop` waits, in milliseconds; negative means without limit.
    pub stop_timeout_ms: i64,
    /// The file that gets the process ID.
    pub pidfile: Option<PathBuf>,
    /// The host's socket that is told `READY=1`, and `MAINPID`, when the container has started.
    pub notify: Option<PathBuf>,
    /// The state that it begins with: what an earlier shim left.
    pub state: State,
    /// Descriptors come with this frame: a client is attached from the start.
    pub attach: Option<Streams>,
    /// True if the start is asked for by a person's `restart`: `restart` is announced behind `start`.
    pub is_restart: bool,
}

/// What a shim has to know beside its [`Setup`] if it is the main process of a unit of systemd's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The unit's control group, as /proc/PID/cgroup has it: `/system.slice/web.service`. The container's own is below it, and
    /// called by its id.
    pub group: String,
    /// How many descriptors from 3 on go to process 1 of the container.
    pub listen: u32,
    /// The shim's own standard output and error get what the container writes.
    pub streams: [bool; 2],
    /// systemd's socket. sd_notify(3).
    pub manager: Option<PathBuf>,
    /// The shim answers the watchdog at least as often as this, in microseconds.
    pub watchdog_us: Option<u64>,
}

/// The identity of a container, as its events have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
}

/// How the root file system is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// It is there.
    #[default]
    Ready,
    /// Overlayfs.
    Overlay {
        /// Unpacked layers, lowest first.
        lower: Vec<PathBuf>,
        /// What the container writes.
        upper: PathBuf,
        /// Overlayfs' own.
        work: PathBuf,
        /// Where it is mounted.
        target: PathBuf,
    },
    /// Overlayfs whose files all have one SELinux label.
    Labelled {
        /// As in [`Rootfs::Overlay`].
        lower: Vec<PathBuf>,
        /// As in [`Rootfs::Overlay`].
        upper: PathBuf,
        /// As in [`Rootfs::Overlay`].
        work: PathBuf,
        /// As in [`Rootfs::Overlay`].
        target: PathBuf,
        /// The label.
        label: String,
    },
}

/// An overlayfs that is to be mounted.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// Unpacked layers, lowest first.
    pub lower: &'a [PathBuf],
    /// What the container writes.
    pub upper: &'a Path,
    /// Overlayfs' own.
    pub work: &'a Path,
    /// Where it is mounted.
    pub target: &'a Path,
    /// The SELinux label of all its files, if they have one.
    pub label: Option<&'a str>,
}

impl Rootfs {
    /// The overlayfs to mount; `None` if there is nothing to mount.
    pub fn overlay(&self) -> Option<Overlay<'_>> {
        match self {
            Rootfs::Ready => None,
            Rootfs::Overlay { lower, upper, work, target } => {
                Some(Overlay { lower, upper, work, target, label: None })
            }
            Rootfs::Labelled { lower, upper, work, target, label } => {
                Some(Overlay { lower, upper, work, target, label: Some(label) })
            }
        }
    }

    /// The same with a label for all files, unless it is empty. Without one the bytes are those of older engines.
    #[must_use]
    pub fn labelled(self, label: &str) -> Self {
        match self {
            Rootfs::Overlay { lower, upper, work, target } if !label.is_empty() => {
                Rootfs::Labelled { lower, upper, work, target, label: label.to_owned() }
            }
            other => other,
        }
    }
}

/// Where output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// Nowhere but to attached clients.
    #[default]
    None,
    /// One JSON object a line, as docker's json-file: `{"log":"…\n","stream":"stdout","time":"…Z"}`.
    JsonFile {
        /// The file; older ones are `path.1`, `path.2`, ….
        path: PathBuf,
        /// A file that is longer is rotated; 0 is no limit.
        max_bytes: u64,
        /// Most files, the current one included.
        max_files: u32,
    },
    /// journald's native protocol, with the fields of docker's driver. systemd.journal-fields(7).
    Journald {
        /// CONTAINER_TAG.
        tag: String,
    },
}

/// A request of the engine to a shim. The shim answers each with one [`ShimMessage::Reply`] with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRequest {
    /// The engine's own; comes back in the reply.
    pub number: u64,
    /// What is to be done.
    pub action: Action,
}

impl ShimRequest {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match &self.action {
            Action::Attach(streams) => streams.count(),
            Action::Exec(exec, _) if !exec.detach => exec.streams.count(),
            _ => 0,
        }
    }
}

/// Kinds of [`ShimRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Send the container's process a signal. Announces `kill`. Replied to when it is sent; for SIGKILL, when the process
    /// has ended.
    Kill(i32),
    /// Stop: this signal (0: the container's), and after so many milliseconds (-1: for ever, -2: the container's)
    /// SIGKILL. No policy starts it again. Announces `kill` for each signal, and `stop`. Replied to when the
    /// container has ended and its exit is on the disk.
    Stop(i32, i64),
    /// As `Stop`, then start again. Announces `restart` behind `start`. Replied to when it runs again.
    Restart(i32, i64),
    /// Freeze. Announces `pause`.
    Pause,
    /// Thaw. Announces `unpause`.
    Unpause,
    /// Attach a client; its descriptors come along. Announces `attach`, and `detach` when it leaves before the end.
    Attach(Streams),
    /// Run one more process; the client's descriptors come along, if it is attached. The whole process of the OCI
    /// runtime-spec ("Process") as JSON comes second. Announces `exec_create: …`, `exec_start: …`, `exec_die`.
    /// Replied to with the id of the execution when it runs.
    Exec(Exec, String),
    /// The container's name is another one now.
    Rename(String),
    /// The container's restart policy is another one now.
    Policy(Restart),
    /// Process ids in the container, as the runtime says: [`ShimMessage::Pids`], then the reply. Announces `top`.
    Pids,
    /// Kill it if it runs, and remove all of it; announces `kill`, `die`, `destroy`. The shim ends. Replied to when
    /// all is gone.
    Remove,
}

/// A message of a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShimMessage {
    /// The container's state, on connecting and when it has changed.
    State(State),
    /// An [`ShimRequest`] is done, or failed.
    Reply {
        /// Of the ask.
        number: u64,
        /// A word that the ask has for an answer (an execution's id), or why it failed: an exit status as
        /// [`crate::container::AttachMessage::Failed`] has it, and the reason.
        result: Result<String, (u8, String)>,
    },
    /// Process ids, for [`Action::Pids`].
    Pids(u64, Vec<i32>),
    /// All of the container is gone; the shim ends.
    Removed,
    /// The container is being started just now; comes behind the state, on connecting.
    Starting,
}

/// The state of a container, which the shim keeps in the file [`STATE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its phase.
    pub phase: crate::container::Phase,
    /// The container's process; 0 if none runs.
    pub pid: i32,
    /// The shim's own process; 0 if none runs.
    pub shim: i32,
    /// When it started last, in nanoseconds since the epoch; 0 if never.
    pub started: i64,
    /// When it ended last; 0 if never.
    pub finished: i64,
    /// Its last exit code.
    pub exit_code: i32,
    /// The kernel killed something in it for memory, in its last run.
    pub oom_killed: bool,
    /// Why it could not be started, or was declared dead.
    pub error: String,
    /// How often its policy has started it again, since a person started it.
    pub restarts: u32,
    /// A person stopped it: no policy starts it before a person does.
    pub stopped_by_hand: bool,
    /// `die` was announced for the exit above; for a container that never started: `create` was.
    pub is_announced: bool,
    /// /proc/sys/kernel/random/boot_id of the boot that this is of.
    pub boot: String,
}
