//! Extended attributes of an open file, or of a path without following a link in its last component. xattr(7).
//!
//! Called where layers and files are unpacked, compared and copied. Interprets no value.

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

/// Attributes that belong to the host: it labels or signs files by their location. They are never copied.
pub const HOST_ATTRIBUTES: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
/// Prefixes of the attributes in which overlayfs keeps its own state, such as opaque directories.
pub const OVERLAYFS_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Sets an extended attribute of the open file `fd`. fsetxattr(2).
///
/// # Errors
/// The errno of fsetxattr(2).
pub fn fsetxattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name ends with NUL, and `value` is readable for the given length; the kernel copies both.
    let ret = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// Sets an extended attribute of `path` itself, even if it is a symbolic link. lsetxattr(2).
///
/// # Errors
/// The errno of lsetxattr(2).
pub fn lsetxattr(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both strings end with NUL, and `value` is readable for the given length; the kernel copies all three.
    let ret = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// The names of the extended attributes of `path` itself, each followed by a NUL. llistxattr(2).
///
/// # Errors
/// The errno of llistxattr(2); `EOPNOTSUPP` if the file system has no extended attributes.
pub fn llistxattr(path: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: the path ends with NUL, and the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::llistxattr(path.as_ptr(), to.cast(), len) })
}

/// The value of an extended attribute of `path` itself. lgetxattr(2).
///
/// # Errors
/// The errno of lgetxattr(2); `ENODATA` if `path` does not have the attribute.
pub fn lgetxattr(path: &CStr, name: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: both strings end with NUL, and the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), to.cast(), len) })
}

/// The names of the extended attributes of the open file `fd`, each followed by a NUL. flistxattr(2).
///
/// # Errors
/// The errno of flistxattr(2); `EOPNOTSUPP` if the file system has no extended attributes.
pub fn flistxattr(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::flistxattr(fd, to.cast(), len) })
}

/// The value of an extended attribute of the open file `fd`. fgetxattr(2).
///
/// # Errors
/// The errno of fgetxattr(2); `ENODATA` if the file does not have the attribute.
pub fn fgetxattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name ends with NUL, and the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::fgetxattr(fd, name.as_ptr(), to.cast(), len) })
}

/// Removes an extended attribute of the open file `fd`. fremovexattr(2).
///
/// # Errors
/// The errno of fremovexattr(2); `ENODATA` if the file does not have the attribute.
pub fn fremovexattr(fd: impl AsFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL; the call keeps no pointer.
    let ret = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    Errno::result(ret).map(drop)
}

/// Removes an extended attribute of `path` itself, even if it is a symbolic link. lremovexattr(2).
///
/// # Errors
/// The errno of lremovexattr(2); `ENODATA` if `path` does not have the attribute.
pub fn lremovexattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings end with NUL; the call keeps no pointer.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// Calls `get` for the length, then for the bytes; starts again if the value has grown in between (`ERANGE`).
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
