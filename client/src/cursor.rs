//! The file in which a subscription remembers how far it has come.
//!
//! One line: the sequence number of the last event that was dealt with. Replaced as a whole by rename, so a
//! reader never meets half of it; made durable at most once a second. Owned by a subscription.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Least time between two writes while events keep coming: what may be repeated after a kill -9.
const SPACING: Duration = Duration::from_millis(100);
/// Least time between two fsyncs: they cost milliseconds, and only a power cut asks for them.
const SYNC_SPACING: Duration = Duration::from_secs(1);

/// The file, and what it holds.
#[derive(Debug)]
pub(crate) struct CursorFile {
    path: PathBuf,
    temporary: PathBuf,
    written: Option<u64>,
    written_at: Option<Instant>,
    synced_at: Option<Instant>,
}

impl CursorFile {
    /// Reads the file; one that is not there or is empty remembers nothing.
    pub fn open(path: &Path) -> io::Result<(Self, Option<u64>)> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let seq =
            match text.trim() {
                "" => None,
                number => Some(number.parse().map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidData, "it holds no sequence number")
                })?),
            };
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let temporary = path.with_file_name(name);
        let file =
            CursorFile { path: path.to_owned(), temporary, written: seq, written_at: None, synced_at: None };
        Ok((file, seq))
    }

    /// True if `seq` may wait, since the file was written a moment ago.
    pub fn is_fresh(&self) -> bool {
        self.written_at.is_some_and(|at| at.elapsed() < SPACING)
    }

    /// Writes `seq` unless the file holds it.
    pub fn write(&mut self, seq: u64) -> io::Result<()> {
        if self.written == Some(seq) {
            return Ok(());
        }
        let mut file = File::create(&self.temporary)?;
        writeln!(file, "{seq}")?;
        if self.synced_at.is_none_or(|at| at.elapsed() >= SYNC_SPACING) {
            file.sync_data()?;
            self.synced_at = Some(Instant::now());
        }
        std::fs::rename(&self.temporary, &self.path)?;
        self.written = Some(seq);
        self.written_at = Some(Instant::now());
        Ok(())
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cursor");
        let (mut file, seq) = CursorFile::open(&path).expect("absent is empty");
        assert_eq!(seq, None);
        file.write(42).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "42\n");
        assert_eq!(CursorFile::open(&path).expect("good").1, Some(42));
        std::fs::write(&path, "4x").expect("writable");
        assert!(CursorFile::open(&path).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }
}
