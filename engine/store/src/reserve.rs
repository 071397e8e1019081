//! A reserve on the disk: what makes room has to write an index first, and a disk that is full lets it write nothing.
//!
//! Called by [`crate::store`] alone: laid by at start, behind each new index and each removal; given up where one that
//! removes cannot write his index. What comes in has no claim on it. Best effort: a store without it works, until its
//! disk is full.

use nix::fcntl::posix_fallocate;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What it is called in the store.
const NAME: &str = "spare";
/// Least bytes of it: the index of some eighty images.
const LEAST: u64 = 32 << 10;

/// Sees to it that there is a reserve of at least `index` bytes, which an index takes.
pub(crate) fn lay_by(root: &Path, index: u64) {
    let (path, wanted) = (root.join(NAME), index.max(LEAST));
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= wanted) {
        return;
    }
    let is_new = !path.exists();
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let taken = file.and_then(|file| {
        let wanted = i64::try_from(wanted).map_err(io::Error::other)?;
        posix_fallocate(file, 0, wanted).map_err(io::Error::from)
    });
    if let Err(error) = taken {
        log::debug!("no room for a reserve at {}: {error}", path.display());
        if is_new {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Gives the reserve back to the disk; false if there is none.
pub(crate) fn give_up(root: &Path) -> bool {
    fs::remove_file(root.join(NAME)).is_ok()
}
