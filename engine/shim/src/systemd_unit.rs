//! The systemd unit whose main process is the shim: the descriptors and settings from systemd, and the messages to
//! systemd.
//!
//! `setup` makes the unit at the start, and the event loop owns it. Knows the unit's streams, sockets, watchdog and
//! control group; never decides what happens to the container. docs/systemd-containers.md.

use super::attach::Client;
use super::nonblocking::Sink;
use super::sd_notify;
use super::stream::PerStream;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use sampan_ipc::shim::Unit as Setup;
use sampan_os::syscall;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mount point of control groups version 2 on a host without version 1.
const GROUPS: &str = "/sys/fs/cgroup";
/// Name of the shim's own control group below the unit's group, with version 2.
const SUPERVISOR: &str = "supervisor";
/// The first descriptor that a process gets from systemd. sd_listen_fds(3).
const LISTEN_START: RawFd = 3;
/// Least time between two messages to the watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(1);
/// Time that a stop may take in addition to the stop timeout, for the runtime's `delete` and for sending events.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// The shim's OOM score adjustment, which is also the engine's. It is negative, so that the kernel prefers to kill the
/// processes that use the memory. proc_pid_oom_score_adj(5).
const OOM_SCORE: &str = "-500";

#[derive(Debug)]
pub(crate) struct Unit {
    /// The unit's control group, in the form of /proc/PID/cgroup.
    pub(crate) group: String,
    /// Sockets from systemd, which process 1 of the container inherits as the descriptors from [`LISTEN_START`] on.
    pub(crate) listen: Vec<OwnedFd>,
    /// The unit's stdout and stderr; `None` for a stream that gets no copy of the container's output.
    outputs: PerStream<Option<OwnedFd>>,
    /// The unit's stderr.
    stderr: OwnedFd,
    /// systemd's notification socket. sd_notify(3).
    manager: Option<PathBuf>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    period: Duration,
    next: Instant,
}

impl Unit {
    /// Takes the descriptors from systemd, and moves this process into its own control group. Must be called before
    /// the standard streams are replaced.
    ///
    /// # Errors
    /// A descriptor is missing, or the shim may not enter its own control group.
    pub(crate) fn open(setup: Setup) -> io::Result<Self> {
        let listen =
            (LISTEN_START..).take(setup.listen as usize).map(adopt).collect::<io::Result<Vec<_>>>()?;
        let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned();
        let [out, err] = setup.streams;
        let outputs = PerStream {
            out: out.then(|| own(io::stdout().as_fd())).transpose()?,
            err: err.then(|| own(io::stderr().as_fd())).transpose()?,
        };
        let stderr = own(io::stderr().as_fd())?;
        enter_supervisor_group(&setup.group)?;
        // Ignore an error: without the permission to lower its score, the shim has the score of an ordinary process.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let watchdog = setup.watchdog_us.map(|us| Watchdog {
            // Half of systemd's timeout, so that one late turn of the event loop does not end the unit.
            // sd_watchdog_enabled(3).
            period: (Duration::from_micros(us) / 2).max(WATCHDOG_MIN),
            next: Instant::now(),
        });
        Ok(Unit { group: setup.group, listen, outputs, stderr, manager: setup.manager, watchdog })
    }

    /// Makes a client that gets the container's output; `None` if neither stream of the unit gets a copy.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub(crate) fn client(&self) -> io::Result<Option<Client>> {
        if self.outputs.iter().all(Option::is_none) {
            return Ok(None);
        }
        let sink = |fd: &Option<OwnedFd>| -> io::Result<Option<Sink>> {
            Ok(fd.as_ref().map(OwnedFd::try_clone).transpose()?.and_then(Sink::of_unit))
        };
        Client::of_unit(PerStream { out: sink(&self.outputs.out)?, err: sink(&self.outputs.err)? }).map(Some)
    }

    /// A sink for the unit's stderr, to which a failed start writes its reason; `None` if stderr is a terminal.
    pub(crate) fn stderr(&self) -> Option<Sink> {
        self.stderr.try_clone().ok().and_then(Sink::of_unit)
    }

    /// Reports to systemd that the stop may take `time` plus [`STOP_MARGIN`], so that systemd does not kill the unit
    /// earlier.
    pub(crate) fn extend_stop_timeout(&self, time: Duration) {
        let time = time.saturating_add(STOP_MARGIN).as_micros();
        let text = format!("EXTEND_TIMEOUT_USEC={time}\n");
        self.manager.as_deref().inspect(|manager| sd_notify::send(manager, &text));
    }

    /// When the next watchdog message must be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Sends a watchdog message to systemd if its time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) {
            self.manager.as_deref().inspect(|manager| sd_notify::send(manager, "WATCHDOG=1\n"));
            watchdog.next = now + watchdog.period;
        }
    }
}

/// Writes an error message to the unit's stderr. Bytes that cannot be written at once are lost.
pub(crate) fn write_error(stderr: Option<Sink>, reason: &str) {
    if let Some(mut stderr) = stderr {
        stderr.push(format!("error: {reason}\n").as_bytes());
    }
}

/// Takes a descriptor from systemd, and sets close-on-exec: only process 1 of the container inherits the descriptor.
fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    let fd = syscall::adopt(raw).ok_or_else(|| {
        io::Error::other(format!("descriptor {raw}, which LISTEN_FDS announces, is not open"))
    })?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// With version 2 of control groups, moves this process into a group of its own below the unit's group. The unit's
/// group can enable controllers for the container's group only if it contains no process itself. Linux, cgroup-v2.rst,
/// "No Internal Process Constraint".
fn enter_supervisor_group(group: &str) -> io::Result<()> {
    if !statfs(GROUPS).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Ok(());
    }
    let dir = Path::new(GROUPS).join(group.trim_start_matches('/')).join(SUPERVISOR);
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot move into the control group {}: {error}", dir.display()))
    };
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // In cgroup.procs, 0 means the process that writes. cgroups(7).
    fs::write(dir.join("cgroup.procs"), "0").map_err(failed)
}
