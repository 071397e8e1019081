//! Unpacks a layer's tar into a directory, in the form that overlayfs wants, and never outside of it.
//!
//! A parent directory is found from the last one, a component at a time and following nothing, or, where links are on
//! the way, by openat2 with the layer's root as root (RESOLVE_IN_ROOT): so `..`, absolute names and symbolic links of
//! the layer lead nowhere else. The last name is then made there with `O_EXCL` or an `*at` call that follows nothing. OCI image-spec, "Image Layer Filesystem Changeset". Owners are numbers:
//! names of users and groups are never looked up. Directories that a layer does not name are listed beside the
//! root, for [`crate::implied`]. Called by [`crate::pipeline`]; removes nothing on failure, the caller's directory
//! is private and thrown away whole.

use crate::attributes::{Attributes, Standing, times};
use crate::implied::{self, Implied, Way};
use crate::place::{Place, UnpackError, file, lossy, refused};
use crate::sys;
use crate::tarball::{Entry, Kind, TarError, Tarball};
use crate::tree;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, futimens, makedev, mkdirat, mknodat, utimensat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// Longest name of an entry, in bytes: PATH_MAX.
const PATH_MAX: usize = 4096;
/// Most bytes that the directories of a layer are remembered in, whose times are set in the end: half a million
/// with usual names. More is a hostile layer.
const DIRECTORIES_MAX: usize = 64 << 20;
/// What each of them costs beside its name.
const DIRECTORY_COST: usize = size_of::<Dated>() + 16;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries made.
    pub entries: u64,
    /// Entries passed over: of an unknown type, or devices that an ordinary user may not make.
    pub skipped: u64,
}

/// Unpacks the tar that `from` gives into the directory `root`, which exists and is empty.
///
/// Reads up to the tar's end mark and not beyond it; gives `from` back. Makes [`implied::LIST`] beside `root`.
///
/// # Errors
/// [`UnpackError`] names the entry.
pub fn unpack<R: BufRead>(from: R, root: &Path) -> Result<(Unpacked, R), UnpackError> {
    let mut tarball = Tarball::new(from);
    let mut unpacker = Unpacker::open(root)?;
    let mut count = Unpacked::default();
    while let Some(entry) = tarball.next_entry()? {
        match unpacker.entry(&entry, &mut tarball)? {
            true => count.entries += 1,
            false => count.skipped += 1,
        }
    }
    unpacker.finish(&root.with_file_name(implied::LIST))?;
    Ok((count, tarball.into_inner()))
}

/// Most directories that are kept open at a time, and most that are opened one after the other for one entry.
const TRAIL_MAX: usize = 32;
/// How directories of the layer are opened: nothing is followed.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// True if the directory `path` is the parent of `below`, or further up.
fn is_above(path: &[u8], below: &[u8]) -> bool {
    below.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
}

/// A directory, and its modification time.
type Dated = (Box<[u8]>, (i64, u32));

/// A directory that is open.
#[derive(Clone)]
struct Opened {
    fd: Rc<OwnedFd>,
    /// No link is on the way to it.
    is_real: bool,
}

struct Unpacker {
    root: Opened,
    owner: Attributes,
    /// The directories on the way to where the last entry was made, outermost first: the next one is near.
    trail: Vec<(Vec<u8>, Opened)>,
    /// Something was removed, to make a later entry: what was made once may be there no more.
    replaced: bool,
    /// A whiteout was made.
    hides: bool,
    /// Times of directories, set in the end: making a file in one changes them.
    directories: Vec<Dated>,
    /// Bytes that those take.
    remembered: usize,
    implied: Implied,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn open(root: &Path) -> Result<Self, UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            openat(AT_FDCWD, root, flags, Mode::empty()).map_err(|e| file("open the root of", b"", e))?;
        let mut implied = Implied::default();
        let mut way = Way::begin(Vec::new(), 0);
        implied.made(&root, &mut way).map_err(|e| file("look at the root of", b"", e))?;
        implied.way(way);
        let buffer = vec![0; 64 << 10];
        Ok(Unpacker {
            root: Opened { fd: Rc::new(root), is_real: true },
            owner: Attributes::new(Standing::of_this_process()),
            hides: false,
            trail: Vec::new(),
            replaced: false,
            directories: Vec::new(),
            remembered: 0,
            implied,
            buffer,
        })
    }

    /// Makes one entry; false if it was passed over.
    fn entry<R: BufRead>(&mut self, entry: &Entry, tarball: &mut Tarball<R>) -> Result<bool, UnpackError> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return self.root(entry).map(|()| true);
        }
        let (parent_path, name) = split(&path);
        let Opened { fd: parent, is_real } = self.enter(parent_path)?;
        if name == OPAQUE {
            self.opaque(&parent, &path)?;
            return Ok(true);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.whiteout(&parent, hidden, &path)?;
            return Ok(true);
        }
        let at = Place { parent: &parent, name, path: &path };
        match entry.kind {
            Kind::Regular => self.regular(at, entry, tarball)?,
            Kind::Directory => {
                self.directory(at, is_real, entry)?;
                self.note_directory(path, entry.mtime)?;
            }
            Kind::HardLink => self.hard_link(at, entry)?,
            Kind::Symlink => {
                if entry.link.contains(&0) {
                    return Err(refused(&path, "it is a symbolic link with a zero byte in its target"));
                }
                let make = || symlinkat(OsStr::from_bytes(&entry.link), &*parent, OsStr::from_bytes(name));
                self.replacing(at, "make", make)?;
                self.owner.set_node_attributes(at, entry)?;
            }
            Kind::Fifo | Kind::Char | Kind::Block => return self.node(at, entry),
            Kind::Unknown(kind) => {
                log::debug!("layer entry {:?} of unknown type {kind} is passed over", lossy(&path));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `./`: the layer's root itself.
    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(&entry.path, "it is called like the layer's root, and is no directory"));
        }
        let root = Rc::clone(&self.root.fd);
        self.owner.forget(&*root, b"")?;
        self.owner.set_attributes(&*root, b"", entry)?;
        self.implied.has_entry(&root).map_err(|e| file("look at", b"", e))?;
        self.note_directory(Vec::new(), entry.mtime)
    }

    /// The directory `path` beneath the root; makes what is missing on the way.
    fn enter(&mut self, path: &[u8]) -> Result<Opened, UnpackError> {
        while let Some((known, opened)) = self.trail.last() {
            if known == path {
                return Ok(opened.clone());
            }
            if is_above(known, path) {
                break;
            }
            self.trail.pop();
        }
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        match self.walk(path)? {
            Some(opened) => Ok(opened),
            None => self.go_around(path),
        }
    }

    /// The directory `path`, from the last one of the trail on; `None` if something else than directories is on the
    /// way, or too many of them are. What is missing is made, if nothing is in the way.
    fn walk(&mut self, path: &[u8]) -> Result<Option<Opened>, UnpackError> {
        let (known, mut at) = match self.trail.last() {
            Some((known, opened)) => (known.len() + 1, opened.clone()),
            None => (0, self.root.clone()),
        };
        let ends: Vec<usize> =
            (known + 1..=path.len()).filter(|end| path.get(*end).is_none_or(|b| *b == b'/')).collect();
        if ends.len() > TRAIL_MAX {
            return Ok(None);
        }
        let (mut way, mut start) = (None, known);
        for end in ends {
            let (prefix, name) = (path.get(..end).unwrap_or(path), path.get(start..end).unwrap_or_default());
            start = end + 1;
            let fd = match openat(&*at.fd, OsStr::from_bytes(name), DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    let way = way.get_or_insert_with(|| self.way(&at, prefix, path));
                    self.make_implied(&at.fd, name, path, way)?
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    way.into_iter().for_each(|way| self.implied.way(way));
                    return Ok(None);
                }
                Err(errno) => return Err(file("open the directory of", path, errno)),
            };
            at = self.remember(prefix, fd, at.is_real);
        }
        way.into_iter().for_each(|way| self.implied.way(way));
        Ok(Some(at))
    }

    /// Makes a directory that has no entry, or none yet.
    fn make_implied(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        way: &mut Way,
    ) -> Result<OwnedFd, UnpackError> {
        let name = OsStr::from_bytes(name);
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))
            .and_then(|()| openat(parent, name, DIRECTORY, Mode::empty()))
            .and_then(|made| self.implied.made(&made, way).map(|()| made))
            .map_err(|e| file("make the directory of", path, e))
    }

    /// The directory `path`, where links or whiteouts are on the way.
    fn go_around(&mut self, path: &[u8]) -> Result<Opened, UnpackError> {
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parents(path)?,
            Err(errno) => return Err(file("open the directory of", path, errno)),
        };
        Ok(self.remember(path, fd, false))
    }

    /// Keeps a directory in mind for the entries that come next.
    fn remember(&mut self, path: &[u8], fd: OwnedFd, is_real: bool) -> Opened {
        let opened = Opened { fd: Rc::new(fd), is_real };
        while self.trail.last().is_some_and(|(known, _)| !is_above(known, path)) {
            self.trail.pop();
        }
        if self.trail.len() < TRAIL_MAX {
            self.trail.push((path.to_vec(), opened.clone()));
        }
        opened
    }

    fn resolve(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { b".".as_slice() } else { path };
        loop {
            // EAGAIN: something was renamed meanwhile, and the kernel could not prove that we stay beneath.
            match openat2(&*self.root.fd, OsStr::from_bytes(path), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut ends: Vec<usize> =
            path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).collect();
        ends.push(path.len());
        let top = self.resolve(b"", flags).map_err(|e| file("open the directory of", path, e))?;
        let mut above = Opened { fd: Rc::new(top), is_real: false };
        let mut way: Option<Way> = None;
        for end in ends {
            let prefix = path.get(..end).unwrap_or(path);
            let (_, name) = split(prefix);
            let fd = match self.resolve(prefix, flags) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    if fstatat(&*above.fd, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                        return Err(refused(
                            path,
                            "its parent is a symbolic link that leads nowhere in the layer",
                        ));
                    }
                    self.check_depth(Place { parent: &above.fd, name, path })?;
                    let way = way.get_or_insert_with(|| self.way(&above, prefix, path));
                    self.make_implied(&above.fd, name, path, way)?
                }
                Err(Errno::ENOTDIR) => {
                    if !is_whiteout(&above.fd, name) {
                        return Err(refused(path, "its parent is no directory"));
                    }
                    let made = self.instead_of_whiteout(&above.fd, name, path)?;
                    // What lower layers have there is gone: it is none of theirs.
                    self.note_directory(prefix.to_vec(), (0, 0))?;
                    way.iter_mut().for_each(Way::pass);
                    made
                }
                Err(errno) => return Err(file("open the directory of", path, errno)),
            };
            above = Opened { fd: Rc::new(fd), is_real: false };
        }
        way.into_iter().for_each(|way| self.implied.way(way));
        Ok(Rc::into_inner(above.fd).expect("nobody else was given it"))
    }

    /// The way to `path`, where all from `prefix` on is made now, in `above`.
    fn way(&self, above: &Opened, prefix: &[u8], path: &[u8]) -> Way {
        if above.is_real {
            return Way::begin(path.to_vec(), prefix.len());
        }
        let (parent, name) = split(prefix);
        let mut way = implied::real_path(&self.root.fd, &above.fd).unwrap_or_else(|| parent.to_vec());
        if !way.is_empty() {
            way.push(b'/');
        }
        way.extend_from_slice(name);
        let first = way.len();
        way.extend_from_slice(path.get(prefix.len()..).unwrap_or_default());
        Way::begin(way, first)
    }

    /// Calls `make`; if something has the name already, removes that and calls again: later entries win.
    fn replacing<T>(
        &mut self,
        at: Place<'_>,
        doing: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(|e| file(doing, at.path, e)),
        }
        // What was known of a directory may be of the one that goes now.
        self.trail.clear();
        self.replaced = true;
        tree::remove_at(at.parent.as_fd(), OsStr::from_bytes(at.name))
            .map_err(|source| UnpackError::File { doing: "replace", path: lossy(at.path), source })?;
        make().map_err(|e| file(doing, at.path, e))
    }

    fn regular<R: BufRead>(
        &mut self,
        at: Place<'_>,
        entry: &Entry,
        tarball: &mut Tarball<R>,
    ) -> Result<(), UnpackError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Nobody else can enter `layers`: root may make a file with its mode before it has its owner. Setuid it gets
        // last. Others may have to write to it by its mode.
        let mode = match self.owner.standing {
            Standing::Root => Mode::from_bits_truncate(entry.mode & 0o777),
            Standing::Namespace | Standing::User => Mode::S_IRUSR | Mode::S_IWUSR,
        };
        let open = || openat(at.parent, OsStr::from_bytes(at.name), flags, mode);
        let to = File::from(self.replacing(at, "make", open)?);
        let io = |source| UnpackError::File { doing: "write", path: lossy(at.path), source };
        match &entry.sparse {
            None => loop {
                let part = tarball.content()?;
                let len = part.len();
                if len == 0 {
                    break;
                }
                (&to).write_all(part).map_err(io)?;
                tarball.consume_content(len);
            },
            Some(map) => {
                to.set_len(entry.size).map_err(io)?;
                for (offset, len) in map {
                    self.stretch(&to, *offset, *len, tarball, at.path)?;
                }
            }
        }
        self.owner.set_attributes(&to, at.path, entry)?;
        let (atime, mtime) = times(entry.mtime);
        futimens(&to, &atime, &mtime).map_err(|e| file("set the time of", at.path, e))
    }

    fn stretch<R: BufRead>(
        &mut self,
        to: &File,
        offset: u64,
        len: u64,
        tarball: &mut Tarball<R>,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let mut done = 0;
        while done < len {
            let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = tarball.read_content(self.buffer.get_mut(..want).unwrap_or_default())?;
            if got == 0 {
                return Err(TarError::Truncated.into());
            }
            to.write_all_at(self.buffer.get(..got).unwrap_or_default(), offset + done)
                .map_err(|source| UnpackError::File { doing: "write", path: lossy(path), source })?;
            done += got as u64;
        }
        Ok(())
    }

    fn directory(&mut self, at: Place<'_>, is_real: bool, entry: &Entry) -> Result<(), UnpackError> {
        if !is_real {
            self.check_depth(at)?;
        }
        let name = OsStr::from_bytes(at.name);
        let make = || mkdirat(at.parent, name, Mode::S_IRWXU);
        let open = || openat(at.parent, name, DIRECTORY, Mode::empty());
        let fd = match make() {
            Ok(()) => open(),
            Err(Errno::EEXIST) if is_whiteout(at.parent, at.name) => {
                Ok(self.instead_of_whiteout(at.parent, at.name, at.path)?)
            }
            // A directory over a directory is the same one with other attributes.
            Err(Errno::EEXIST) => match open() {
                Err(Errno::ENOTDIR | Errno::ELOOP) => self.replacing(at, "make", make).map(|()| open())?,
                Ok(there) => self.owner.forget(&there, at.path).map(|()| Ok(there))?,
                other => other,
            },
            Err(errno) => Err(errno),
        };
        let fd = fd.map_err(|e| file("make", at.path, e))?;
        self.implied.has_entry(&fd).map_err(|e| file("look at", at.path, e))?;
        self.owner.set_attributes(&fd, at.path, entry)?;
        self.remember(at.path, fd, is_real);
        Ok(())
    }

    /// Refuses a directory that links of the layer have led so deep that nobody finds it by its path.
    fn check_depth(&self, at: Place<'_>) -> Result<(), UnpackError> {
        let is_short = |path: Vec<u8>| path.len() + 1 + at.name.len() < PATH_MAX;
        match implied::real_path(&self.root.fd, at.parent).is_some_and(is_short) {
            true => Ok(()),
            false => Err(refused(at.path, "its path, without links, is longer than 4095 bytes")),
        }
    }

    fn hard_link(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let target = clean(&entry.link)?;
        if target.is_empty() || target == at.path {
            return Err(refused(at.path, "it is a hard link to the layer's root or to itself"));
        }
        let (parent_path, name) = split(&target);
        let parent = match self.resolve(parent_path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                return Err(refused(at.path, "it is a hard link to a file that is not in the layer"));
            }
            Err(errno) => return Err(file("find the target of", at.path, errno)),
        };
        if self.hides && is_whiteout(&parent, name) {
            return Err(refused(at.path, "it is a hard link to a file that the layer hides"));
        }
        // No AT_SYMLINK_FOLLOW: a link to a symbolic link is one more name of the link itself.
        let name = OsStr::from_bytes(name);
        let make = || linkat(&parent, name, at.parent, OsStr::from_bytes(at.name), AtFlags::empty());
        match self.replacing(at, "link", make) {
            Err(UnpackError::File { source, .. }) if source.raw_os_error() == Some(Errno::ENOENT as i32) => {
                Err(refused(at.path, "it is a hard link to a file that is not in the layer"))
            }
            other => other,
        }
    }

    fn node(&mut self, at: Place<'_>, entry: &Entry) -> Result<bool, UnpackError> {
        let (kind, device) = match entry.kind {
            Kind::Char => (SFlag::S_IFCHR, makedev(entry.device.0.into(), entry.device.1.into())),
            Kind::Block => (SFlag::S_IFBLK, makedev(entry.device.0.into(), entry.device.1.into())),
            _ => (SFlag::S_IFIFO, 0),
        };
        // A device 0:0 would be a whiteout for overlayfs; the tar's way to say that is another.
        if kind == SFlag::S_IFCHR && device == 0 {
            return Err(refused(
                at.path,
                "it is a character device 0:0, which overlayfs reads as a whiteout",
            ));
        }
        let name = OsStr::from_bytes(at.name);
        let made = self
            .replacing(at, "make", || mknodat(at.parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device));
        match made {
            Err(UnpackError::File { source, .. })
                if source.raw_os_error() == Some(Errno::EPERM as i32) && kind != SFlag::S_IFIFO =>
            {
                log::debug!("device {:?} is passed over: not permitted", lossy(at.path));
                return Ok(false);
            }
            other => other?,
        }
        self.owner.set_node_attributes(at, entry)?;
        Ok(true)
    }

    /// Marks that the directory hides all that lower layers have in it.
    fn opaque(&mut self, parent: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
        // In a user namespace overlayfs reads this one, if it is mounted with `userxattr`.
        let is_root = self.owner.standing == Standing::Root;
        let name = if is_root { c"trusted.overlay.opaque" } else { c"user.overlay.opaque" };
        sys::fsetxattr(parent, name, b"y").map_err(|e| file("make opaque the directory of", path, e))
    }

    /// Marks that `hidden` of lower layers is gone: a character device 0:0, which anyone may make since Linux 5.8.
    fn whiteout(&mut self, parent: &OwnedFd, hidden: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(path, "it is a whiteout of no name"));
        }
        if hidden.starts_with(b".wh.") {
            // Other reserved names (aufs wrote `.wh..wh.plnk`) mean nothing to overlayfs.
            return Ok(());
        }
        self.hides = true;
        let at = Place { parent, name: hidden, path };
        let make =
            || mknodat(parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0));
        match make() {
            Ok(()) => Ok(()),
            // What this same layer put there stays: a whiteout speaks of lower layers. A directory must then
            // hide theirs of the same name.
            Err(Errno::EEXIST) => match openat(parent, OsStr::from_bytes(hidden), DIRECTORY, Mode::empty()) {
                Ok(directory) => self.opaque(&directory, path),
                Err(_) => Ok(()),
            },
            Err(errno) => Err(file("make the whiteout", at.path, errno)),
        }
    }

    /// Makes a directory where this layer hid one of lower layers: it hides all that was in that one.
    fn instead_of_whiteout(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let name = OsStr::from_bytes(name);
        let made = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
            .and_then(|()| mkdirat(parent, name, Mode::from_bits_truncate(0o755)))
            .and_then(|()| openat(parent, name, DIRECTORY, Mode::empty()));
        let directory = made.map_err(|e| file("make", path, e))?;
        self.opaque(&directory, path)?;
        Ok(directory)
    }

    fn note_directory(&mut self, path: Vec<u8>, mtime: (i64, u32)) -> Result<(), UnpackError> {
        // The same one again, as some writers have `./` before each of its files: the last word counts.
        if let Some((last, time)) = self.directories.last_mut()
            && **last == *path
        {
            *time = mtime;
            return Ok(());
        }
        self.remembered += path.len() + DIRECTORY_COST;
        if self.remembered > DIRECTORIES_MAX {
            return Err(refused(&path, "the layer has too many directories"));
        }
        self.directories.push((path.into_boxed_slice(), mtime));
        Ok(())
    }

    /// Sets times of directories, and writes the list of those that have no entry.
    fn finish(mut self, list: &Path) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.directories) {
            let set = if self.replaced {
                self.set_time_if_there(&path, mtime)
            } else {
                self.set_time(&path, mtime)
            };
            set?;
        }
        let failed =
            |source| UnpackError::File { doing: "list what is missing of", path: lossy(b""), source };
        self.implied.write(&self.root.fd, list, self.replaced).map_err(failed)
    }

    /// Sets the time of a directory that is there for sure.
    fn set_time(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<(), UnpackError> {
        let (parent, name) = split(path);
        let parent = self.enter(parent)?.fd;
        let name = if name.is_empty() { b".".as_slice() } else { name };
        let (atime, mtime) = times(mtime);
        utimensat(&*parent, OsStr::from_bytes(name), &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            .map_err(|e| file("set the time of", path, e))
    }

    /// Sets the time of a directory, unless a later entry took its place: then it needs none.
    fn set_time_if_there(&self, path: &[u8], mtime: (i64, u32)) -> Result<(), UnpackError> {
        let Ok(fd) = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) else {
            return Ok(());
        };
        let (atime, mtime) = times(mtime);
        futimens(&fd, &atime, &mtime).map_err(|e| file("set the time of", path, e))
    }
}

/// The name without `.`, doubled and leading slashes; names with `..` that leave the root are refused.
fn clean(path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    if path.len() >= PATH_MAX {
        return Err(refused(path, "its name is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(refused(path, "it has a zero byte in its name"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| refused(path, "it leads out of the layer"))?;
            }
            _ => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// True if `name` in `parent` is a whiteout that this layer made.
fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR && stat.st_rdev == 0
    })
}

/// Directory and last name of a clean path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use tar::{Builder, EntryType, Header};

    struct Layer(Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Layer(Builder::new(Vec::new()))
        }

        fn with(mut self, kind: EntryType, name: &str, link: &str, content: &str) -> Self {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_000_000_000);
            header.set_size(content.len() as u64);
            header.set_cksum();
            self.0.append(&header, content.as_bytes()).expect("appended");
            self
        }

        fn unpack(self) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::create_dir(dir.path().join("root")).expect("made");
            let bytes = self.0.into_inner().expect("finished");
            let result = unpack(bytes.as_slice(), &dir.path().join("root")).map(|(count, _)| count);
            (dir, result)
        }
    }

    #[test]
    fn names_that_leave_the_layer_are_refused_and_absolute_ones_are_taken_beneath_it() {
        for bad in ["../evil", "a/../../evil", "/../evil", ".."] {
            let (dir, result) = Layer::new().with(EntryType::Regular, bad, "", "x").unpack();
            assert!(matches!(result, Err(UnpackError::Refused { .. })), "{bad}");
            assert!(!dir.path().join("evil").exists());
        }
        let (dir, result) = Layer::new().with(EntryType::Regular, "/etc/x", "", "x").unpack();
        assert_eq!(result.expect("good").entries, 1);
        assert!(dir.path().join("root/etc/x").exists());
    }

    #[test]
    fn directories_without_end_are_refused_before_they_take_all_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut unpacker = Unpacker::open(dir.path()).expect("opened");
        let name = |nth: usize| format!("{nth}{}", "/d".repeat(2000)).into_bytes();
        let noted =
            (0..100_000).take_while(|nth| unpacker.note_directory(name(*nth), (0, 0)).is_ok()).count();
        assert!((10_000..20_000).contains(&noted), "{noted} names of 4 KB");
        let mut unpacker = Unpacker::open(dir.path()).expect("opened");
        for nth in 0..100_000 {
            unpacker.note_directory(name(0), (nth, 0)).expect("the same one again takes no room");
        }
        assert_eq!(unpacker.directories.len(), 1);
        assert_eq!(unpacker.directories[0].1, (99_999, 0));
    }

    #[test]
    fn links_of_the_layer_lead_nowhere_else() {
        let outside = tempfile::tempdir().expect("a directory");
        let target = outside.path().to_str().expect("text").to_owned();
        let (_dir, result) = Layer::new()
            .with(EntryType::Symlink, "lnk", &target, "")
            .with(EntryType::Regular, "lnk/evil", "", "x")
            .unpack();
        assert!(result.is_err());
        let up = "../".repeat(20) + target.trim_start_matches('/');
        let (_dir, result) = Layer::new()
            .with(EntryType::Symlink, "lnk", &up, "")
            .with(EntryType::Regular, "lnk/evil", "", "x")
            .unpack();
        assert!(result.is_err());
        std::fs::write(outside.path().join("secret"), "s").expect("written");
        let (_dir, result) =
            Layer::new().with(EntryType::Link, "stolen", &format!("{target}/secret"), "").unpack();
        assert!(matches!(result, Err(UnpackError::Refused { .. })));
        // A file over a link replaces the link and does not write through it.
        let secret = format!("{target}/secret");
        let (dir, result) = Layer::new()
            .with(EntryType::Symlink, "x", &secret, "")
            .with(EntryType::Regular, "x", "", "new")
            .unpack();
        result.expect("good");
        assert_eq!(std::fs::read_to_string(dir.path().join("root/x")).expect("a file"), "new");
        assert_eq!(std::fs::read_to_string(&secret).expect("a file"), "s");
        assert!(!outside.path().join("evil").exists());
    }

    #[test]
    fn a_link_within_the_layer_is_followed_to_its_directory() {
        let (dir, result) = Layer::new()
            .with(EntryType::Directory, "usr/", "", "")
            .with(EntryType::Symlink, "lib", "/usr", "")
            .with(EntryType::Regular, "lib/x", "", "x")
            .with(EntryType::Link, "y", "/usr/x", "")
            .unpack();
        result.expect("good");
        assert_eq!(std::fs::metadata(dir.path().join("root/usr/x")).expect("there").nlink(), 2);
    }

    #[test]
    fn an_entry_that_cannot_be_what_it_says_is_refused_by_name() {
        let cases: [(Layer, &str); 4] = [
            (Layer::new().with(EntryType::Regular, ".", "", "x"), "no directory"),
            (Layer::new().with(EntryType::Symlink, "a/..", "elsewhere", ""), "no directory"),
            (
                Layer::new().with(EntryType::Regular, ".wh.gone", "", "").with(
                    EntryType::Link,
                    "b",
                    "gone",
                    "",
                ),
                "that the layer hides",
            ),
            (Layer::new().with(EntryType::Link, "b", "b", ""), "itself"),
        ];
        for (layer, why) in cases {
            let said = layer.unpack().1.expect_err(why).to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn links_lead_no_deeper_than_a_path_is_long() {
        let deep = "d/".repeat(1000);
        let with = |kind: EntryType, name: &str| {
            let mut layer = Layer::new().with(EntryType::Symlink, "l", "x", "");
            let mut header = Header::new_gnu();
            (
                header.set_size(0),
                header.set_mode(0o755),
                header.set_uid(0),
                header.set_gid(0),
                header.set_mtime(0),
            );
            header.set_entry_type(EntryType::Directory);
            layer.0.append_data(&mut header, &deep, std::io::empty()).expect("to memory");
            header.set_entry_type(EntryType::Symlink);
            layer.0.append_link(&mut header, "l", &deep).expect("to memory");
            for nth in 1..1500 {
                let name = format!("l/{}{name}", "e/".repeat(nth));
                header.set_entry_type(kind);
                layer.0.append_data(&mut header, &name, std::io::empty()).expect("to memory");
            }
            layer.unpack().1.expect_err("it cannot be looked at").to_string()
        };
        for (kind, name) in [(EntryType::Directory, ""), (EntryType::Regular, "file")] {
            let said = with(kind, name);
            assert!(said.contains("without links, is longer than 4095 bytes"), "{said}");
        }
    }

    #[test]
    fn whiteouts_take_the_form_that_overlayfs_reads() {
        let (dir, result) = Layer::new()
            .with(EntryType::Regular, "d/.wh.gone", "", "")
            .with(EntryType::Regular, "d/.wh..wh..opq", "", "")
            .with(EntryType::Fifo, "pipe", "", "")
            .unpack();
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        result.expect("good");
        let gone = std::fs::symlink_metadata(dir.path().join("root/d/gone")).expect("there");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let pipe = std::fs::symlink_metadata(dir.path().join("root/pipe")).expect("there");
        assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o640 && pipe.mtime() == 1_000_000_000);
    }

    #[test]
    fn a_directory_that_a_layer_hides_and_makes_anew_is_opaque() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for entries in [["d/.wh.sub", "d/sub/"], ["d/sub/", "d/.wh.sub"], ["d/.wh.sub", "d/sub/file"]] {
            let layer = entries.iter().fold(Layer::new(), |layer, name| {
                let kind = if name.ends_with('/') { EntryType::Directory } else { EntryType::Regular };
                layer.with(kind, name, "", "")
            });
            let (dir, result) = layer.unpack();
            result.expect("good");
            let sub = dir.path().join("root/d/sub");
            assert!(sub.is_dir(), "{entries:?}");
            let sub = CString::new(sub.as_os_str().as_bytes()).expect("no NUL");
            let has = sys::lgetxattr(&sub, c"trusted.overlay.opaque");
            assert_eq!(has, Ok(b"y".to_vec()), "{entries:?}");
        }
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one_of_another_kind() {
        let (dir, result) = Layer::new()
            .with(EntryType::Regular, "a/b/c", "", "x")
            .with(EntryType::Regular, "a", "", "file")
            .with(EntryType::Directory, "a", "", "")
            .with(EntryType::Regular, "a/d", "", "x")
            .unpack();
        result.expect("good");
        assert!(dir.path().join("root/a/d").exists() && !dir.path().join("root/a/b").exists());
    }

    /// The directories that the layer has no entry for, as it was unpacked in `dir`.
    fn implied(dir: &tempfile::TempDir) -> Vec<String> {
        let list = std::fs::read_to_string(dir.path().join(implied::LIST)).unwrap_or_default();
        list.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn directories_without_an_entry_are_listed() {
        let file = |layer: Layer, name| layer.with(EntryType::Regular, name, "", "x");
        let (dir, result) = file(file(Layer::new(), "a/b/c"), "a/d/e").unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["", "a", "a/b", "a/d"]);
        // Whiteouts are in a directory as files are.
        let (dir, result) = file(file(Layer::new(), "a/.wh.b"), "c/.wh..wh..opq").unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["", "a", "c"]);
    }

    #[test]
    fn an_entry_that_comes_later_takes_a_directory_off_the_list() {
        let (dir, result) = Layer::new()
            .with(EntryType::Regular, "a/b/c", "", "x")
            .with(EntryType::Directory, "a/", "", "")
            .with(EntryType::Regular, "gone/a", "", "x")
            .with(EntryType::Regular, "gone", "", "a file")
            .with(EntryType::Directory, "./", "", "")
            .unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["a/b"]);
        let (dir, result) = Layer::new().with(EntryType::Directory, "./", "", "").unpack();
        result.expect("good");
        assert!(!dir.path().join(implied::LIST).exists());
    }

    #[test]
    fn a_directory_that_was_reached_by_a_link_is_listed_by_its_own_path() {
        let (dir, result) = Layer::new()
            .with(EntryType::Directory, "./", "", "")
            .with(EntryType::Directory, "usr/", "", "")
            .with(EntryType::Symlink, "lib", "usr", "")
            .with(EntryType::Regular, "lib/a/b/c", "", "x")
            .with(EntryType::Directory, "usr/a", "", "")
            .unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["usr/a/b"]);
    }

    #[test]
    fn a_directory_that_the_layer_hid_before_it_made_it_is_nothing_of_lower_layers() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (dir, result) = Layer::new()
            .with(EntryType::Directory, "./", "", "")
            .with(EntryType::Regular, ".wh.a", "", "")
            .with(EntryType::Regular, "a/b/c", "", "x")
            .unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["a/b"]);
        assert_eq!(std::fs::metadata(dir.path().join("root/a")).expect("there").mtime(), 0);
    }
}
