//! What systemd hands over and wants to hear: LISTEN_FDS, readiness, the watchdog.
//!
//! Called once at start, and by the loop when its state changes. Does nothing outside systemd.
//! sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{SFlag, fstat, stat};
use sampan_os::syscall;
use sd_notify::NotifyState;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// Longest wait until the service manager has seen what it was told.
const BARRIER_MS: u16 = 5000;

/// Descriptors that were passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// The monitor FIFO (`fifo`), open for reading and writing.
    pub fifo: Option<OwnedFd>,
    /// The emit FIFO (`emit`), open for reading and writing.
    pub emit: Option<OwnedFd>,
    /// The listening events socket (`events`).
    pub listener: Option<OwnedFd>,
}

/// Takes what LISTEN_FDS passed: by name (`fifo`, `emit`, `events`), and by what it is where the name says nothing.
///
/// A FIFO without such a name is the emit FIFO if it is the file at `emit_path`, and that of facts otherwise.
pub fn passed(emit_path: &Path) -> Passed {
    let mut passed = Passed::default();
    let Ok(fds) = sd_notify::listen_fds_with_names() else {
        return passed;
    };
    for (raw, name) in fds {
        let Some(fd) = syscall::adopt(raw) else {
            log::warn!("descriptor {raw} ('{name}') was passed but is not open");
            continue;
        };
        let kind = fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        let place = match (name.as_str(), kind) {
            ("fifo", Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            ("emit", Ok(SFlag::S_IFIFO)) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) if is_at(&fd, emit_path) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            (_, Ok(SFlag::S_IFSOCK)) => &mut passed.listener,
            _ => {
                log::warn!("descriptor {raw} ('{name}') was passed but is of no use here: closed");
                continue;
            }
        };
        match place {
            None => *place = Some(fd),
            Some(_) => log::warn!(
                "descriptor {raw} ('{name}') was passed, but there is one for that already: closed"
            ),
        }
    }
    passed
}

/// True if the file at `path` is the one that `fd` has open.
fn is_at(fd: &OwnedFd, path: &Path) -> bool {
    matches!((fstat(fd), stat(path)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Has the service manager keep `fd` under `name`, in the place of what it kept so before, and waits until it does.
///
/// # Errors
/// There is no service manager, or it cannot be reached.
pub fn store(name: &str, fd: &impl AsFd) -> io::Result<()> {
    let socket = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
    let manager = UnixDatagram::unbound()?;
    manager.connect(socket)?;
    let send = |text: &str, fd: BorrowedFd| {
        let fds = [fd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(text.as_bytes())];
        sendmsg::<()>(manager.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
    };
    manager.send(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes())?;
    send(&format!("FDSTORE=1\nFDNAME={name}"), fd.as_fd())?;
    // It closes what comes with a barrier once all that came before has been seen: this process is not gone by then, and
    // known as one of the unit's. sd_notify_barrier(3).
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    send("BARRIER=1", theirs.as_fd())?;
    drop(theirs);
    match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], BARRIER_MS)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// How often the watchdog wants to hear from this process; `None` if never.
pub fn watchdog() -> Option<Duration> {
    // Twice within the limit, as sd_watchdog_enabled(3) advises.
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Tells the service manager.
pub fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
