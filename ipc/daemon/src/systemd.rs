//! Talks to the service manager: takes passed descriptors, stores descriptors, reports state, feeds the watchdog.
//!
//! Called once at start, and by the event loop when its state changes. Does nothing if systemd did not start this
//! process. sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sampan_os::syscall;
pub use sd_notify::NotifyState;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// How long to wait, in milliseconds, until the service manager has processed all messages of this process.
const BARRIER_MS: u16 = 5000;

/// Takes the descriptors that systemd passed in LISTEN_FDS, each with its name, in their order. Must be called once.
/// sd_listen_fds(3).
pub fn passed() -> Vec<(String, OwnedFd)> {
    let passed = sd_notify::listen_fds_with_names();
    let adopt = |(raw, name): (_, String)| match syscall::adopt(raw) {
        Some(fd) => Some((name, fd)),
        None => {
            log::warn!("systemd passed descriptor {raw} ('{name}'), but it is not open: it is ignored");
            None
        }
    };
    passed.into_iter().flatten().filter_map(adopt).collect()
}

/// Stores `fd` with the service manager under `name`, in place of an earlier one of that name, and waits until it is
/// stored. The service manager passes it to the next instance of this daemon. sd_notify(3), FDSTORE.
///
/// # Errors
/// There is no service manager (`NotFound`), it cannot be reached, or it did not answer in 5 seconds (`TimedOut`).
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
    // The service manager closes the descriptor of a barrier once it has processed all earlier messages. Without the
    // wait, this process could exit first, and the service manager could no longer tell that the messages came from a
    // process of this unit. sd_notify_barrier(3).
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    send("BARRIER=1", theirs.as_fd())?;
    drop(theirs);
    match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], BARRIER_MS)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// The schedule of this process's messages to the service manager's watchdog.
#[derive(Debug)]
pub struct Watchdog {
    /// The interval, and the time of the next message; `None` if the unit has no watchdog.
    schedule: Option<(Duration, Instant)>,
}

impl Watchdog {
    /// The watchdog of this process's unit, if it has one. sd_watchdog_enabled(3).
    pub fn from_env() -> Self {
        // Half of the limit, as sd_watchdog_enabled(3) advises.
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Watchdog { schedule: interval.map(|interval| (interval, Instant::now() + interval)) }
    }

    /// The time at which to call [`Watchdog::feed`] next.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.map(|(_, next)| next)
    }

    /// Reports to the watchdog that this process is alive, if the deadline has passed.
    pub fn feed(&mut self) {
        if let Some((interval, next)) = &mut self.schedule
            && Instant::now() >= *next
        {
            notify(&[NotifyState::Watchdog]);
            *next = Instant::now() + *interval;
        }
    }
}

/// Reports `state` to the service manager, if there is one. sd_notify(3).
pub fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
