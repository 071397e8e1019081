//! `sampan logs`: prints the output of a container from docker's json-file log.
//!
//! The engine passes the open files of the log; the lines do not go through the engine. The start of a tail is
//! searched from the end, in blocks. `--follow` waits with inotify(7). When the log is rotated or the container ends,
//! the command requests the files from the engine again and continues after the last line; it recognizes its file by
//! the inode.

use crate::cli::args::container::Logs;
use crate::cli::args::socket::EngineSocket;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::output;
use crate::cli::signals;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sampan_client::engine::{Answer, Answers, EngineError, Request};
use sampan_client::time;
use sampan_ipc::container::Condition;
use serde::Deserialize;
use signal_hook::consts::SIGPIPE;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

/// Most bytes of one read.
const BLOCK: usize = 64 << 10;
/// Longest line of a log file. A longer line is damaged, since the log's writer splits output at 16 KiB.
const LINE_MAX: usize = 1 << 20;
/// Time without an event after which the command asks the engine whether the container still exists.
const IDLE_MS: u16 = 5_000;
/// Longest absence of the engine before `--follow` gives up.
const ENGINE_AWAY_MAX: Duration = Duration::from_secs(30);
/// Pause between two attempts to reach the engine.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &Logs) -> Result<(), Failure> {
    let now = time::now();
    let at = |text: &Option<String>| {
        text.as_deref().map(|text| time::parse(text, now)).transpose().map_err(Failure::usage)
    };
    let (since, until) = (at(&args.since)?, at(&args.until)?);
    time::in_order(since, until).map_err(Failure::usage)?;
    let tail = tail(&args.tail)?;
    let log = Log::request(&args.socket, &args.container)?;
    let mut printer = Printer { since, until, timestamps: args.timestamps, ..Printer::default() };
    let mut reader = Reader::default();
    for (file, from) in log.tail_offsets(tail).map_err(unreadable)? {
        reader.open(file, from).map_err(unreadable)?;
        reader.read(&mut printer)?;
    }
    if args.follow && log.is_open && !printer.is_over {
        follow(args, reader, &mut printer)?;
    }
    printer.flush()
}

/// Parses `--tail`: a number of lines, or `None` for all. As in docker, a negative number means all.
fn tail(text: &str) -> Result<Option<u64>, Failure> {
    match text.parse::<i64>() {
        _ if text == "all" => Ok(None),
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err(Failure::new(format!("--tail {text:?} is not a number of lines"))
            .hint("write a number, or 'all'")
            .status(USAGE)),
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new(format!("cannot read the log: {error}"))
}

/// A log: the files from the engine's answer.
struct Log {
    files: Vec<File>,
    is_open: bool,
}

impl Log {
    fn request(socket: &EngineSocket, container: &str) -> Result<Self, Failure> {
        let mut answers = engine(socket).request(Request::Logs { container: container.to_owned() }, &[])?;
        let mut log = None;
        while let Some(answer) = answers.next().transpose()? {
            if let Answer::Log { driver, files, is_open } = answer {
                log = Some((driver, files, is_open));
            }
        }
        let (driver, files, is_open) =
            log.ok_or_else(|| Failure::new("the engine gave no answer about the log"))?;
        let came: Vec<File> = answers.take_descriptors().into_iter().map(File::from).collect();
        if driver != "json-file" {
            let failure = Failure::new(format!(
                "cannot read the log of {container:?}: its driver is {driver:?}, which keeps no files"
            ));
            return Err(match driver.as_str() {
                "journald" => failure.hint(format!("journalctl CONTAINER_NAME={container}")),
                _ => failure,
            });
        }
        if usize::try_from(files).ok() != Some(came.len()) {
            return Err(Failure::new(format!(
                "the engine speaks of {files} files of the log, and {} came",
                came.len()
            )));
        }
        Ok(Log { files: came, is_open })
    }

    /// The files to read, each with the offset of its first line to print.
    fn tail_offsets(&self, tail: Option<u64>) -> io::Result<Vec<(File, u64)>> {
        let Some(mut lines) = tail else {
            return self.files.iter().map(|file| Ok((file.try_clone()?, 0))).collect();
        };
        let mut read = Vec::new();
        for file in self.files.iter().rev() {
            let (from, found) = tail_offset(file, lines)?;
            read.push((file.try_clone()?, from));
            lines -= found;
            if lines == 0 {
                break;
            }
        }
        read.reverse();
        Ok(read)
    }
}

/// Returns the offset at which the last `lines` lines of a file begin, and how many lines follow that offset.
fn tail_offset(file: &File, lines: u64) -> io::Result<(u64, u64)> {
    let len = file.metadata()?.len();
    if lines == 0 {
        return Ok((len, 0));
    }
    let (mut at, mut found, mut block) = (len, 0, vec![0; BLOCK]);
    while at > 0 {
        let part = at.min(BLOCK as u64);
        let Some(block) = usize::try_from(part).ok().and_then(|part| block.get_mut(..part)) else { break };
        at -= part;
        file.read_exact_at(block, at)?;
        for (nth, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The line feed at the end of the file does not begin a line.
            let behind = at + nth as u64 + 1;
            if behind == len {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((behind, found));
            }
        }
    }
    // The first line has no line feed before it.
    Ok((0, if len > 0 { found + 1 } else { 0 }))
}

/// Reads one file of a log, line by line, up to its current end.
#[derive(Default)]
struct Reader {
    file: Option<File>,
    at: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Reader {
    fn open(&mut self, file: File, from: u64) -> io::Result<()> {
        // Drop the rest of a line that a crash has cut off.
        self.rest.clear();
        (self.at, self.file) = (from, Some(file));
        Ok(())
    }

    fn id(&self) -> Option<(u64, u64)> {
        self.file.as_ref().and_then(|file| id(file).ok())
    }

    fn read(&mut self, printer: &mut Printer) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut block = vec![0; BLOCK];
        loop {
            let len = file.read_at(&mut block, self.at).map_err(unreadable)?;
            if len == 0 || printer.is_over {
                return printer.flush();
            }
            self.at += len as u64;
            self.rest.extend_from_slice(block.get(..len).unwrap_or_default());
            let mut from = 0;
            while let Some(end) = find_line_feed(self.rest.get(from..).unwrap_or_default()) {
                printer.line(self.rest.get(from..from + end).unwrap_or_default());
                from += end + 1;
            }
            self.rest.drain(..from);
            if self.rest.len() > LINE_MAX {
                self.rest.clear();
                printer.damaged();
            }
            printer.flush_if_full()?;
        }
    }
}

fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn id(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A line as docker's json-file driver writes it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

/// Prints entries to standard output and standard error, as the container wrote the lines.
#[derive(Default)]
struct Printer {
    since: Option<i64>,
    until: Option<i64>,
    timestamps: bool,
    out: Vec<u8>,
    err: Vec<u8>,
    /// Whether the last entry of standard output and of standard error ended within a line. A long line has several
    /// entries.
    is_within: [bool; 2],
    damaged: u64,
    /// Whether all further entries are later than `--until`.
    is_over: bool,
}

impl Printer {
    fn line(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else {
            return self.damaged();
        };
        let Ok(at) = time::parse(&entry.time, 0) else {
            return self.damaged();
        };
        if self.until.is_some_and(|until| at > until) {
            self.is_over = true;
        }
        if self.is_over || self.since.is_some_and(|since| at < since) {
            return;
        }
        let is_err = entry.stream == "stderr";
        let [out_within, err_within] = &mut self.is_within;
        let (text, within) = if is_err { (&mut self.err, err_within) } else { (&mut self.out, out_within) };
        if self.timestamps && !*within {
            text.extend_from_slice(entry.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.log.as_bytes());
        *within = !entry.log.ends_with('\n');
        // Print the other stream first, to keep the order if both streams go to one file.
        if is_err && !self.out.is_empty() || !is_err && !self.err.is_empty() {
            let _ = self.flush_first(!is_err);
        }
    }

    fn damaged(&mut self) {
        self.damaged += 1;
    }

    fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.out.len() + self.err.len() < BLOCK { Ok(()) } else { self.flush() }
    }

    /// Writes one of the streams.
    fn flush_first(&mut self, err: bool) -> Result<(), Failure> {
        let written = match err {
            true => io::stderr().write_all(&std::mem::take(&mut self.err)),
            false => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&std::mem::take(&mut self.out)).and_then(|()| stdout.flush())
            }
        };
        match written {
            Err(error) if !err && error.kind() == io::ErrorKind::BrokenPipe => signals::die_of(SIGPIPE),
            Err(error) if !err => Err(Failure::output(&error)),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.flush_first(false)?;
        self.flush_first(true)?;
        match std::mem::take(&mut self.damaged) {
            0 => {}
            count => output::note(&format!("{count} damaged lines of the log were skipped")),
        }
        Ok(())
    }
}

/// Prints entries while the log grows, until the container has ended.
fn follow(args: &Logs, mut reader: Reader, printer: &mut Printer) -> Result<(), Failure> {
    let cannot = |errno: nix::errno::Errno| Failure::new(format!("cannot follow the log: {errno}"));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(cannot)?;
    let mut watched = None;
    let mut end = Some(wait(args, Condition::NotRunning)?);
    loop {
        if watched != reader.id()
            && let Some(file) = &reader.file
        {
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ATTRIB;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            inotify.add_watch(path.as_str(), flags | AddWatchFlags::IN_DELETE_SELF).map_err(cannot)?;
            watched = reader.id();
        }
        // Read the lines that were written before the watch existed.
        reader.read(printer)?;
        if printer.is_over {
            return Ok(());
        }
        let (has_changed, has_ended) = await_change(&inotify, end.as_ref())?;
        reader.read(printer)?;
        if has_changed && !has_ended {
            continue;
        }
        if has_ended {
            end = None;
        }
        let is_open = read_rotated(args, &mut reader, printer)?;
        if !is_open {
            return Ok(());
        }
        if end.is_none() {
            end = Some(wait(args, Condition::NextExit)?);
        }
    }
}

fn wait(args: &Logs, condition: Condition) -> Result<Answers, Failure> {
    let request = Request::Wait { container: args.container.clone(), condition };
    Ok(engine(&args.socket).request(request, &[])?)
}

/// Waits for a change. The first result is whether the file has only grown; the second is whether the container may
/// have ended.
fn await_change(inotify: &Inotify, end: Option<&Answers>) -> Result<(bool, bool), Failure> {
    let stdout = io::stdout();
    let mut fds = vec![
        PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
        // poll(2) always reports when the reader has closed the pipe, even with an empty set of events.
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    fds.extend(end.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
    let _ = poll(&mut fds, PollTimeout::from(IDLE_MS));
    let is_ready = |at: usize| fds.get(at).and_then(PollFd::any) == Some(true);
    if is_ready(1) {
        signals::die_of(SIGPIPE);
    }
    let (changed, ended) = (is_ready(0), is_ready(2));
    let mut moved = false;
    while let Ok(events) = inotify.read_events() {
        moved |= events.iter().any(|event| !event.mask.contains(AddWatchFlags::IN_MODIFY));
    }
    Ok((changed && !moved, ended))
}

/// Waits for an engine that restarts. Containers and their logs continue without the engine.
fn await_engine(args: &Logs) -> Result<(), Failure> {
    let deadline = Instant::now() + ENGINE_AWAY_MAX;
    loop {
        let request = Request::Logs { container: args.container.clone() };
        let first = engine(&args.socket).request(request, &[]).and_then(|mut all| all.next().transpose());
        match first {
            Err(EngineError::Connect { .. } | EngineError::Broken { .. }) if Instant::now() < deadline => {
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(error @ (EngineError::Connect { .. } | EngineError::Broken { .. })) => {
                return Err(error.into());
            }
            // Any answer shows that the engine is back.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// Requests the log's files again, and reads the files after the current file. Returns false if the log is complete.
fn read_rotated(args: &Logs, reader: &mut Reader, printer: &mut Printer) -> Result<bool, Failure> {
    await_engine(args)?;
    let Ok(log) = Log::request(&args.socket, &args.container) else {
        // The container and its log were removed, but the open file can still be read.
        reader.read(printer)?;
        return Ok(false);
    };
    // Read the lines that were written before the engine's answer.
    reader.read(printer)?;
    let own = reader.id();
    let place = log.files.iter().position(|file| id(file).ok() == own);
    if place.is_none() && own.is_some() && !log.files.is_empty() {
        output::note("the log was rotated faster than this command reads: lines are missing");
    }
    for file in log.files.into_iter().skip(place.map_or(0, |place| place + 1)) {
        reader.open(file, 0).map_err(unreadable)?;
        reader.read(printer)?;
    }
    Ok(log.is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    #[test]
    fn a_tail_is_found_from_the_end_across_blocks_and_files() {
        let long = "x".repeat(BLOCK);
        let text = format!("one\n{long}\nthree\n");
        let all = file(&text);
        assert_eq!(tail_offset(&all, 1).expect("read"), (text.len() as u64 - 6, 1));
        assert_eq!(tail_offset(&all, 2).expect("read"), (4, 2));
        assert_eq!(tail_offset(&all, 3).expect("read"), (0, 3));
        assert_eq!(tail_offset(&all, 9).expect("read"), (0, 3));
        assert_eq!(tail_offset(&all, 0).expect("read"), (text.len() as u64, 0));
        assert_eq!(tail_offset(&file(""), 5).expect("read"), (0, 0));
        assert_eq!(tail_offset(&file("\n"), 5).expect("read"), (0, 1));
        let log = Log { files: vec![file("a\nb\n"), file("c\n")], is_open: false };
        let places: Vec<u64> =
            log.tail_offsets(Some(2)).expect("read").into_iter().map(|(_, at)| at).collect();
        assert_eq!(places, [2, 0]);
        assert_eq!(log.tail_offsets(Some(1)).expect("read").len(), 1);
        assert_eq!(log.tail_offsets(None).expect("read").len(), 2);
    }

    #[test]
    fn entries_are_printed_in_their_time_and_damaged_ones_left_out() {
        let mut printer = Printer { since: Some(1_000_000_000), timestamps: true, ..Printer::default() };
        for line in [
            r#"{"log":"early\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}"#,
            r#"{"log":"lo","stream":"stdout","time":"1970-01-01T00:00:02Z"}"#,
            r#"{"log":"ng\n","stream":"stdout","time":"1970-01-01T00:00:03Z"}"#,
            r#"{"log":"x\n","stream":"stdout","time":"never"}"#,
            r#"{"log":"cut"#,
            "",
        ] {
            printer.line(line.as_bytes());
        }
        assert_eq!(String::from_utf8_lossy(&printer.out), "1970-01-01T00:00:02Z long\n");
        assert_eq!(printer.damaged, 2);
    }

    #[test]
    fn lines_are_whole_however_the_file_grows() {
        let (mut reader, mut printer) =
            (Reader::default(), Printer { since: Some(i64::MAX), ..Printer::default() });
        let mut log = file("{\"log\":\"a\\n\",\"time\":\"1970-01-01T00:00:02Z\"}\n{\"log\":");
        reader.open(log.try_clone().expect("a descriptor"), 0).expect("open");
        reader.read(&mut printer).expect("read");
        assert_eq!(reader.rest, b"{\"log\":");
        log.write_all(b"\"b\",\"time\":\"1970-01-01T00:00:02Z\"}\n").expect("written");
        reader.read(&mut printer).expect("read");
        assert!(reader.rest.is_empty() && printer.damaged == 0);
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(
            (tail("all").expect("good"), tail("-1").expect("good"), tail("5").expect("good")),
            (None, None, Some(5))
        );
        assert_eq!(tail("five").expect_err("refused").status, USAGE);
    }
}
