//! Small files, read whole: as many bytes as the file has, in one read(2).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file for reading; nothing that may stand in its place, as a FIFO, makes us wait.
///
/// # Errors
/// It is not there, or no file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// All of `file`, or its first `max` + 1 bytes if it has more than `max`.
///
/// # Errors
/// It cannot be read.
pub fn read(file: File, max: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().min(max);
    // One more than there should be: the read that finds the end needs room, too.
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
        // What has no length says nothing of it.
        assert!(read(File::open("/proc/self/status").expect("opened"), 1 << 20).expect("read").len() > 100);
    }
}
