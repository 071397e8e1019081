//! Directories that a layer has something in, but no entry for: they are what lower layers say.
//!
//! Layers are unpacked side by side, so such a directory is made (root's, 0755) before anyone knows what it is
//! below; mounted, it would hide that. [`crate::unpack`] therefore keeps a list of them in a file beside the layer,
//! `implied`: paths from the layer's root, which is the empty one, each with a NUL behind it. Once all layers of an
//! image are there, [`crate::store`] calls [`settle`], from below to above, or a process of [`crate::namespace`]
//! does: each gets owner, mode, times and attributes from the nearest lower layer through which overlayfs would show
//! it. The list goes last, so one that was killed is done again. It always writes the same: two at once, or a second
//! one over a layer that others read, change nothing. Never follows a link, never changes a lower layer.

use crate::attributes::times;
use crate::cancel::Cancel;
use crate::place::{lossy, open_beneath, open_top};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::stat::{Mode, fchmod, fstat, futimens};
use nix::unistd::{Gid, Uid, fchown};
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the list is called, beside the layer's root.
pub const LIST: &str = "implied";
/// Attributes that a host gives files by where they lie, or for itself.
pub(crate) const OF_THE_HOST: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
/// Attributes by which overlayfs knows what it did, and those of ours that say the same of a layer.
pub(crate) const OF_OVERLAYFS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// The list, as it comes about.
///
/// Eight bytes a directory, and a path for each entry that directories were made for: a path for each directory
/// would let a layer of deep ones take memory by the square of what it has.
#[derive(Default)]
pub(crate) struct Implied {
    /// Directories that had no entry so far. Names would not do: a link in a layer gives a directory several.
    inodes: HashSet<u64>,
    /// Where they are: real paths, and how much of each is the first directory that was made for it.
    ways: Vec<(Vec<u8>, usize)>,
}

impl Implied {
    /// A directory was made that has no entry.
    pub fn made(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        self.inodes.insert(fstat(directory)?.st_ino);
        Ok(())
    }

    /// A directory has an entry.
    pub fn has_entry(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        if !self.inodes.is_empty() {
            self.inodes.remove(&fstat(directory)?.st_ino);
        }
        Ok(())
    }

    /// Directories were made for all of `path` from the one on that ends at `first`.
    pub fn way(&mut self, path: Vec<u8>, first: usize) {
        self.ways.push((path, first));
    }

    /// Writes down which of them are still there; no file if there can be none.
    pub fn write(mut self, root: &OwnedFd, to: &Path) -> io::Result<()> {
        if self.inodes.is_empty() {
            return Ok(());
        }
        let mut list = BufWriter::new(File::create(to)?);
        for (path, first) in std::mem::take(&mut self.ways) {
            for end in ends(&path).filter(|end| *end >= first) {
                let path = path.get(..end).unwrap_or_default();
                if self.take(root, path) {
                    list.write_all(path)?;
                    list.write_all(&[0])?;
                }
            }
        }
        list.flush()
    }

    /// True if there is a directory of the list, which is then on it no more.
    fn take(&mut self, root: &OwnedFd, path: &[u8]) -> bool {
        let stat = open_beneath(root, path).and_then(fstat);
        stat.is_ok_and(|stat| self.inodes.remove(&stat.st_ino))
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

/// A layer and those below it, as overlayfs sees them. They are opened one at a time: there may be 500.
struct Stack {
    /// The layer itself comes first, then the nearest.
    roots: Vec<PathBuf>,
    /// The path that was asked for last.
    path: Vec<u8>,
    /// For each directory on it, by where its name ends: the layers that have a part in it. Neighbours on a list
    /// share most of them.
    levels: Vec<(usize, Vec<usize>)>,
}

impl Stack {
    fn open(layer: &Path, below: &[PathBuf]) -> io::Result<Self> {
        let roots: Vec<PathBuf> = [layer]
            .into_iter()
            .chain(below.iter().map(PathBuf::as_path))
            .map(|dir| dir.join("diff"))
            .collect();
        for root in &roots {
            open_top(root)?;
        }
        let mut stack = Stack { roots, path: Vec::new(), levels: Vec::new() };
        let all: Vec<usize> = (0..stack.roots.len()).collect();
        stack.levels.push((0, stack.narrow(&all, b"")?));
        Ok(stack)
    }

    fn settle(&mut self, path: &[u8]) -> io::Result<()> {
        let directory = match self.directory(0, path)? {
            Seen::Directory(directory) => directory,
            Seen::Nothing | Seen::Other => {
                log::warn!("directory {:?} of a layer is there no more", lossy(path));
                return Ok(());
            }
        };
        match self.source(path)? {
            Some(source) => copy(&source, &directory)?,
            None => {
                // No layer says when; the same for all hosts, at least.
                let (atime, mtime) = times((0, 0));
                futimens(&directory, &atime, &mtime)?;
            }
        }
        Ok(())
    }

    /// The directory of the nearest lower layer that would be seen there, were the layer's own not there.
    fn source(&mut self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        // That the directory itself is opaque hides what is in those below it, not what they are.
        let layers = match path.iter().rposition(|b| *b == b'/') {
            _ if path.is_empty() => (0..self.roots.len()).collect(),
            Some(end) => self.parts(path.get(..end).unwrap_or_default())?,
            None => self.parts(b"")?,
        };
        for nth in layers.into_iter().filter(|nth| *nth > 0) {
            match self.directory(nth, path)? {
                Seen::Directory(directory) => return Ok(Some(directory)),
                Seen::Nothing => {}
                Seen::Other => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The layers that have a part in the directory `path`, from above to below.
    fn parts(&mut self, path: &[u8]) -> io::Result<Vec<usize>> {
        let is_above = |end: usize| {
            let start = path.get(..end).filter(|_| path.get(end).is_none_or(|next| *next == b'/'));
            end == 0 || start.is_some_and(|start| self.path.get(..end) == Some(start))
        };
        let shared = self.levels.iter().take_while(|(end, _)| is_above(*end)).count();
        self.levels.truncate(shared);
        let (known, mut layers) = self.levels.last().cloned().unwrap_or_default();
        for end in ends(path).filter(|end| *end > known) {
            layers = self.narrow(&layers, path.get(..end).unwrap_or_default())?;
            self.levels.push((end, layers.clone()));
        }
        self.path = path.to_vec();
        Ok(layers)
    }

    /// Those of `layers` that have a part in the directory `path`: down to one that hides all below.
    fn narrow(&self, layers: &[usize], path: &[u8]) -> io::Result<Vec<usize>> {
        let mut parts = Vec::new();
        for nth in layers {
            match self.directory(*nth, path)? {
                Seen::Directory(directory) => {
                    parts.push(*nth);
                    if is_opaque(&directory) {
                        break;
                    }
                }
                Seen::Nothing => {}
                Seen::Other => break,
            }
        }
        Ok(parts)
    }

    fn directory(&self, nth: usize, path: &[u8]) -> io::Result<Seen> {
        let Some(root) = self.roots.get(nth) else { return Ok(Seen::Nothing) };
        match open_beneath(&open_top(root)?, path) {
            Ok(directory) => Ok(Seen::Directory(directory)),
            Err(Errno::ENOENT) => Ok(Seen::Nothing),
            // A whiteout, too.
            Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(Seen::Other),
            Err(errno) => Err(errno.into()),
        }
    }
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
        .any(|name| sys::fgetxattr(directory, name).is_ok_and(|value| value == b"y"))
}

/// Owner, then extended attributes, then mode and times: as [`crate::attributes`] sets them.
fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (stat, made) = (fstat(from)?, fstat(to)?);
    if (stat.st_uid, stat.st_gid) != (made.st_uid, made.st_gid) {
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    copy_xattrs(from, to)?;
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (atime, mtime) = times((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)));
    Ok(futimens(to, &atime, &mtime)?)
}

fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let names = match sys::flistxattr(&from) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let is_copied = |name: &&[u8]| {
        !name.is_empty()
            && !OF_THE_HOST.contains(name)
            && !OF_OVERLAYFS.iter().any(|own| name.starts_with(own))
    };
    for name in names.split(|b| *b == 0).filter(is_copied) {
        let name = CString::new(name).map_err(io::Error::other)?;
        match sys::fgetxattr(&from, &name).and_then(|value| sys::fsetxattr(&to, &name, &value)) {
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
            sys::fsetxattr(&directory, c"user.overlay.opaque", b"y").expect("set");
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
        sys::fsetxattr(&from, c"user.note", b"two\nlines").expect("set");
        layers.settle(2, &["a"]);
        let to = File::open(layers.at(1, "a")).expect("open");
        assert_eq!(sys::fgetxattr(&to, c"user.note"), Ok(b"two\nlines".to_vec()));
        assert!(sys::fgetxattr(&to, c"user.overlay.opaque").is_err());
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
