//! What an unpacked file has besides its content: owner, mode, extended attributes, times.
//!
//! Called by [`crate::unpack`] for each entry, right after it was made. Owners are numbers. Where a file cannot be
//! given to its owner, owner and mode are written down beside it, in the form that fuse-overlayfs and podman's
//! storage read.

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

/// Where owner, mode and kind of a file are written down that cannot have them: `UID:GID:0MODE:KIND`.
const OVERRIDE: &CStr = c"user.containers.override_stat";
/// Access control lists. acl(5).
const ACL_ACCESS: &CStr = c"system.posix_acl_access";
/// What a directory gives those that are made in it.
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";
/// A label is the host's to give, by where a file lies. umoci and podman leave it out as well.
const LABEL: &[u8] = b"security.selinux";

/// What this process may do to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Root of the host: all.
    Root,
    /// Root of a user namespace: give files to owners that are mapped there; make no devices.
    Namespace,
    /// An ordinary user: own all files.
    User,
}

impl Standing {
    /// That of this process. user_namespaces(7), "uid_map".
    pub fn of_this_process() -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Standing::User;
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        // Without /proc there is no telling; a root that is none gets errors then, no wrong files.
        match map.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
            [] | ["0", "0", "4294967295"] => Standing::Root,
            _ => Standing::Namespace,
        }
    }
}

/// Sets attributes, as far as this process may.
pub(crate) struct Attributes {
    /// How far that is.
    pub standing: Standing,
    /// A directory of the layer has a default list, which what is made in it would inherit.
    has_default_acl: Cell<bool>,
}

impl Attributes {
    /// For a process of this standing, and an empty layer.
    pub fn new(standing: Standing) -> Self {
        Attributes { standing, has_default_acl: Cell::new(false) }
    }

    /// Owner, then extended attributes (chown clears capabilities), then mode (chown clears setuid), then the access
    /// control list: its mask is the mode's group, and it may be set without a right to write.
    pub fn set_attributes(&self, fd: impl AsFd, path: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        self.disinherit(path, |name| xattr::fremovexattr(&fd, name))?;
        // Most files are root's and were made with their mode: to look is cheaper than to set it again.
        let made = fstat(&fd).map_err(|e| file("look at", path, e))?;
        let mut is_given = false;
        let is_owned = self.give(path, entry, |uid, gid| {
            is_given = (made.st_uid, made.st_gid) != (uid.as_raw(), gid.as_raw());
            if is_given { fchown(&fd, Some(uid), Some(gid)) } else { Ok(()) }
        })?;
        self.xattrs(path, entry, IsLast(false), |name, value| xattr::fsetxattr(&fd, name, value))?;
        let mode = self.mode(entry, is_owned);
        if mode.bits() != entry.mode & 0o7777 || !is_owned {
            let is_directory = entry.kind == Kind::Directory;
            let Entry { uid, gid, mode, .. } = entry;
            let kind = if is_directory { "dir" } else { "file" };
            let value = format!("{uid}:{gid}:0{:o}:{kind}", mode & 0o7777);
            match xattr::fsetxattr(&fd, OVERRIDE, value.as_bytes()) {
                // A file system without extended attributes holds what it can.
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(file("write down the owner of", path, errno)),
            }
        }
        if is_given || made.st_mode & 0o7777 != mode.bits() {
            fchmod(&fd, mode).map_err(|e| file("set the mode of", path, e))?;
        }
        self.xattrs(path, entry, IsLast(true), |name, value| xattr::fsetxattr(&fd, name, value))
    }

    /// Takes away what an earlier entry of the same directory gave it, but for what says that it is opaque.
    pub fn forget(&self, directory: impl AsFd, path: &[u8]) -> Result<(), UnpackError> {
        let failed = |e| file("take the extended attributes of", path, e);
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
                // What this process may not take it did not give.
                Ok(()) | Err(Errno::ENODATA | Errno::EPERM) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// Takes away the lists that a new file has from its directory: the layer says what it has.
    fn disinherit(
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
                Err(errno) => return Err(file("take the access control list of", path, errno)),
            }
        }
        Ok(())
    }

    /// Sets the extended attributes of an entry: all but the access control list, or that one, which is the last.
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

    /// Gives a file to its owner; false if it stays this process's.
    fn give(
        &self,
        path: &[u8],
        entry: &Entry,
        chown: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
    ) -> Result<bool, UnpackError> {
        let is_root = entry.uid == 0 && entry.gid == 0;
        if self.standing == Standing::User {
            // Whoever enters a namespace later is root there, and the owner of these files.
            return Ok(is_root);
        }
        match chown(Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)) {
            Ok(()) => Ok(true),
            // Not mapped in this namespace: it stays root's.
            Err(Errno::EINVAL) if self.standing == Standing::Namespace => {
                log::debug!("owner {}:{} of {:?} is not mapped here", entry.uid, entry.gid, text::path(path));
                Ok(false)
            }
            Err(errno) => Err(file("set the owner of", path, errno)),
        }
    }

    /// The mode that a file gets.
    fn mode(&self, entry: &Entry, is_owned: bool) -> Mode {
        let mut mode = Mode::from_bits_truncate(entry.mode);
        if !is_owned {
            // Or it would run as someone whom its owner did not mean.
            mode.remove(Mode::S_ISUID | Mode::S_ISGID);
        }
        if self.standing == Standing::User && entry.kind == Kind::Directory {
            // Or we could make nothing in it.
            mode |= Mode::S_IRWXU;
        }
        mode
    }

    /// The same for what cannot be opened: links, devices, FIFOs.
    pub fn set_node_attributes(&self, at: Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(at.name);
        // Links, devices and FIFOs can have no user.* attribute: an owner that cannot be given is lost.
        let is_owned = self.give(at.path, entry, |uid, gid| {
            fchownat(at.parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        })?;
        let has_list = entry.kind != Kind::Symlink && self.has_default_acl.get();
        let by_path = if has_list || !entry.xattrs.is_empty() { Some(path_of(at)?) } else { None };
        if let Some(path) = &by_path {
            self.disinherit(at.path, |name| xattr::lremovexattr(path, name))?;
            self.xattrs(at.path, entry, IsLast(false), |name, value| xattr::lsetxattr(path, name, value))?;
        }
        if entry.kind != Kind::Symlink {
            // O_EXCL-like safety comes from our having just made it: nobody else can enter the directory.
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
            // These would let a layer redirect overlayfs to other files.
            return Err(refused(path, "it has an extended attribute of overlayfs's own"));
        }
        if self.standing != Standing::Root && name == OVERRIDE.to_bytes() {
            // It would be taken for what we write down ourselves.
            log::debug!("attribute {:?} of {:?} is passed over", text::path(name), text::path(path));
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
            // It names someone who is not mapped in this namespace, as an owner may be.
            Err(Errno::EINVAL)
                if self.standing == Standing::Namespace && [ACL_ACCESS, ACL_DEFAULT].contains(&&*c_name) =>
            {
                log::debug!("the access control list of {:?} is not mapped here", text::path(path));
                Ok(())
            }
            Err(Errno::EPERM) if self.standing != Standing::Root || name.starts_with(b"user.") => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                log::debug!(
                    "attribute {:?} of {:?} is not supported here",
                    text::path(name),
                    text::path(path)
                );
                Ok(())
            }
            Err(errno) => Err(file("set an extended attribute of", path, errno)),
        }
    }
}

/// True for the attribute that is set last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct IsLast(bool);

/// The path by which what was made at `at` is found without being opened.
fn path_of(at: Place<'_>) -> Result<CString, UnpackError> {
    let below = format!("/proc/self/fd/{}/", at.parent.as_raw_fd());
    CString::new([below.as_bytes(), at.name].concat())
        .map_err(|_| refused(at.path, "it has a zero byte in its name"))
}

/// A modification time, as access time too.
pub(crate) fn times((seconds, nanos): (i64, u32)) -> (TimeSpec, TimeSpec) {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    (time, time)
}
