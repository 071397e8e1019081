//! Errors of this host's files, and of a stopped side, in the form that the copier acts on.
//!
//! Called by the sides in this folder. A full or failing disk is a [`FailureKind::Host`], which another attempt may
//! cure; a file that may not be read or written, or that leads out of its directory, is refused.

use nix::libc;
use sampan_replication::side::{FailureKind, SideError};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// An operation on a file, and its error.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
struct FileFault {
    doing: String,
    source: io::Error,
}

/// Makes the error of a system call. `doing` completes the sentence "cannot …".
pub fn fault(doing: impl Into<String>, source: io::Error) -> SideError {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::CrossesDevices
        // A blob of more than 4 GiB on FAT.
        | io::ErrorKind::FileTooLarge => FailureKind::Refused,
        _ if source.raw_os_error() == Some(libc::ELOOP) => FailureKind::Refused,
        _ => FailureKind::Host,
    };
    // The words of these errors do not say what is wrong here.
    let source = match source.raw_os_error() {
        Some(libc::EXDEV) => io::Error::other("it leads out of the directory"),
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link"),
        _ => source,
    };
    SideError { kind, source: Box::new(FileFault { doing: doing.into(), source }) }
}

/// Checks that nobody has stopped the side whose flag `stopped` is.
///
/// # Errors
/// [`FailureKind::Temporary`]: it is stopped.
pub fn check_running(stopped: &AtomicBool) -> Result<(), SideError> {
    match stopped.load(Ordering::Relaxed) {
        true => Err(SideError::new(FailureKind::Temporary(None), "stopped")),
        false => Ok(()),
    }
}
