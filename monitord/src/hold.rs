//! Tasks that systemd units run on the FIFOs while sampan-monitord does not read them: give back, hold, and hand over.
//!
//! [`give_back`] runs before each start of a socket unit. systemd opens an existing FIFO only if owner, group and mode
//! are those of a new FIFO; afterwards it changes them to SocketUser=, SocketGroup= and SocketMode=. Without this
//! task, each start after the first one would fail.
//!
//! [`hold`] runs from the stop of a socket unit to its next start: a FIFO loses its content while no process has it
//! open.
//!
//! [`hand_over`] runs as root before each start of sampan-monitord, which may not open the FIFOs itself. It stores the
//! FIFOs with systemd, which passes them on to sampan-monitord.
//!
//! The units call `sampan-monitord --give-back-fifo`, `--hold-fifo` and `--hand-over-fifos`. No task reads from a
//! FIFO, creates a FIFO or removes a FIFO.

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
pub(crate) enum HoldError {
    /// The FIFO cannot be opened, or the path is another kind of file.
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot {doing} FIFO {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// Gives the FIFO at `path` to this process's user and group and sets its mode. Does nothing if the path does not
/// exist.
///
/// A sampan-monitord that has the FIFO open is not affected.
///
/// # Errors
/// The path is not a FIFO, or its owner or mode cannot be changed.
pub(crate) fn give_back(path: &Path, mode: Mode) -> Result<(), HoldError> {
    let fifo = match fifo::hold(path) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        fifo => fifo?,
    };
    let given = fchown(&fifo, Some(geteuid()), Some(getegid())).and_then(|()| fchmod(&fifo, mode));
    given.map_err(|errno| HoldError::Io { doing: "give back", path: path.to_owned(), source: errno.into() })
}

/// Stores each FIFO with the service manager under its name, and replaces an earlier FIFO with this name. The service
/// manager passes the FIFOs to the next process of this unit. sd_pid_notify_with_fds(3).
///
/// # Errors
/// A FIFO cannot be opened, or the service manager cannot be reached.
pub(crate) fn hand_over(fifos: &[(&str, &Path)]) -> Result<(), HoldError> {
    for (name, path) in fifos {
        let context = |source| HoldError::Io { doing: "hand over", path: (*path).to_owned(), source };
        let fifo = fifo::hold(path)?;
        systemd::keep(name, &fifo).map_err(context)?;
    }
    Ok(())
}

/// Holds the FIFO at `path` open until SIGTERM or SIGINT. Reports to the service manager when the FIFO is open.
///
/// # Errors
/// The path is not a FIFO, or cannot be opened.
pub(crate) fn hold(path: &Path) -> Result<(), HoldError> {
    let context = |source| HoldError::Io { doing: "hold", path: path.to_owned(), source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(context)?;
    let fifo = fifo::hold(path)?;
    systemd::notify(&[NotifyState::Ready]);
    signals.forever().next();
    match syscall::bytes_waiting(&fifo) {
        Ok(0) => {}
        Ok(bytes) => log::info!("{} is no longer held open; it has {bytes} unread bytes", path.display()),
        Err(errno) => log::debug!("cannot count the unread bytes in {}: {errno}", path.display()),
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
    fn a_fifo_is_given_back_with_its_content_and_a_link_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, link) = (dir.path().join("fifo"), dir.path().join("link"));
        let mode = Mode::from_bits_truncate(0o620);
        give_back(&path, mode).expect("nothing to do, as the path does not exist");
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
