//! Unpacks a layer's tar into a directory in the form that overlayfs needs, and never writes outside that directory.
//!
//! Called by the engine's layer pipeline, directly or in a process of [`crate::userns`]. `directories.rs` opens the
//! parent directory of each entry beneath the layer's root; this module then creates the entry in the parent directory,
//! with `O_EXCL` or an `*at` call that follows no link. This module never looks up names of users and groups: owners
//! are numbers. For [`crate::implied_dirs`], this module writes a list of the directories without an entry to a file
//! beside the root. On failure this module removes nothing: the caller removes the whole directory, which no other
//! process uses before the end. OCI image-spec, "Image Layer Filesystem Changeset".

pub(crate) mod attributes;
pub(crate) mod directories;
pub(crate) mod entry;

use self::attributes::{Attributes, Privilege, times};
use self::directories::{DIRECTORY, Directories, Opened, PATH_MAX, is_whiteout, split};
pub use self::entry::UnpackError;
use self::entry::{Place, file, refused};
use crate::implied_dirs;
use crate::tar::{Entry, Kind, TarError, TarReader};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, futimens, makedev, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};
use sampan_ipc::text;
use sampan_os::remove_tree;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The numbers of entries of an unpacked layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Number of entries that were created.
    pub entries: u64,
    /// Number of entries that were skipped: entries of an unknown type, and devices that an ordinary user may not
    /// create.
    pub skipped: u64,
}

/// Unpacks the tar `from` into the directory `root`, which must exist and be empty.
///
/// Reads up to the end mark of the tar, and returns `from` at that position. Writes [`implied_dirs::LIST`] beside
/// `root`.
///
/// # Errors
/// [`UnpackError`] names the entry. After an error, `root` has some of the entries, and the caller removes `root`.
pub fn unpack<R: BufRead>(from: R, root: &Path) -> Result<(Unpacked, R), UnpackError> {
    let mut tarball = TarReader::new(from);
    let mut unpacker = Unpacker::open(root)?;
    let mut count = Unpacked::default();
    while let Some(entry) = tarball.next_entry()? {
        match unpacker.entry(&entry, &mut tarball)? {
            true => count.entries += 1,
            false => count.skipped += 1,
        }
    }
    unpacker.directories.finish(&root.with_file_name(implied_dirs::LIST))?;
    Ok((count, tarball.into_inner()))
}

struct Unpacker {
    directories: Directories,
    attributes: Attributes,
    /// Whether this layer has created a whiteout.
    has_whiteouts: bool,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn open(root: &Path) -> Result<Self, UnpackError> {
        let privilege = Privilege::of_this_process();
        Ok(Unpacker {
            directories: Directories::open(root, privilege)?,
            attributes: Attributes::new(privilege),
            has_whiteouts: false,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Creates one entry; returns false if the entry was skipped.
    fn entry<R: BufRead>(&mut self, entry: &Entry, tarball: &mut TarReader<R>) -> Result<bool, UnpackError> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return self.root(entry).map(|()| true);
        }
        let (parent_path, name) = split(&path);
        let Opened { fd: parent, is_real } = self.directories.enter(parent_path)?;
        if name == OPAQUE {
            self.directories.make_opaque(&parent, &path)?;
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
            }
            Kind::HardLink => self.hard_link(at, entry)?,
            Kind::Symlink => {
                if entry.link.contains(&0) {
                    return Err(refused(&path, "it is a symbolic link with a zero byte in its target"));
                }
                let make = || symlinkat(OsStr::from_bytes(&entry.link), &*parent, OsStr::from_bytes(name));
                self.create_or_replace(at, "create", make)?;
                self.attributes.set_node_attributes(at, entry)?;
            }
            Kind::Fifo | Kind::Char | Kind::Block => return self.node(at, entry),
            Kind::Unknown(kind) => {
                log::debug!("skipped layer entry {:?} of unknown type {kind}", text::path(&path));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Applies an entry for the layer's root itself, such as `./`.
    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(&entry.path, "it has the name of the layer's root, but is not a directory"));
        }
        let root = self.directories.root();
        self.attributes.remove_xattrs(&*root, b"")?;
        self.attributes.set_attributes(&*root, b"", entry)?;
        self.directories.record_entry(&root, b"", entry.mtime)
    }

    /// Calls `make`. If the name is taken, removes the existing file or directory and calls `make` again: a later entry
    /// replaces an earlier entry of its name.
    fn create_or_replace<T>(
        &mut self,
        at: Place<'_>,
        doing: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(|e| file(doing, at.path, e)),
        }
        self.directories.record_replacement();
        remove_tree::remove_at(at.parent.as_fd(), OsStr::from_bytes(at.name))
            .map_err(|source| UnpackError::File { doing: "replace", path: text::path(at.path), source })?;
        make().map_err(|e| file(doing, at.path, e))
    }

    fn regular<R: BufRead>(
        &mut self,
        at: Place<'_>,
        entry: &Entry,
        tarball: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // As root, create the file with its final mode, which saves a system call. This is safe although the owner is
        // set later: no other user can enter the directory of layers, and the setuid bit is set last. An ordinary user
        // may need write permission that the final mode does not give.
        let mode = match self.attributes.privilege {
            Privilege::Root => Mode::from_bits_truncate(entry.mode & 0o777),
            Privilege::Namespace | Privilege::User => Mode::S_IRUSR | Mode::S_IWUSR,
        };
        let open = || openat(at.parent, OsStr::from_bytes(at.name), flags, mode);
        let to = File::from(self.create_or_replace(at, "create", open)?);
        let io = |source| UnpackError::File { doing: "write", path: text::path(at.path), source };
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
                    self.write_segment(&to, *offset, *len, tarball, at.path)?;
                }
            }
        }
        self.attributes.set_attributes(&to, at.path, entry)?;
        let (atime, mtime) = times(entry.mtime);
        futimens(&to, &atime, &mtime).map_err(|e| file("set the time of", at.path, e))
    }

    fn write_segment<R: BufRead>(
        &mut self,
        to: &File,
        offset: u64,
        len: u64,
        tarball: &mut TarReader<R>,
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
                .map_err(|source| UnpackError::File { doing: "write", path: text::path(path), source })?;
            done += got as u64;
        }
        Ok(())
    }

    fn directory(&mut self, at: Place<'_>, is_real: bool, entry: &Entry) -> Result<(), UnpackError> {
        if !is_real {
            self.directories.check_depth(at)?;
        }
        let name = OsStr::from_bytes(at.name);
        let make = || mkdirat(at.parent, name, Mode::S_IRWXU);
        let open = || openat(at.parent, name, DIRECTORY, Mode::empty());
        let fd = match make() {
            Ok(()) => open(),
            Err(Errno::EEXIST) if is_whiteout(at.parent, at.name) => {
                Ok(self.directories.replace_whiteout(at.parent, at.name, at.path)?)
            }
            // A second entry for a directory keeps the directory's contents and replaces its attributes.
            Err(Errno::EEXIST) => match open() {
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    self.create_or_replace(at, "create", make).map(|()| open())?
                }
                Ok(there) => self.attributes.remove_xattrs(&there, at.path).map(|()| Ok(there))?,
                other => other,
            },
            Err(errno) => Err(errno),
        };
        let fd = fd.map_err(|e| file("create", at.path, e))?;
        self.directories.record_entry(&fd, at.path, entry.mtime)?;
        self.attributes.set_attributes(&fd, at.path, entry)?;
        self.directories.remember(at.path, fd, is_real);
        Ok(())
    }

    fn hard_link(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let target = clean(&entry.link)?;
        if target.is_empty() || target == at.path {
            return Err(refused(at.path, "it is a hard link to the layer's root or to itself"));
        }
        let (parent_path, name) = split(&target);
        let parent = match self.directories.resolve(parent_path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                return Err(refused(at.path, "it is a hard link to a file that is not in the layer"));
            }
            Err(errno) => return Err(file("find the target of", at.path, errno)),
        };
        if self.has_whiteouts && is_whiteout(&parent, name) {
            return Err(refused(at.path, "it is a hard link to a file that the layer hides"));
        }
        // No AT_SYMLINK_FOLLOW: a hard link to a symbolic link is another name of the symbolic link itself.
        let name = OsStr::from_bytes(name);
        let make = || linkat(&parent, name, at.parent, OsStr::from_bytes(at.name), AtFlags::empty());
        match self.create_or_replace(at, "link", make) {
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
        // Overlayfs would read a device 0:0 as a whiteout, but a tar must write whiteouts as `.wh.` names.
        if kind == SFlag::S_IFCHR && device == 0 {
            return Err(refused(
                at.path,
                "it is a character device 0:0, which overlayfs reads as a whiteout",
            ));
        }
        let name = OsStr::from_bytes(at.name);
        let make = || mknodat(at.parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device);
        match self.create_or_replace(at, "create", make) {
            Err(UnpackError::File { source, .. })
                if source.raw_os_error() == Some(Errno::EPERM as i32) && kind != SFlag::S_IFIFO =>
            {
                log::debug!("skipped device {:?}: this user may not create devices", text::path(at.path));
                return Ok(false);
            }
            other => other?,
        }
        self.attributes.set_node_attributes(at, entry)?;
        Ok(true)
    }

    /// Creates a whiteout, which hides the file `hidden` of lower layers. A whiteout is a character device 0:0. Any
    /// user may create this device since Linux 5.8.
    fn whiteout(&mut self, parent: &OwnedFd, hidden: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(path, "it is a whiteout without a name"));
        }
        if hidden.starts_with(b".wh.") {
            // Other reserved names, such as aufs's `.wh..wh.plnk`, have no meaning for overlayfs.
            return Ok(());
        }
        self.has_whiteouts = true;
        let at = Place { parent, name: hidden, path };
        let make =
            || mknodat(parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0));
        match make() {
            Ok(()) => Ok(()),
            // This layer already has an entry of the hidden name, and keeps it: a whiteout applies only to lower
            // layers. If the entry is a directory, make it opaque, so that it hides the contents of the lower
            // directory.
            Err(Errno::EEXIST) => match openat(parent, OsStr::from_bytes(hidden), DIRECTORY, Mode::empty()) {
                Ok(directory) => self.directories.make_opaque(&directory, path),
                Err(_) => Ok(()),
            },
            Err(errno) => Err(file("create the whiteout", at.path, errno)),
        }
    }
}

/// Normalizes a path: removes `.`, repeated and leading slashes, and resolves `..`. Refuses a path that leads out of
/// the root.
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

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_os::xattr;
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
        // An entry for a file replaces a link of the same name, rather than writing through the link.
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
            (Layer::new().with(EntryType::Regular, ".", "", "x"), "not a directory"),
            (Layer::new().with(EntryType::Symlink, "a/..", "elsewhere", ""), "not a directory"),
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
            let error = layer.unpack().1.expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn links_lead_no_deeper_than_a_path_is_long() {
        let deep = "d/".repeat(1000);
        let with = |kind: EntryType, name: &str| {
            let mut layer = Layer::new().with(EntryType::Symlink, "l", "x", "");
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
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
            let error = with(kind, name);
            assert!(error.contains("without links, is longer than 4095 bytes"), "{error}");
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
            let has = xattr::lgetxattr(&sub, c"trusted.overlay.opaque");
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

    /// The list of implied directories of the layer that was unpacked in `dir`.
    fn implied(dir: &tempfile::TempDir) -> Vec<String> {
        let list = std::fs::read_to_string(dir.path().join(implied_dirs::LIST)).unwrap_or_default();
        list.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn directories_without_an_entry_are_listed() {
        let file = |layer: Layer, name| layer.with(EntryType::Regular, name, "", "x");
        let (dir, result) = file(file(Layer::new(), "a/b/c"), "a/d/e").unpack();
        result.expect("good");
        assert_eq!(implied(&dir), ["", "a", "a/b", "a/d"]);
        // A whiteout, like a file, implies the directory that contains it.
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
        assert!(!dir.path().join(implied_dirs::LIST).exists());
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
