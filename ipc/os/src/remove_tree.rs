//! Removes an untrusted directory tree of any depth and width.
//!
//! Called for layers, containers' directories and temporary directories. Recursion would need a stack frame or a
//! descriptor for each level, and a hostile layer chooses the number of levels. So a nested directory that is not empty
//! is moved up to the top of the tree and removed there: two levels are open at a time. Never follows a link.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Removes `path` and everything below it. A `path` that does not exist is not an error.
///
/// # Errors
/// The first failure; the tree is then partly removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let Some(name) = path.file_name() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let parent = match open_dir(AT_FDCWD, &CString::new(parent.as_os_str().as_bytes())?, false) {
        Ok(dir) => dir,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    remove_at(parent.as_fd(), name)
}

/// Removes the entry `name` of the directory `parent` and everything below it. A missing entry is not an error.
///
/// # Errors
/// The first failure; the tree is then partly removed.
pub fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    match unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut moved = 0u64;
    loop {
        match unlinkat(parent, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let top = open_dir(parent, &name, true)?;
        empty(&top, &mut moved)?;
    }
}

/// Removes files and empty directories from `top`. The subdirectories of any other directory move up into `top`.
///
/// The caller repeats this until `top` is empty.
fn empty(top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    for name in names(top)? {
        match unlinkat(top, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        match unlinkat(top, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let child = open_dir(top.as_fd(), &name, true)?;
        for inner in names(&child)? {
            match unlinkat(&child, inner.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(errno) => return Err(errno.into()),
            }
            // rename(2) of a directory needs write permission on that directory itself, since its ".." changes.
            let _ = fchmodat(&child, inner.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink);
            move_up(&child, &inner, top, moved)?;
        }
    }
    Ok(())
}

/// Moves `inner` of `child` into `top` under a free name. A hostile layer may contain names of this form, so each is
/// checked first; the number of attempts is bounded by the number of its entries.
fn move_up(child: &OwnedFd, inner: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    let target = loop {
        *moved += 1;
        let name = format!(".sampan-moved-up-{moved}");
        // No RENAME_NOREPLACE: not all file systems support it, and no other process creates names in this tree.
        match fstatat(top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => {}
            Err(Errno::ENOENT) => break name,
            Err(errno) => return Err(errno.into()),
        }
    };
    Ok(renameat(child, inner, top, target.as_str())?)
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut listing = Dir::from_fd(open_dir(dir.as_fd(), c".", false)?)?;
    let mut names = Vec::new();
    // Bounds memory: 4096 names beside "." and "..". Callers repeat until the directory is empty.
    for entry in listing.iter().take(4096 + 2) {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn open_dir(at: BorrowedFd<'_>, name: &CStr, permit: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    match openat(at, name, flags, Mode::empty()) {
        Err(Errno::EACCES) if permit => {
            // An ordinary user cannot open a directory of mode 0 even if it owns that directory.
            fchmodat(at, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            openat(at, name, flags, Mode::empty())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_and_links_are_not_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = root.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "x").expect("written");
        let top = root.path().join("top");
        fs::create_dir(&top).expect("made");
        let mut at = open_dir(AT_FDCWD, &CString::new(top.as_os_str().as_bytes()).expect("no NUL"), false)
            .expect("open");
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "deep", Mode::S_IRWXU).expect("made");
            nix::unistd::symlinkat(outside.as_path(), &at, "link").expect("made");
            at = open_dir(at.as_fd(), c"deep", false).expect("open");
        }
        for nth in 0..100 {
            fs::create_dir_all(top.join(format!("wide{nth}/a/b"))).expect("made");
        }
        symlink(&outside, top.join("link2")).expect("made");
        remove(&top).expect("removed");
        assert!(!top.exists());
        assert!(outside.join("kept").exists());
        remove(&top).expect("a missing tree is not an error");
    }

    #[test]
    fn a_tree_that_has_our_own_names_in_it_is_removed_too() {
        let root = tempfile::tempdir().expect("a directory");
        let top = root.path().join("top");
        for nth in 1..5 {
            fs::create_dir_all(top.join(format!(".sampan-moved-up-{nth}/a/b/c"))).expect("made");
            fs::create_dir_all(top.join(format!("deep{nth}/a/b/c"))).expect("made");
        }
        fs::write(top.join(".sampan-moved-up-7"), "x").expect("written");
        remove(&top).expect("removed");
        assert!(!top.exists());
    }
}
