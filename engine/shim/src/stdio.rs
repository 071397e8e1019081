//! The streams of a process of the container: moves bytes between the process, its log and attached clients.
//!
//! The event loop owns the streams. The shim reads output only when the log and all clients have accepted the bytes
//! read before: a client that stops reading delays only its own process. At most one pipe and one read of bytes wait
//! for a client.

use super::attach::Client;
use super::log::Log;
use super::nonblocking::{self, Sink, Transfer};
use super::runtime::StandardFds;
use super::stream::{PerStream, Stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{pipe2, read, write};
use sampan_os::syscall;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most moves of one stream in a turn of the event loop, so that one stream does not delay the others.
const MOVES_PER_TURN: usize = 16;
/// Most bytes of one read.
const READ_LEN: usize = 16 << 10;

#[derive(Debug, Default)]
pub(crate) struct Stdio {
    /// The shim's end of the process's stdin: the write end of a pipe, or the terminal.
    stdin: Option<OwnedFd>,
    outputs: PerStream<Option<Output>>,
    terminal: bool,
    pub(super) clients: Vec<Client>,
}

/// The shim's end of an output stream.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    /// Whether the client's pipe, into which the kernel splices the output, is full.
    is_target_full: bool,
}

impl Stdio {
    /// Creates the process's pipes and returns the ends for the process.
    pub(crate) fn make_pipes(&mut self, with_stdin: bool, with_output: bool) -> io::Result<StandardFds> {
        let (mut stdin, mut outputs) = (None, PerStream::default());
        self.terminal = false;
        if with_stdin {
            let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&ours)?;
            nonblocking::grow_pipe(&ours, nonblocking::INPUT_LEN);
            (self.stdin, stdin) = (Some(ours), Some(theirs));
        }
        if with_output {
            for stream in Stream::BOTH {
                let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
                set_nonblocking(&ours)?;
                nonblocking::grow_pipe(&ours, nonblocking::OUTPUT_LEN);
                *self.outputs.of_mut(stream) = Some(Output { fd: ours, is_target_full: false });
                *outputs.of_mut(stream) = Some(theirs);
            }
        }
        Ok([stdin, outputs.out, outputs.err])
    }

    /// Uses the terminal `master` for all streams from now on, and sets its size unless `size` is (0, 0).
    pub(crate) fn set_terminal(&mut self, master: OwnedFd, size: (u16, u16)) -> io::Result<()> {
        set_nonblocking(&master)?;
        self.stdin = Some(master.try_clone()?);
        self.outputs = PerStream { out: Some(Output { fd: master, is_target_full: false }), err: None };
        self.terminal = true;
        if size != (0, 0) {
            self.resize(size.0, size.1)?;
        }
        Ok(())
    }

    /// Sets the terminal's size. Returns false if the terminal had this size already.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> io::Result<bool> {
        match (&self.outputs.out, self.terminal) {
            (Some(output), true) if syscall::window(output.fd.as_fd()) == Ok((rows, columns)) => Ok(false),
            (Some(output), true) => {
                syscall::set_window(output.fd.as_fd(), rows, columns)?;
                Ok(true)
            }
            _ => Err(io::Error::other("the process has no terminal")),
        }
    }

    /// Closes the process's stdin, so that the process reads end-of-file. Does nothing for a terminal.
    pub(crate) fn close_stdin(&mut self) {
        if !self.terminal {
            self.stdin = None;
        }
    }

    /// Closes the pipes of a process that could not be started. The bytes in the pipes are lost.
    pub(crate) fn discard_pipes(&mut self) {
        (self.stdin, self.outputs) = (None, PerStream::default());
    }

    /// Moves the bytes that can be moved now. `keep_stdin`: the process's stdin stays open when a client's stdin ends,
    /// unless that client's [`Client::ends_stdin`] is set.
    pub(crate) fn pump(&mut self, log: &mut Log, keep_stdin: bool) {
        log.flush();
        for nth in 0..self.clients.len() {
            self.pump_input(nth, keep_stdin);
        }
        for stream in Stream::BOTH {
            self.pump_output(stream, log);
        }
    }

    fn sinks(&mut self, stream: Stream) -> impl Iterator<Item = &mut Sink> {
        self.clients.iter_mut().filter_map(move |client| client.sinks.of_mut(stream).as_mut())
    }

    fn pump_output(&mut self, stream: Stream, log: &mut Log) {
        for _ in 0..MOVES_PER_TURN {
            let mut is_taken = log.backlog_fd().is_none();
            for sink in self.sinks(stream) {
                sink.flush();
                is_taken &= sink.is_empty();
            }
            for client in &mut self.clients {
                client.sinks.of_mut(stream).take_if(|sink| sink.is_broken);
            }
            if !is_taken || self.outputs.of(stream).is_none() {
                return;
            }
            match self.move_output(stream, log) {
                Transfer::Moved => {}
                Transfer::SourceEnded => {
                    *self.outputs.of_mut(stream) = None;
                    log.end(stream);
                    return;
                }
                _ => return,
            }
        }
    }

    fn move_output(&mut self, stream: Stream, log: &mut Log) -> Transfer {
        let Some(output) = self.outputs.of_mut(stream) else { return Transfer::SourceEnded };
        let mut sinks = self.clients.iter_mut().filter_map(|client| client.sinks.of_mut(stream).as_mut());
        // With one client, no log and no terminal, the kernel moves the bytes from pipe to pipe.
        if let (Some(sink), None, false, true) = (sinks.next(), sinks.next(), self.terminal, log.is_none())
            && let Some(target) = sink.direct_pipe()
        {
            let moved = nonblocking::transfer(output.fd.as_fd(), target);
            output.is_target_full = moved == Transfer::TargetFull;
            if moved != Transfer::TargetBroken {
                return moved;
            }
            sink.is_broken = true;
            return Transfer::Moved;
        }
        output.is_target_full = false;
        let mut bytes = [0; READ_LEN];
        match read(&output.fd, &mut bytes) {
            // EIO means that no process has the terminal open.
            Ok(0) | Err(Errno::EIO) => Transfer::SourceEnded,
            Ok(len) => {
                let bytes = bytes.get(..len).unwrap_or_default();
                log.write(stream, bytes);
                self.sinks(stream).for_each(|sink| sink.push(bytes));
                Transfer::Moved
            }
            Err(Errno::EINTR) => Transfer::Moved,
            Err(Errno::EAGAIN) => Transfer::SourceEmpty,
            Err(_) => Transfer::SourceEnded,
        }
    }

    fn pump_input(&mut self, nth: usize, keep_stdin: bool) {
        let is_terminal = self.terminal;
        let (Some(client), Some(target)) = (self.clients.get_mut(nth), &self.stdin) else { return };
        for _ in 0..MOVES_PER_TURN {
            let Some(source) = &client.stdin else { return };
            let moved = if is_terminal {
                copy_to_terminal(source.as_fd(), target.as_fd(), &mut client.typed)
            } else if nonblocking::kind(source) == Some(nonblocking::Kind::Null) {
                Transfer::SourceEnded
            } else {
                nonblocking::transfer(source.as_fd(), target.as_fd())
            };
            client.is_target_full = moved == Transfer::TargetFull;
            match moved {
                Transfer::Moved => continue,
                Transfer::SourceEmpty | Transfer::TargetFull => return,
                Transfer::SourceEnded => {
                    client.stdin = None;
                    if client.ends_stdin || !keep_stdin {
                        self.close_stdin();
                    }
                    return;
                }
                Transfer::TargetBroken => {
                    client.stdin = None;
                    if client.ends_stdin {
                        self.close_stdin();
                    }
                    return;
                }
            }
        }
    }

    /// Reads the rest of the output of a process that has ended, logs it and sends it to the clients; then closes the
    /// pipes.
    ///
    /// A child of the process may still have the pipes open. Output that the child writes later is lost.
    pub(crate) fn finish(&mut self, log: &mut Log) {
        self.stdin = None;
        for stream in Stream::BOTH {
            if let Some(output) = self.outputs.of_mut(stream).take() {
                let mut left =
                    if self.terminal { 1 << 16 } else { syscall::bytes_waiting(&output.fd).unwrap_or(0) };
                let mut bytes = [0; READ_LEN];
                while left > 0 {
                    match read(&output.fd, &mut bytes) {
                        Err(Errno::EINTR) => continue,
                        Ok(len @ 1..) => {
                            let bytes = bytes.get(..len).unwrap_or_default();
                            log.write(stream, bytes);
                            self.sinks(stream).for_each(|sink| sink.push(bytes));
                            left = left.saturating_sub(len);
                        }
                        _ => break,
                    }
                }
                log.end(stream);
            }
        }
        self.terminal = false;
    }

    /// Calls `want` with each descriptor that poll(2) must wait for.
    pub(crate) fn interest<'a>(&'a self, log: &'a Log, want: &mut impl FnMut(BorrowedFd<'a>, PollFlags)) {
        for client in &self.clients {
            let (fd, flags) = client.control.interest();
            want(fd, flags);
            if let (Some(source), Some(target)) = (&client.stdin, &self.stdin) {
                match client.is_target_full {
                    true => want(target.as_fd(), PollFlags::POLLOUT),
                    false => want(source.as_fd(), PollFlags::POLLIN),
                }
            }
        }
        if let Some(fd) = log.backlog_fd() {
            want(fd, PollFlags::POLLOUT);
        }
        for stream in Stream::BOTH {
            self.interest_of_output(stream, log, want);
        }
    }

    fn interest_of_output<'a>(
        &'a self,
        stream: Stream,
        log: &Log,
        want: &mut impl FnMut(BorrowedFd<'a>, PollFlags),
    ) {
        let sinks = || self.clients.iter().filter_map(move |client| client.sinks.of(stream).as_ref());
        let Some(output) = self.outputs.of(stream) else {
            return sinks()
                .filter(|sink| !sink.is_empty())
                .for_each(|sink| want(sink.as_fd(), PollFlags::POLLOUT));
        };
        let mut is_held = log.backlog_fd().is_some();
        for sink in sinks().filter(|sink| output.is_target_full || !sink.is_empty()) {
            want(sink.as_fd(), PollFlags::POLLOUT);
            is_held = true;
        }
        if !is_held {
            want(output.fd.as_fd(), PollFlags::POLLIN);
        }
    }
}

/// Moves typed bytes from a client's socket to the terminal. `typed` holds bytes that the terminal has not accepted
/// yet.
fn copy_to_terminal(source: BorrowedFd<'_>, terminal: BorrowedFd<'_>, typed: &mut Vec<u8>) -> Transfer {
    if typed.is_empty() {
        let mut bytes = [0; 4096];
        match recv(source.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Transfer::SourceEnded,
            Ok(len) => typed.extend_from_slice(bytes.get(..len).unwrap_or_default()),
            Err(Errno::EINTR) => return Transfer::Moved,
            Err(Errno::EAGAIN) => return Transfer::SourceEmpty,
            Err(_) => return Transfer::SourceEnded,
        }
    }
    match write(terminal, typed) {
        Ok(len) if len == typed.len() => *typed = Vec::new(),
        Ok(len) => drop(typed.drain(..len)),
        Err(Errno::EINTR) => {}
        Err(Errno::EAGAIN) => return Transfer::TargetFull,
        Err(_) => return Transfer::TargetBroken,
    }
    Transfer::Moved
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
