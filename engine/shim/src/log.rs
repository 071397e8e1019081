//! A container's log: docker's json-file, the journal, or none.
//!
//! Owned by the event loop, fed by `stdio`. If the log cannot be written, lines are lost; the container goes on.

mod journald;
mod json_file;
mod line_splitter;

use super::stream::{PerStream, Stream};
use journald::Journal;
use json_file::LogFile;
use line_splitter::LineSplitter;
use sampan_ipc::shim::{Identity, Log as Setup};
use sampan_ipc::time;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug)]
pub(crate) struct Log {
    target: Target,
    lines: PerStream<LineSplitter>,
}

#[derive(Debug)]
enum Target {
    None,
    File(LogFile),
    Journal(Journal),
}

impl Log {
    /// Opens the log that `setup` names.
    pub(crate) fn open(setup: &Setup, identity: &Identity) -> io::Result<Self> {
        let target = match setup {
            Setup::None => Target::None,
            Setup::Journald { tag } => Target::Journal(Journal::open(identity, tag)?),
            Setup::JsonFile { path, max_bytes, max_files } => {
                Target::File(LogFile::open(path, *max_bytes, *max_files)?)
            }
        };
        Ok(Log { target, lines: PerStream::default() })
    }

    /// Makes a log that keeps nothing.
    pub(crate) fn none() -> Self {
        Log { target: Target::None, lines: PerStream::default() }
    }

    /// Whether the log keeps nothing.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.target, Target::None)
    }

    /// Logs the whole lines in `bytes`, which `stream` wrote; keeps an unfinished line for the next call.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.with_lines(stream, |lines, emit| lines.feed(bytes, emit));
    }

    /// Logs the unfinished line of `stream`, which has ended.
    pub(crate) fn end(&mut self, stream: Stream) {
        self.with_lines(stream, |lines, emit| lines.end(emit));
    }

    fn with_lines(
        &mut self,
        stream: Stream,
        work: impl FnOnce(&mut LineSplitter, &mut dyn FnMut(&[u8], bool)),
    ) {
        let lines = self.lines.of_mut(stream);
        match &mut self.target {
            Target::None => {}
            Target::Journal(journal) => {
                work(lines, &mut |line, is_end| journal.add(line, is_end, stream == Stream::Err));
            }
            Target::File(file) => {
                let time = json_file::utc(time::now());
                // A line that cannot be written, as on a full disk, is lost.
                work(lines, &mut |line, is_end| drop(file.add(line, is_end, stream.name(), &time)));
                let _ = file.flush();
            }
        }
    }

    /// The descriptor to wait on until it can be written, while lines wait for the journal.
    pub(crate) fn backlog_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Journal(journal) if journal.has_backlog() => Some(journal.socket.as_fd()),
            _ => None,
        }
    }

    /// Sends the lines that wait for the journal, as far as it takes them.
    pub(crate) fn flush(&mut self) {
        if let Target::Journal(journal) = &mut self.target {
            journal.flush();
        }
    }
}
