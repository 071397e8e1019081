//! What an unpacked file has besides its content: owner, mode, extended attributes, times.
//!
//! Called by [`crate::unpack`] for each entry, right after it was made. Owners are numbers.

use crate::place::{Place, UnpackError, file, lossy, refused};
use crate::sys;
use crate::tarball::{Entry, Kind};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// Sets attributes, as far as this process may.
pub(crate) struct Attributes {
    /// True for root, who may give files away and make devices.
    pub privileged: bool,
}

impl Attributes {
    /// Owner, then extended attributes (chown clears capabilities), then mode (chown clears setuid).
    pub fn set_attributes(&self, fd: impl AsFd, path: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(&fd, Some(uid), Some(gid)).map_err(|e| file("set the owner of", path, e))?;
        } else if entry.uid != 0 || entry.gid != 0 {
            let owner = format!("{}:{}", entry.uid, entry.gid);
            let _ = sys::fsetxattr(&fd, c"user.sampan.owner", owner.as_bytes());
        }
        for (name, value) in &entry.xattrs {
            self.xattr(path, name, |name| sys::fsetxattr(&fd, name, value))?;
        }
        let mut mode = Mode::from_bits_truncate(entry.mode);
        if !self.privileged && entry.kind == Kind::Directory {
            // Or we could make nothing in it.
            mode |= Mode::S_IRWXU;
        }
        fchmod(&fd, mode).map_err(|e| file("set the mode of", path, e))
    }

    /// The same for what cannot be opened: links, devices, FIFOs.
    pub fn set_node_attributes(&self, at: Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(at.name);
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchownat(at.parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|e| file("set the owner of", at.path, e))?;
        }
        if !entry.xattrs.is_empty() {
            let below = format!("/proc/self/fd/{}/", at.parent.as_raw_fd());
            let path = CString::new([below.as_bytes(), at.name].concat())
                .map_err(|_| refused(at.path, "it has a zero byte in its name"))?;
            for (name, value) in &entry.xattrs {
                self.xattr(at.path, name, |name| sys::lsetxattr(&path, name, value))?;
            }
        }
        if entry.kind != Kind::Symlink {
            // O_EXCL-like safety comes from our having just made it: nobody else can enter the directory.
            let mode = Mode::from_bits_truncate(entry.mode);
            fchmodat(at.parent, name, mode, FchmodatFlags::FollowSymlink)
                .map_err(|e| file("set the mode of", at.path, e))?;
        }
        let (atime, mtime) = times(entry.mtime);
        utimensat(at.parent, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            .map_err(|e| file("set the time of", at.path, e))
    }

    fn xattr(
        &self,
        path: &[u8],
        name: &[u8],
        set: impl Fn(&CStr) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        let reserved = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        if reserved {
            // These would let a layer redirect overlayfs to other files.
            return Err(refused(path, "it has an extended attribute of overlayfs's own"));
        }
        let Ok(c_name) = CString::new(name) else {
            return Ok(());
        };
        match set(&c_name) {
            Ok(()) => Ok(()),
            Err(Errno::EPERM) if !self.privileged || name.starts_with(b"user.") => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                log::debug!("attribute {:?} of {:?} is not supported here", lossy(name), lossy(path));
                Ok(())
            }
            Err(errno) => Err(file("set an extended attribute of", path, errno)),
        }
    }
}

/// A modification time, as access time too.
pub(crate) fn times((seconds, nanos): (i64, u32)) -> (TimeSpec, TimeSpec) {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    (time, time)
}
