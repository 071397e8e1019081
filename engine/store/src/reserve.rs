//! A reserve file, which makes it possible to remove images when the disk is full.
//!
//! A removal has to write an index before it frees space, but cannot write on a full disk. The store therefore
//! allocates a reserve file of the index's size, and a removal that cannot write deletes the reserve file first. Only
//! removals may use the reserve. The store allocates it at start, after each new index and after each removal. If the
//! disk has no room for the reserve, the store works without it.

use nix::fcntl::posix_fallocate;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Name of the reserve file in the store's root.
const NAME: &str = "spare";
/// Smallest reserve in bytes: the size of an index of about eighty images.
const SIZE_MIN: u64 = 32 << 10;

/// Makes sure that the reserve is large enough for an index of `index` bytes, if the disk has room.
pub(crate) fn refill(root: &Path, index: u64) {
    let (path, needed) = (root.join(NAME), index.max(SIZE_MIN));
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= needed) {
        return;
    }
    let is_new = !path.exists();
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let allocated = file.and_then(|file| {
        let needed = i64::try_from(needed).map_err(io::Error::other)?;
        posix_fallocate(file, 0, needed).map_err(io::Error::from)
    });
    if let Err(error) = allocated {
        log::debug!("no room for a reserve at {}: {error}", path.display());
        if is_new {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Deletes the reserve, which frees its space; returns false if there was no reserve.
pub(crate) fn release(root: &Path) -> bool {
    fs::remove_file(root.join(NAME)).is_ok()
}
