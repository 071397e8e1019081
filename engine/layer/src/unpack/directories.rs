//! The directories of a layer that is being unpacked: where entries are made, and what those on the way are.
//!
//! A directory is found from the last one, a component at a time and following nothing, or, where links are on the
//! way, by openat2 with the layer's root as root (RESOLVE_IN_ROOT): so `..`, absolute names and symbolic links of the
//! layer lead nowhere else. What is missing on the way is made, and listed for [`crate::implied_dirs`]. Times are set in
//! the end: what is made in a directory changes its own. Owned by [`crate::unpack`]; never makes anything else.

use crate::implied_dirs::{self, Implied, Way};
use crate::unpack::attributes::{Standing, times};
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

/// Longest name of an entry, in bytes: PATH_MAX.
pub(crate) const PATH_MAX: usize = 4096;
/// Most directories that are kept open at a time, and most that are opened one after the other for one entry.
const TRAIL_MAX: usize = 32;
/// Most bytes that the directories of a layer are remembered in, whose times are set in the end: half a million
/// with usual names. More is a hostile layer.
const DIRECTORIES_MAX: usize = 64 << 20;
/// What each of them costs beside its name.
const DIRECTORY_COST: usize = size_of::<Dated>() + 16;
/// How directories of the layer are opened: nothing is followed.
pub(crate) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory, and its modification time.
type Dated = (Box<[u8]>, (i64, u32));

/// A directory that is open.
#[derive(Clone)]
pub(crate) struct Opened {
    pub fd: Rc<OwnedFd>,
    /// No link is on the way to it.
    pub is_real: bool,
}

/// Those of one layer.
pub(crate) struct Directories {
    root: Opened,
    standing: Standing,
    /// Those on the way to where the last entry was made, outermost first: the next one is near.
    trail: Vec<(Vec<u8>, Opened)>,
    /// Something was removed, to make a later entry: what was made once may be there no more.
    replaced: bool,
    dated: Vec<Dated>,
    /// Bytes that those take.
    remembered: usize,
    implied: Implied,
}

impl Directories {
    /// Those of the layer whose root is `root`: an empty directory.
    pub fn open(root: &Path, standing: Standing) -> Result<Self, UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            openat(AT_FDCWD, root, flags, Mode::empty()).map_err(|e| file("open the root of", b"", e))?;
        let mut implied = Implied::default();
        let mut way = Way::begin(Vec::new(), 0);
        implied.made(&root, &mut way).map_err(|e| file("look at the root of", b"", e))?;
        implied.way(way);
        Ok(Directories {
            root: Opened { fd: Rc::new(root), is_real: true },
            standing,
            trail: Vec::new(),
            replaced: false,
            dated: Vec::new(),
            remembered: 0,
            implied,
        })
    }

    /// The layer's root.
    pub fn root(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root.fd)
    }

    /// Something is about to be removed: what was known of a directory may be of the one that goes now.
    pub fn forget(&mut self) {
        self.trail.clear();
        self.replaced = true;
    }

    /// The layer has an entry for the directory `path`, which is open now and has this time.
    pub fn has_entry(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        mtime: (i64, u32),
    ) -> Result<(), UnpackError> {
        self.implied.has_entry(directory).map_err(|e| file("look at", path, e))?;
        self.note(path.to_vec(), mtime)
    }

    /// The directory `path` beneath the root; makes what is missing on the way.
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

    pub fn resolve(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
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

    /// Makes what is missing of the directory `path`, where links or whiteouts are on the way.
    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let (mut above, made_from) = self.deepest(path)?;
        let mut way: Option<Way> = None;
        let mut start = made_from;
        for end in (start..=path.len()).filter(|end| path.get(*end).is_none_or(|b| *b == b'/')) {
            let (prefix, name) = (path.get(..end).unwrap_or(path), path.get(start..end).unwrap_or_default());
            let is_first = start == made_from;
            start = end + 1;
            let fd = if is_first && self.gives_way(&above.fd, name, path)? {
                // What lower layers have there is gone: it is none of theirs.
                self.note(prefix.to_vec(), (0, 0))?;
                self.instead_of_whiteout(&above.fd, name, path)?
            } else {
                self.check_depth(Place { parent: &above.fd, name, path })?;
                let way = way.get_or_insert_with(|| self.way(&above, prefix, path));
                self.make_implied(&above.fd, name, path, way)?
            };
            above = Opened { fd: Rc::new(fd), is_real: false };
        }
        way.into_iter().for_each(|way| self.implied.way(way));
        Ok(Rc::into_inner(above.fd).expect("nobody else was given it"))
    }

    /// The innermost directory on the way to `path` that is there, and where the name of the next one begins. Sought
    /// from within: most of a deep path is there, or is missing from one name on.
    fn deepest(&self, path: &[u8]) -> Result<(Opened, usize), UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut prefix = path;
        loop {
            let above = split(prefix).0;
            match self.resolve(above, flags) {
                Ok(fd) => {
                    let start = if above.is_empty() { 0 } else { above.len() + 1 };
                    return Ok((Opened { fd: Rc::new(fd), is_real: false }, start));
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) if !above.is_empty() => prefix = above,
                Err(errno) => return Err(file("open the directory of", path, errno)),
            }
        }
    }

    /// True if `name` is a whiteout, in whose place a directory may be made; false if nothing is there.
    fn gives_way(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<bool, UnpackError> {
        let Ok(there) = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        match kind(&there) {
            SFlag::S_IFCHR if there.st_rdev == 0 => Ok(true),
            SFlag::S_IFLNK => {
                Err(refused(path, "its parent is a symbolic link that leads to no directory of the layer"))
            }
            _ => Err(refused(path, "its parent is no directory")),
        }
    }

    /// The way to `path`, where all from `prefix` on is made now, in `above`.
    fn way(&self, above: &Opened, prefix: &[u8], path: &[u8]) -> Way {
        if above.is_real {
            return Way::begin(path.to_vec(), prefix.len());
        }
        let (parent, name) = split(prefix);
        let mut way = implied_dirs::real_path(&self.root.fd, &above.fd).unwrap_or_else(|| parent.to_vec());
        if !way.is_empty() {
            way.push(b'/');
        }
        way.extend_from_slice(name);
        let first = way.len();
        way.extend_from_slice(path.get(prefix.len()..).unwrap_or_default());
        Way::begin(way, first)
    }

    /// Refuses a directory that links of the layer have led so deep that nobody finds it by its path.
    pub fn check_depth(&self, at: Place<'_>) -> Result<(), UnpackError> {
        let is_short = |path: Vec<u8>| path.len() + 1 + at.name.len() < PATH_MAX;
        match implied_dirs::real_path(&self.root.fd, at.parent).is_some_and(is_short) {
            true => Ok(()),
            false => Err(refused(at.path, "its path, without links, is longer than 4095 bytes")),
        }
    }

    /// Marks that the directory hides all that lower layers have in it.
    pub fn opaque(&self, parent: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
        // In a user namespace overlayfs reads this one, if it is mounted with `userxattr`.
        let is_root = self.standing == Standing::Root;
        let name = if is_root { c"trusted.overlay.opaque" } else { c"user.overlay.opaque" };
        xattr::fsetxattr(parent, name, b"y").map_err(|e| file("make opaque the directory of", path, e))
    }

    /// Makes a directory where this layer hid one of lower layers: it hides all that was in that one.
    pub fn instead_of_whiteout(
        &self,
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

    fn note(&mut self, path: Vec<u8>, mtime: (i64, u32)) -> Result<(), UnpackError> {
        // The same one again, as some writers have `./` before each of its files: the last word counts.
        if let Some((last, time)) = self.dated.last_mut()
            && **last == *path
        {
            *time = mtime;
            return Ok(());
        }
        self.remembered += path.len() + DIRECTORY_COST;
        if self.remembered > DIRECTORIES_MAX {
            return Err(refused(&path, "the layer has too many directories"));
        }
        self.dated.push((path.into_boxed_slice(), mtime));
        Ok(())
    }

    /// Sets times of directories, and writes the list of those that have no entry.
    pub fn finish(mut self, list: &Path) -> Result<(), UnpackError> {
        let mut dated = std::mem::take(&mut self.dated);
        // Neighbours behind one another; of two times for one directory the later entry's stays the later.
        dated.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, mtime) in dated {
            let set = if self.replaced {
                self.set_time_if_there(&path, mtime)
            } else {
                self.set_time(&path, mtime)
            };
            set?;
        }
        let failed =
            |source| UnpackError::File { doing: "list what is missing of", path: text::path(b""), source };
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

/// True if the directory `path` is the parent of `below`, or further up.
fn is_above(path: &[u8], below: &[u8]) -> bool {
    below.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
}

/// True if `name` in `parent` is a whiteout that this layer made.
pub(crate) fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    let stat = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| kind(&stat) == SFlag::S_IFCHR && stat.st_rdev == 0)
}

/// Directory and last name of a clean path.
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
    fn directories_without_end_are_refused_before_they_take_all_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut directories = Directories::open(dir.path(), Standing::Root).expect("opened");
        let name = |nth: usize| format!("{nth}{}", "/d".repeat(2000)).into_bytes();
        let noted = (0..100_000).take_while(|nth| directories.note(name(*nth), (0, 0)).is_ok()).count();
        assert!((10_000..20_000).contains(&noted), "{noted} names of 4 KB");
        let mut directories = Directories::open(dir.path(), Standing::Root).expect("opened");
        for nth in 0..100_000 {
            directories.note(name(0), (nth, 0)).expect("the same one again takes no room");
        }
        assert_eq!(directories.dated.len(), 1);
        assert_eq!(directories.dated[0].1, (99_999, 0));
    }
}
