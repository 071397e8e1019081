//! Finds where the last lines of a log begin: reads the files from their ends, block by block.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Most bytes of one read.
pub(super) const BLOCK: usize = 64 << 10;

/// A search that has not ended.
pub(super) struct TailSearch {
    /// The files that were not searched yet, oldest first.
    files: Vec<File>,
    /// The file that is being searched, its length, and the offset down to which it was searched.
    current: Option<(File, u64, u64)>,
    /// Number of lines that are still to be found.
    left: u64,
    /// The files from which lines are read, newest first, each with the offset of its first line.
    found: Vec<(File, u64)>,
}

impl TailSearch {
    /// Begins a search for the last `lines` lines of `files`, oldest first.
    pub(super) fn new(files: Vec<File>, lines: u64) -> Self {
        TailSearch { files, current: None, left: lines, found: Vec::new() }
    }

    /// Searches a block. Returns the files to read, oldest first, once the tail is found.
    pub(super) fn step(&mut self) -> io::Result<Option<Vec<(File, u64)>>> {
        let Some((file, len, at)) = self.current.take() else { return self.next_file() };
        let part = at.min(BLOCK as u64);
        let mut block = vec![0; usize::try_from(part).unwrap_or(BLOCK)];
        let at = at - part;
        file.read_exact_at(&mut block, at)?;
        for (nth, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The line feed at the end of the file does not begin a line.
            let behind = at + nth as u64 + 1;
            if behind == len {
                continue;
            }
            self.left -= 1;
            if self.left == 0 {
                return Ok(Some(self.end(file, behind)));
            }
        }
        if at > 0 {
            self.current = Some((file, len, at));
            return Ok(None);
        }
        // The first line has no line feed before it.
        self.left -= u64::from(len > 0);
        if self.left == 0 {
            return Ok(Some(self.end(file, 0)));
        }
        self.found.push((file, 0));
        Ok(None)
    }

    fn next_file(&mut self) -> io::Result<Option<Vec<(File, u64)>>> {
        let Some(file) = self.files.pop() else {
            self.found.reverse();
            return Ok(Some(std::mem::take(&mut self.found)));
        };
        let len = file.metadata()?.len();
        match self.left {
            0 => Ok(Some(self.end(file, len))),
            _ => {
                self.current = Some((file, len, len));
                Ok(None)
            }
        }
    }

    fn end(&mut self, file: File, from: u64) -> Vec<(File, u64)> {
        self.found.push((file, from));
        self.found.reverse();
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn offsets(texts: &[&str], lines: u64) -> Vec<u64> {
        let file = |text: &&str| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            file
        };
        let mut search = TailSearch::new(texts.iter().map(file).collect(), lines);
        loop {
            if let Some(found) = search.step().expect("read") {
                return found.into_iter().map(|(_, at)| at).collect();
            }
        }
    }

    #[test]
    fn a_tail_is_found_from_the_end_across_blocks_and_files() {
        let long = "x".repeat(BLOCK);
        let text = format!("one\n{long}\nthree\n");
        let end = text.len() as u64;
        for (lines, expected) in [(1, end - 6), (2, 4), (3, 0), (9, 0), (0, end)] {
            assert_eq!(offsets(&[&text], lines), [expected], "{lines}");
        }
        assert_eq!(offsets(&[""], 5), [0]);
        assert_eq!(offsets(&["\n"], 5), [0]);
        assert_eq!(offsets(&["a\nb\n", "c\n"], 2), [2, 0]);
        assert_eq!(offsets(&["a\nb\n", "c\n"], 1), [0]);
        assert_eq!(offsets(&["a\nb\n", "c\n"], 9), [0, 0]);
        assert!(offsets(&[], 3).is_empty());
    }
}
