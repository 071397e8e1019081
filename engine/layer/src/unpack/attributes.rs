//! Sets the attributes of unpacked files: owner, mode, extended attributes, times.
//!
//! Called by [`crate::unpack`] for each entry, right after its creation. Owners are numbers. If this process cannot set
//! a file's owner, it records owner and mode in an extended attribute of the file, in the form that fuse-overlayfs and
//! podman's storage read. Never changes the content of a file.

use crate::tar::{Entry, Kind};
use crate::unpack::entry::{Place, UnpackError, file, refused};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, fstat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use sampan_ipc::text;
use sampan_os::xattr;
use sampan_os::xattr::{HOST_ATTRIBUTES, OVERLAYFS_PREFIXES};
use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// The extended attribute that records a file's owner, mode and type if this process cannot set them:
/// `UID:GID:0MODE:TYPE`.
const OVERRIDE: &CStr = c"user.containers.override_stat";
/// The extended attribute with the access control list of a file. acl(5).
const ACL_ACCESS: &CStr = c"system.posix_acl_access";
/// The extended attribute with the default access control list of a directory, which new files in the directory
/// inherit. acl(5).
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";
/// The extended attribute with the SELinux label of a file. The host assigns labels by the location of files, so a
/// layer's labels are ignored; umoci and podman ignore them, too.
const LABEL: &[u8] = b"security.selinux";

/// The privilege of this process over files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// The process is root of the host: it may set every attribute.
    Root,
    /// The process is root of a user namespace: it may set owners that are mapped in the namespace, but may not create
    /// devices.
    Namespace,
    /// The process belongs to an ordinary user: this user owns all files that the process creates.
    User,
}

impl Privilege {
    /// The privilege of this process. user_namespaces(7), "uid_map".
    pub fn of_this_process() -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Privilege::User;
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        // Without /proc, assume root of the host. If this assumption is wrong, system calls fail, and no file gets
        // wrong attributes.
        match map.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
            [] | ["0", "0", "4294967295"] => Privilege::Root,
            _ => Privilege::Namespace,
        }
    }
}

/// Sets the attributes of a layer's files that this process may set.
pub(crate) struct Attributes {
    pub privilege: Privilege,
    /// Whether a directory of the layer has a default access control list, which new files in the directory inherit.
    has_default_acl: Cell<bool>,
}

impl Attributes {
    pub fn new(privilege: Privilege) -> Self {
        Attributes { privilege, has_default_acl: Cell::new(false) }
    }

    /// Sets the attributes of an open file or directory, except times.
    ///
    /// The order matters: owner, then extended attributes (chown clears capabilities), then mode (chown clears setuid),
    /// then the access control list (its mask replaces the mode's group bits, and the list may take away the right to
    /// write).
    pub fn set_attributes(&self, fd: impl AsFd, path: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        self.remove_inherited_acls(path, |name| xattr::fremovexattr(&fd, name))?;
        // Most files belong to root and were created with their final mode. One stat is cheaper than setting owner and
        // mode again.
        let created = fstat(&fd).map_err(|e| file("get the status of", path, e))?;
        let mut is_changed = false;
        let is_owned = self.set_owner(path, entry, |uid, gid| {
            is_changed = (created.st_uid, created.st_gid) != (uid.as_raw(), gid.as_raw());
            if is_changed { fchown(&fd, Some(uid), Some(gid)) } else { Ok(()) }
        })?;
        self.xattrs(path, entry, IsLast(false), |name, value| xattr::fsetxattr(&fd, name, value))?;
        let mode = self.mode(entry, is_owned);
        if mode.bits() != entry.mode & 0o7777 || !is_owned {
            let is_directory = entry.kind == Kind::Directory;
            let Entry { uid, gid, mode, .. } = entry;
            let kind = if is_directory { "dir" } else { "file" };
            let value = format!("{uid}:{gid}:0{:o}:{kind}", mode & 0o7777);
            match xattr::fsetxattr(&fd, OVERRIDE, value.as_bytes()) {
                // On a file system without extended attributes, the owner cannot be recorded.
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(file("record the owner of", path, errno)),
            }
        }
        if is_changed || created.st_mode & 0o7777 != mode.bits() {
            fchmod(&fd, mode).map_err(|e| file("set the mode of", path, e))?;
        }
        self.xattrs(path, entry, IsLast(true), |name, value| xattr::fsetxattr(&fd, name, value))
    }

    /// Removes the extended attributes that an earlier entry gave a directory. Keeps the attribute that marks an opaque
    /// directory.
    pub fn remove_xattrs(&self, directory: impl AsFd, path: &[u8]) -> Result<(), UnpackError> {
        let failed = |e| file("remove the extended attributes of", path, e);
        let list = match xattr::flistxattr(&directory) {
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            other => other.map_err(failed)?,
        };
        let is_own = |name: &&[u8]| {
            !HOST_ATTRIBUTES.contains(name) && !OVERLAYFS_PREFIXES.iter().any(|start| name.starts_with(start))
        };
        for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()).filter(is_own) {
            let Ok(name) = CString::new(name) else { continue };
            match xattr::fremovexattr(&directory, &name) {
                // EPERM: this process may not remove the attribute, so it cannot have set it either.
                Ok(()) | Err(Errno::ENODATA | Errno::EPERM) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// Removes the access control lists that a new file inherited from its directory: a file has only the lists that
    /// its entry in the layer defines.
    fn remove_inherited_acls(
        &self,
        path: &[u8],
        remove: impl Fn(&CStr) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        if !self.has_default_acl.get() {
            return Ok(());
        }
        for name in [ACL_ACCESS, ACL_DEFAULT] {
            match remove(name) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(file("remove the access control list of", path, errno)),
            }
        }
        Ok(())
    }

    /// Sets extended attributes of an entry: the access control list if `is_last`, else all other attributes. The
    /// caller calls this for the other attributes first.
    fn xattrs(
        &self,
        path: &[u8],
        entry: &Entry,
        is_last: IsLast,
        set: impl Fn(&CStr, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        let chosen = entry.xattrs.iter().filter(|(name, _)| is_last == IsLast(name == ACL_ACCESS.to_bytes()));
        for (name, value) in chosen {
            self.xattr(path, name, |name| set(name, value))?;
        }
        Ok(())
    }

    /// Sets the owner of a file; returns false if the file still belongs to this process's user.
    fn set_owner(
        &self,
        path: &[u8],
        entry: &Entry,
        chown: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
    ) -> Result<bool, UnpackError> {
        let is_root = entry.uid == 0 && entry.gid == 0;
        if self.privilege == Privilege::User {
            // A container's user namespace maps this user to root, so a file that belongs to root in the layer already
            // has the right owner.
            return Ok(is_root);
        }
        match chown(Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)) {
            Ok(()) => Ok(true),
            // The owner is not mapped in this namespace: root keeps the file.
            Err(Errno::EINVAL) if self.privilege == Privilege::Namespace => {
                log::debug!(
                    "owner {}:{} of {:?} is not mapped in the user namespace: root keeps the file",
                    entry.uid,
                    entry.gid,
                    text::path(path)
                );
                Ok(false)
            }
            Err(errno) => Err(file("set the owner of", path, errno)),
        }
    }

    /// The mode to set for an entry.
    fn mode(&self, entry: &Entry, is_owned: bool) -> Mode {
        let mut mode = Mode::from_bits_truncate(entry.mode);
        if !is_owned {
            // With the wrong owner, a setuid program would run as a user whom the layer did not intend.
            mode.remove(Mode::S_ISUID | Mode::S_ISGID);
        }
        if self.privilege == Privilege::User && entry.kind == Kind::Directory {
            // Without these bits, this process could not create the directory's entries.
            mode |= Mode::S_IRWXU;
        }
        mode
    }

    /// Sets all attributes of a file that cannot be opened: a symbolic link, device or FIFO.
    pub fn set_node_attributes(&self, at: Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(at.name);
        // The kernel allows no user.* attribute on these files, so an owner that cannot be set cannot be recorded
        // either.
        let is_owned = self.set_owner(at.path, entry, |uid, gid| {
            fchownat(at.parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        })?;
        let has_acl = entry.kind != Kind::Symlink && self.has_default_acl.get();
        let by_path = if has_acl || !entry.xattrs.is_empty() { Some(path_of(at)?) } else { None };
        if let Some(path) = &by_path {
            self.remove_inherited_acls(at.path, |name| xattr::lremovexattr(path, name))?;
            self.xattrs(at.path, entry, IsLast(false), |name, value| xattr::lsetxattr(path, name, value))?;
        }
        if entry.kind != Kind::Symlink {
            // Following a link is impossible here: this process has just created the file, and no other process can
            // enter the directory to replace the file.
            let mode = self.mode(entry, is_owned);
            fchmodat(at.parent, name, mode, FchmodatFlags::FollowSymlink)
                .map_err(|e| file("set the mode of", at.path, e))?;
        }
        if let Some(path) = &by_path {
            self.xattrs(at.path, entry, IsLast(true), |name, value| xattr::lsetxattr(path, name, value))?;
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
            // With these attributes, a layer could redirect overlayfs to other files.
            return Err(refused(path, "it has an extended attribute that is reserved for overlayfs"));
        }
        if self.privilege != Privilege::Root && name == OVERRIDE.to_bytes() {
            // A reader would mistake this attribute for the owner and mode that this process records.
            log::debug!("skipped attribute {:?} of {:?}", text::path(name), text::path(path));
            return Ok(());
        }
        if name == LABEL {
            return Ok(());
        }
        let Ok(c_name) = CString::new(name) else {
            return Ok(());
        };
        match set(&c_name) {
            Ok(()) => {
                self.has_default_acl.set(self.has_default_acl.get() || *c_name == *ACL_DEFAULT);
                Ok(())
            }
            // The access control list names a user or group that is not mapped in this namespace.
            Err(Errno::EINVAL)
                if self.privilege == Privilege::Namespace
                    && [ACL_ACCESS, ACL_DEFAULT].contains(&&*c_name) =>
            {
                log::debug!(
                    "skipped the access control list of {:?}: it names an ID that is not mapped in the user namespace",
                    text::path(path)
                );
                Ok(())
            }
            Err(Errno::EPERM) if self.privilege != Privilege::Root || name.starts_with(b"user.") => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                log::debug!(
                    "skipped attribute {:?} of {:?}: the file system does not support it",
                    text::path(name),
                    text::path(path)
                );
                Ok(())
            }
            Err(errno) => Err(file("set an extended attribute of", path, errno)),
        }
    }
}

/// Whether to set the access control list, which is set last, or the other extended attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct IsLast(bool);

/// A path to the file at `at`, through the descriptor of its parent directory, for system calls that take only paths.
fn path_of(at: Place<'_>) -> Result<CString, UnpackError> {
    let below = format!("/proc/self/fd/{}/", at.parent.as_raw_fd());
    CString::new([below.as_bytes(), at.name].concat())
        .map_err(|_| refused(at.path, "it has a zero byte in its name"))
}

/// The access time and the modification time for a file: both are the tar's modification time.
pub(crate) fn times((seconds, nanos): (i64, u32)) -> (TimeSpec, TimeSpec) {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    (time, time)
}
