//! What the units do with the FIFOs while sampan-monitord does not read them: give back, hold, hand over.
//!
//! systemd opens a FIFO that exists only if owner, group and mode are those of one that it would make itself, and it makes
//! them other ones right after. So each start of a socket unit but the first would fail: [`give_back`] runs before it. A
//! FIFO that nobody has open loses what is in it: [`hold`] runs from the unit's stop to its next start. And sampan-monitord
//! does not open the FIFOs itself: [`hand_over`] does so, as root, before each of its starts, and systemd passes them on.
//! Run by the units, as `sampan-monitord --give-back-fifo`, `--hold-fifo` and `--hand-over-fifos`; none of them reads a byte of
//! a FIFO, makes one, or removes one.

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{fchown, getegid, geteuid};
use sampan_daemon::systemd::{self, NotifyState};
use sampan_ipc::fifo::{self, OpenError};
use sampan_os::syscall;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::path::{Path, PathBuf};

/// Why a FIFO cannot be given back, held or handed over.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// It cannot be opened, or something else is in its place.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system refuses.
    #[error("cannot {doing} FIFO {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Gives the FIFO at `path`, if there is one, to this process's user and group, with `mode`.
///
/// A sampan-monitord that reads it reads on.
///
/// # Errors
/// See [`HoldError`].
pub fn give_back(path: &Path, mode: Mode) -> Result<(), HoldError> {
    let fifo = match fifo::hold(path) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        fifo => fifo?,
    };
    let given = fchown(&fifo, Some(geteuid()), Some(getegid())).and_then(|()| fchmod(&fifo, mode));
    given.map_err(|errno| HoldError::Io { doing: "give back", path: path.to_owned(), source: errno.into() })
}

/// Gives the FIFO of each name to the service manager, to be passed under that name to the process that it starts next;
/// those that it was given before are forgotten. sd_pid_notify_with_fds(3).
///
/// # Errors
/// See [`HoldError`].
pub fn hand_over(fifos: &[(&str, &Path)]) -> Result<(), HoldError> {
    for (name, path) in fifos {
        let context = |source| HoldError::Io { doing: "hand over", path: (*path).to_owned(), source };
        let fifo = fifo::hold(path)?;
        systemd::keep(name, &fifo).map_err(context)?;
    }
    Ok(())
}

/// Holds the FIFO at `path` open, and says so to the service manager, until SIGTERM or SIGINT.
///
/// # Errors
/// There is no such FIFO, or it cannot be opened.
pub fn hold(path: &Path) -> Result<(), HoldError> {
    let context = |source| HoldError::Io { doing: "hold", path: path.to_owned(), source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(context)?;
    let fifo = fifo::hold(path)?;
    systemd::notify(&[NotifyState::Ready]);
    signals.forever().next();
    match syscall::bytes_waiting(&fifo) {
        Ok(0) => {}
        Ok(bytes) => log::info!("{} is not held any more, with {bytes} bytes unread", path.display()),
        Err(errno) => log::debug!("cannot tell what is in {}: {errno}", path.display()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fifo::Fifo;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_fifo_is_given_back_with_what_is_in_it_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, link) = (dir.path().join("fifo"), dir.path().join("link"));
        let mode = Mode::from_bits_truncate(0o620);
        give_back(&path, mode).expect("nothing is there, and nothing is to be done");
        assert!(!path.exists());
        let _reader = Fifo::open(&path, None).expect("a FIFO");
        let mut fifo = fifo::hold(&path).expect("opened");
        fifo.write_all(b"unread").expect("room");
        give_back(&path, mode).expect("given back");
        assert_eq!(fifo.metadata().expect("there").permissions().mode() & 0o7777, 0o620);
        assert_eq!(syscall::bytes_waiting(&fifo), Ok(6));
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        let error = give_back(&link, mode).expect_err("a link").to_string();
        assert!(error.contains("a symbolic link"), "{error}");
    }
}
