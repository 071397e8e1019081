//! A shim that is the main process of a unit of systemd's: what it has from systemd, and what it owes it.
//!
//! Made by `process` at the start, owned by the event loop. Knows the unit's streams, sockets, watchdog and control
//! group; never decides what happens to the container. docs/systemd-containers.md.

use super::attach::Client;
use super::nonblocking::Sink;
use super::sd_notify;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use sampan_ipc::shim::Unit as Setup;
use sampan_os::syscall;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where version 2 of control groups is mounted, if there is no other.
const GROUPS: &str = "/sys/fs/cgroup";
/// The shim's own group below the unit's, with version 2.
const SUPERVISOR: &str = "supervisor";
/// The first descriptor that systemd passes on. sd_listen_fds(3).
const LISTEN_START: RawFd = 3;
/// Least time between two answers to the watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(1);
/// How much longer than the container's own time a stop may take: the runtime deletes, events are told.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// The shim's OOM score: as the engine's, so that the kernel kills what needs the memory. proc_pid_oom_score_adj(5).
const OOM_SCORE: &str = "-500";

/// The unit.
#[derive(Debug)]
pub struct Unit {
    /// Its control group.
    pub group: String,
    /// What process 1 of the container gets, from [`LISTEN_START`] on.
    pub listen: Vec<OwnedFd>,
    /// Where the container's output goes, too.
    outputs: [Option<OwnedFd>; 2],
    /// The unit's own.
    stderr: OwnedFd,
    /// systemd's socket.
    manager: Option<PathBuf>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    period: Duration,
    next: Instant,
}

impl Unit {
    /// Takes over what systemd has given this process. To be called before the standard streams are replaced.
    ///
    /// # Errors
    /// A descriptor is missing, or the shim may not move into a group of its own.
    pub fn open(setup: Setup) -> io::Result<Self> {
        let listen =
            (LISTEN_START..).take(setup.listen as usize).map(adopt).collect::<io::Result<Vec<_>>>()?;
        let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned();
        let [out, err] = setup.streams;
        let outputs = [
            out.then(|| own(io::stdout().as_fd())).transpose()?,
            err.then(|| own(io::stderr().as_fd())).transpose()?,
        ];
        let stderr = own(io::stderr().as_fd())?;
        step_aside(&setup.group)?;
        // One that may not do so is as likely to be killed as any process.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let watchdog = setup.watchdog_us.map(|us| Watchdog {
            // Half of what systemd waits, so that one late turn is not the end. sd_watchdog_enabled(3).
            period: (Duration::from_micros(us) / 2).max(WATCHDOG_MIN),
            next: Instant::now(),
        });
        Ok(Unit { group: setup.group, listen, outputs, stderr, manager: setup.manager, watchdog })
    }

    /// A client for what the container writes; `None` if nobody is to have that.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn client(&self) -> io::Result<Option<Client>> {
        if self.outputs.iter().all(Option::is_none) {
            return Ok(None);
        }
        let sink = |fd: &Option<OwnedFd>| -> io::Result<Option<Sink>> {
            Ok(fd.as_ref().map(OwnedFd::try_clone).transpose()?.and_then(Sink::of_unit))
        };
        Client::of_unit([sink(&self.outputs[0])?, sink(&self.outputs[1])?]).map(Some)
    }

    /// Where a person reads why the container could not be started; `None` if that is a terminal.
    pub fn stderr(&self) -> Option<Sink> {
        self.stderr.try_clone().ok().and_then(Sink::of_unit)
    }

    /// Tells systemd that the container may take so long to stop; it is not to kill it before.
    pub fn will_stop_within(&self, time: Duration) {
        let time = time.saturating_add(STOP_MARGIN).as_micros();
        let text = format!("EXTEND_TIMEOUT_USEC={time}\n");
        self.manager.as_deref().inspect(|manager| sd_notify::say(manager, &text));
    }

    /// When the watchdog is answered next.
    pub fn deadline(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Answers the watchdog if that is due.
    pub fn expire(&mut self, now: Instant) {
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) {
            self.manager.as_deref().inspect(|manager| sd_notify::say(manager, "WATCHDOG=1\n"));
            watchdog.next = now + watchdog.period;
        }
    }
}

/// Says on a unit's standard error what went wrong. What does not go at once is lost.
pub fn complain(stderr: Option<Sink>, reason: &str) {
    if let Some(mut stderr) = stderr {
        stderr.push(format!("error: {reason}\n").as_bytes());
    }
}

/// A descriptor of systemd's, which from now on closes in all programs that are not to have it.
fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    let fd = syscall::adopt(raw)
        .ok_or_else(|| io::Error::other(format!("descriptor {raw} of LISTEN_FDS is not there")))?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// Goes into a group of its own below the unit's, with version 2: that takes controllers for the container's group only from
/// a group without processes. Linux, cgroup-v2.rst, "No Internal Process Constraint".
fn step_aside(group: &str) -> io::Result<()> {
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
    // 0 stands for the process that writes.
    fs::write(dir.join("cgroup.procs"), "0").map_err(failed)
}
