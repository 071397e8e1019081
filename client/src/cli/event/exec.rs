//! `sampan events --exec`: runs a command for events.
//!
//! `watch` owns it, collects the events, and commits them when the command has succeeded. A command that fails is
//! tried again after growing pauses; finally its events are appended to a file, so that one bad event does not block
//! the others.

use crate::cli::args::event::Events;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::signals::Signals;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_client::Event;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Pause before the first retry; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two tries of the command.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The command, and the events of its next run.
#[derive(Debug)]
pub(crate) struct Exec {
    command: String,
    batch: usize,
    retries: u32,
    failed: Option<PathBuf>,
    events: Vec<(Event, String)>,
    signals: Signals,
    /// Becomes readable when a signal was caught.
    signalled: UnixStream,
}

/// The outcome of a batch of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchOutcome {
    /// The command has succeeded, or its events are in the file of failed events.
    Done,
    /// A signal came before the command had succeeded.
    Interrupted,
}

impl Exec {
    /// Makes the runner from `--exec` and its options; `None` without `--exec`.
    pub(crate) fn new(args: &Events, signals: &Signals) -> Result<Option<Self>, Failure> {
        let Some(command) = args.exec.clone() else { return Ok(None) };
        let system = |error: io::Error| Failure::new(format!("cannot catch signals: {error}"));
        let (signalled, wake) = UnixStream::pair().map_err(system)?;
        wake.set_nonblocking(true).map_err(system)?;
        signals.also_wake(&wake).map_err(system)?;
        let beside = |cursor: &PathBuf| {
            let mut name = cursor.clone().into_os_string();
            name.push(".failed");
            PathBuf::from(name)
        };
        Ok(Some(Exec {
            command,
            batch: args.exec_batch as usize,
            retries: args.exec_retries,
            failed: args.exec_failed.clone().or_else(|| args.cursor_file.as_ref().map(beside)),
            events: Vec::new(),
            signals: signals.clone(),
            signalled,
        }))
    }

    /// Adds an event and its line of JSON, which ends with a line feed.
    pub(crate) fn push(&mut self, event: Event, line: String) {
        self.events.push((event, line));
    }

    /// Whether the command must run before more events can be added.
    pub(crate) fn is_full(&self) -> bool {
        self.events.len() >= self.batch
    }

    /// Runs the command for the collected events, until it succeeds or the events are in the file of failed events.
    pub(crate) fn run(&mut self) -> Result<BatchOutcome, Failure> {
        let mut pause = RETRY_MIN;
        let mut tries = 0;
        while !self.events.is_empty() {
            let status = self.run_once()?;
            if status.success() {
                break;
            }
            if self.signals.caught().is_some() {
                return Ok(BatchOutcome::Interrupted);
            }
            if tries == self.retries {
                self.set_aside(status)?;
                break;
            }
            tries += 1;
            let (of, seconds) = (self.subject(), pause.as_secs());
            output::note(&format!(
                "the command failed for {of} ({}); retrying in {seconds} s",
                describe(status)
            ));
            if self.is_signalled_within(pause) {
                return Ok(BatchOutcome::Interrupted);
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        self.events.clear();
        Ok(BatchOutcome::Done)
    }

    /// Runs the command and waits for its end. Forwards a signal that arrives meanwhile to the command.
    fn run_once(&self) -> Result<ExitStatus, Failure> {
        let cannot = |error: io::Error| Failure::new(format!("cannot run {:?}: {error}", self.command));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &self.command]).stdin(self.input().map_err(cannot)?);
        if let [(event, _)] = self.events.as_slice() {
            let words = [("TYPE", &event.kind), ("ACTION", &event.action), ("ID", &event.id)];
            // An environment variable cannot contain NUL.
            command.envs(words.map(|(name, word)| (format!("SAMPAN_EVENT_{name}"), word.replace('\0', ""))));
            command.env("SAMPAN_EVENT_SEQ", event.seq.to_string());
        }
        let mut child = command.spawn().map_err(cannot)?;
        let pid = i32::try_from(child.id()).map_or(Pid::from_raw(0), Pid::from_raw);
        let (ended, end) = UnixStream::pair().map_err(cannot)?;
        let wait = sampan_os::thread::spawn("exec", 64 << 10, move || {
            let status = child.wait();
            drop(end);
            status
        });
        let wait = wait.map_err(cannot)?;
        let mut forwarded = None;
        while !self.wait_for(&ended, forwarded) {
            forwarded = self.signals.caught();
            // The child is reaped only after `ended` is closed, so its process ID is valid here.
            if let Some(signal) =
                forwarded.and_then(|signal| Signal::try_from(signal).ok()).filter(|_| pid.as_raw() > 0)
            {
                let _ = kill(pid, signal);
            }
        }
        match wait.join() {
            Ok(status) => status.map_err(cannot),
            Err(_) => Err(Failure::new(format!("cannot wait for {:?}", self.command))),
        }
    }

    /// Waits until `ended` is closed. Returns false if a signal other than `forwarded` came first.
    fn wait_for(&self, ended: &UnixStream, forwarded: Option<i32>) -> bool {
        loop {
            let mut fds = [
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signalled.as_fd(), PollFlags::POLLIN),
            ];
            // The byte of a forwarded signal stays readable, so only wait for the end after one.
            let fds = if forwarded.is_some() { &mut fds[..1] } else { &mut fds[..] };
            match poll(fds, PollTimeout::NONE) {
                Ok(1..) => return fds.first().and_then(PollFd::any).unwrap_or(true),
                _ => continue,
            }
        }
    }

    fn is_signalled_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.signalled.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(1..) => return true,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }

    /// Returns the lines as a file, so that the command may read them slowly, or not at all. memfd_create(2).
    fn input(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create(c"sampan-events", MFdFlags::MFD_CLOEXEC)?);
        for (_, line) in &self.events {
            file.write_all(line.as_bytes())?;
        }
        file.rewind()?;
        Ok(file)
    }

    /// Appends the events to the file of failed events, and syncs it before the cursor passes the events.
    fn set_aside(&self, status: ExitStatus) -> Result<(), Failure> {
        let (of, words) = (self.subject(), describe(status));
        let Some(path) = &self.failed else {
            output::note(&format!("the command failed for {of} ({words}); giving up"));
            return Ok(());
        };
        let write = || -> io::Result<()> {
            let mut lines = String::new();
            self.input()?.read_to_string(&mut lines)?;
            // The file contains whole events, so only its owner may read it. O_NONBLOCK, because open(2) of a FIFO
            // could wait.
            let flags = OFlag::O_NONBLOCK.bits();
            let mut file =
                File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            file.write_all(lines.as_bytes())?;
            file.sync_data()
        };
        write().map_err(|error| {
            Failure::new(format!("cannot set {of} aside in {}: {error}", path.display()))
                .hint("the cursor does not pass the event: start again when the file is writable")
        })?;
        output::note(&format!("the command failed for {of} ({words}); set aside in {}", path.display()));
        Ok(())
    }

    /// The text for the collected events in messages.
    fn subject(&self) -> String {
        match self.events.as_slice() {
            [] => "no event".to_owned(),
            [(event, _)] => format!("event {}", event.seq),
            [(first, _), .., (last, _)] => format!("events {} to {}", first.seq, last.seq),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}
