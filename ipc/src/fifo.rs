//! The two FIFOs as files: made, found, and given to those who may write into them.
//!
//! monitord opens them to read, the engine to keep what is in them; both come here, so that a FIFO has the same owner and
//! mode whoever makes it. Nothing here reads or writes a byte of one.

use crate::accounts;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid, mkfifo};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Mode of a FIFO that belongs to such a group: its members write, and only the owner reads.
const SHARED: u32 = 0o620;
/// Mode of any other FIFO.
const PRIVATE: u32 = 0o600;

/// Why a FIFO cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something else is in its place.
    #[error("cannot use {}: it is {kind}, not a FIFO", path.display())]
    NotFifo {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file system refuses.
    #[error("cannot open FIFO {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes the FIFO at `path` unless something is there: mode 0600 until [`put_right`]. True if it was made.
///
/// # Errors
/// [`OpenError::Io`].
pub fn make(path: &Path) -> Result<bool, OpenError> {
    match mkfifo(path, Mode::from_bits_truncate(PRIVATE)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(OpenError::Io { path: path.to_owned(), source: errno.into() }),
    }
}

/// Opens the FIFO at `path` for reading and writing; never waits, and follows no symbolic link.
///
/// # Errors
/// [`OpenError`]; whatever is in its place stays as it is.
pub fn hold(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let meta = std::fs::symlink_metadata(path).map_err(failed)?;
    if let Some(kind) = other_kind(&meta.file_type()) {
        return Err(OpenError::NotFifo { path: path.to_owned(), kind });
    }
    // O_RDWR although nobody both reads and writes here: with a write end of its own no reader sees end-of-file when
    // the last writer leaves, and with a read end the content outlives the last reader. Linux allows it, POSIX leaves
    // it undefined. fifo(7).
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let fifo = open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    // It may have been replaced since it was looked at.
    match fstat(&fifo) {
        Ok(stat) if is_fifo(&stat) => Ok(File::from(fifo)),
        Ok(_) => Err(OpenError::NotFifo { path: path.to_owned(), kind: "something else" }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// True if `stat` is of a FIFO.
pub fn is_fifo(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
}

/// Gives the open FIFO to this process's user; to `group` with mode 0620 as far as that is possible, else mode 0600.
///
/// Only root gives it to a group: the FIFO of an ordinary user is that user's own. What cannot be put right is logged with
/// what it means.
pub fn put_right(fifo: &File, path: &Path, group: Option<Gid>) {
    let path = path.display();
    let stat = match fstat(fifo) {
        Ok(stat) => stat,
        Err(errno) => return log::warn!("cannot look at FIFO {path}: {errno}"),
    };
    let (owner, own) = (Uid::from_raw(stat.st_uid), geteuid());
    if owner != own {
        match fchown(fifo, Some(own), None) {
            Ok(()) => log::info!("FIFO {path} belonged to user {owner} and belongs to user {own} now"),
            Err(errno) => log::warn!(
                "FIFO {path} belongs to user {owner}, who can read and take events: cannot give it to user {own}: {errno}"
            ),
        }
    }
    let is_given = match group.filter(|_| own.is_root()) {
        None => false,
        Some(group) => match fchown(fifo, None, Some(group)) {
            Ok(()) => true,
            Err(errno) => {
                log::warn!(
                    "cannot give FIFO {path} to group {group}, whose members cannot write now: {errno}"
                );
                false
            }
        },
    };
    let (mode, wanted) = (stat.st_mode & 0o7777, if is_given { SHARED } else { PRIVATE });
    if mode == wanted {
        return;
    }
    match fchmod(fifo, Mode::from_bits_truncate(wanted)) {
        Err(errno) => {
            log::warn!(
                "FIFO {path} has mode {mode:o}, which says who may write: cannot make it {wanted:o}: {errno}"
            );
        }
        Ok(()) if mode & !wanted != 0 => log::warn!(
            "FIFO {path} had mode {mode:o} and has {wanted:o} now: who opened it before can still write into it"
        ),
        Ok(()) => {}
    }
}

/// The number of the group `name`, if this host has it.
pub fn group(name: &str) -> Option<Gid> {
    accounts::group_id(name).map(Gid::from_raw)
}

/// What a file is, if it is no FIFO.
fn other_kind(file: &std::fs::FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    match file {
        file if file.is_fifo() => None,
        file if file.is_file() => Some("a regular file"),
        file if file.is_dir() => Some("a directory"),
        file if file.is_symlink() => Some("a symbolic link"),
        file if file.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn what_is_no_fifo_is_named_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link, fifo) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("fifo"));
        std::fs::write(&file, "precious").expect("written");
        assert!(make(&fifo).expect("made") && !make(&fifo).expect("there"));
        std::os::unix::fs::symlink(&fifo, &link).expect("a link");
        for (path, kind) in [(&file, "a regular file"), (&link, "a symbolic link")] {
            assert!(!make(path).expect("something is there"));
            let error = hold(path).expect_err("no FIFO").to_string();
            assert!(error.contains(kind) && error.contains("not a FIFO"), "{error}");
        }
        assert_eq!(std::fs::read(&file).expect("there"), b"precious");
        assert!(matches!(hold(&dir.path().join("none")), Err(OpenError::Io { .. })));
    }

    #[test]
    fn without_a_group_a_fifo_is_its_owners_alone_whatever_mode_it_had() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        make(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("ours");
        let fifo = hold(&path).expect("opened");
        put_right(&fifo, &path, None);
        assert_eq!(fifo.metadata().expect("there").mode() & 0o7777, 0o600);
    }
}
