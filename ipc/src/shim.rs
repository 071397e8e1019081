//! The protocol between the engine and a container's shim, and the state that a shim keeps on the disk.
//!
//! The engine that starts a shim passes one end of a socket pair as the shim's stdin and sends [`Setup`] as the first
//! frame. A later engine connects to `shim.sock` in the container's run directory. On both sockets the engine then
//! sends [`ShimRequest`]s and the shim sends [`ShimMessage`]s, the first of which is [`ShimMessage::State`]. Several
//! engines may be connected at a time. The sockets are stream sockets that carry frames ([`crate::frame`]). The
//! descriptors of a request come by SCM_RIGHTS on the first byte of its frame; [`ShimRequest::descriptors`] is their
//! number.
//!
//! A shim that is the main process of a systemd unit has the additional argument [`UNIT`] on its command line, and
//! reads a [`Unit`] after the [`Setup`].
//!
//! Enum variants are numbered by position on the wire: append, never reorder.

use crate::container::{Exec, Restart, Streams};
use crate::frame;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of [`Setup`], [`ShimRequest`] and [`ShimMessage`].
pub const VERSION: u16 = 1;
/// Name of the socket in the container's run directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the state file in the container's directory.
pub const STATE: &str = "state";
/// The argument after the container's directory on the command line of a shim that reads a [`Unit`].
pub const UNIT: &str = "--unit";

/// The argument after the container's directory on the command line of a shim that has clients from the start. The next
/// argument is their number: the shim reads as many [`ShimRequest`]s with [`Action::Attach`] after the [`Setup`], and
/// replies to none of them.
pub const CLIENTS: &str = "--clients";

/// `Delegate=` of a container's systemd unit on a host with version 1 control groups. There, `Delegate=yes` does not
/// delegate the controllers `devices` and `blkio`: systemd moves the container out of its groups of these controllers
/// when other units start or stop, and the container could then open any device.
pub const DELEGATE_V1: &str = "cpu cpuacct cpuset io blkio memory devices pids";

/// The configuration of a shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The version of this protocol: [`VERSION`].
    pub version: u16,
    /// The container's identity, which its events carry.
    pub identity: Identity,
    /// The container's directory, which holds [`STATE`] and the log.
    pub dir: PathBuf,
    /// The container's run directory, which a reboot removes. It holds [`SOCKET`], the runtime's log and console
    /// sockets.
    pub run: PathBuf,
    /// The monitor FIFO.
    pub fifo: PathBuf,
    /// The OCI runtime and its global arguments: `/usr/sbin/runc`, `--root`, …
    pub runtime: Vec<String>,
    /// The directory of the OCI bundle, which holds `config.json`.
    pub bundle: PathBuf,
    /// The root file system. The shim mounts it in its own mount namespace.
    pub rootfs: Rootfs,
    /// See [`crate::container::Create::tty`].
    pub tty: bool,
    /// See [`crate::container::Create::open_stdin`].
    pub open_stdin: bool,
    /// Initial rows and columns of the terminal.
    pub size: (u16, u16),
    /// Where the container's output goes.
    pub log: Log,
    /// Whether the shim starts the container again after its process has ended.
    pub restart: Restart,
    /// Whether the shim removes `dir` and `run`, and announces `destroy`, when the container has ended.
    pub auto_remove: bool,
    /// The signal that `stop` sends.
    pub stop_signal: i32,
    /// Milliseconds that `stop` waits before it sends SIGKILL; a negative value means no limit.
    pub stop_timeout_ms: i64,
    /// The file that the shim writes the container's process ID to.
    pub pidfile: Option<PathBuf>,
    /// The socket on the host to which the shim sends `READY=1` and `MAINPID` when the container has started.
    /// sd_notify(3).
    pub notify: Option<PathBuf>,
    /// The initial state: the state that the container's previous shim left.
    pub state: State,
    /// Which descriptors come with this frame, for a client that is attached from the start.
    pub attach: Option<Streams>,
    /// Whether a person's `restart` caused this start. The shim then announces `restart` after `start`.
    pub is_restart: bool,
}

/// The additional configuration of a shim that is the main process of a systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The unit's control group as in /proc/PID/cgroup, such as `/system.slice/web.service`. The container's own group
    /// is below it; its name is the container's ID.
    pub group: String,
    /// Number of descriptors, from 3 on, that process 1 of the container inherits. sd_listen_fds(3).
    pub listen: u32,
    /// Whether the shim copies the container's stdout (first) and stderr (second) to its own.
    pub streams: [bool; 2],
    /// systemd's notification socket. sd_notify(3).
    pub manager: Option<PathBuf>,
    /// Longest time between two of the shim's watchdog messages, in microseconds. sd_watchdog_enabled(3).
    pub watchdog_us: Option<u64>,
}

/// The identity of a container, as its events carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The image as the request named it.
    pub image: String,
    /// The container's labels.
    pub labels: Vec<(String, String)>,
}

/// How the root file system is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// The root file system exists already.
    #[default]
    Ready,
    /// The shim mounts an overlayfs.
    Overlay {
        /// Unpacked layers, lowest first.
        lower: Vec<PathBuf>,
        /// The directory for the container's changes.
        upper: PathBuf,
        /// The directory that overlayfs uses for its own purposes.
        work: PathBuf,
        /// The mount point.
        target: PathBuf,
    },
    /// The shim mounts an overlayfs in which all files have one SELinux label.
    Labelled {
        /// Unpacked layers, lowest first.
        lower: Vec<PathBuf>,
        /// The directory for the container's changes.
        upper: PathBuf,
        /// The directory that overlayfs uses for its own purposes.
        work: PathBuf,
        /// The mount point.
        target: PathBuf,
        /// The SELinux label.
        label: String,
    },
}

/// An overlayfs to mount.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// Unpacked layers, lowest first.
    pub lower: &'a [PathBuf],
    /// The directory for the container's changes.
    pub upper: &'a Path,
    /// The directory that overlayfs uses for its own purposes.
    pub work: &'a Path,
    /// The mount point.
    pub target: &'a Path,
    /// The SELinux label of all files, if there is one.
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

    /// Returns the root file system with an SELinux label for all its files; an empty label changes nothing.
    ///
    /// Without a label the result has the bytes of [`Rootfs::Overlay`], which older shims understand as well.
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

/// Where the shim writes the container's output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// Only to attached clients.
    #[default]
    None,
    /// To a file with one JSON object a line, as docker's json-file: `{"log":"…\n","stream":"stdout","time":"…Z"}`.
    JsonFile {
        /// The current file. Rotated files are `path.1`, `path.2`, …; the newest has the lowest number.
        path: PathBuf,
        /// Bytes after which a file is rotated; 0 means no limit.
        max_bytes: u64,
        /// Most files, including the current one.
        max_files: u32,
    },
    /// To journald, by its native protocol and with the fields of docker's driver. systemd.journal-fields(7).
    Journald {
        /// Value of the field CONTAINER_TAG.
        tag: String,
    },
}

/// A request of the engine to a shim. The shim answers it with one [`ShimMessage::Reply`] that has the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRequest {
    /// Chosen by the engine; the reply repeats it.
    pub number: u64,
    /// What the shim must do.
    pub action: Action,
}

impl ShimRequest {
    /// Parses the body of a frame.
    ///
    /// # Errors
    /// The number of a request whose action this program does not know: the sender is newer, and needs a reply. `None`
    /// if the body is no request at all.
    pub fn parse(body: &[u8]) -> Result<Self, Option<u64>> {
        frame::parse(body).map_err(|_| postcard::take_from_bytes(body).ok().map(|(number, _)| number))
    }

    /// Number of descriptors that come with the request.
    pub fn descriptors(&self) -> usize {
        match &self.action {
            Action::Attach(streams) => streams.count(),
            Action::Exec(exec, _) if !exec.detach => exec.streams.count(),
            _ => 0,
        }
    }
}

/// What a [`ShimRequest`] requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Send a signal to the container's process, and announce `kill`. The reply comes when the signal is sent; the
    /// reply to SIGKILL comes when the process has ended.
    Kill(i32),
    /// Stop the container: send the signal (0 means the container's stop signal), and SIGKILL after the timeout in
    /// milliseconds (-1 means never, -2 means the container's stop timeout). The restart policy does not start the
    /// container again. Announces `kill` for each signal, then `stop`. The reply comes when the container has ended and
    /// its exit is on the disk.
    Stop(i32, i64),
    /// Stop the container as [`Action::Stop`] does, then start it. Announces `restart` after `start`. The reply comes
    /// when the container runs again.
    Restart(i32, i64),
    /// Pause all processes, and announce `pause`.
    Pause,
    /// Resume all processes, and announce `unpause`.
    Unpause,
    /// Attach a client, whose descriptors come with the request. Announces `attach`, and `detach` if the client
    /// detaches before the container ends.
    Attach(Streams),
    /// Run another process in the container. The second value is the `process` object of the OCI runtime-spec
    /// ("Process") as JSON. The descriptors of an attached client come with the request. Announces `exec_create: …`,
    /// `exec_start: …` and `exec_die`. The reply comes when the process runs, and holds the ID of the execution.
    Exec(Exec, String),
    /// Use this new name of the container in events from now on.
    Rename(String),
    /// Use this restart policy from now on.
    Policy(Restart),
    /// List the process IDs in the container. The shim sends [`ShimMessage::Pids`], then the reply, and announces
    /// `top`.
    Pids,
    /// Kill the container if it runs, and remove all its files. Announces `kill`, `die` and `destroy`. The reply comes
    /// after the removal; then the shim ends.
    Remove,
    /// Set the size of a terminal. Announces `resize` if the terminal of process 1 had another size.
    Resize {
        /// The ID of the execution; empty means process 1.
        execution: String,
        /// Rows of the terminal.
        rows: u16,
        /// Columns of the terminal.
        columns: u16,
    },
}

/// A message of a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShimMessage {
    /// The container's state. Sent first on a new connection, and after each change.
    State(State),
    /// The result of a [`ShimRequest`].
    Reply {
        /// The number of the request.
        number: u64,
        /// The ID of the execution after [`Action::Exec`], otherwise an empty string. A failed request has an exit
        /// status as in [`crate::container::AttachMessage::Failed`], and the reason.
        result: Result<String, (u8, String)>,
    },
    /// The number of an [`Action::Pids`] request, and the process IDs.
    Pids(u64, Vec<i32>),
    /// All files of the container are removed; the shim ends.
    Removed,
    /// The shim is starting the container at this moment. Sent after the state on a new connection.
    Starting,
}

/// The state of a container, which the shim keeps in the file [`STATE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The container's phase.
    pub phase: crate::container::Phase,
    /// ID of the container's process; 0 if none runs.
    pub pid: i32,
    /// ID of the shim's own process; 0 if none runs.
    pub shim: i32,
    /// When the container last started, in nanoseconds since the epoch; 0 if never.
    pub started: i64,
    /// When the container last ended, in nanoseconds since the epoch; 0 if never.
    pub finished: i64,
    /// The last exit code.
    pub exit_code: i32,
    /// Whether the kernel's OOM killer killed a process of the container in the last run.
    pub oom_killed: bool,
    /// Why the container could not be started, or was declared dead; empty otherwise.
    pub error: String,
    /// Number of starts by the restart policy since the last start by a person.
    pub restarts: u32,
    /// Whether a person stopped the container. The restart policy then does not start the container until a person has
    /// started it.
    pub stopped_by_hand: bool,
    /// Whether the shim has announced `die` for the last exit. For a container that never started: whether `create` is
    /// announced.
    pub is_announced: bool,
    /// /proc/sys/kernel/random/boot_id of the boot in which this state was written.
    pub boot: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_action_leaves_the_number_of_its_request() {
        let request = ShimRequest { number: 300, action: Action::Pause };
        let bytes = postcard::to_allocvec(&request).expect("short");
        assert_eq!(ShimRequest::parse(&bytes), Ok(request));
        let unknown = postcard::to_allocvec(&(300u64, 9_999u32, "of a later release")).expect("short");
        assert_eq!(ShimRequest::parse(&unknown), Err(Some(300)));
        assert_eq!(ShimRequest::parse(&[0xff; 20]), Err(None));
        assert_eq!(ShimRequest::parse(&[]), Err(None));
    }
}
