//! A root file system without overlayfs: a copy of the files that overlayfs would show for a stack of layers.
//!
//! Called by [`crate::container::directory`] while it creates a container's directory; after a failure it removes that
//! directory. Layers are not trusted: no symbolic link is followed, and no name leads out of a layer. Memory,
//! descriptors and stack do not grow with the layers: a file contains the pending directories, and links in a scratch
//! directory identify hard links. Layers must not change meanwhile; the caller has pinned them.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use sampan_ipc::text;
use sampan_os::open_beneath::{open_beneath, open_top};
use sampan_os::xattr::{HOST_ATTRIBUTES, OVERLAYFS_PREFIXES};
use sampan_os::{remove_tree, sparse, syscall, xattr};
use sampan_spec::rootfs_view;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a root file system cannot be copied.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path:?} of the root file system")]
pub struct CopyError {
    doing: &'static str,
    path: String,
    source: io::Error,
}

fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> CopyError {
    let path = text::path(path);
    move |errno| CopyError { doing, path, source: errno.into() }
}

fn failed_io(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> CopyError {
    let path = text::path(path);
    move |source| CopyError { doing, path, source }
}

/// Fills the empty directory `target` with the files that overlayfs would show for `layers`, uppermost first. Returns
/// the number of extended attributes that the file system of `target` did not accept.
///
/// `scratch` is an unused path on the same file system. Nothing is left at that path.
///
/// # Errors
/// [`CopyError`]. The caller removes the incomplete copy.
pub fn copy(layers: &[PathBuf], target: &Path, scratch: &Path) -> Result<u64, CopyError> {
    let result = Copier::new(layers, target, scratch).and_then(Copier::run);
    let removed = remove_tree::remove(scratch).map_err(failed_io("remove the scratch directory of", b""));
    result.and_then(|left_out| removed.map(|()| left_out))
}

/// Copies owner, mode, attributes and times of the root of `layer` to the directory `to`, which overlayfs will show as
/// the root. Returns the number of extended attributes that the file system of `to` did not accept.
///
/// # Errors
/// [`CopyError`] if an attribute cannot be read or set.
pub fn copy_root_attributes(layer: &Path, to: &Path) -> Result<u64, CopyError> {
    let from = open_top(layer).map_err(failed("open", b""))?;
    let to = open_top(to).map_err(failed("open", b""))?;
    let stat = fstat(&from).map_err(failed("inspect", b""))?;
    copy_metadata(&from, &to, &stat, b"")
}

struct Copier<'a> {
    layers: &'a [PathBuf],
    top: OwnedFd,
    /// Directory with a link to each copied file that has several names. Layer and inode number make the name of a
    /// link.
    links: OwnedFd,
    pending: Pending,
    can_clone: bool,
    left_out: u64,
}

/// One directory entry of one layer, and the directory to which it is copied.
struct Entry<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    name: &'a CStr,
    path: &'a [u8],
    layer: u16,
}

impl<'a> Copier<'a> {
    fn new(layers: &'a [PathBuf], target: &Path, scratch: &Path) -> Result<Self, CopyError> {
        let make =
            |path: &Path| fs::create_dir(path).map_err(failed_io("make the scratch directory for", b""));
        make(scratch)?;
        let links = scratch.join("links");
        make(&links)?;
        Ok(Copier {
            layers,
            top: open_top(target).map_err(failed("open", b""))?,
            links: open_top(&links).map_err(failed("open", b""))?,
            pending: Pending::new(&scratch.join("pending"))
                .map_err(failed_io("make the scratch directory for", b""))?,
            can_clone: true,
            left_out: 0,
        })
    }

    fn run(mut self) -> Result<u64, CopyError> {
        let all: Vec<u16> = (0..self.layers.len()).filter_map(|at| u16::try_from(at).ok()).collect();
        if all.len() < self.layers.len() {
            return Err(failed("copy more than 65535 layers", b"")(Errno::E2BIG));
        }
        let record = failed_io("record a pending directory of", b"");
        self.pending.push(b"", &all).map_err(record)?;
        while let Some((path, layers)) =
            self.pending.pop().map_err(failed_io("record a pending directory of", b""))?
        {
            self.copy_directory(&path, &layers)?;
        }
        Ok(self.left_out)
    }

    /// Fills one existing directory. `candidates` are the layers that its parent directory was merged from.
    fn copy_directory(&mut self, path: &[u8], candidates: &[u16]) -> Result<(), CopyError> {
        let to = open_beneath(&self.top, path).map_err(failed("open", path))?;
        let mut uppermost: Option<OwnedFd> = None;
        let mut merged = Vec::new();
        for &layer in candidates {
            let Some(root) = self.layers.get(usize::from(layer)) else { continue };
            let root = open_top(root).map_err(failed("open", path))?;
            let from = match open_beneath(&root, path) {
                Ok(from) => from,
                Err(Errno::ENOENT) => continue,
                // In this layer a component of the path is a file or a link, which hides all lower layers.
                Err(Errno::ENOTDIR | Errno::ELOOP) => break,
                Err(errno) => return Err(failed("open", path)(errno)),
            };
            merged.push(layer);
            let mark = opaque_mark(&from);
            self.copy_layer(&from, &to, path, layer, uppermost.is_some(), mark == Some(b'x'))?;
            uppermost.get_or_insert(from);
            if mark == Some(b'y') {
                break;
            }
        }
        self.queue_directories(&to, path, &merged)?;
        // Set the times last, because creating entries changes the directory's times.
        if let Some(from) = uppermost {
            let stat = fstat(&from).map_err(failed("inspect", path))?;
            self.left_out += copy_metadata(&from, &to, &stat, path)?;
        }
        Ok(())
    }

    /// Copies the entries of one layer in one directory, except names that an upper layer has.
    fn copy_layer(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &[u8],
        layer: u16,
        is_below: bool,
        has_marked_whiteouts: bool,
    ) -> Result<(), CopyError> {
        let mut listing = list(from).map_err(failed("list", path))?;
        for entry in listing.iter() {
            let entry = entry.map_err(failed("list", path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = join(path, name.to_bytes());
            if is_below && fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            self.copy_entry(&Entry { from, to, name, path: &path, layer }, has_marked_whiteouts)?;
        }
        Ok(())
    }

    fn copy_entry(&mut self, entry: &Entry<'_>, has_marked_whiteouts: bool) -> Result<(), CopyError> {
        let Entry { from, to, name, path, .. } = *entry;
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed("inspect", path))?;
        let kind = kind(&stat);
        let is_marked = || has_marked_whiteouts && stat.st_size == 0 && has_whiteout_mark(from, name);
        if (kind == SFlag::S_IFCHR && stat.st_rdev == 0) || (kind == SFlag::S_IFREG && is_marked()) {
            // The whiteout hides the name in lower layers. It is removed when the directory is complete.
            return mknodat(to, name, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(failed("record the whiteout", path));
        }
        if kind == SFlag::S_IFDIR {
            return mkdirat(to, name, Mode::S_IRWXU).map_err(failed("make the directory", path));
        }
        let key = (stat.st_nlink > 1).then(|| format!("{}-{}", entry.layer, stat.st_ino));
        if let Some(key) = &key
            && linkat(&self.links, key.as_str(), to, name, LinkatFlags::empty()).is_ok()
        {
            return Ok(());
        }
        match kind {
            SFlag::S_IFREG => self.copy_file(entry)?,
            SFlag::S_IFLNK => {
                let target = readlinkat(from, name).map_err(failed("read the link", path))?;
                symlinkat(target.as_os_str(), to, name).map_err(failed("make the link", path))?;
                self.copy_node_metadata(entry, &stat)?;
            }
            kind => {
                mknodat(to, name, kind, Mode::empty(), stat.st_rdev)
                    .map_err(failed("make the node", path))?;
                self.copy_node_metadata(entry, &stat)?;
            }
        }
        if let Some(key) = &key {
            // If the file system accepts no further link, the file's other names become separate copies.
            match linkat(to, name, &self.links, key.as_str(), LinkatFlags::empty()) {
                Ok(()) | Err(Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP | Errno::EEXIST) => {}
                Err(errno) => return Err(failed("link", path)(errno)),
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, entry: &Entry<'_>) -> Result<(), CopyError> {
        let Entry { from, to, name, path, .. } = *entry;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let source =
            openat(from, name, flags | OFlag::O_RDONLY, Mode::empty()).map_err(failed("open", path))?;
        let stat = fstat(&source).map_err(failed("inspect", path))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(failed("copy", path)(Errno::ESTALE));
        }
        let flags = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let target = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("make", path))?;
        let (source, target) = (File::from(source), File::from(target));
        if stat.st_size > 0 {
            self.can_clone = self.can_clone && syscall::clone_file(target.as_fd(), source.as_fd()).is_ok();
            if !self.can_clone {
                copy_data(&source, &target, &stat).map_err(failed_io("copy", path))?;
            }
        }
        self.left_out += copy_metadata(&source, &target, &stat, path)?;
        Ok(())
    }

    /// Copies owner, attributes, mode and times of a link, a device, a socket or a FIFO.
    fn copy_node_metadata(&mut self, entry: &Entry<'_>, stat: &FileStat) -> Result<(), CopyError> {
        let Entry { from, to, name, path, .. } = *entry;
        fchownat(to, name, uid(stat), gid(stat), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", path))?;
        let (source, target) = (by_path(from, name), by_path(to, name));
        let get = |attribute: &CStr| xattr::lgetxattr(&source, attribute);
        let set = |attribute: &CStr, value: &[u8]| xattr::lsetxattr(&target, attribute, value);
        self.left_out += attributes(xattr::llistxattr(&source), get, set, path)?;
        if kind(stat) != SFlag::S_IFLNK {
            // Following a link is safe here: no other process can reach the directory, so `name` is still the new
            // node.
            fchmodat(to, name, mode(stat), FchmodatFlags::FollowSymlink)
                .map_err(failed("set the mode of", path))?;
        }
        let (atime, mtime) = times(stat);
        utimensat(to, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            .map_err(failed("set the time of", path))
    }

    /// Adds the subdirectories of `to` to the pending directories, and removes the whiteouts.
    fn queue_directories(&mut self, to: &OwnedFd, path: &[u8], merged: &[u16]) -> Result<(), CopyError> {
        let mut listing = list(to).map_err(failed("list", path))?;
        for entry in listing.iter() {
            let entry = entry.map_err(failed("list", path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let (is_directory, is_whiteout) = match entry.file_type() {
                Some(Type::Directory) => (true, false),
                Some(Type::CharacterDevice) | None => {
                    let stat =
                        fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed("inspect", path))?;
                    (kind(&stat) == SFlag::S_IFDIR, kind(&stat) == SFlag::S_IFCHR && stat.st_rdev == 0)
                }
                Some(_) => (false, false),
            };
            let path = join(path, name.to_bytes());
            if is_directory {
                self.pending.push(&path, merged).map_err(failed_io("record the pending directory", &path))?;
            } else if is_whiteout {
                unlinkat(to, name, UnlinkatFlags::NoRemoveDir).map_err(failed("hide", &path))?;
            }
        }
        Ok(())
    }
}

/// The directories that are not filled yet: a stack in a file, because layers decide how many there are.
struct Pending {
    file: File,
    len: u64,
}

impl Pending {
    fn new(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Pending { file, len: 0 })
    }

    /// Layout of an element: the path, two bytes for each layer, then the length of the path and the number of layers,
    /// in four bytes each. All numbers are little-endian.
    fn push(&mut self, path: &[u8], layers: &[u16]) -> io::Result<()> {
        let mut bytes = path.to_vec();
        bytes.extend(layers.iter().flat_map(|layer| layer.to_le_bytes()));
        for len in [path.len(), layers.len()] {
            bytes.extend(u32::try_from(len).map_err(io::Error::other)?.to_le_bytes());
        }
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u16>)>> {
        let Some(at) = self.len.checked_sub(8) else { return Ok(None) };
        let (mut path_len, mut count) = ([0; 4], [0; 4]);
        self.file.read_exact_at(&mut path_len, at)?;
        self.file.read_exact_at(&mut count, at + 4)?;
        let (path_len, count) =
            (u64::from(u32::from_le_bytes(path_len)), u64::from(u32::from_le_bytes(count)));
        let start = at.checked_sub(path_len + 2 * count).ok_or(io::ErrorKind::InvalidData)?;
        let mut path = vec![0; usize::try_from(path_len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut path, start)?;
        let mut layers = vec![0; usize::try_from(2 * count).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut layers, start + path_len)?;
        self.len = start;
        Ok(Some((path, layers.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two)).collect())))
    }
}

/// Copies the data of a file, and keeps its holes.
fn copy_data(source: &File, target: &File, stat: &FileStat) -> io::Result<()> {
    let size = stat.st_size.unsigned_abs();
    if !sparse::may_have_holes(stat) {
        return io::copy(&mut &*source, &mut &*target).map(drop);
    }
    let mut at = 0;
    while at < size {
        let Some(start) = sparse::next_data(source, at)? else { break };
        let end = sparse::end_of_data(source, start, size);
        let (mut from, mut to) = (source, target);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), &mut to)?;
        at = end;
    }
    target.set_len(size)
}

/// Copies owner, extended attributes, mode and times, in this order: chown(2) clears capabilities and setuid bits.
/// Returns the number of attributes that the file system did not accept.
fn copy_metadata(from: &impl AsFd, to: &impl AsFd, stat: &FileStat, path: &[u8]) -> Result<u64, CopyError> {
    fchown(to, uid(stat), gid(stat)).map_err(failed("set the owner of", path))?;
    let get = |name: &CStr| xattr::fgetxattr(from, name);
    let set = |name: &CStr, value: &[u8]| xattr::fsetxattr(to, name, value);
    let left_out = attributes(xattr::flistxattr(from), get, set, path)?;
    fchmod(to, mode(stat)).map_err(failed("set the mode of", path))?;
    let (atime, mtime) = times(stat);
    futimens(to, &atime, &mtime).map_err(failed("set the time of", path))?;
    Ok(left_out)
}

/// Copies extended attributes, except those of overlayfs and of the host. Returns the number of attributes that the
/// file system did not accept.
fn attributes(
    names: Result<Vec<u8>, Errno>,
    get: impl Fn(&CStr) -> Result<Vec<u8>, Errno>,
    set: impl Fn(&CStr, &[u8]) -> Result<(), Errno>,
    path: &[u8],
) -> Result<u64, CopyError> {
    let names = match names {
        Err(Errno::EOPNOTSUPP) => return Ok(0),
        names => names.map_err(failed("list the attributes of", path))?,
    };
    let is_excluded = |name: &[u8]| {
        OVERLAYFS_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || HOST_ATTRIBUTES.contains(&name)
    };
    let mut left_out = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !is_excluded(name)) {
        let Ok(c_name) = CString::new(name) else { continue };
        let value = get(&c_name).map_err(failed("read an attribute of", path))?;
        match set(&c_name, &value) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) => left_out += 1,
            Err(errno) => return Err(failed("set an attribute of", path)(errno)),
        }
    }
    Ok(left_out)
}

fn has_whiteout_mark(from: &OwnedFd, name: &CStr) -> bool {
    xattr::lgetxattr(&by_path(from, name), rootfs_view::marks().whiteout).is_ok()
}

/// Returns the value of overlayfs's attribute `opaque`: `y` if the directory hides lower layers, `x` if an attribute
/// may mark some of its files as whiteouts.
fn opaque_mark(directory: &OwnedFd) -> Option<u8> {
    xattr::fgetxattr(directory, rootfs_view::marks().opaque)
        .ok()
        .filter(|value| value.len() == 1)?
        .first()
        .copied()
}

#[expect(clippy::expect_used, reason = "neither part of the path can have a NUL")]
fn by_path(directory: &OwnedFd, name: &CStr) -> CString {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    CString::new(path).expect("neither part has a NUL")
}

fn list(directory: &OwnedFd) -> Result<Dir, Errno> {
    // Open a second descriptor, because `Dir` takes ownership of the one it gets.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Dir::from_fd(openat(directory, ".", flags, Mode::empty())?)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path.is_empty() {
        true => name.to_vec(),
        false => [path, b"/", name].concat(),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

fn uid(stat: &FileStat) -> Option<Uid> {
    Some(Uid::from_raw(stat.st_uid))
}

fn gid(stat: &FileStat) -> Option<Gid> {
    Some(Gid::from_raw(stat.st_gid))
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use tempfile::TempDir;

    /// A directory with the layers `0` (the uppermost layer), `1` and `2`.
    struct Stack(TempDir);

    impl Stack {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            ["0", "1", "2", "root"]
                .iter()
                .for_each(|name| fs::create_dir(dir.path().join(name)).expect("made"));
            Stack(dir)
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.0.path().join(inside)
        }

        fn write(&self, inside: &str, text: &str) {
            let path = self.path(inside);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }

        fn mark(&self, inside: &str, name: &CStr, value: &[u8]) {
            let path = CString::new(self.path(inside).to_string_lossy().into_owned()).expect("no NUL");
            xattr::lsetxattr(&path, name, value).expect("as root");
        }

        fn copy(&self) -> Result<u64, CopyError> {
            let layers = ["0", "1", "2"].map(|layer| self.path(layer));
            let result = copy(&layers, &self.path("root"), &self.path("scratch"));
            assert!(!self.path("scratch").exists());
            result
        }

        /// All paths in the copy, sorted.
        fn copied(&self) -> Vec<String> {
            assert_eq!(self.copy().expect("copied"), 0);
            let mut paths = Vec::new();
            let visit = &mut |path: &[u8], _: &FileStat| {
                paths.push(String::from_utf8_lossy(path).into_owned());
                Ok(())
            };
            sampan_os::walk_tree::walk(&self.path("root"), visit).expect("walked");
            paths.sort();
            paths
        }
    }

    #[test]
    fn layers_are_merged_and_what_is_hidden_is_not_there() {
        let stack = Stack::new();
        for path in
            ["2/a/old", "2/b/old", "2/c/old", "2/d", "2/e/old", "1/a/mid", "0/d/new", "0/f", "1/f/under"]
        {
            stack.write(path, path);
        }
        mknodat(open_top(&stack.path("1")).expect("open"), "b", SFlag::S_IFCHR, Mode::empty(), 0)
            .expect("as root");
        fs::create_dir(stack.path("0/c")).expect("made");
        stack.mark("0/c", rootfs_view::marks().opaque, b"y");
        // The file `1/e` hides `2/e`, and the directory `0/e` hides the file.
        stack.write("1/e", "a file");
        stack.write("0/e/new", "new");
        assert_eq!(stack.copied(), ["", "a", "a/mid", "a/old", "c", "d", "d/new", "e", "e/new", "f"]);
        assert!(
            xattr::fgetxattr(open_top(&stack.path("root/c")).expect("open"), rootfs_view::marks().opaque)
                .is_err()
        );
    }

    #[test]
    fn a_marked_file_is_a_whiteout_only_where_the_directory_says_that_there_are_some() {
        let stack = Stack::new();
        for dir in ["a", "b"] {
            stack.write(&format!("1/{dir}/file"), "below");
            stack.write(&format!("0/{dir}/file"), "");
            stack.mark(&format!("0/{dir}/file"), rootfs_view::marks().whiteout, b"");
        }
        stack.mark("0/a", rootfs_view::marks().opaque, b"x");
        assert_eq!(stack.copied(), ["", "a", "b", "b/file"]);
    }

    #[test]
    fn names_of_one_file_stay_names_of_one_file_and_layers_share_none() {
        let stack = Stack::new();
        stack.write("2/one", "text");
        fs::create_dir(stack.path("2/dir")).expect("made");
        fs::hard_link(stack.path("2/one"), stack.path("2/dir/two")).expect("linked");
        fs::hard_link(stack.path("2/one"), stack.path("2/hidden")).expect("linked");
        stack.write("0/hidden", "other");
        symlink("/etc/passwd", stack.path("1/link")).expect("linked");
        fs::hard_link(stack.path("1/link"), stack.path("1/again")).expect("linked");
        stack.copy().expect("copied");
        let meta = |path: &str| fs::symlink_metadata(stack.path(path)).expect("there");
        assert_eq!(meta("root/one").ino(), meta("root/dir/two").ino());
        assert_eq!((meta("root/one").nlink(), meta("root/hidden").nlink()), (2, 1));
        assert_eq!(meta("root/link").ino(), meta("root/again").ino());
        assert_ne!(meta("root/one").ino(), meta("2/one").ino());
        assert_eq!(fs::read(stack.path("root/hidden")).expect("read"), b"other");
    }

    #[test]
    fn links_lead_nowhere_while_layers_are_read() {
        let stack = Stack::new();
        stack.write("outside/secret", "secret");
        symlink("../outside", stack.path("1/dir")).expect("linked");
        stack.write("0/dir/mine", "mine");
        symlink(stack.path("outside"), stack.path("0/away")).expect("linked");
        stack.write("2/away/under", "under");
        assert_eq!(stack.copied(), ["", "away", "dir", "dir/mine"]);
        assert_eq!(fs::read_dir(stack.path("outside")).expect("there").count(), 1);
    }

    #[test]
    fn holes_stay_holes_and_what_cannot_be_copied_is_an_error() {
        let stack = Stack::new();
        let file = File::create(stack.path("2/holes")).expect("made");
        file.write_all_at(b"at a million", 1_000_000).expect("written");
        file.set_len(50_000_000).expect("a hole");
        stack.copy().expect("copied");
        let (from, to) = (stack.path("2/holes"), stack.path("root/holes"));
        assert!(fs::metadata(&to).expect("there").blocks() < 1000);
        assert!(fs::read(from).expect("read") == fs::read(to).expect("read"));
        let layers = [stack.path("none")];
        let failure = copy(&layers, &stack.path("root"), &stack.path("scratch")).expect_err("no layer");
        assert!(failure.to_string().contains("open") && !stack.path("scratch").exists(), "{failure}");
    }

    #[test]
    fn depth_and_number_of_directories_take_no_memory_or_descriptors() {
        let stack = Stack::new();
        let mut deep = "2/deep".to_owned();
        (0..900).for_each(|_| deep.push_str("/d"));
        fs::create_dir_all(stack.path(&deep)).expect("made");
        (0..500).for_each(|nth| fs::create_dir(stack.path(&format!("1/{nth}"))).expect("made"));
        let before = fs::read_dir("/proc/self/fd").expect("mounted").count();
        let layers = ["0", "1", "2"].map(|layer| stack.path(layer));
        let mut copier = Copier::new(&layers, &stack.path("root"), &stack.path("scratch")).expect("begun");
        copier.copy_directory(b"", &[0, 1, 2]).expect("copied");
        assert!(copier.pending.len < 500 * 30, "{}", copier.pending.len);
        assert!(fs::read_dir("/proc/self/fd").expect("mounted").count() < before + 200);
        drop(copier);
        remove_tree::remove(&stack.path("root"))
            .and_then(|()| remove_tree::remove(&stack.path("scratch")))
            .expect("removed");
        fs::create_dir(stack.path("root")).expect("made");
        assert_eq!(stack.copied().len(), 1 + 901 + 500);
    }
}
