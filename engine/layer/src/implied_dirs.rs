//! Directories that a layer has something in, but no entry for: they are what lower layers say.
//!
//! Layers are unpacked side by side, so such a directory is made (root's, 0755) before anyone knows what it is
//! below; mounted, it would hide that. [`crate::unpack`] therefore keeps a list of them in a file beside the layer,
//! `implied`: paths from the layer's root, which is the empty one, each with a NUL behind it. Once all layers of an
//! image are there, the store calls [`settle`], from below to above, or a process of [`crate::userns`]
//! does: each gets owner, mode, times and attributes from the nearest lower layer through which overlayfs would show
//! it. The list goes last, so one that was killed is done again. It always writes the same: two at once, or a second
//! one over a layer that others read, change nothing. Never follows a link, never changes a lower layer.

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

/// What the list is called, beside the layer's root.
pub const LIST: &str = "implied";

/// Directories that were made for an entry.
pub(crate) struct Way {
    /// The innermost of them, from the layer's root on, without links.
    path: Vec<u8>,
    /// How much of that is the outermost.
    first: usize,
    /// All of them, from without to within.
    inodes: Vec<u64>,
}

impl Way {
    /// Directories are about to be made for all of `path` from the one on that ends at `first`.
    pub fn begin(path: Vec<u8>, first: usize) -> Self {
        Way { path, first, inodes: Vec::new() }
    }
}

/// The list, as it comes about.
///
/// A few bytes a directory, and a path for each entry that directories were made for: a path for each directory
/// would let a layer of deep ones take memory by the square of what it has.
#[derive(Default)]
pub(crate) struct Implied {
    /// Directories that had no entry so far. Names would not do: a link in a layer gives a directory several.
    inodes: HashSet<u64>,
    /// Where they are.
    ways: Vec<Way>,
}

impl Implied {
    /// A directory was made that has no entry, the next one on `way`.
    pub fn made(&mut self, directory: &OwnedFd, way: &mut Way) -> Result<(), Errno> {
        let inode = fstat(directory)?.st_ino;
        self.inodes.insert(inode);
        way.inodes.push(inode);
        Ok(())
    }

    /// A directory has an entry.
    pub fn has_entry(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        if !self.inodes.is_empty() {
            self.inodes.remove(&fstat(directory)?.st_ino);
        }
        Ok(())
    }

    /// All directories of a way were made.
    pub fn way(&mut self, way: Way) {
        self.ways.push(way);
    }

    /// Writes down which of them have no entry, and are still there if something was `replaced`; no file if there can
    /// be none.
    pub fn write(mut self, root: &OwnedFd, to: &Path, replaced: bool) -> io::Result<()> {
        if self.inodes.is_empty() {
            return Ok(());
        }
        let mut list = BufWriter::new(File::create(to)?);
        for Way { path, first, inodes } in std::mem::take(&mut self.ways) {
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

/// The path of `directory` from `root` on, without links; `None` if it is too long to be told.
pub(crate) fn real_path(root: &OwnedFd, directory: &OwnedFd) -> Option<Vec<u8>> {
    let path = |fd: &OwnedFd| readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok();
    let (root, path) = (path(root)?, path(directory)?);
    let below = Path::new(&path).strip_prefix(Path::new(&root)).ok()?;
    Some(below.as_os_str().as_bytes().to_vec())
}

/// Gives the directories on the list of `layer` what the layers `below` say of them, the nearest first. All are
/// directories with `diff` in them. Without a list it is done.
///
/// # Errors
/// A layer is not there or cannot be read, or `cancel` was called; the list is still there then.
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

/// Most directories that are kept open at a time: there may be 500 layers, and any depth.
const OPEN_MAX: usize = 64;

/// A layer and those below it, as overlayfs sees them.
struct Stack {
    /// The layer itself comes first, then the nearest.
    roots: Vec<PathBuf>,
    /// The path that was asked for last.
    path: Vec<u8>,
    /// The directories on it. Neighbours on a list share most of them.
    levels: Vec<Level>,
}

/// One directory of a path.
struct Level {
    /// Where its name ends.
    end: usize,
    /// The layers that have a part in it, from above to below.
    parts: Vec<Part>,
    /// How many are open, those of levels above included.
    open: usize,
}

/// One layer's part in a directory.
struct Part {
    nth: usize,
    /// `None` if too many are open already.
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
            None => Seen::Nothing,
        };
        let Seen::Directory(directory) = own else {
            log::warn!("directory {:?} of a layer is there no more", text::path(path));
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

    /// The directory `name` of the nearest lower layer that would be seen there, were the layer's own not there. That
    /// the layer's own is opaque hides what is in those below it, not what they are.
    fn source(&self, parts: &[Part], parent: &[u8], name: &[u8]) -> io::Result<Option<OwnedFd>> {
        // Those whose parent is hidden by an opaque one have no part in it: see `narrow`.
        for part in parts.iter().filter(|part| part.nth > 0) {
            match self.child(part, parent, name)? {
                Seen::Directory(directory) => return Ok(Some(directory)),
                Seen::Nothing => {}
                Seen::Other => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Makes the directory `path` the last level.
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

    /// The layers of `above` that have a part in the directory `path`, right below: down to one that hides all below.
    fn narrow(&self, above: &Level, path: &[u8]) -> io::Result<Level> {
        let parent = path.get(..above.end).unwrap_or_default();
        let start = if above.end == 0 { 0 } else { above.end + 1 };
        let name = path.get(start..).unwrap_or_default();
        let mut level = Level { end: path.len(), parts: Vec::new(), open: above.open };
        for part in &above.parts {
            match self.child(part, parent, name)? {
                Seen::Directory(directory) => {
                    // Looked at only where there is something to hide.
                    if level.parts.last().is_some_and(|upper| self.is_opaque(upper, path)) {
                        break;
                    }
                    level.add(part.nth, directory);
                }
                Seen::Nothing => {}
                Seen::Other => break,
            }
        }
        Ok(level)
    }

    /// True if a part of the directory `path` hides those below it.
    fn is_opaque(&self, part: &Part, path: &[u8]) -> bool {
        match (&part.directory, self.roots.get(part.nth)) {
            (Some(directory), _) => is_opaque(directory),
            (None, Some(root)) => open_top(root)
                .and_then(|root| open_beneath(&root, path))
                .is_ok_and(|directory| is_opaque(&directory)),
            (None, None) => false,
        }
    }

    /// What the directory `parent`, of which a layer has a part, has as `name`; the directory itself if that is empty.
    fn child(&self, part: &Part, parent: &[u8], name: &[u8]) -> io::Result<Seen> {
        let opened = match &part.directory {
            Some(directory) => open_child(directory, name),
            None => {
                let Some(root) = self.roots.get(part.nth) else { return Ok(Seen::Nothing) };
                open_beneath(&open_top(root)?, parent).and_then(|directory| open_child(&directory, name))
            }
        };
        match opened {
            Ok(directory) => Ok(Seen::Directory(directory)),
            Err(Errno::ENOENT) => Ok(Seen::Nothing),
            // A whiteout, too.
            Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(Seen::Other),
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

/// One directory down, following nothing; `directory` once more if `name` is empty.
fn open_child(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = match name {
        b"" => b".".as_slice(),
        // No list that we wrote has it; as openat2(2) says of what leads out.
        b".." => return Err(Errno::EXDEV),
        name => name,
    };
    openat(directory, OsStr::from_bytes(name), flags, Mode::empty())
}

/// What a layer has under a name.
enum Seen {
    Directory(OwnedFd),
    Nothing,
    /// Something that is no directory, and hides those of layers below.
    Other,
}

/// Where the names of `path` end; of the empty one at 0.
fn ends(path: &[u8]) -> impl Iterator<Item = usize> + '_ {
    (0..=path.len()).filter(|at| path.get(*at).is_none_or(|b| *b == b'/'))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    [c"trusted.overlay.opaque", c"user.overlay.opaque"]
        .into_iter()
        .any(|name| xattr::fgetxattr(directory, name).is_ok_and(|value| value == b"y"))
}

/// Gives a directory what `source` says; without one, a time that is the same for all hosts, at least.
fn adopt(directory: &OwnedFd, source: Option<&OwnedFd>) -> io::Result<()> {
    match source {
        Some(source) => copy(source, directory),
        None => {
            let (atime, mtime) = times((0, 0));
            Ok(futimens(directory, &atime, &mtime)?)
        }
    }
}

/// Owner, then extended attributes, then mode and times: as [`crate::unpack::attributes`] sets them.
fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (stat, made) = (fstat(from)?, fstat(to)?);
    let is_given = (stat.st_uid, stat.st_gid) != (made.st_uid, made.st_gid);
    if is_given {
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    copy_xattrs(from, to)?;
    // Giving a file away may take bits of its mode.
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
            // The lower layer has what this process may not give; so it was when that one was unpacked.
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

    /// Layers in a directory, the lowest first.
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

        /// A directory of this mode, whose time is 1000 s after 1970.
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

        /// Settles the highest one, on whose list `paths` are; the mode and time of each.
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
    fn a_directory_is_what_the_nearest_layer_says_that_has_it() {
        let layers = Layers::new(4).with(0, "a/b", 0o700).with(0, "a", 0o711).with(1, "a", 0o1777);
        let layers = layers.with(3, "a/b/c", 0o755).with(3, "a/b", 0o755).with(3, "a", 0o755);
        let layers = layers.with(0, "", 0o750);
        let seen = layers.settle(3 + 1, &["a", "a/b", "a/b/c"]);
        assert_eq!(seen, [(0o1777, 1000), (0o700, 1000), NOTHING]);
        // Nobody but these has been asked, and asking twice is no harm.
        assert_eq!(layers.settle(4, &["a", "a/b", "a/b/c"]), seen);
        let layers = Layers::new(2).with(0, "", 0o750);
        assert_eq!(layers.settle(2, &[""]), [(0o750, 1000)]);
        assert_eq!(Layers::new(1).settle(1, &[""]), [NOTHING]);
    }

    #[test]
    fn what_hides_a_lower_directory_ends_the_search() {
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
    fn an_opaque_directory_hides_what_is_in_lower_ones_and_not_what_they_are() {
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
