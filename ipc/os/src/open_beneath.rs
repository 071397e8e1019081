//! Opens a directory beneath another one by an untrusted path; no path leads out of the upper directory.
//!
//! Called where layers and containers' root directories are read or changed. Never follows a symbolic link.
//! openat2(2), RESOLVE_BENEATH.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens the directory `path`, whose last component must not be a symbolic link.
///
/// # Errors
/// The errno of openat(2): `ENOTDIR` or `ELOOP` if `path` is not a directory.
pub fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty())
}

/// Opens the directory `path` beneath `top` without following links. An empty `path` opens `top` a second time.
///
/// # Errors
/// The errno of openat2(2): `EXDEV` for a path that leads out of `top`, `ELOOP` for one that contains a link.
pub fn open_beneath(top: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
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
