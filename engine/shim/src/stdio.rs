//! The streams of one process, the container's or an execution's: between it, its log and the attached clients.
//!
//! Bytes are read only when all who are to have them have room: a client that stops reading holds back its own
//! process and nobody else. What one client has not read yet is bounded by a pipe and a read.

use super::attach::Client;
use super::log::{Log, Stream};
use super::nonblocking::{self, Moved, Sink};
use super::runtime::Standard;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{pipe2, read, write};
use sampan_os::syscall;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most moves of one stream a turn, so that none starves the rest.
const MOVES_PER_TURN: usize = 16;
/// Bytes of one read.
const READ_LEN: usize = 16 << 10;

/// The streams of a process.
#[derive(Debug, Default)]
pub struct Stdio {
    stdin: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
    terminal: bool,
    pub(super) clients: Vec<Client>,
}

/// What the process writes.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    /// A pipe that is fed directly has no room.
    waits_for_room: bool,
}

impl Stdio {
    /// Makes pipes; gives the process's ends of them.
    pub fn make_pipes(&mut self, with_stdin: bool, with_output: bool) -> io::Result<Standard> {
        let mut ends = [None, None, None];
        self.terminal = false;
        if with_stdin {
            let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&ours)?;
            nonblocking::widen(&ours, nonblocking::INPUT_LEN);
            (self.stdin, ends[0]) = (Some(ours), Some(theirs));
        }
        if with_output {
            for stream in [Stream::Out, Stream::Err] {
                let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
                set_nonblocking(&ours)?;
                nonblocking::widen(&ours, nonblocking::OUTPUT_LEN);
                self.outputs[stream as usize] = Some(Output { fd: ours, waits_for_room: false });
                ends[stream as usize + 1] = Some(theirs);
            }
        }
        Ok(ends)
    }

    /// Goes on with a terminal.
    pub fn set_terminal(&mut self, master: OwnedFd, size: (u16, u16)) -> io::Result<()> {
        set_nonblocking(&master)?;
        self.stdin = Some(master.try_clone()?);
        self.outputs = [Some(Output { fd: master, waits_for_room: false }), None];
        self.terminal = true;
        if size != (0, 0) {
            self.resize(size.0, size.1)?;
        }
        Ok(())
    }

    /// Sets the terminal's size; false if it has that size already.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<bool> {
        match (&self.outputs[0], self.terminal) {
            (Some(output), true) if syscall::window(output.fd.as_fd()) == Ok((rows, columns)) => Ok(false),
            (Some(output), true) => {
                syscall::set_window(output.fd.as_fd(), rows, columns)?;
                Ok(true)
            }
            _ => Err(io::Error::other("it has no terminal")),
        }
    }

    /// The process reads the end of its stdin, unless that is its terminal.
    pub fn close_stdin(&mut self) {
        if !self.terminal {
            self.stdin = None;
        }
    }

    /// Forgets the pipes of a process that never came to be, with what is in them.
    pub fn abandon(&mut self) {
        (self.stdin, self.outputs) = (None, [None, None]);
    }

    /// Moves what can be moved.
    pub fn pump(&mut self, log: &mut Log, keep_stdin: bool) {
        log.flush();
        for nth in 0..self.clients.len() {
            self.pump_input(nth, keep_stdin);
        }
        for stream in [Stream::Out, Stream::Err] {
            self.pump_output(stream, log);
        }
    }

    fn sinks(&mut self, stream: Stream) -> impl Iterator<Item = &mut Sink> {
        self.clients.iter_mut().filter_map(move |client| client.sinks[stream as usize].as_mut())
    }

    fn pump_output(&mut self, stream: Stream, log: &mut Log) {
        for _ in 0..MOVES_PER_TURN {
            let mut has_room = log.behind().is_none();
            for sink in self.sinks(stream) {
                sink.flush();
                has_room &= sink.is_empty();
            }
            for client in &mut self.clients {
                client.sinks[stream as usize].take_if(|sink| sink.is_broken);
            }
            if !has_room || self.outputs[stream as usize].is_none() {
                return;
            }
            match self.move_output(stream, log) {
                Moved::Some => {}
                Moved::End => {
                    self.outputs[stream as usize] = None;
                    log.end(stream);
                    return;
                }
                _ => return,
            }
        }
    }

    fn move_output(&mut self, stream: Stream, log: &mut Log) -> Moved {
        let Some(output) = &mut self.outputs[stream as usize] else { return Moved::End };
        let mut sinks = self.clients.iter_mut().filter_map(|client| client.sinks[stream as usize].as_mut());
        if let (Some(sink), None, false, true) = (sinks.next(), sinks.next(), self.terminal, log.is_none())
            && let Some(target) = sink.direct()
        {
            let moved = nonblocking::transfer(output.fd.as_fd(), target);
            output.waits_for_room = moved == Moved::NoRoom;
            if moved != Moved::Broken {
                return moved;
            }
            sink.is_broken = true;
            return Moved::Some;
        }
        output.waits_for_room = false;
        let mut bytes = [0; READ_LEN];
        match read(&output.fd, &mut bytes) {
            // EIO: nobody has the terminal open any more.
            Ok(0) | Err(Errno::EIO) => Moved::End,
            Ok(len) => {
                let bytes = bytes.get(..len).unwrap_or_default();
                log.write(stream, bytes);
                self.sinks(stream).for_each(|sink| sink.push(bytes));
                Moved::Some
            }
            Err(Errno::EINTR) => Moved::Some,
            Err(Errno::EAGAIN) => Moved::NoBytes,
            Err(_) => Moved::End,
        }
    }

    fn pump_input(&mut self, nth: usize, keep_stdin: bool) {
        let is_terminal = self.terminal;
        let (Some(client), Some(target)) = (self.clients.get_mut(nth), &self.stdin) else { return };
        for _ in 0..MOVES_PER_TURN {
            let Some(source) = &client.stdin else { return };
            let moved = if is_terminal {
                type_into(source.as_fd(), target.as_fd(), &mut client.typed)
            } else if nonblocking::kind(source) == Some(nonblocking::Kind::Null) {
                Moved::End
            } else {
                nonblocking::transfer(source.as_fd(), target.as_fd())
            };
            client.waits_for_room = moved == Moved::NoRoom;
            match moved {
                Moved::Some => continue,
                Moved::NoBytes | Moved::NoRoom => return,
                Moved::End => {
                    client.stdin = None;
                    if client.is_first || !keep_stdin {
                        self.close_stdin();
                    }
                    return;
                }
                Moved::Broken => {
                    client.stdin = None;
                    if client.is_first {
                        self.close_stdin();
                    }
                    return;
                }
            }
        }
    }

    /// The process has ended: what is in its pipes now is logged and handed to the clients, and they are closed.
    ///
    /// A process that it left behind may hold them open; what that writes later is lost.
    pub fn finish(&mut self, log: &mut Log) {
        self.stdin = None;
        for stream in [Stream::Out, Stream::Err] {
            if let Some(output) = self.outputs[stream as usize].take() {
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

    /// Calls `want` for each descriptor to wait on.
    pub fn interest<'a>(&'a self, log: &'a Log, want: &mut impl FnMut(BorrowedFd<'a>, PollFlags)) {
        for client in &self.clients {
            let (fd, flags) = client.control.interest();
            want(fd, flags);
            if let (Some(source), Some(target)) = (&client.stdin, &self.stdin) {
                match client.waits_for_room {
                    true => want(target.as_fd(), PollFlags::POLLOUT),
                    false => want(source.as_fd(), PollFlags::POLLIN),
                }
            }
        }
        if let Some(fd) = log.behind() {
            want(fd, PollFlags::POLLOUT);
        }
        for stream in [Stream::Out, Stream::Err] {
            self.interest_of_output(stream, log, want);
        }
    }

    fn interest_of_output<'a>(
        &'a self,
        stream: Stream,
        log: &Log,
        want: &mut impl FnMut(BorrowedFd<'a>, PollFlags),
    ) {
        let sinks = || self.clients.iter().filter_map(move |client| client.sinks[stream as usize].as_ref());
        let Some(output) = &self.outputs[stream as usize] else {
            return sinks()
                .filter(|sink| !sink.is_empty())
                .for_each(|sink| want(sink.as_fd(), PollFlags::POLLOUT));
        };
        let mut is_held = log.behind().is_some();
        for sink in sinks().filter(|sink| output.waits_for_room || !sink.is_empty()) {
            want(sink.as_fd(), PollFlags::POLLOUT);
            is_held = true;
        }
        if !is_held {
            want(output.fd.as_fd(), PollFlags::POLLIN);
        }
    }
}

/// What a person typed goes to the terminal.
fn type_into(source: BorrowedFd<'_>, terminal: BorrowedFd<'_>, typed: &mut Vec<u8>) -> Moved {
    if typed.is_empty() {
        let mut bytes = [0; 4096];
        match recv(source.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Moved::End,
            Ok(len) => typed.extend_from_slice(bytes.get(..len).unwrap_or_default()),
            Err(Errno::EINTR) => return Moved::Some,
            Err(Errno::EAGAIN) => return Moved::NoBytes,
            Err(_) => return Moved::End,
        }
    }
    match write(terminal, typed) {
        Ok(len) if len == typed.len() => *typed = Vec::new(),
        Ok(len) => drop(typed.drain(..len)),
        Err(Errno::EINTR) => {}
        Err(Errno::EAGAIN) => return Moved::NoRoom,
        Err(_) => return Moved::Broken,
    }
    Moved::Some
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
