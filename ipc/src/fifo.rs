//! The monitor FIFO and the emit FIFO as files: creates and opens them, and sets their owner and mode.
//!
//! monitord opens them to read records. The engine opens them to preserve their content while monitord does not run.
//! Both use this module, so that owner and mode do not depend on which of the two created the FIFO. Never reads or
//! writes records.

use crate::accounts;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid, mkfifo};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Mode of a FIFO that is given to a group: its members may write, and only the owner may read.
const SHARED: u32 = 0o620;
/// Mode of any other FIFO.
const PRIVATE: u32 = 0o600;

/// Why a FIFO cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is not a FIFO.
    #[error("cannot use {}: it is {kind}, not a FIFO", path.display())]
    NotFifo {
        /// The path.
        path: PathBuf,
        /// The kind of file at the path.
        kind: &'static str,
    },
    /// A system call failed.
    #[error("cannot open FIFO {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Creates a FIFO with mode 0600 at `path`, unless the path exists. Returns whether it created the FIFO.
///
/// # Errors
/// [`OpenError::Io`] if mkfifo(3) fails for another reason.
pub fn make(path: &Path) -> Result<bool, OpenError> {
    match mkfifo(path, Mode::from_bits_truncate(PRIVATE)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(OpenError::Io { path: path.to_owned(), source: errno.into() }),
    }
}

/// Opens the FIFO at `path` for reading and writing. Never blocks; does not follow a symbolic link.
///
/// # Errors
/// [`OpenError::NotFifo`] if `path` is another kind of file, which stays unchanged; [`OpenError::Io`] if it cannot be
/// opened.
pub fn hold(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let meta = std::fs::symlink_metadata(path).map_err(failed)?;
    if let Some(kind) = other_kind(&meta.file_type()) {
        return Err(OpenError::NotFifo { path: path.to_owned(), kind });
    }
    // O_RDWR, although this process only reads or only keeps the FIFO. While a process has a write end open, its
    // reader gets no end-of-file when the last writer exits. While a process has a read end open, the FIFO keeps its
    // content when the last reader exits. Linux allows O_RDWR on a FIFO; POSIX leaves it undefined. fifo(7).
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let fifo = open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    // Another file may have replaced the path after symlink_metadata.
    match fstat(&fifo) {
        Ok(stat) if is_fifo(&stat) => Ok(File::from(fifo)),
        Ok(_) => Err(OpenError::NotFifo { path: path.to_owned(), kind: "something else" }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Checks that nothing else than a FIFO, or a link to one, is at `path`. Nothing needs to be there.
///
/// # Errors
/// [`OpenError::NotFifo`] if `path` is another kind of file, into which no event could be written.
pub fn check(path: &Path) -> Result<(), OpenError> {
    let kind = std::fs::metadata(path).ok().and_then(|meta| other_kind(&meta.file_type()));
    kind.map_or(Ok(()), |kind| Err(OpenError::NotFifo { path: path.to_owned(), kind }))
}

/// Whether `stat` describes a FIFO.
pub fn is_fifo(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
}

/// Gives the open FIFO to this process's user, and to `group` with mode 0620; without a group the mode is 0600.
///
/// Only root gives the FIFO to a group: the FIFO of an ordinary user stays private. Failures are logged.
pub fn set_owner_and_mode(fifo: &File, path: &Path, group: Option<Gid>) {
    let path = path.display();
    let stat = match fstat(fifo) {
        Ok(stat) => stat,
        Err(errno) => return log::warn!("cannot stat FIFO {path}: {errno}"),
    };
    let (owner, own) = (Uid::from_raw(stat.st_uid), geteuid());
    if owner != own {
        match fchown(fifo, Some(own), None) {
            Ok(()) => log::info!("changed the owner of FIFO {path} from user {owner} to user {own}"),
            Err(errno) => log::warn!(
                "cannot change the owner of FIFO {path} from user {owner} to user {own}: {errno}: \
                 user {owner} can read and take events"
            ),
        }
    }
    let is_given = match group.filter(|_| own.is_root()) {
        None => false,
        Some(group) => match fchown(fifo, None, Some(group)) {
            Ok(()) => true,
            Err(errno) => {
                log::warn!(
                    "cannot give FIFO {path} to group {group}: {errno}: its members cannot write events"
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
                "cannot change the mode of FIFO {path} from {mode:o} to {wanted:o}: {errno}: \
                 the old mode still decides who may write"
            );
        }
        Ok(()) if mode & !wanted != 0 => log::warn!(
            "changed the mode of FIFO {path} from {mode:o} to {wanted:o}: \
             processes that opened it earlier can still write into it"
        ),
        Ok(()) => {}
    }
}

/// The ID of the group `name`; `None` if the host does not have it.
pub fn group(name: &str) -> Option<Gid> {
    accounts::group_id(name).map(Gid::from_raw)
}

/// The kind of file, in words; `None` for a FIFO.
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
    fn another_kind_of_file_is_named_and_left_alone() {
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
        assert!(matches!(check(&file), Err(OpenError::NotFifo { kind: "a regular file", .. })));
        for path in [&link, &fifo, &dir.path().join("none")] {
            check(path).expect("a FIFO, or nothing");
        }
        assert_eq!(std::fs::read(&file).expect("there"), b"precious");
        assert!(matches!(hold(&dir.path().join("none")), Err(OpenError::Io { .. })));
    }

    #[test]
    fn without_a_group_a_fifo_is_private_to_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        make(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("ours");
        let fifo = hold(&path).expect("opened");
        set_owner_and_mode(&fifo, &path, None);
        assert_eq!(fifo.metadata().expect("there").mode() & 0o7777, 0o600);
    }
}
