//! Reads small files whole, usually with one read(2) for the contents.
//!
//! Called for configuration, state and secrets. Never reads more than the caller's bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file for reading. Never blocks, even if `path` is a FIFO.
///
/// # Errors
/// The file cannot be opened, or `path` is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Reads all of `file`, but at most `max` + 1 bytes: the extra byte tells the caller that the file is too long.
///
/// # Errors
/// The file cannot be read.
pub fn read(file: File, max: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().min(max);
    // One byte of room beyond the length, so that the read(2) that finds the end of the file needs no reallocation.
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_one_byte_beyond_the_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for len in [0, 1, 99, 100, 101, 100_000] {
            std::fs::write(&path, vec![b'x'; len]).expect("written");
            let open = || File::open(&path).expect("opened");
            assert_eq!(read(open(), u64::MAX).expect("read").len(), len);
            assert_eq!(read(open(), 100).expect("read").len(), len.min(101));
        }
        // Files of /proc report a length of 0.
        assert!(read(File::open("/proc/self/status").expect("opened"), 1 << 20).expect("read").len() > 100);
    }
}
