//! Where a layer's entry is made, and what can go wrong there.
//!
//! Below [`crate::unpack`] and [`crate::attributes`], which share it, and all that walks through layers later.

use crate::tarball::TarError;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name leads out of the layer, or cannot stand in a file system.
    #[error("layer entry {path:?} is refused: {why}")]
    Refused {
        /// The name.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The file system refuses.
    #[error("cannot {doing} layer entry {path:?}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The name.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The process that unpacks in a user namespace says so.
    #[error("{0}")]
    Elsewhere(String),
}

/// Where an entry is made.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The directory.
    pub parent: &'a OwnedFd,
    /// Its name there.
    pub name: &'a [u8],
    /// For messages.
    pub path: &'a [u8],
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..200).unwrap_or(path)).into_owned()
}

pub(crate) fn refused(path: &[u8], why: &'static str) -> UnpackError {
    UnpackError::Refused { path: lossy(path), why }
}

pub(crate) fn file(doing: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    UnpackError::File { doing, path: lossy(path), source: errno.into() }
}

/// Opens a layer's root.
pub(crate) fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty())
}

/// Opens the directory `path` beneath `top`, or `top` once more if it is empty; follows no link.
pub(crate) fn open_beneath(top: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let path = if path.is_empty() { b".".as_slice() } else { path };
    loop {
        match openat2(top, OsStr::from_bytes(path), how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}
