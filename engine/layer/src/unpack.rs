//! Unpacks a layer's tar into a directory, in the form that overlayfs wants, and never outside of it.
//!
//! `directories.rs` finds the directory that an entry is made in, beneath the layer's root; the last name is then
//! made there with `O_EXCL` or an `*at` call that follows nothing. OCI image-spec, "Image Layer Filesystem Changeset".
//! Owners are numbers: names of users and groups are never looked up. Directories that a layer does not name are
//! listed beside the root, for [`crate::implied_dirs`]. Called by the engine's layer pipeline; removes nothing on failure, the
//! caller's directory is private and thrown away whole.

pub(crate) mod attributes;
pub(crate) mod directories;
pub(crate) mod entry;

use self::attributes::{Attributes, Standing, times};
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
/// Reads up to the tar's end mark and not beyond it; gives `from` back. Makes [`implied_dirs::LIST`] beside `root`.
///
/// # Errors
/// [`UnpackError`] names the entry.
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
    owner: Attributes,
    /// A whiteout was made.
    hides: bool,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn open(root: &Path) -> Result<Self, UnpackError> {
        let standing = Standing::of_this_process();
        Ok(Unpacker {
            directories: Directories::open(root, standing)?,
            owner: Attributes::new(standing),
            hides: false,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Makes one entry; false if it was passed over.
    fn entry<R: BufRead>(&mut self, entry: &Entry, tarball: &mut TarReader<R>) -> Result<bool, UnpackError> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return self.root(entry).map(|()| true);
        }
        let (parent_path, name) = split(&path);
        let Opened { fd: parent, is_real } = self.directories.enter(parent_path)?;
        if name == OPAQUE {
            self.directories.opaque(&parent, &path)?;
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
                self.replacing(at, "make", make)?;
                self.owner.set_node_attributes(at, entry)?;
            }
            Kind::Fifo | Kind::Char | Kind::Block => return self.node(at, entry),
            Kind::Unknown(kind) => {
                log::debug!("layer entry {:?} of unknown type {kind} is passed over", text::path(&path));
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
        let root = self.directories.root();
        self.owner.forget(&*root, b"")?;
        self.owner.set_attributes(&*root, b"", entry)?;
        self.directories.has_entry(&root, b"", entry.mtime)
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
        self.directories.forget();
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
        // Nobody else can enter `layers`: root may make a file with its mode before it has its owner. Setuid it gets
        // last. Others may have to write to it by its mode.
        let mode = match self.owner.standing {
            Standing::Root => Mode::from_bits_truncate(entry.mode & 0o777),
            Standing::Namespace | Standing::User => Mode::S_IRUSR | Mode::S_IWUSR,
        };
        let open = || openat(at.parent, OsStr::from_bytes(at.name), flags, mode);
        let to = File::from(self.replacing(at, "make", open)?);
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
                Ok(self.directories.instead_of_whiteout(at.parent, at.name, at.path)?)
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
        self.directories.has_entry(&fd, at.path, entry.mtime)?;
        self.owner.set_attributes(&fd, at.path, entry)?;
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
                log::debug!("device {:?} is passed over: not permitted", text::path(at.path));
                return Ok(false);
            }
            other => other?,
        }
        self.owner.set_node_attributes(at, entry)?;
        Ok(true)
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
                Ok(directory) => self.directories.opaque(&directory, path),
                Err(_) => Ok(()),
            },
            Err(errno) => Err(file("make the whiteout", at.path, errno)),
        }
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

    /// The directories that the layer has no entry for, as it was unpacked in `dir`.
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
