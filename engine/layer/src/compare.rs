//! Compares two directory trees entry by entry: a layer that was just unpacked from its blob, and the layer in the
//! store.
//!
//! Called by the engine's verify job, directly or in a process of [`crate::userns`]. Compares type, size, mode, owner,
//! modification time, number of hard links, device, link target, extended attributes and content. Opens only
//! directories and regular files, follows no link, writes nothing. Memory use grows with the number of pending
//! directories, not with the number of entries.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use sampan_ipc::text;
use sampan_job::cancel::Cancel;
use sampan_os::open_beneath::{open_beneath, open_top};
use sampan_os::walk_tree::kind;
use sampan_os::xattr::HOST_ATTRIBUTES;
use sampan_os::{sparse, xattr};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most differences that are described; further differences are only counted.
const DESCRIBED_MAX: usize = 3;
/// Number of bytes that are read from each of two files at a time.
const BUFFER: usize = 64 << 10;

/// The differences between two trees.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// The number of entries that differ.
    pub count: u64,
    /// Descriptions of the first three differences.
    pub first: Vec<String>,
}

impl Differences {
    fn add(&mut self, path: &[u8], what: &str) {
        self.count += 1;
        if self.first.len() < DESCRIBED_MAX {
            let path = if path.is_empty() { "/".to_owned() } else { text::path(path) };
            self.first.push(format!("{path:?} {what}"));
        }
    }
}

/// Compares the tree `found` with the tree `expected`, which was unpacked after the time `since`.
///
/// An entry of `expected` that was modified after `since` has no time in the layer's tar, so the times of this entry
/// are not compared.
///
/// # Errors
/// A file cannot be read, or the job was cancelled.
pub fn compare(expected: &Path, found: &Path, since: SystemTime, cancel: &Cancel) -> io::Result<Differences> {
    let since = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut trees = Trees {
        expected: open_top(expected)?,
        found: open_top(found)?,
        since: i64::try_from(since).unwrap_or(i64::MAX),
        cancel,
        buffers: (vec![0; BUFFER], vec![0; BUFFER]),
        differences: Differences::default(),
    };
    trees.run()?;
    Ok(trees.differences)
}

struct Trees<'a> {
    expected: OwnedFd,
    found: OwnedFd,
    since: i64,
    cancel: &'a Cancel,
    buffers: (Vec<u8>, Vec<u8>),
    differences: Differences,
}

/// An entry that both trees have: the two directories that contain it, and its name.
struct Both<'a> {
    expected: &'a OwnedFd,
    found: &'a OwnedFd,
    name: &'a CStr,
}

impl Trees<'_> {
    fn run(&mut self) -> io::Result<()> {
        let (expected, found) = (fstat(&self.expected)?, fstat(&self.found)?);
        if let Some(what) = self.attributes(&expected, &found) {
            self.differences.add(b"", &what);
        }
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            self.directory(&path, &mut pending)?;
        }
        Ok(())
    }

    /// Compares the entries of one directory. Adds subdirectories that both trees have to `pending`.
    fn directory(&mut self, path: &[u8], pending: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let (expected, found) = (open_beneath(&self.expected, path)?, open_beneath(&self.found, path)?);
        let mut common = 0u64;
        let mut listing = Dir::from_fd(open_beneath(&expected, b"")?)?;
        for entry in listing.iter() {
            self.cancel.check().map_err(io::Error::other)?;
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let full = match path {
                b"" => name.to_bytes().to_vec(),
                _ => [path, b"/", name.to_bytes()].concat(),
            };
            let one = fstatat(&expected, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let other = match fstatat(&found, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {
                    self.differences.add(&full, "is missing");
                    continue;
                }
                other => other?,
            };
            common += 1;
            let at = Both { expected: &expected, found: &found, name };
            if let Some(what) = self.entry(&at, &one, &other)? {
                self.differences.add(&full, &what);
            }
            if kind(&one) == SFlag::S_IFDIR && kind(&other) == SFlag::S_IFDIR {
                pending.push(full);
            }
        }
        let here = Dir::from_fd(open_beneath(&found, b"")?)?.iter().filter(|e| !is_dot(e)).count() as u64;
        if here > common {
            self.differences.add(path, &format!("has {} entries that are not in the blob", here - common));
        }
        Ok(())
    }

    /// Describes the first difference between two entries.
    fn entry(&mut self, at: &Both<'_>, one: &FileStat, other: &FileStat) -> io::Result<Option<String>> {
        if let Some(what) = self.attributes(one, other) {
            return Ok(Some(what));
        }
        if kind(one) == SFlag::S_IFLNK {
            let name = OsStr::from_bytes(at.name.to_bytes());
            let (link, expected) = (readlinkat(at.found, name)?, readlinkat(at.expected, name)?);
            if link != expected {
                return Ok(Some(format!("leads to {link:?}, expected {expected:?}")));
            }
        }
        if extended(at.expected, at.name)? != extended(at.found, at.name)? {
            return Ok(Some("has other extended attributes".to_owned()));
        }
        let is_sparse = sparse::may_have_holes(one);
        match kind(one) == SFlag::S_IFREG && !self.has_same_content(at, is_sparse)? {
            true => Ok(Some("has other content".to_owned())),
            false => Ok(None),
        }
    }

    fn attributes(&self, expected: &FileStat, found: &FileStat) -> Option<String> {
        if kind(expected) != kind(found) {
            return Some(format!("is a {}, expected a {}", word(found), word(expected)));
        }
        let is = |kinds: &[SFlag]| kinds.contains(&kind(expected));
        let mode = |stat: &FileStat| stat.st_mode & 0o7777;
        if mode(expected) != mode(found) && !is(&[SFlag::S_IFLNK]) {
            return Some(format!("has mode {:04o}, expected {:04o}", mode(found), mode(expected)));
        }
        if (expected.st_uid, expected.st_gid) != (found.st_uid, found.st_gid) {
            let owner = |stat: &FileStat| format!("{}:{}", stat.st_uid, stat.st_gid);
            return Some(format!("has owner {}, expected {}", owner(found), owner(expected)));
        }
        if expected.st_size != found.st_size && is(&[SFlag::S_IFREG, SFlag::S_IFLNK]) {
            return Some(format!("has {} bytes, expected {}", found.st_size, expected.st_size));
        }
        if expected.st_rdev != found.st_rdev && is(&[SFlag::S_IFCHR, SFlag::S_IFBLK]) {
            return Some("is another device".to_owned());
        }
        if expected.st_nlink != found.st_nlink && !is(&[SFlag::S_IFDIR]) {
            return Some(format!("has {} names, expected {}", found.st_nlink, expected.st_nlink));
        }
        let time = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
        // Do not compare the times of directories and whiteouts without a time in the tar: unpacking created them after
        // `since`.
        if expected.st_mtime < self.since && time(expected) != time(found) {
            return Some("has another modification time".to_owned());
        }
        None
    }

    fn has_same_content(&mut self, at: &Both<'_>, is_sparse: bool) -> io::Result<bool> {
        let (mut one, mut other) = (open_file(at.expected, at.name)?, open_file(at.found, at.name)?);
        let (left, right) = &mut self.buffers;
        loop {
            self.cancel.check().map_err(io::Error::other)?;
            if is_sparse {
                skip_holes(&mut one, &mut other)?;
            }
            let len = one.read(left)?;
            let (left, right) = (left.get(..len), right.get_mut(..len));
            let (Some(left), Some(right)) = (left, right) else { return Ok(false) };
            if len == 0 {
                return Ok(true);
            }
            match other.read_exact(right) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                done => done?,
            }
            if left != right {
                return Ok(false);
            }
        }
    }
}

/// Seeks in two files of equal length to the next offset at which either file has data, or to the end.
fn skip_holes(one: &mut File, other: &mut File) -> io::Result<()> {
    let (at, end) = (one.stream_position()?, one.metadata()?.len());
    let next = |file: &File| sparse::next_data(file, at).map(|start| start.unwrap_or(end));
    let next = next(one)?.min(next(other)?).max(at);
    one.seek(SeekFrom::Start(next))?;
    other.seek(SeekFrom::Start(next))?;
    Ok(())
}

fn is_dot(entry: &nix::Result<nix::dir::Entry>) -> bool {
    entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
}

fn word(stat: &FileStat) -> &'static str {
    match kind(stat) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symbolic link",
        SFlag::S_IFCHR => "character device",
        SFlag::S_IFBLK => "block device",
        SFlag::S_IFIFO => "FIFO",
        _ => "socket",
    }
}

/// The extended attributes of the entry `name` of `dir`, sorted by name.
fn extended(dir: &OwnedFd, name: &CStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let below = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    let path = CString::new([below.as_bytes(), name.to_bytes()].concat()).map_err(io::Error::other)?;
    let list = match xattr::llistxattr(&path) {
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut attributes = Vec::new();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty() && !HOST_ATTRIBUTES.contains(name)) {
        let c_name = CString::new(name).map_err(io::Error::other)?;
        attributes.push((name.to_vec(), xattr::lgetxattr(&path, &c_name)?));
    }
    attributes.sort();
    Ok(attributes)
}

fn open_file(dir: &OwnedFd, name: &CStr) -> io::Result<File> {
    // O_NONBLOCK: if another process has replaced the file by a FIFO, opening it must not block.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(File::from(openat(dir, name, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::time::Duration;

    const THEN: Duration = Duration::from_secs(1_600_000_000);

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("made");
        for name in ["a/one", "a/b/two"] {
            fs::write(dir.path().join(name), name).expect("written");
            let file = File::options().write(true).open(dir.path().join(name)).expect("open");
            file.set_modified(UNIX_EPOCH + THEN).expect("set");
        }
        symlink("one", dir.path().join("a/link")).expect("linked");
        dir
    }

    fn found(change: impl Fn(&Path)) -> Vec<String> {
        let (one, other) = (tree(), tree());
        change(other.path());
        let since = UNIX_EPOCH + THEN + Duration::from_secs(1);
        let differences = compare(one.path(), other.path(), since, &Cancel::default()).expect("read");
        assert_eq!(differences.count as usize, differences.first.len());
        differences.first
    }

    #[test]
    fn trees_that_are_alike_do_not_differ_whenever_they_were_made() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    type Change = Box<dyn Fn(&Path)>;

    fn one(top: &Path) -> PathBuf {
        top.join("a/one")
    }

    fn keep_time(path: &Path) {
        let file = File::options().write(true).open(path).expect("open");
        file.set_modified(UNIX_EPOCH + THEN).expect("set");
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let cases: [(&str, Change); 9] = [
            ("is missing", Box::new(|top| fs::remove_file(one(top)).expect("removed"))),
            (
                "has 1 entries that are not in the blob",
                Box::new(|top| fs::write(top.join("a/new"), "").expect("written")),
            ),
            (
                "has other content",
                Box::new(|top| {
                    fs::write(one(top), "a/ONE").expect("written");
                    keep_time(&one(top));
                }),
            ),
            ("has another modification time", Box::new(|top| fs::write(one(top), "a/one").expect("written"))),
            ("has 2 bytes, expected 5", Box::new(|top| fs::write(one(top), "a/").expect("written"))),
            (
                "has mode 0600, expected 0644",
                Box::new(|top| {
                    fs::set_permissions(one(top), fs::Permissions::from_mode(0o600)).expect("set");
                }),
            ),
            (
                "is a directory, expected a file",
                Box::new(|top| {
                    fs::remove_file(one(top)).expect("removed");
                    fs::create_dir(one(top)).expect("made");
                }),
            ),
            (
                "leads to \"two\", expected \"one\"",
                Box::new(|top| {
                    fs::remove_file(top.join("a/link")).expect("removed");
                    symlink("two", top.join("a/link")).expect("linked");
                }),
            ),
            (
                "has 2 names, expected 1",
                Box::new(|top| fs::hard_link(one(top), top.join("a/more")).expect("linked")),
            ),
        ];
        for (expected, change) in cases {
            let described = found(change);
            assert!(described.iter().any(|what| what.ends_with(expected)), "{expected}: {described:?}");
        }
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_entered() {
        let described = found(|top| {
            fs::rename(top.join("a/b"), top.join("elsewhere")).expect("moved");
            symlink("../elsewhere", top.join("a/b")).expect("linked");
        });
        assert!(
            described.iter().any(|what| what == "\"a/b\" is a symbolic link, expected a directory"),
            "{described:?}"
        );
    }

    #[test]
    fn holes_are_not_read_and_data_in_a_hole_is_found() {
        let (size, middle) = (1 << 40, 1 << 39);
        let sparse = |top: &Path, data: &[u8]| {
            use std::os::unix::fs::FileExt;
            let file = File::create(top.join("a/holes")).expect("made");
            file.set_len(size).expect("a hole");
            file.write_all_at(data, middle).expect("written");
            keep_time(&top.join("a/holes"));
        };
        for (data, expected) in [(b"same".as_slice(), 0), (b"else", 1), (b"", 1)] {
            let (one, other) = (tree(), tree());
            sparse(one.path(), b"same");
            sparse(other.path(), data);
            let began = std::time::Instant::now();
            let since = UNIX_EPOCH + THEN + Duration::from_secs(1);
            let differences = compare(one.path(), other.path(), since, &Cancel::default()).expect("read");
            assert_eq!(differences.count, expected, "{data:?}");
            assert!(began.elapsed() < Duration::from_secs(20), "a hole of a terabyte was read");
        }
    }
}
