//! Asks a person at the terminal. A password is not shown, and the terminal's echo is restored however the question
//! ends.

use crate::cli::error::Failure;
use crate::cli::signals::{self, Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Longest answer, in bytes: the longest line of a terminal. termios(3).
pub(crate) const ANSWER_MAX: usize = 4096;

/// Whether standard input is a terminal, so that a person can answer.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal()
}

/// Asks a person for confirmation. Only an explicit yes confirms.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    let cannot = |error: io::Error| Failure::new(format!("cannot ask: {error}")).hint("--force does not ask");
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(cannot)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(cannot)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Asks for a line on the terminal. The terminal does not show the line if it is `secret`.
pub(crate) fn ask(question: &str, secret: bool) -> io::Result<String> {
    let (mut wake, sender) = UnixStream::pair()?;
    let signals = Signals::catch(&sender)?;
    eprint!("{question}");
    io::stderr().flush()?;
    let hidden = secret.then(Hidden::begin).transpose()?;
    let line = line(&wake);
    if hidden.is_some() {
        // The terminal has not shown the line feed that the person typed, so print one.
        eprintln!();
    }
    drop(hidden);
    if let Some(signal) = signals.caught() {
        signals::die_of(signal);
    }
    // Drop the bytes that signals have written here: no other code reads them.
    wake.set_nonblocking(true)?;
    let _ = wake.read(&mut [0; 16]);
    line
}

/// Reads one line of standard input; returns an error when `wake` becomes readable.
fn line(wake: &UnixStream) -> io::Result<String> {
    let stdin = io::stdin();
    let mut bytes = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        if fds.get(1).and_then(PollFd::any) == Some(true) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut byte = [0];
        // Do not use std's stdin, which reads more bytes than poll(2) has reported.
        match nix::unistd::read(stdin.as_fd(), &mut byte)? {
            0 if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => break,
            _ if byte == *b"\n" => break,
            _ if bytes.len() == ANSWER_MAX => return Err(io::ErrorKind::InvalidData.into()),
            _ => bytes.extend(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Keeps the terminal's echo off. A drop turns it on again.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
