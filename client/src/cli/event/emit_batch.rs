//! `sampan emit --batch`: writes the events that it reads from standard input, until end-of-file.
//!
//! A program may keep standard input open for hours. While monitord does not run, events wait in the emitter's bounded
//! spool. When the spool is full, this command stops reading, so that the pipe makes the producer wait. No event is
//! dropped. `emit` parses the lines and finds the FIFO.

use crate::cli::args::event::Emit;
use crate::cli::error::Failure;
use crate::cli::event::emit::{self, Line, Target, invalid_event};
use crate::cli::output;
use crate::cli::signals::{self, Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_client::{Emitter, Event};
use sampan_ipc::record::RECORD_MAX;
use sampan_ipc::sender::SPOOL_BYTES_MAX;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most events that wait. The spool has room for this number of events of the largest size, so it never drops one.
const WAITING_MAX: usize = SPOOL_BYTES_MAX / RECORD_MAX;
/// Longest line, in bytes: more than the JSON of the largest event with every byte escaped.
const LINE_MAX: usize = 64 << 10;
/// Most bytes of one read.
const READ: usize = 64 << 10;
/// Interval in which the spool is checked while events wait in it.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Time without an accepted event after which the command prints a note.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// Exit status 2 if lines were not events. Exit status 1 if monitord does not accept the events, or if standard input
/// cannot be read.
pub(crate) fn run(args: &Emit) -> Result<(), Failure> {
    let target = Target::new(args);
    // Only a person can mend this error. After any other error the batch waits: monitord creates the FIFO when it
    // starts.
    if let Some(error) = target.obstacle() {
        return Err(target.failure(&error));
    }
    let cannot = |error: io::Error| Failure::new(format!("cannot read standard input: {error}"));
    let (wake, woken) = UnixStream::pair().map_err(cannot)?;
    let mut batch = Batch {
        emitter: Emitter::new(&target.path),
        target,
        input: Input::new(File::from(io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?)),
        signals: Signals::catch(&wake).map_err(cannot)?,
        woken,
        timeout: args.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        is_strict: args.strict,
        waiting: VecDeque::new(),
        written: 0,
        last_line: 0,
        bad_lines: 0,
        waits_since: None,
        is_noted: false,
    };
    let ended = batch.run();
    if let Some(signal) = batch.signals.caught() {
        batch.count_written();
        output::note(&format!("ended by {}: {}", signals::name(signal), batch.summary()));
        signals::die_of(signal);
    }
    ended
}

/// The state of the command.
struct Batch {
    target: Target,
    emitter: Emitter,
    input: Input,
    signals: Signals,
    /// Becomes readable when a signal was caught.
    woken: UnixStream,
    /// Longest time without an accepted event before the command gives up.
    timeout: Option<Duration>,
    is_strict: bool,
    /// The numbers of the lines whose events the FIFO has not accepted yet, oldest first.
    waiting: VecDeque<u64>,
    /// Number of events that the FIFO has accepted.
    written: u64,
    /// The line of the last event that the FIFO has accepted.
    last_line: u64,
    bad_lines: u64,
    /// The time since which the FIFO has accepted no event; `None` while no event waits.
    waits_since: Option<Instant>,
    /// Whether the command has printed a note that events wait.
    is_noted: bool,
}

impl Batch {
    fn run(&mut self) -> Result<(), Failure> {
        loop {
            while let Some((number, line)) = self.input.line() {
                self.on_line(number, line)?;
                self.wait_until_fewer_than(WAITING_MAX)?;
            }
            if self.input.is_at_end {
                break;
            }
            if let Err(error) = self.await_input() {
                self.wait_until_fewer_than(1)?;
                let message = format!("cannot read standard input: {error} ({})", self.summary());
                return Err(Failure::new(message));
            }
            self.check_progress()?;
        }
        self.wait_until_fewer_than(1)?;
        match self.bad_lines {
            0 => Ok(()),
            1 => Err(invalid_event(format!("1 line was not an event; {}", self.summary()))),
            lines => Err(invalid_event(format!("{lines} lines were not events; {}", self.summary()))),
        }
    }

    /// Sends the event of a line; prints an error for a line that is not an event.
    fn on_line(&mut self, number: u64, line: Option<Vec<u8>>) -> Result<(), Failure> {
        let too_long =
            || invalid_event(format!("the line is longer than {LINE_MAX} bytes, so the event is too large"));
        let sent = line.ok_or_else(too_long).and_then(|line| match emit::parse_line(&line)? {
            Line::Event(event) => self.send(number, event),
            Line::Notice(what) => {
                output::note(&format!("line {number} is not an event but a notice ({what:?}); skipped"));
                Ok(())
            }
            Line::Blank => Ok(()),
        });
        let Err(failure) = sent else { return Ok(()) };
        self.bad_lines += 1;
        if !self.is_strict {
            output::message("error", &format!("line {number}: {}; skipped", failure.message));
            return Ok(());
        }
        // Wait until all earlier events are written, so that the summary is true.
        self.wait_until_fewer_than(1)?;
        Err(Failure {
            message: format!("line {number}: {} ({})", failure.message, self.summary()),
            ..failure
        })
    }

    fn send(&mut self, number: u64, event: Event) -> Result<(), Failure> {
        self.target.check(&event)?;
        self.emitter.send(event).map_err(|error| invalid_event(error.to_string()))?;
        self.waiting.push_back(number);
        Ok(())
    }

    /// Waits until fewer than `limit` events wait.
    fn wait_until_fewer_than(&mut self, limit: usize) -> Result<(), Failure> {
        while self.emitter.spooled() >= limit {
            self.check_progress()?;
            self.emitter.flush(self.pause());
        }
        self.count_written();
        Ok(())
    }

    /// Waits for input, and reads it. Waits only for a short time while events wait in the spool.
    fn await_input(&mut self) -> io::Result<()> {
        let pause = match self.emitter.spooled() {
            0 => PollTimeout::NONE,
            _ => PollTimeout::try_from(self.pause()).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [
            PollFd::new(self.input.stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, pause) {
            Ok(_) if fds[0].any() == Some(true) => {}
            Ok(_) | Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        // Handle a signal first: the producer sends unread input again.
        match self.signals.caught() {
            Some(_) => Ok(()),
            None => self.input.read(),
        }
    }

    /// The time until the next check.
    fn pause(&self) -> Duration {
        let left = self.timeout.map(|timeout| {
            timeout.saturating_sub(self.waits_since.map_or(Duration::ZERO, |since| since.elapsed()))
        });
        left.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL)
    }

    /// Checks whether the FIFO accepts events. Prints a note when that changes, and gives up after the timeout.
    fn check_progress(&mut self) -> Result<(), Failure> {
        if self.signals.caught().is_some() {
            return Err(Failure::new("interrupted"));
        }
        self.count_written();
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waits = self.waits_since.get_or_insert_with(Instant::now).elapsed();
        if self.timeout.is_some_and(|timeout| waits >= timeout) {
            let failure = self.target.failure(&io::Error::other(self.reason()));
            return Err(Failure { message: format!("{} ({})", failure.message, self.summary()), ..failure });
        }
        if waits >= NOTE_AFTER && !self.is_noted {
            self.is_noted = true;
            output::note(&format!("events wait until monitord takes them: {}", self.reason()));
        }
        Ok(())
    }

    /// Counts the events that the FIFO has accepted since the last check.
    fn count_written(&mut self) {
        let taken = self.waiting.len().saturating_sub(self.emitter.spooled());
        if let Some(line) = self.waiting.drain(..taken).next_back() {
            self.last_line = line;
            self.written += taken as u64;
            self.waits_since = None;
        }
        if self.is_noted && self.waiting.is_empty() {
            self.is_noted = false;
            output::note("monitord takes events again");
        }
    }

    fn reason(&self) -> String {
        self.emitter.problem().unwrap_or_else(|| emit::FULL.to_owned())
    }

    /// Returns how many events were written, so that the caller can send the other ones again.
    fn summary(&self) -> String {
        let written = match self.written {
            0 => "no event was written".to_owned(),
            1 => format!("1 event was written, of line {}", self.last_line),
            events => format!("{events} events were written, the last one of line {}", self.last_line),
        };
        match self.waiting.len() + self.input.left() {
            0 => written,
            1 => format!("{written}; 1 more line was read and is not written"),
            lines => format!("{written}; {lines} more lines were read and are not written"),
        }
    }
}

/// Standard input, line by line. Lines may have any length.
struct Input {
    stdin: File,
    /// Bytes that were read. Lines before the offset `at` were returned already.
    buffer: Vec<u8>,
    at: usize,
    /// An offset: there is no line feed between `at` and this offset.
    looked: usize,
    /// Number of lines that have begun.
    number: u64,
    /// Whether the bytes belong to a line that is too long, and are dropped.
    is_too_long: bool,
    is_at_end: bool,
}

impl Input {
    fn new(stdin: File) -> Self {
        Input { stdin, buffer: Vec::new(), at: 0, looked: 0, number: 0, is_too_long: false, is_at_end: false }
    }

    /// Calls read(2) once.
    fn read(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.looked -= self.at;
        self.at = 0;
        let len = self.buffer.len();
        self.buffer.resize(len + READ, 0);
        let read = self.stdin.read(self.buffer.get_mut(len..).unwrap_or_default());
        self.buffer.truncate(len + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => self.is_at_end = true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Number of lines that were read at least in part, and that were not returned.
    fn left(&self) -> usize {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let is_cut = rest.last().is_some_and(|byte| *byte != b'\n');
        rest.iter().filter(|byte| **byte == b'\n').count() + usize::from(is_cut)
    }

    /// Returns the next complete line and its number, from 1. The line is `None` if it is too long.
    fn line(&mut self) -> Option<(u64, Option<Vec<u8>>)> {
        loop {
            let rest = self.buffer.get(self.looked..).unwrap_or_default();
            let found = rest.iter().position(|byte| *byte == b'\n').map(|at| self.looked + at);
            let end = found.unwrap_or(self.buffer.len());
            let is_whole = found.is_some() || (self.is_at_end && end > self.at);
            let line = self.buffer.get(self.at..end).unwrap_or_default();
            let is_over = line.len() > LINE_MAX;
            if !is_whole && !is_over {
                self.looked = end;
                return None;
            }
            let text = (!is_over).then(|| line.to_vec());
            self.at = found.map_or(end, |at| at + 1);
            self.looked = self.at;
            // This is the end of a line that was already returned as too long.
            let is_rest = std::mem::replace(&mut self.is_too_long, !is_whole);
            if !is_rest {
                self.number += 1;
                return Some((self.number, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(parts: &[&[u8]]) -> Vec<(u64, Option<Vec<u8>>)> {
        let (mut writer, reader) = UnixStream::pair().expect("a pair");
        let mut input = Input::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let mut lines = Vec::new();
        for part in parts {
            writer.write_all(part).expect("room");
            input.read().expect("readable");
            lines.extend(std::iter::from_fn(|| input.line()));
        }
        drop(writer);
        while !input.is_at_end {
            input.read().expect("readable");
            lines.extend(std::iter::from_fn(|| input.line()));
        }
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_reads_cut_them() {
        let text = b"one\n\ntwo\nlast";
        let expected = lines(&[text]);
        let texts: Vec<&[u8]> = expected.iter().filter_map(|(_, line)| line.as_deref()).collect();
        assert_eq!(texts, [&b"one"[..], b"", b"two", b"last"]);
        assert_eq!(expected.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        for cut in 1..text.len() {
            assert_eq!(lines(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_line_and_costs_the_next_nothing() {
        let long = vec![b'x'; LINE_MAX + 1];
        for cut in [1, LINE_MAX / 2, LINE_MAX, LINE_MAX + 1] {
            let parts: [&[u8]; 4] = [b"a\n", &long[..cut], &long[cut..], b"x\nb\n"];
            assert_eq!(lines(&parts), [(1, Some(b"a".into())), (2, None), (3, Some(b"b".into()))], "{cut}");
        }
        assert_eq!(lines(&[&long]), [(1, None)]);
        assert_eq!(lines(&[&[&long[..LINE_MAX], b"\n"].concat()]), [(1, Some(long[..LINE_MAX].into()))]);
    }
}
