//! The directories of a layer during unpacking: opens the parent of each entry, and creates missing directories.
//!
//! Owned by [`crate::unpack`]. Usually walks from the directory of the last entry, one component at a time, and follows
//! no link. If the path contains a link, opens the path by openat2(2) with the layer's root as root (RESOLVE_IN_ROOT),
//! so that `..`, absolute names and links cannot lead out of the layer. Creates missing directories and lists them for
//! [`crate::implied_dirs`]. Sets the directories' times at the end, because creating an entry changes the time of its
//! directory. Never creates anything but directories.

use crate::implied_dirs::{self, Chain, ImpliedDirs};
use crate::unpack::attributes::{Privilege, times};
use crate::unpack::entry::{Place, UnpackError, file, refused};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, futimens, mkdirat, utimensat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use sampan_ipc::text;
use sampan_os::walk_tree::kind;
use sampan_os::xattr;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

/// Shortest length of a path that is too long, in bytes: PATH_MAX of the kernel, which includes the final NUL.
pub(crate) const PATH_MAX: usize = 4096;
/// Most directories that are kept open at a time. It is also the most components of a path that are opened one by one.
const TRAIL_MAX: usize = 32;
/// Most bytes of memory for the paths and times of a layer's directories: enough for half a million directories with
/// usual names. Only a hostile layer has more directories.
const DIRECTORIES_MAX: usize = 64 << 20;
/// Bytes of memory for a directory in addition to its path.
const DIRECTORY_COST: usize = size_of::<DirectoryTime>() + 16;
/// The flags for opening directories of the layer. O_NOFOLLOW refuses a link.
pub(crate) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The path of a directory, and the modification time that it gets at the end.
type DirectoryTime = (Box<[u8]>, (i64, u32));

/// An open directory.
#[derive(Clone)]
pub(crate) struct Opened {
    pub fd: Rc<OwnedFd>,
    /// Whether the path by which the directory was opened contains no link.
    pub is_real: bool,
}

/// The directories of one layer.
pub(crate) struct Directories {
    root: Opened,
    privilege: Privilege,
    /// Open directories along the path of the last entry, outermost first. The directories stay open because the next
    /// entry is usually in one of them.
    trail: Vec<(Vec<u8>, Opened)>,
    /// Whether a later entry replaced an earlier one, so that directories created earlier may no longer exist.
    replaced: bool,
    times: Vec<DirectoryTime>,
    /// Bytes of memory that `times` takes.
    times_bytes: usize,
    implied: ImpliedDirs,
}

impl Directories {
    /// Opens the layer's root directory `root`, which must be empty.
    pub fn open(root: &Path, privilege: Privilege) -> Result<Self, UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            openat(AT_FDCWD, root, flags, Mode::empty()).map_err(|e| file("open the root of", b"", e))?;
        let mut implied = ImpliedDirs::default();
        let mut chain = Chain::new(Vec::new(), 0);
        implied
            .record_created(&root, &mut chain)
            .map_err(|e| file("get the status of the root of", b"", e))?;
        implied.add_chain(chain);
        Ok(Directories {
            root: Opened { fd: Rc::new(root), is_real: true },
            privilege,
            trail: Vec::new(),
            replaced: false,
            times: Vec::new(),
            times_bytes: 0,
            implied,
        })
    }

    /// The open root directory of the layer.
    pub fn root(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root.fd)
    }

    /// Records that a file or directory is about to be removed. Closes the trail, which may contain that directory.
    pub fn record_replacement(&mut self) {
        self.trail.clear();
        self.replaced = true;
    }

    /// Records that the layer has an entry for the open directory `path`, with the modification time `mtime`.
    pub fn record_entry(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        mtime: (i64, u32),
    ) -> Result<(), UnpackError> {
        self.implied.record_entry(directory).map_err(|e| file("get the status of", path, e))?;
        self.record_time(path.to_vec(), mtime)
    }

    /// Opens the directory `path` beneath the root; creates missing directories along the path.
    pub fn enter(&mut self, path: &[u8]) -> Result<Opened, UnpackError> {
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
            None => self.enter_through_links(path),
        }
    }

    /// Opens the directory `path` component by component from the end of the trail; creates missing directories.
    /// Returns `None` if a component is not a directory, or if the path has too many components.
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
        let (mut chain, mut start) = (None, known);
        for end in ends {
            let (prefix, name) = (path.get(..end).unwrap_or(path), path.get(start..end).unwrap_or_default());
            start = end + 1;
            let fd = match openat(&*at.fd, OsStr::from_bytes(name), DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    let chain = chain.get_or_insert_with(|| self.chain(&at.fd, at.is_real, prefix, path));
                    self.create_implied(&at.fd, name, path, chain)?
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    chain.into_iter().for_each(|chain| self.implied.add_chain(chain));
                    return Ok(None);
                }
                Err(errno) => return Err(file("open the directory of", path, errno)),
            };
            at = self.remember(prefix, fd, at.is_real);
        }
        chain.into_iter().for_each(|chain| self.implied.add_chain(chain));
        Ok(Some(at))
    }

    /// Creates a directory that has no entry so far, and appends it to `chain`.
    fn create_implied(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        chain: &mut Chain,
    ) -> Result<OwnedFd, UnpackError> {
        let name = OsStr::from_bytes(name);
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))
            .and_then(|()| openat(parent, name, DIRECTORY, Mode::empty()))
            .and_then(|created| self.implied.record_created(&created, chain).map(|()| created))
            .map_err(|e| file("create the directory of", path, e))
    }

    /// Opens the directory `path`, which contains links, whiteouts or many components; creates missing directories.
    fn enter_through_links(&mut self, path: &[u8]) -> Result<Opened, UnpackError> {
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.create_missing(path)?,
            Err(errno) => return Err(file("open the directory of", path, errno)),
        };
        Ok(self.remember(path, fd, false))
    }

    /// Adds an open directory to the trail, where the next entries find it.
    pub fn remember(&mut self, path: &[u8], fd: OwnedFd, is_real: bool) -> Opened {
        let opened = Opened { fd: Rc::new(fd), is_real };
        while self.trail.last().is_some_and(|(known, _)| !is_above(known, path)) {
            self.trail.pop();
        }
        if self.trail.len() < TRAIL_MAX {
            self.trail.push((path.to_vec(), opened.clone()));
        }
        opened
    }

    /// Opens `path` with the layer's root as root, following the layer's links. Creates nothing.
    pub fn resolve(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { b".".as_slice() } else { path };
        loop {
            // EAGAIN: a concurrent rename or mount anywhere on the host kept the kernel from proving that ".." stays
            // beneath the root. openat2(2).
            match openat2(&*self.root.fd, OsStr::from_bytes(path), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Creates the missing directories of `path`, which contains links or whiteouts.
    fn create_missing(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let (mut directory, first_start) = self.deepest_existing(path)?;
        let mut chain: Option<Chain> = None;
        let mut start = first_start;
        for end in (start..=path.len()).filter(|end| path.get(*end).is_none_or(|b| *b == b'/')) {
            let (prefix, name) = (path.get(..end).unwrap_or(path), path.get(start..end).unwrap_or_default());
            let is_first = start == first_start;
            start = end + 1;
            directory = if is_first && self.is_replaceable(&directory, name, path)? {
                // This is not an implied directory: the whiteout hides the lower layers' directory and its attributes.
                self.record_time(prefix.to_vec(), (0, 0))?;
                self.replace_whiteout(&directory, name, path)?
            } else {
                self.check_depth(Place { parent: &directory, name, path })?;
                let chain = chain.get_or_insert_with(|| self.chain(&directory, false, prefix, path));
                self.create_implied(&directory, name, path, chain)?
            };
        }
        chain.into_iter().for_each(|chain| self.implied.add_chain(chain));
        Ok(directory)
    }

    /// Opens the innermost existing directory along `path`, and returns the offset of the component after it. Searches
    /// from the innermost component outwards, since most components of a deep path usually exist.
    fn deepest_existing(&self, path: &[u8]) -> Result<(OwnedFd, usize), UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut prefix = path;
        loop {
            let above = split(prefix).0;
            match self.resolve(above, flags) {
                Ok(fd) => {
                    let start = if above.is_empty() { 0 } else { above.len() + 1 };
                    return Ok((fd, start));
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) if !above.is_empty() => prefix = above,
                Err(errno) => return Err(file("open the directory of", path, errno)),
            }
        }
    }

    /// Whether `name` is a whiteout, which a directory may replace; false if `name` does not exist. Returns an error if
    /// `name` is any other file.
    fn is_replaceable(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<bool, UnpackError> {
        let Ok(there) = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        match kind(&there) {
            SFlag::S_IFCHR if there.st_rdev == 0 => Ok(true),
            SFlag::S_IFLNK => Err(refused(
                path,
                "its parent is a symbolic link that does not lead to a directory of the layer",
            )),
            _ => Err(refused(path, "its parent is not a directory")),
        }
    }

    /// Starts a chain for the directories of `path` from `prefix` on. `above` is the open parent of `prefix`; `is_real`
    /// tells whether the path of `above` contains no link.
    fn chain(&self, above: &OwnedFd, is_real: bool, prefix: &[u8], path: &[u8]) -> Chain {
        if is_real {
            return Chain::new(path.to_vec(), prefix.len());
        }
        let (parent, name) = split(prefix);
        let mut real = implied_dirs::real_path(&self.root.fd, above).unwrap_or_else(|| parent.to_vec());
        if !real.is_empty() {
            real.push(b'/');
        }
        real.extend_from_slice(name);
        let first = real.len();
        real.extend_from_slice(path.get(prefix.len()..).unwrap_or_default());
        Chain::new(real, first)
    }

    /// Refuses an entry whose path without links would be longer than PATH_MAX: such an entry could never be opened by
    /// its path. The layer's links can lead that deep even though each path in the tar is short.
    pub fn check_depth(&self, at: Place<'_>) -> Result<(), UnpackError> {
        let is_short = |path: Vec<u8>| path.len() + 1 + at.name.len() < PATH_MAX;
        match implied_dirs::real_path(&self.root.fd, at.parent).is_some_and(is_short) {
            true => Ok(()),
            false => Err(refused(at.path, "its path, without links, is longer than 4095 bytes")),
        }
    }

    /// Marks a directory as opaque, so that it hides the entries of the lower layers' directory.
    pub fn make_opaque(&self, directory: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
        // An ordinary user may set only user.* attributes; overlayfs reads user.* attributes if it is mounted with
        // `userxattr`.
        let is_root = self.privilege == Privilege::Root;
        let name = if is_root { c"trusted.overlay.opaque" } else { c"user.overlay.opaque" };
        xattr::fsetxattr(directory, name, b"y").map_err(|e| file("make opaque the directory of", path, e))
    }

    /// Replaces a whiteout of this layer by an opaque directory, so that the lower directory's entries stay hidden.
    pub fn replace_whiteout(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let name = OsStr::from_bytes(name);
        let made = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
            .and_then(|()| mkdirat(parent, name, Mode::from_bits_truncate(0o755)))
            .and_then(|()| openat(parent, name, DIRECTORY, Mode::empty()));
        let directory = made.map_err(|e| file("create", path, e))?;
        self.make_opaque(&directory, path)?;
        Ok(directory)
    }

    /// Records the modification time that [`Directories::finish`] sets.
    fn record_time(&mut self, path: Vec<u8>, mtime: (i64, u32)) -> Result<(), UnpackError> {
        // Some writers repeat `./` before each file. A repeated entry replaces the recorded time and takes no
        // additional memory.
        if let Some((last, time)) = self.times.last_mut()
            && **last == *path
        {
            *time = mtime;
            return Ok(());
        }
        self.times_bytes += path.len() + DIRECTORY_COST;
        if self.times_bytes > DIRECTORIES_MAX {
            return Err(refused(&path, "the layer has too many directories"));
        }
        self.times.push((path.into_boxed_slice(), mtime));
        Ok(())
    }

    /// Sets the times of all directories, and writes the list of implied directories to the file `list`.
    pub fn finish(mut self, list: &Path) -> Result<(), UnpackError> {
        let mut times = std::mem::take(&mut self.times);
        // Sort by path, so that consecutive directories share open parent directories. The sort is stable: of two times
        // for one directory, the later entry's time is set last.
        times.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, mtime) in times {
            let set = if self.replaced {
                self.set_time_if_there(&path, mtime)
            } else {
                self.set_time(&path, mtime)
            };
            set?;
        }
        let failed = |source| UnpackError::File {
            doing: "list the implied directories of",
            path: text::path(b""),
            source,
        };
        self.implied.write(&self.root.fd, list, self.replaced).map_err(failed)
    }

    /// Sets the time of a directory. The directory still exists, because no entry of this layer was replaced.
    fn set_time(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<(), UnpackError> {
        let (parent, name) = split(path);
        let parent = self.enter(parent)?.fd;
        let name = if name.is_empty() { b".".as_slice() } else { name };
        let (atime, mtime) = times(mtime);
        utimensat(&*parent, OsStr::from_bytes(name), &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            .map_err(|e| file("set the time of", path, e))
    }

    /// Sets the time of a directory, unless a later entry has replaced it.
    fn set_time_if_there(&self, path: &[u8], mtime: (i64, u32)) -> Result<(), UnpackError> {
        let Ok(fd) = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) else {
            return Ok(());
        };
        let (atime, mtime) = times(mtime);
        futimens(&fd, &atime, &mtime).map_err(|e| file("set the time of", path, e))
    }
}

/// Whether the directory `path` is an ancestor of `below`.
fn is_above(path: &[u8], below: &[u8]) -> bool {
    below.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Whether `name` in `parent` is a whiteout.
pub(crate) fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    let stat = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| kind(&stat) == SFlag::S_IFCHR && stat.st_rdev == 0)
}

/// Splits a normalized path into its parent and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_directories_are_refused_before_they_take_all_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut directories = Directories::open(dir.path(), Privilege::Root).expect("opened");
        let name = |nth: usize| format!("{nth}{}", "/d".repeat(2000)).into_bytes();
        let recorded =
            (0..100_000).take_while(|nth| directories.record_time(name(*nth), (0, 0)).is_ok()).count();
        assert!((10_000..20_000).contains(&recorded), "{recorded} names of 4 KB");
        let mut directories = Directories::open(dir.path(), Privilege::Root).expect("opened");
        for nth in 0..100_000 {
            directories.record_time(name(0), (nth, 0)).expect("a repeated directory takes no memory");
        }
        assert_eq!(directories.times.len(), 1);
        assert_eq!(directories.times[0].1, (99_999, 0));
    }
}
