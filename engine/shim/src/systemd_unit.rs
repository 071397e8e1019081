//! The systemd unit whose main process the shim is: what systemd passed to it, and what it must send to systemd.
//!
//! Made by `setup` at the start, owned by the event loop. Knows the unit's streams, sockets, watchdog and control
//! group; never decides what happens to the container. docs/systemd-containers.md.

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

/// Where version 2 of control groups is mounted on a host that has no version 1.
const GROUPS: &str = "/sys/fs/cgroup";
/// Name of the shim's own group below the unit's, with version 2.
const SUPERVISOR: &str = "supervisor";
/// The first descriptor that systemd passes on. sd_listen_fds(3).
const LISTEN_START: RawFd = 3;
/// Least time between two messages to the watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(1);
/// How much longer than the container's stop timeout a stop may take: the runtime deletes, events are sent.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// The shim's OOM score, equal to the engine's. Negative, so that the kernel prefers to kill the processes that use the
/// memory. proc_pid_oom_score_adj(5).
const OOM_SCORE: &str = "-500";

#[derive(Debug)]
pub(crate) struct Unit {
    /// The unit's control group, as /proc/PID/cgroup has it.
    pub(crate) group: String,
    /// Sockets of systemd that process 1 of the container gets, as descriptors from [`LISTEN_START`] on.
    pub(crate) listen: Vec<OwnedFd>,
    /// The unit's stdout and stderr, if they get a copy of the container's output.
    outputs: PerStream<Option<OwnedFd>>,
    /// The unit's standard error.
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
    /// Takes over what systemd has passed to this process, and moves the process into its own control group. To be
    /// called before the standard streams are replaced.
    ///
    /// # Errors
    /// A descriptor is missing, or the shim may not move into its own control group.
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
        // Without the right to lower its score the shim runs on, as likely to be killed as any process.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let watchdog = setup.watchdog_us.map(|us| Watchdog {
            // Half of systemd's timeout, so that one late turn of the loop does not end the unit.
            // sd_watchdog_enabled(3).
            period: (Duration::from_micros(us) / 2).max(WATCHDOG_MIN),
            next: Instant::now(),
        });
        Ok(Unit { group: setup.group, listen, outputs, stderr, manager: setup.manager, watchdog })
    }

    /// Makes a client that gets what the container writes; `None` if neither stream of the unit is to have it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn client(&self) -> io::Result<Option<Client>> {
        if self.outputs.iter().all(Option::is_none) {
            return Ok(None);
        }
        let sink = |fd: &Option<OwnedFd>| -> io::Result<Option<Sink>> {
            Ok(fd.as_ref().map(OwnedFd::try_clone).transpose()?.and_then(Sink::of_unit))
        };
        Client::of_unit(PerStream { out: sink(&self.outputs.out)?, err: sink(&self.outputs.err)? }).map(Some)
    }

    /// A sink for the unit's standard error, for the reason why a start failed; `None` if it is a terminal.
    pub(crate) fn stderr(&self) -> Option<Sink> {
        self.stderr.try_clone().ok().and_then(Sink::of_unit)
    }

    /// Tells systemd that stopping may take `time` and [`STOP_MARGIN`]: systemd must not kill the unit before.
    pub(crate) fn extend_stop_timeout(&self, time: Duration) {
        let time = time.saturating_add(STOP_MARGIN).as_micros();
        let text = format!("EXTEND_TIMEOUT_USEC={time}\n");
        self.manager.as_deref().inspect(|manager| sd_notify::send(manager, &text));
    }

    /// When the next message to the watchdog is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Sends the watchdog its message if one is due.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) {
            self.manager.as_deref().inspect(|manager| sd_notify::send(manager, "WATCHDOG=1\n"));
            watchdog.next = now + watchdog.period;
        }
    }
}

/// Writes an error message to a unit's standard error. What cannot be written at once is lost.
pub(crate) fn write_error(stderr: Option<Sink>, reason: &str) {
    if let Some(mut stderr) = stderr {
        stderr.push(format!("error: {reason}\n").as_bytes());
    }
}

/// Takes over a descriptor that systemd passed, and makes it close-on-exec: only process 1 of the container gets it.
fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    let fd = syscall::adopt(raw).ok_or_else(|| {
        io::Error::other(format!("descriptor {raw}, which LISTEN_FDS announces, is not open"))
    })?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// With version 2 of control groups, moves this process into its own group below the unit's. The unit's group can give
/// controllers to the container's group only if it has no processes itself. Linux, cgroup-v2.rst, "No Internal Process
/// Constraint".
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
    // 0 stands for the writing process. cgroups(7).
    fs::write(dir.join("cgroup.procs"), "0").map_err(failed)
}
