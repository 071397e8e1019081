//! Extended attributes, of an open file or of a path whose last part is not followed. xattr(7).

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

/// Attributes that a host gives files by where they lie, or for itself.
pub const OF_THE_HOST: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
/// Attributes by which overlayfs knows what it did, and those of ours that say the same of a layer.
pub const OF_OVERLAYFS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Sets an extended attribute of what `fd` refers to. fsetxattr(2).
///
/// # Errors
/// The errno.
pub fn fsetxattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name ends with NUL, and `value` is readable for the length given; the kernel copies both.
    let ret = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// Sets an extended attribute of `path` itself, also if it is a symbolic link. lsetxattr(2).
///
/// # Errors
/// The errno.
pub fn lsetxattr(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both strings end with NUL, and `value` is readable for the length given; the kernel copies all.
    let ret = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// The names of the extended attributes of `path` itself, each with a NUL behind it. llistxattr(2).
///
/// # Errors
/// The errno.
pub fn llistxattr(path: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: the path ends with NUL, and the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::llistxattr(path.as_ptr(), to.cast(), len) })
}

/// An extended attribute of `path` itself. lgetxattr(2).
///
/// # Errors
/// The errno.
pub fn lgetxattr(path: &CStr, name: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: as above; the name ends with NUL.
    fill(|to, len| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), to.cast(), len) })
}

/// The same of what `fd` refers to. flistxattr(2).
///
/// # Errors
/// The errno.
pub fn flistxattr(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::flistxattr(fd, to.cast(), len) })
}

/// An extended attribute of what `fd` refers to. fgetxattr(2).
///
/// # Errors
/// The errno.
pub fn fgetxattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as above; the name ends with NUL.
    fill(|to, len| unsafe { libc::fgetxattr(fd, name.as_ptr(), to.cast(), len) })
}

/// Removes an extended attribute of what `fd` refers to. fremovexattr(2).
///
/// # Errors
/// The errno: `ENODATA` if it has none of that name.
pub fn fremovexattr(fd: impl AsFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL; the call keeps no pointer.
    let ret = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    Errno::result(ret).map(drop)
}

/// The same of what is at `path`, which may be a link. lremovexattr(2).
///
/// # Errors
/// As [`fremovexattr`].
pub fn lremovexattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both end with NUL; the call keeps no pointer.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// Asks for a length, then for so many bytes; again if there are more by then.
fn fill(get: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>, Errno> {
    loop {
        let len = usize::try_from(Errno::result(get(std::ptr::null_mut(), 0))?).unwrap_or(0);
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len];
        match Errno::result(get(bytes.as_mut_ptr(), len)) {
            Ok(len) => {
                bytes.truncate(usize::try_from(len).unwrap_or(0));
                return Ok(bytes);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}
