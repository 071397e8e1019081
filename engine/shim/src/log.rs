//! A container's log: docker's json-file, the systemd journal, or no log.
//!
//! The event loop owns the log, and `stdio` writes to it. Lines that cannot be written are lost; the container goes
//! on.

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

    /// Makes a log that discards all lines.
    pub(crate) fn none() -> Self {
        Log { target: Target::None, lines: PerStream::default() }
    }

    /// Whether the log discards all lines.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.target, Target::None)
    }

    /// Logs the complete lines in `bytes`, which `stream` wrote. Keeps an unfinished line for the next call.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.with_lines(stream, |lines, emit| lines.feed(bytes, emit));
    }

    /// Logs the unfinished line of `stream`, after the stream has ended.
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
                // A line that cannot be written, for instance on a full disk, is lost.
                work(lines, &mut |line, is_end| drop(file.add(line, is_end, stream.name(), &time)));
                let _ = file.flush();
            }
        }
    }

    /// The descriptor that poll(2) must report as writable before more lines can be sent; `None` if no lines wait.
    pub(crate) fn backlog_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Journal(journal) if journal.has_backlog() => Some(journal.socket.as_fd()),
            _ => None,
        }
    }

    /// Sends as many of the waiting lines as the journal accepts now.
    pub(crate) fn flush(&mut self) {
        if let Target::Journal(journal) = &mut self.target {
            journal.flush();
        }
    }
}
