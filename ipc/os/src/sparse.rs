//! Where a sparse file has data: what is read of one should not grow with its holes, which cost a layer nothing.
//!
//! Called where layers are compared and files are copied. A file system that knows no holes has data everywhere.

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};
use std::fs::File;

/// Bytes of a block that `st_blocks` counts. stat(2).
const BLOCK: u64 = 512;

/// True if a file may have holes: it takes less room than it is long.
pub fn may_be_in(stat: &FileStat) -> bool {
    stat.st_blocks.unsigned_abs() * BLOCK < stat.st_size.unsigned_abs()
}

/// Where the next data begins from `at` on; `None` if only a hole is left, or nothing.
pub fn next_data(file: &File, at: u64) -> Result<Option<u64>, Errno> {
    match seek(file, at, Whence::SeekData) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno),
    }
}

/// Where the data ends that is at `start`, in a file of `size` bytes.
pub fn end_of_data(file: &File, start: u64, size: u64) -> u64 {
    seek(file, start, Whence::SeekHole).unwrap_or(size).max(start + 1)
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, at, whence).map(i64::unsigned_abs)
}
