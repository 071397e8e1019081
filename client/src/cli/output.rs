//! Standard output and standard error: whole lines, and no wait that a signal cannot end.
//!
//! [`Output`] is for streams: it collects lines and writes them together in [`Output::flush`], which a command calls
//! before it waits for more. [`print`] and [`message`] are for all other output.

use crate::cli::error::Failure;
use crate::cli::signals::{self, Signals};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_client::Stopper;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Whether [`write`] writes to standard error, because the text is not the command's result.
static REDIRECTED: AtomicBool = AtomicBool::new(false);

/// Most bytes of one write: a pipe that poll(2) reports as writable accepts this number without blocking. pipe(7),
/// "PIPE_BUF".
const ATOMIC: usize = 4096;
/// Number of collected bytes from which on [`Output::is_full`] is true.
const FULL: usize = 64 << 10;
/// Interval in which a blocked write checks for signals, since a signal may come between the last check and the wait.
const SIGNAL_CHECK_MS: u16 = 500;

/// Standard output, with the lines that are not written yet.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: File,
    lines: String,
    signals: Signals,
    watcher: Option<Watcher>,
}

/// The thread that notices when the reader closes its end. A drop ends the thread.
#[derive(Debug)]
#[must_use]
pub(crate) struct Watcher {
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Output {
    /// Opens standard output. A caught signal ends any wait for the reader.
    pub(crate) fn new(signals: Signals) -> io::Result<Self> {
        // Do not use std's stdout, which would buffer the bytes again.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Output { stdout, lines: String::new(), signals, watcher: None })
    }

    /// The buffer to which a command appends its next line, with a line feed.
    pub(crate) fn lines(&mut self) -> &mut String {
        &mut self.lines
    }

    /// Whether the command should flush, even if more lines follow at once.
    pub(crate) fn is_full(&self) -> bool {
        self.lines.len() >= FULL
    }

    /// Writes all lines. Calls `meanwhile` from time to time while the reader accepts nothing.
    ///
    /// # Errors
    /// `Interrupted` if a signal was caught while the reader accepted nothing; otherwise the error of write(2) or
    /// `meanwhile`.
    pub(crate) fn flush(&mut self, mut meanwhile: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut rest = self.lines.as_bytes();
        while let Some(part) = rest.get(..rest.len().min(ATOMIC)).filter(|part| !part.is_empty()) {
            wait_for_room(&self.stdout, &self.signals, &mut meanwhile)?;
            match self.stdout.write(part) {
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        self.lines.clear();
        self.lines.shrink_to(FULL);
        Ok(())
    }

    /// Starts a thread that calls `stopper` when the reader of a pipe or socket closes its end, even if there is
    /// nothing to write.
    pub(crate) fn stop_when_reader_leaves(&mut self, stopper: Stopper) -> io::Result<()> {
        self.watcher = Some(stop_when_reader_leaves(self.stdout.try_clone()?.into(), stopper)?);
        Ok(())
    }

    /// Closes standard output, so that its reader gets end-of-file.
    pub(crate) fn close(self) -> io::Result<()> {
        drop(self.watcher);
        nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        Ok(())
    }

    /// Whether the reader of a pipe or socket has closed its end.
    pub(crate) fn has_reader_left(&self) -> bool {
        has_reader_left(&self.stdout)
    }
}

/// If `output` is a pipe or a socket, starts a thread that calls `stopper` when its reader closes its end.
pub(crate) fn stop_when_reader_leaves(output: OwnedFd, stopper: Stopper) -> io::Result<Watcher> {
    let (end, ended) = UnixStream::pair()?;
    let watch = move || {
        // poll(2) reports POLLERR and POLLHUP even with an empty set of events. Files and terminals have neither.
        let none = PollFlags::empty();
        let mut fds = [PollFd::new(output.as_fd(), none), PollFd::new(ended.as_fd(), none)];
        while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(1..)) {}
        if fds[0].any().unwrap_or(true) {
            stopper.stop();
        }
    };
    let thread = sampan_os::thread::spawn("stdout-reader", 64 << 10, watch)?;
    Ok(Watcher { end: Some(end), thread: Some(thread) })
}

/// Whether the reader of a pipe or socket has closed its end. Files and terminals always have a reader.
pub(crate) fn has_reader_left(output: &impl AsFd) -> bool {
    // poll(2) reports POLLERR and POLLHUP even with an empty set of events.
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

fn wait_for_room(
    stdout: &File,
    signals: &Signals,
    meanwhile: &mut impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
        if let Ok(1..) = poll(&mut fds, PollTimeout::from(SIGNAL_CHECK_MS)) {
            return Ok(());
        }
        if signals.caught().is_some() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        meanwhile()?;
    }
}

/// Prints a note on standard error.
pub(crate) fn note(text: &str) {
    message("note", text);
}

/// Writes `WORD: TEXT` to standard error, with control characters escaped. A closed standard error is no failure.
pub(crate) fn message(word: &str, text: &str) {
    let mut line = format!("{word}: ");
    sampan_ipc::event::escape(&mut line, text);
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Makes [`write`] write to standard error, until a call of [`redirect_to_stdout`].
pub(crate) fn redirect_to_stderr() {
    REDIRECTED.store(true, Ordering::Relaxed);
}

/// Makes [`write`] write to standard output again.
pub(crate) fn redirect_to_stdout() {
    REDIRECTED.store(false, Ordering::Relaxed);
}

/// Whether [`write`] writes to standard error.
pub(crate) fn is_redirected() -> bool {
    REDIRECTED.load(Ordering::Relaxed)
}

/// The descriptor to which [`write`] writes.
pub(crate) fn target() -> BorrowedFd<'static> {
    // Both descriptors live as long as the process, so a static variable may hold the stream.
    static STDOUT: std::sync::LazyLock<io::Stdout> = std::sync::LazyLock::new(io::stdout);
    static STDERR: std::sync::LazyLock<io::Stderr> = std::sync::LazyLock::new(io::stderr);
    if is_redirected() { STDERR.as_fd() } else { STDOUT.as_fd() }
}

/// Writes `text` like [`write`], with a [`Failure`] as the error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write(text).map_err(|error| Failure::output(&error))
}

/// Prints an error, then its hint; prints nothing for a quiet failure.
pub(crate) fn report(failure: &Failure) {
    if failure.quiet {
        return;
    }
    message("error", &failure.message);
    if !failure.hint.is_empty() {
        message("hint", &failure.hint);
    }
}

/// Writes `text` to standard output at once, or to standard error after [`redirect_to_stderr`].
///
/// # Errors
/// `Interrupted` if a signal was caught and the reader accepts nothing; otherwise the error of write(2). A command that
/// goes on after SIGINT still waits for the reader for a moment.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let target = target();
    let mut rest = text.as_bytes();
    while let Some(part) = rest.get(..rest.len().min(ATOMIC)).filter(|part| !part.is_empty()) {
        let mut fds = [PollFd::new(target, PollFlags::POLLOUT)];
        let is_signalled = signals::caught().is_some();
        let wait = if is_signalled { PollTimeout::ZERO } else { PollTimeout::from(SIGNAL_CHECK_MS) };
        match poll(&mut fds, wait) {
            Ok(1..) => {}
            _ if is_signalled => return Err(io::ErrorKind::Interrupted.into()),
            Ok(_) if signals::is_interrupted() => return Err(io::ErrorKind::Interrupted.into()),
            _ => continue,
        }
        match nix::unistd::write(target, part) {
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
