//! What systemd hands over and wants to hear: LISTEN_FDS, readiness, the watchdog.
//!
//! Called once at start, and by the loop when its state changes. Does nothing outside systemd.
//! sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use crate::sys;
use nix::sys::stat::{SFlag, fstat};
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Descriptors that were passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// The monitor FIFO (`fifo`), open for reading and writing.
    pub fifo: Option<OwnedFd>,
    /// The listening events socket (`events`).
    pub listener: Option<OwnedFd>,
}

/// Takes what LISTEN_FDS passed: by name (`fifo`, `events`), and by what it is where the name says nothing.
pub fn passed() -> Passed {
    let mut passed = Passed::default();
    let Ok(fds) = sd_notify::listen_fds_with_names() else {
        return passed;
    };
    for (raw, name) in fds {
        // SAFETY: the descriptor is of the LISTEN_FDS range, which this process owns and takes only here.
        let fd = unsafe { sys::take_passed(raw) };
        let kind = fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        match (name.as_str(), kind) {
            (name, Ok(SFlag::S_IFIFO)) if passed.fifo.is_none() && name != "emit" => passed.fifo = Some(fd),
            (_, Ok(SFlag::S_IFSOCK)) if passed.listener.is_none() => passed.listener = Some(fd),
            (name, _) => log::warn!("descriptor {raw} ('{name}') was passed but is of no use here: closed"),
        }
    }
    passed
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
