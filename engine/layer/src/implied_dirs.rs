//! Implied directories: directories for which a layer's tar has no entry, although it has entries for files in them.
//!
//! An implied directory must have the attributes that lower layers give it. Layers are unpacked independently, so an
//! implied directory is first created with root as owner and mode 0755, and a mount would show these attributes instead
//! of the lower layer's. [`crate::unpack`] therefore lists implied directories in a file `implied` beside the layer's
//! root: the list has each directory's path relative to the root (the root itself has the empty path), followed by a
//! NUL. When all layers of an image are unpacked, the store calls [`settle`] for each layer, the lowest first, directly
//! or in a process of [`crate::userns`]. [`settle`] copies owner, mode, times and extended attributes from the nearest
//! lower directory that overlayfs would show. [`settle`] removes the list last, so that a later call repeats an
//! interrupted call. A repeated or concurrent call writes equal values, so it disturbs no reader. This module never
//! follows a link and never changes a lower layer.

use crate::unpack::attributes::times;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlink};
use nix::sys::stat::{Mode, fchmod, fstat, futimens};
use nix::unistd::{Gid, Uid, fchown};
use sampan_ipc::text;
use sampan_job::cancel::Cancel;
use sampan_os::open_beneath::{open_beneath, open_top};
use sampan_os::xattr::{self, HOST_ATTRIBUTES, OVERLAYFS_PREFIXES};
use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file name of the list of implied directories, beside the layer's root.
pub const LIST: &str = "implied";

/// A chain of nested directories that were created for one entry.
pub(crate) struct Chain {
    /// The path of the innermost directory, relative to the layer's root and without links.
    path: Vec<u8>,
    /// The length of the outermost directory's path, a prefix of `path`.
    first: usize,
    /// The inode numbers of all directories in the chain, outermost first.
    inodes: Vec<u64>,
}

impl Chain {
    /// Starts a chain for `path`. The outermost directory to be created is the prefix of length `first`.
    pub fn new(path: Vec<u8>, first: usize) -> Self {
        Chain { path, first, inodes: Vec::new() }
    }
}

/// Collects the implied directories of a layer while it is unpacked.
///
/// Stores a few bytes for each directory, and a path for each chain. With a path for each directory, memory would grow
/// with the square of the depth of a hostile layer's directories.
#[derive(Default)]
pub(crate) struct ImpliedDirs {
    /// The inode numbers of the directories without an entry so far. Paths would not do: with links, one directory has
    /// many paths.
    inodes: HashSet<u64>,
    /// The chains that contain the directories of `inodes`.
    chains: Vec<Chain>,
}

impl ImpliedDirs {
    /// Records that a directory without an entry was created, and appends it to `chain`.
    pub fn record_created(&mut self, directory: &OwnedFd, chain: &mut Chain) -> Result<(), Errno> {
        let inode = fstat(directory)?.st_ino;
        self.inodes.insert(inode);
        chain.inodes.push(inode);
        Ok(())
    }

    /// Records that a directory has an entry.
    pub fn record_entry(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        if !self.inodes.is_empty() {
            self.inodes.remove(&fstat(directory)?.st_ino);
        }
        Ok(())
    }

    /// Adds a chain after all its directories were created.
    pub fn add_chain(&mut self, chain: Chain) {
        self.chains.push(chain);
    }

    /// Writes the list of directories without an entry to the file `to`; writes no file if all directories have an
    /// entry.
    ///
    /// If `replaced`, a later entry may have replaced a directory: lists only the directories that still exist.
    pub fn write(mut self, root: &OwnedFd, to: &Path, replaced: bool) -> io::Result<()> {
        if self.inodes.is_empty() {
            return Ok(());
        }
        let mut list = BufWriter::new(File::create(to)?);
        for Chain { path, first, inodes } in std::mem::take(&mut self.chains) {
            for (end, inode) in ends(&path).filter(|end| *end >= first).zip(inodes) {
                let path = path.get(..end).unwrap_or_default();
                let is_there = || open_beneath(root, path).and_then(fstat).is_ok_and(|s| s.st_ino == inode);
                if self.inodes.contains(&inode) && (!replaced || is_there()) {
                    self.inodes.remove(&inode);
                    list.write_all(path)?;
                    list.write_all(&[0])?;
                }
            }
        }
        list.flush()
    }
}

/// The path of `directory` relative to `root`, without links; `None` if the path is too long for the kernel to report.
pub(crate) fn real_path(root: &OwnedFd, directory: &OwnedFd) -> Option<Vec<u8>> {
    let path = |fd: &OwnedFd| readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok();
    let (root, path) = (path(root)?, path(directory)?);
    let below = Path::new(&path).strip_prefix(Path::new(&root)).ok()?;
    Some(below.as_os_str().as_bytes().to_vec())
}

/// Gives the implied directories of `layer` the attributes that the layers `below` define; then removes the layer's
/// list of implied directories.
///
/// In `below`, the nearest layer comes first. Each layer is a directory that contains the layer's root as `diff`. Does
/// nothing if `layer` has no list.
///
/// # Errors
/// A layer is missing or cannot be read, or the job was cancelled. The list is kept, so that a later call starts again.
pub fn settle(layer: &Path, below: &[PathBuf], cancel: &Cancel) -> io::Result<()> {
    let path = layer.join(LIST);
    let list = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => BufReader::new(other?),
    };
    let mut stack = Stack::open(layer, below)?;
    for path in list.split(0) {
        cancel.check().map_err(io::Error::other)?;
        stack.settle(&path?)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Most open directories of a [`Stack`]. A bound is needed because an image may have 500 layers, and its directories
/// any depth.
const OPEN_MAX: usize = 64;

/// A layer and the layers below it, merged like overlayfs does.
struct Stack {
    /// The roots of the layers, uppermost first: the layer to settle, then the layers below it.
    roots: Vec<PathBuf>,
    /// The path of the directory that the last element of `levels` stands for.
    path: Vec<u8>,
    /// The merged directories along `path`, outermost first. The levels are kept because consecutive paths of a list
    /// share most of their parent directories.
    levels: Vec<Level>,
}

/// One merged directory along a path.
struct Level {
    /// The length of the directory's path, a prefix of [`Stack::path`].
    end: usize,
    /// The layers whose directories are merged here, uppermost first.
    parts: Vec<Part>,
    /// The number of open directories in this level and in the levels of its parent directories.
    open: usize,
}

/// One layer's directory in a merged directory.
struct Part {
    /// The index of the layer in [`Stack::roots`].
    nth: usize,
    /// The open directory; `None` if [`OPEN_MAX`] directories are open already.
    directory: Option<OwnedFd>,
}

impl Stack {
    fn open(layer: &Path, below: &[PathBuf]) -> io::Result<Self> {
        let roots: Vec<PathBuf> = [layer]
            .into_iter()
            .chain(below.iter().map(PathBuf::as_path))
            .map(|dir| dir.join("diff"))
            .collect();
        let mut stack = Stack { roots, path: Vec::new(), levels: Vec::new() };
        let mut level = Level { end: 0, parts: Vec::new(), open: 0 };
        let mut is_hidden = false;
        for (nth, root) in stack.roots.iter().enumerate() {
            let root = open_top(root)?;
            is_hidden = is_hidden || level.parts.last().is_some_and(|upper| stack.is_opaque(upper, b""));
            if !is_hidden {
                level.add(nth, root);
            }
        }
        stack.levels.push(level);
        Ok(stack)
    }

    fn settle(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            return self.settle_root();
        }
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (b"".as_slice(), path),
        };
        self.go_to(parent)?;
        let Some(Level { parts, .. }) = self.levels.last() else { return Ok(()) };
        let own = match parts.first().filter(|part| part.nth == 0) {
            Some(part) => self.child(part, parent, name)?,
            None => Child::Missing,
        };
        let Child::Directory(directory) = own else {
            log::warn!(
                "directory {:?} of a layer is missing: the layer has been changed on the disk; check the store with \
                 'sampan image verify --deep'",
                text::path(path)
            );
            return Ok(());
        };
        adopt(&directory, self.source(parts, parent, name)?.as_ref())
    }

    fn settle_root(&self) -> io::Result<()> {
        let top = |nth: usize| self.roots.get(nth).map(|root| open_top(root)).transpose();
        match top(0)? {
            Some(own) => adopt(&own, top(1)?.as_ref()),
            None => Ok(()),
        }
    }

    /// The directory `name` that overlayfs would show if the layer itself had no such directory: that of the nearest
    /// lower layer that has it.
    ///
    /// An opaque directory in the layer itself does not matter: an opaque directory hides the entries of the lower
    /// directory, not its attributes.
    fn source(&self, parts: &[Part], parent: &[u8], name: &[u8]) -> io::Result<Option<OwnedFd>> {
        // `narrow` has left out the directories that an opaque directory hides.
        for part in parts.iter().filter(|part| part.nth > 0) {
            match self.child(part, parent, name)? {
                Child::Directory(directory) => return Ok(Some(directory)),
                Child::Missing => {}
                Child::Other => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Changes `levels` so that the last level is the merged directory `path`.
    fn go_to(&mut self, path: &[u8]) -> io::Result<()> {
        let is_above = |end: usize| {
            let start = path.get(..end).filter(|_| path.get(end).is_none_or(|next| *next == b'/'));
            end == 0 || start.is_some_and(|start| self.path.get(..end) == Some(start))
        };
        let shared = self.levels.iter().take_while(|level| is_above(level.end)).count();
        self.levels.truncate(shared.max(1));
        let known = self.levels.last().map_or(0, |level| level.end);
        for end in ends(path).filter(|end| *end > known) {
            let Some(above) = self.levels.last() else { break };
            let level = self.narrow(above, path.get(..end).unwrap_or_default())?;
            self.levels.push(level);
        }
        self.path = path.to_vec();
        Ok(())
    }

    /// Merges the directory `path`, a child of the merged directory `above`. Stops at the first layer that hides the
    /// layers below it.
    fn narrow(&self, above: &Level, path: &[u8]) -> io::Result<Level> {
        let parent = path.get(..above.end).unwrap_or_default();
        let start = if above.end == 0 { 0 } else { above.end + 1 };
        let name = path.get(start..).unwrap_or_default();
        let mut level = Level { end: path.len(), parts: Vec::new(), open: above.open };
        for part in &above.parts {
            match self.child(part, parent, name)? {
                Child::Directory(directory) => {
                    // Check for opacity only if a lower layer has the directory, because the check costs system calls.
                    if level.parts.last().is_some_and(|upper| self.is_opaque(upper, path)) {
                        break;
                    }
                    level.add(part.nth, directory);
                }
                Child::Missing => {}
                Child::Other => break,
            }
        }
        Ok(level)
    }

    /// Whether one layer's part of the directory `path` is opaque, that is, hides the entries of lower layers.
    fn is_opaque(&self, part: &Part, path: &[u8]) -> bool {
        match (&part.directory, self.roots.get(part.nth)) {
            (Some(directory), _) => is_opaque(directory),
            (None, Some(root)) => open_top(root)
                .and_then(|root| open_beneath(&root, path))
                .is_ok_and(|directory| is_opaque(&directory)),
            (None, None) => false,
        }
    }

    /// Looks up `name` in one layer's part of the directory `parent`. An empty name stands for the directory itself.
    fn child(&self, part: &Part, parent: &[u8], name: &[u8]) -> io::Result<Child> {
        let opened = match &part.directory {
            Some(directory) => open_child(directory, name),
            None => {
                let Some(root) = self.roots.get(part.nth) else { return Ok(Child::Missing) };
                open_beneath(&open_top(root)?, parent).and_then(|directory| open_child(&directory, name))
            }
        };
        match opened {
            Ok(directory) => Ok(Child::Directory(directory)),
            Err(Errno::ENOENT) => Ok(Child::Missing),
            // A whiteout is a character device, so opening it as a directory also fails with one of these errors.
            Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(Child::Other),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Level {
    fn add(&mut self, nth: usize, directory: OwnedFd) {
        let keep = self.open < OPEN_MAX;
        self.open += usize::from(keep);
        self.parts.push(Part { nth, directory: keep.then_some(directory) });
    }
}

/// Opens the subdirectory `name` without following links. An empty name opens `directory` a second time.
fn open_child(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = match name {
        b"" => b".".as_slice(),
        // A list never contains ".." unless someone has changed it. Report EXDEV, like openat2(2) for a path that leads
        // out of the directory.
        b".." => return Err(Errno::EXDEV),
        name => name,
    };
    openat(directory, OsStr::from_bytes(name), flags, Mode::empty())
}

/// The result of looking up a name in one layer's directory.
enum Child {
    Directory(OwnedFd),
    Missing,
    /// A file of another type; it hides the directories of layers below.
    Other,
}

/// The offsets at which the components of `path` end; 0 for an empty path.
fn ends(path: &[u8]) -> impl Iterator<Item = usize> + '_ {
    (0..=path.len()).filter(|at| path.get(*at).is_none_or(|b| *b == b'/'))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    [c"trusted.overlay.opaque", c"user.overlay.opaque"]
        .into_iter()
        .any(|name| xattr::fgetxattr(directory, name).is_ok_and(|value| value == b"y"))
}

/// Gives a directory the attributes of `source`. Without a source, sets the times to 0, so that the result is equal on
/// all hosts.
fn adopt(directory: &OwnedFd, source: Option<&OwnedFd>) -> io::Result<()> {
    match source {
        Some(source) => copy(source, directory),
        None => {
            let (atime, mtime) = times((0, 0));
            Ok(futimens(directory, &atime, &mtime)?)
        }
    }
}

/// Copies owner, then extended attributes, then mode and times, in the same order as [`crate::unpack::attributes`].
fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (stat, made) = (fstat(from)?, fstat(to)?);
    let is_given = (stat.st_uid, stat.st_gid) != (made.st_uid, made.st_gid);
    if is_given {
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    copy_xattrs(from, to)?;
    // chown(2) may clear the setuid and setgid bits, so set the mode again.
    if is_given || stat.st_mode != made.st_mode {
        fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    }
    let (atime, mtime) = times((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)));
    Ok(futimens(to, &atime, &mtime)?)
}

fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let names = match xattr::flistxattr(&from) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let is_copied = |name: &&[u8]| {
        !name.is_empty()
            && !HOST_ATTRIBUTES.contains(name)
            && !OVERLAYFS_PREFIXES.iter().any(|own| name.starts_with(own))
    };
    for name in names.split(|b| *b == 0).filter(is_copied) {
        let name = CString::new(name).map_err(io::Error::other)?;
        match xattr::fgetxattr(&from, &name).and_then(|value| xattr::fsetxattr(&to, &name, &value)) {
            // This process may not set the attribute, or the file system does not support it. Unpacking the lower layer
            // ignored these errors too.
            Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    /// Layers in a temporary directory, lowest first.
    struct Layers(tempfile::TempDir);

    impl Layers {
        fn new(count: usize) -> Self {
            let layers = Layers(tempfile::tempdir().expect("a directory"));
            (0..count).for_each(|nth| fs::create_dir_all(layers.dir(nth).join("diff")).expect("made"));
            layers
        }

        fn dir(&self, nth: usize) -> PathBuf {
            self.0.path().join(nth.to_string())
        }

        fn at(&self, nth: usize, path: &str) -> PathBuf {
            self.dir(nth).join("diff").join(path)
        }

        /// Adds a directory with the mode `mode` and a modification time of 1000 s after the epoch.
        fn with(self, nth: usize, path: &str, mode: u32) -> Self {
            let path = self.at(nth, path);
            fs::create_dir_all(&path).expect("made");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let then = UNIX_EPOCH + Duration::from_secs(1000);
            File::open(&path).and_then(|dir| dir.set_modified(then)).expect("set");
            self
        }

        fn opaque(self, nth: usize, path: &str) -> Self {
            let directory = File::open(self.at(nth, path)).expect("open");
            xattr::fsetxattr(&directory, c"user.overlay.opaque", b"y").expect("set");
            self
        }

        /// Settles the top layer with `paths` as its list; returns the mode and the modification time of each path.
        fn settle(&self, count: usize, paths: &[&str]) -> Vec<(u32, i64)> {
            let top = count - 1;
            let list: Vec<u8> = paths.iter().flat_map(|path| [path.as_bytes(), &[0]].concat()).collect();
            fs::write(self.dir(top).join(LIST), list).expect("written");
            let below: Vec<PathBuf> = (0..top).rev().map(|nth| self.dir(nth)).collect();
            settle(&self.dir(top), &below, &Cancel::default()).expect("settled");
            assert!(!self.dir(top).join(LIST).exists());
            let seen = |path: &&str| {
                let meta = fs::symlink_metadata(self.at(top, path)).expect("there");
                (meta.mode() & 0o7777, meta.mtime())
            };
            paths.iter().map(seen).collect()
        }
    }

    const NOTHING: (u32, i64) = (0o755, 0);

    #[test]
    fn a_directory_gets_the_attributes_of_the_nearest_layer_that_has_it() {
        let layers = Layers::new(4).with(0, "a/b", 0o700).with(0, "a", 0o711).with(1, "a", 0o1777);
        let layers = layers.with(3, "a/b/c", 0o755).with(3, "a/b", 0o755).with(3, "a", 0o755);
        let layers = layers.with(0, "", 0o750);
        let seen = layers.settle(3 + 1, &["a", "a/b", "a/b/c"]);
        assert_eq!(seen, [(0o1777, 1000), (0o700, 1000), NOTHING]);
        // Settling twice changes nothing.
        assert_eq!(layers.settle(4, &["a", "a/b", "a/b/c"]), seen);
        let layers = Layers::new(2).with(0, "", 0o750);
        assert_eq!(layers.settle(2, &[""]), [(0o750, 1000)]);
        assert_eq!(Layers::new(1).settle(1, &[""]), [NOTHING]);
    }

    #[test]
    fn a_file_that_hides_a_lower_directory_ends_the_search() {
        type Hide = fn(&Layers);
        let hide: [Hide; 3] = [
            |layers| fs::write(layers.at(1, "a"), "").expect("written"),
            |layers| symlink("b", layers.at(1, "a")).expect("linked"),
            |layers| {
                fs::create_dir(layers.at(1, "a")).expect("made");
                fs::write(layers.at(1, "a/b"), "").expect("written");
            },
        ];
        for hide in hide {
            let layers = Layers::new(3).with(0, "a/b", 0o700).with(2, "a/b/c", 0o755).with(2, "a/b", 0o755);
            hide(&layers);
            assert_eq!(layers.settle(3, &["a/b", "a/b/c"]), [NOTHING, NOTHING]);
        }
    }

    #[test]
    fn an_opaque_directory_hides_lower_entries_and_not_lower_attributes() {
        for nth in [1, 2] {
            let layers = Layers::new(3).with(0, "a/b", 0o700).with(0, "a", 0o711);
            let layers =
                layers.with(2, "a/b", 0o755).with(2, "a", 0o755).with(nth, "a", 0o755).opaque(nth, "a");
            let a = if nth == 1 { (0o755, 1000) } else { (0o711, 1000) };
            assert_eq!(layers.settle(3, &["a", "a/b"]), [a, NOTHING], "{nth}");
        }
    }

    #[test]
    fn neighbours_on_a_list_do_not_inherit_from_each_other() {
        let mut layers = Layers::new(2);
        let paths = ["a", "a/b", "a/bc", "ab", "ab/c", "a/b/d", "a"];
        for (nth, path) in paths.iter().enumerate().rev() {
            layers = layers.with(1, path, 0o755);
            if *path != "ab" && *path != "ab/c" {
                layers = layers.with(0, path, 0o700 + nth as u32);
            }
        }
        let seen: Vec<u32> = layers.settle(2, &paths).into_iter().map(|(mode, _)| mode).collect();
        assert_eq!(seen, [0o700, 0o701, 0o702, 0o755, 0o755, 0o705, 0o700]);
    }

    #[test]
    fn attributes_come_along_except_those_of_overlayfs() {
        let layers = Layers::new(2).with(0, "a", 0o755).opaque(0, "a").with(1, "a", 0o755);
        let from = File::open(layers.at(0, "a")).expect("open");
        xattr::fsetxattr(&from, c"user.note", b"two\nlines").expect("set");
        layers.settle(2, &["a"]);
        let to = File::open(layers.at(1, "a")).expect("open");
        assert_eq!(xattr::fgetxattr(&to, c"user.note"), Ok(b"two\nlines".to_vec()));
        assert!(xattr::fgetxattr(&to, c"user.overlay.opaque").is_err());
    }

    #[test]
    fn a_list_stays_until_all_layers_are_there() {
        let layers = Layers::new(2);
        fs::write(layers.dir(1).join(LIST), b"\0").expect("written");
        let failed = settle(&layers.dir(1), &[layers.dir(0), layers.dir(7)], &Cancel::default());
        assert_eq!(failed.expect_err("one is missing").kind(), io::ErrorKind::NotFound);
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(settle(&layers.dir(1), &[layers.dir(0)], &cancel).is_err());
        assert!(layers.dir(1).join(LIST).exists());
    }

    #[test]
    fn a_path_of_the_list_that_became_a_link_leads_nowhere() {
        let layers = Layers::new(2).with(0, "a", 0o700).with(0, "outside", 0o755);
        symlink(layers.at(0, "outside"), layers.at(1, "a")).expect("linked");
        fs::write(layers.dir(1).join(LIST), b"a\0../../0/diff/outside\0").expect("written");
        let settled = settle(&layers.dir(1), &[layers.dir(0)], &Cancel::default());
        assert!(settled.is_err(), "the second one leads out");
        let outside = fs::metadata(layers.at(0, "outside")).expect("there");
        assert_eq!((outside.mode() & 0o777, outside.mtime()), (0o755, 1000));
    }
}
