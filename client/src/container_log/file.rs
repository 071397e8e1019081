//! Reads one file of a log, block by block, up to its current end.

use super::line::{Lines, LogSink};
use super::tail::BLOCK;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Longest line of a log file. A longer line is damaged, since the log's writer splits output at 16 KiB.
const LINE_MAX: usize = 1 << 20;

/// The file that is being read.
#[derive(Default)]
pub(super) struct Reader {
    file: Option<File>,
    at: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Reader {
    /// Goes on with `file` at the offset `from`.
    pub(super) fn open(&mut self, file: File, from: u64) {
        // Drop the rest of a line that a crash has cut off.
        self.rest.clear();
        (self.at, self.file) = (from, Some(file));
    }

    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Device and inode of the file.
    pub(super) fn id(&self) -> Option<(u64, u64)> {
        self.file.as_ref().and_then(|file| id(file).ok())
    }

    /// Reads a block, and hands its lines over. Returns false at the file's end.
    pub(super) fn read_block(&mut self, lines: &mut Lines, sink: &mut dyn LogSink) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let mut block = vec![0; BLOCK];
        let len = file.read_at(&mut block, self.at)?;
        if len == 0 || lines.is_over {
            return Ok(false);
        }
        self.at += len as u64;
        self.rest.extend_from_slice(block.get(..len).unwrap_or_default());
        let mut from = 0;
        while let Some(end) = find_line_feed(self.rest.get(from..).unwrap_or_default()) {
            lines.take(self.rest.get(from..from + end).unwrap_or_default(), sink);
            from += end + 1;
        }
        self.rest.drain(..from);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
        if self.rest.len() > LINE_MAX {
            self.rest.clear();
            lines.count_damaged();
        }
        lines.note_damaged(sink);
        Ok(true)
    }
}

fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Device and inode of a file.
pub(super) fn id(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::Taken;
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_whole_however_the_file_grows() {
        let (mut reader, mut lines, mut taken) =
            (Reader::default(), Lines::new(None, None), Taken::default());
        let mut log = tempfile::tempfile().expect("a file");
        log.write_all(b"{\"log\":\"a\\n\",\"time\":\"1970-01-01T00:00:02Z\"}\n{\"log\":").expect("written");
        reader.open(log.try_clone().expect("a descriptor"), 0);
        assert!(reader.read_block(&mut lines, &mut taken).expect("read"));
        assert_eq!(reader.rest, b"{\"log\":");
        log.write_all(b"\"b\",\"time\":\"1970-01-01T00:00:02Z\"}\n").expect("written");
        while reader.read_block(&mut lines, &mut taken).expect("read") {}
        assert!(reader.rest.is_empty() && taken.damaged == 0);
        assert_eq!(taken.text, "a\nb");
    }
}
