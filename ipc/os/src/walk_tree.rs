//! Walks an untrusted directory tree: visits every entry once, and a directory before its entries.
//!
//! Called where images and containers are measured and verified. Never follows a link, never leaves the tree, never
//! reads the content of a file. Each directory is opened by its path relative to the top, which works because paths in
//! a layer are shorter than PATH_MAX.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The unit of `st_blocks`, in bytes. stat(2).
const BLOCK: u64 = 512;

/// Calls `visit` with the status of each entry and its path relative to `top`. `top` comes first, as the empty path.
/// Entries that disappear during the walk are skipped.
///
/// # Errors
/// The first error of `visit`, or the first directory that cannot be read. The walk ends there.
pub fn walk(top: &Path, visit: &mut dyn FnMut(&[u8], &FileStat) -> io::Result<()>) -> io::Result<()> {
    let root = open_dir(AT_FDCWD, top)?;
    visit(b"", &fstatat(&root, c"", AtFlags::AT_EMPTY_PATH)?)?;
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let below = if path.is_empty() { b".".as_slice() } else { &path };
        let directory = match open_dir(&root, Path::new(OsStr::from_bytes(below))) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            other => other?,
        };
        // A second descriptor, since `Dir` takes ownership of the one that it lists.
        let mut listing = Dir::from_fd(open_dir(&directory, Path::new("."))?)?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            let mut full = Vec::with_capacity(path.len() + 1 + name.to_bytes().len());
            full.extend_from_slice(&path);
            if !path.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(name.to_bytes());
            visit(&full, &stat)?;
            if kind(&stat) == SFlag::S_IFDIR {
                pending.push(full);
            }
        }
    }
    Ok(())
}

fn open_dir(at: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// The file type.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// The bytes that `path` and everything below it take on the disk; 0 if `path` does not exist.
///
/// A file with several names counts once: each of its n names adds one n-th of its size, so no inode numbers need to
/// be remembered.
///
/// # Errors
/// A directory cannot be read.
pub fn size_on_disk(path: &Path) -> io::Result<u64> {
    // In units of 2^-32 bytes, so that the n shares of a file add up to its size again.
    let mut shares = 0u128;
    let mut add = |stat: &FileStat| {
        let names = match kind(stat) {
            SFlag::S_IFDIR => 1,
            _ => u128::from(stat.st_nlink.max(1)),
        };
        shares += ((u128::from(stat.st_blocks.unsigned_abs()) * u128::from(BLOCK)) << 32) / names;
    };
    match nix::sys::stat::lstat(path) {
        Err(Errno::ENOENT) => return Ok(0),
        Ok(stat) if kind(&stat) == SFlag::S_IFDIR => walk(path, &mut |_, stat| {
            add(stat);
            Ok(())
        })?,
        other => add(&other?),
    }
    Ok(u64::try_from((shares + (1 << 31)) >> 32).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_file_with_three_names_counts_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).expect("made");
        fs::write(top.join("a/file"), vec![1; 100_000]).expect("written");
        fs::hard_link(top.join("a/file"), top.join("a/b/second")).expect("linked");
        fs::hard_link(top.join("a/file"), top.join("third")).expect("linked");
        fs::write(dir.path().join("outside"), vec![1; 1_000_000]).expect("written");
        symlink(dir.path(), top.join("out")).expect("linked");
        let blocks = |below: &str| fs::symlink_metadata(top.join(below)).expect("there").blocks() * BLOCK;
        let expected = ["", "a", "a/b", "a/file", "out"].map(blocks).iter().sum::<u64>();
        assert_eq!(size_on_disk(&top).expect("walked"), expected);
        assert_eq!(size_on_disk(&top.join("none")).expect("nothing"), 0);
        let mut seen = Vec::new();
        walk(&top, &mut |path, _| {
            seen.push(String::from_utf8_lossy(path).into_owned());
            Ok(())
        })
        .expect("walked");
        seen.sort();
        assert_eq!(seen, ["", "a", "a/b", "a/b/second", "a/file", "out", "third"]);
    }
}
