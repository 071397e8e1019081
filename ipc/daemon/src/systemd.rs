//! What the service manager passes, keeps and is told: LISTEN_FDS, FDSTORE, readiness, the watchdog.
//!
//! Called once at start, and by the loop when its state changes. Does nothing outside systemd.
//! sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sampan_os::syscall;
pub use sd_notify::NotifyState;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Longest wait until the service manager has seen what it was told.
const BARRIER_MS: u16 = 5000;

/// The descriptors that LISTEN_FDS passed, each with its name, in their order. To be called once. sd_listen_fds(3).
pub fn passed() -> Vec<(String, OwnedFd)> {
    let passed = sd_notify::listen_fds_with_names();
    let adopt = |(raw, name): (_, String)| match syscall::adopt(raw) {
        Some(fd) => Some((name, fd)),
        None => {
            log::warn!("descriptor {raw} ('{name}') was passed but is not open");
            None
        }
    };
    passed.into_iter().flatten().filter_map(adopt).collect()
}

/// Has the service manager keep `fd` under `name`, in the place of what it kept so before, and waits until it does.
///
/// # Errors
/// There is no service manager, or it cannot be reached.
pub fn keep(name: &str, fd: &impl AsFd) -> io::Result<()> {
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

/// When the service manager's watchdog is to hear from this process.
#[derive(Debug)]
pub struct Watchdog {
    /// How often, and when next; `None` if there is no watchdog.
    every: Option<(Duration, Instant)>,
}

impl Watchdog {
    /// The watchdog of this process's unit, if it has one. sd_watchdog_enabled(3).
    pub fn from_env() -> Self {
        // Twice within the limit, as sd_watchdog_enabled(3) advises.
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Watchdog { every: every.map(|every| (every, Instant::now() + every)) }
    }

    /// When [`Watchdog::feed`] is to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.every.map(|(_, next)| next)
    }

    /// Tells the watchdog that this process lives, if it is time.
    pub fn feed(&mut self) {
        if let Some((every, next)) = &mut self.every
            && Instant::now() >= *next
        {
            notify(&[NotifyState::Watchdog]);
            *next = Instant::now() + *every;
        }
    }
}

/// Tells the service manager, if there is one. sd_notify(3).
pub fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
