//! Where a container's output is kept: a json-file, the journal, or nowhere.
//!
//! A log that cannot be written loses lines rather than stop the container: the first reason is kept.

mod journald;
mod json_file;
mod line_splitter;

use journald::Journal;
use json_file::LogFile;
use line_splitter::Lines;
use sampan_ipc::shim::{Identity, Log as Setup};
use sampan_ipc::time;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A container's log.
#[derive(Debug)]
pub struct Log {
    target: Target,
    lines: [Lines; 2],
    lost: u64,
}

#[derive(Debug)]
enum Target {
    None,
    File(LogFile),
    Journal(Journal),
}

/// Stdout or stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Stdout, or the terminal.
    Out,
    /// Stderr.
    Err,
}

impl Log {
    /// Opens the log that `setup` names.
    pub fn open(setup: &Setup, identity: &Identity) -> io::Result<Self> {
        let target = match setup {
            Setup::None => Target::None,
            Setup::Journald { tag } => Target::Journal(Journal::open(identity, tag)?),
            Setup::JsonFile { .. } => {
                Target::File(json_file::of(setup).unwrap_or(Err(io::ErrorKind::InvalidInput.into()))?)
            }
        };
        Ok(Log { target, lines: Default::default(), lost: 0 })
    }

    /// A log that keeps nothing.
    pub fn none() -> Self {
        Log { target: Target::None, lines: Default::default(), lost: 0 }
    }

    /// True if nothing is kept.
    pub fn is_none(&self) -> bool {
        matches!(self.target, Target::None)
    }

    /// Keeps what `stream` said.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.with_lines(stream, |lines, emit| lines.feed(bytes, emit));
    }

    /// `stream` has ended: an unfinished line is kept too.
    pub fn end(&mut self, stream: Stream) {
        self.with_lines(stream, |lines, emit| lines.end(emit));
    }

    fn with_lines(&mut self, stream: Stream, work: impl FnOnce(&mut Lines, &mut dyn FnMut(&[u8], bool))) {
        let lines = &mut self.lines[stream as usize];
        match &mut self.target {
            Target::None => {}
            Target::Journal(journal) => {
                work(lines, &mut |line, is_end| journal.add(line, is_end, stream == Stream::Err));
            }
            Target::File(file) => {
                let (time, name) = (json_file::utc(time::now()), ["stdout", "stderr"][stream as usize]);
                let lost = &mut self.lost;
                work(lines, &mut |line, is_end| {
                    if file.add(line, is_end, name, &time).is_err() {
                        *lost += 1;
                    }
                });
                if file.flush().is_err() {
                    *lost += 1;
                }
            }
        }
    }

    /// Where to wait for room, if the log is behind.
    pub fn behind(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Journal(journal) if journal.is_behind() => Some(journal.socket.as_fd()),
            _ => None,
        }
    }

    /// Goes on with what waits.
    pub fn flush(&mut self) {
        if let Target::Journal(journal) = &mut self.target {
            journal.flush();
        }
    }
}
