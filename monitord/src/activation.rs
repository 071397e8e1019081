//! What systemd hands over and wants to hear: LISTEN_FDS, readiness, the watchdog.
//!
//! Called once at start, and by the loop when its state changes. Does nothing outside systemd.
//! sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use crate::sys;
use nix::sys::stat::{SFlag, fstat, stat};
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

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
        // SAFETY: the descriptor is of the LISTEN_FDS range, which this process owns and takes only here.
        let fd = unsafe { sys::take_passed(raw) };
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
