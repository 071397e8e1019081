//! Finds the data in a sparse file, so that readers can skip its holes.
//!
//! Called where layers are compared and files are copied. A layer can declare a hole of terabytes in a few bytes, and
//! reading it would take hours. On a file system without holes, the whole file counts as data. lseek(2).

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};
use std::fs::File;

/// The unit of `st_blocks`, in bytes. stat(2).
const BLOCK: u64 = 512;

/// Whether a file may have holes: its blocks hold fewer bytes than its length.
pub fn may_have_holes(stat: &FileStat) -> bool {
    stat.st_blocks.unsigned_abs() * BLOCK < stat.st_size.unsigned_abs()
}

/// The offset of the first data at or after `at`; `None` if there is only a hole up to the end of the file.
pub fn next_data(file: &File, at: u64) -> Result<Option<u64>, Errno> {
    match seek(file, at, Whence::SeekData) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno),
    }
}

/// The offset at which the data that begins at `start` ends, in a file of `size` bytes.
pub fn end_of_data(file: &File, start: u64, size: u64) -> u64 {
    seek(file, start, Whence::SeekHole).unwrap_or(size).max(start + 1)
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, at, whence).map(i64::unsigned_abs)
}
