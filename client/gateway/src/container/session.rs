//! A session of a client with a process of a container: bytes between the client's connection and the shim.
//!
//! Used by attach and by the start of an execution, after the connection was taken over. The session's descriptors lead
//! to the shim, not to the engine: a session survives the end of the engine. Each direction keeps a bounded number of
//! bytes: the session reads from the shim only while its client has room, and from its client only while the shim
//! accepts input.

use super::frame::{self, Stream};
use super::shim_link::{End, ShimLink};
use crate::exchange::{Exchange, Progress};
use mio::Interest;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use sampan_client::detach_keys::KeyMatcher;
use sampan_http::connection::Received;
use sampan_ipc::container::{Control, Streams};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// Most bytes of one read from the shim.
const READ_LEN: usize = 16 << 10;
/// Most bytes of input that a session moves before other clients have their turn.
const INPUT_PER_TURN: usize = 128 << 10;

/// What a session attaches.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The process has a terminal: one stream carries both directions, without frames.
    pub is_terminal: bool,
    /// Whether the client's bytes are the process's input. Otherwise they are dropped.
    pub stdin: bool,
    /// Whether the client gets the process's output.
    pub stdout: bool,
    /// Whether the client gets the process's error output.
    pub stderr: bool,
    /// The process's stdin ends with the client's.
    pub stdin_once: bool,
    /// The keys with which a person detaches from a terminal.
    pub detach_keys: Vec<u8>,
}

/// The descriptors for the request to the engine.
pub struct Attachment {
    descriptors: Vec<OwnedFd>,
    /// Which streams the descriptors are for.
    pub streams: Streams,
}

impl Attachment {
    /// The descriptors, in the protocol's order.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }
}

/// How a step of a session has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The session goes on: see [`Progress`].
    Goes(Progress),
    /// The session has ended, and the client has got all output.
    Ended(End),
}

struct Output {
    fd: OwnedFd,
    stream: Stream,
}

/// A session's own ends of the descriptors.
pub struct Session {
    link: Rc<RefCell<ShimLink>>,
    /// The process's input: the write end of a pipe, or the terminal's stream.
    input: Option<OwnedFd>,
    /// Input that the shim has not accepted yet.
    pending: Vec<u8>,
    keys: KeyMatcher,
    has_input_ended: bool,
    outputs: Vec<Output>,
    is_terminal: bool,
    is_detaching: bool,
    is_watched: bool,
}

impl Session {
    /// Makes the descriptors of a session.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn open(options: &Options) -> io::Result<(Self, Attachment)> {
        let (mut link, control) = ShimLink::open()?;
        if options.stdin_once {
            link.send(Control::StdinOnce);
        }
        let mut attachment = Attachment { descriptors: vec![control], streams: Streams::default() };
        let is_terminal = options.is_terminal;
        let keys = if is_terminal { options.detach_keys.clone() } else { Vec::new() };
        let mut session = Session {
            link: Rc::new(RefCell::new(link)),
            input: None,
            pending: Vec::new(),
            keys: KeyMatcher::new(keys),
            has_input_ended: false,
            outputs: Vec::new(),
            is_terminal,
            is_detaching: false,
            is_watched: false,
        };
        match is_terminal {
            true => session.open_terminal(options, &mut attachment)?,
            false => session.open_pipes(options, &mut attachment)?,
        }
        Ok((session, attachment))
    }

    fn open_terminal(&mut self, options: &Options, attachment: &mut Attachment) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        attachment.descriptors.push(theirs.into());
        attachment.streams.stdin = true;
        if options.stdin {
            self.input = Some(ours.try_clone()?.into());
        } else {
            shutdown(ours.as_raw_fd(), Shutdown::Write)?;
        }
        self.outputs.push(Output { fd: ours.into(), stream: Stream::Stdout });
        Ok(())
    }

    fn open_pipes(&mut self, options: &Options, attachment: &mut Attachment) -> io::Result<()> {
        if options.stdin {
            let (theirs, ours) = io::pipe()?;
            set_nonblocking(&ours)?;
            attachment.descriptors.push(theirs.into());
            attachment.streams.stdin = true;
            self.input = Some(ours.into());
        }
        for (stream, is_wanted) in [(Stream::Stdout, options.stdout), (Stream::Stderr, options.stderr)] {
            if is_wanted {
                let (ours, theirs) = io::pipe()?;
                set_nonblocking(&ours)?;
                attachment.descriptors.push(theirs.into());
                self.outputs.push(Output { fd: ours.into(), stream });
            }
        }
        (attachment.streams.stdout, attachment.streams.stderr) = (options.stdout, options.stderr);
        Ok(())
    }

    /// The control socket, for the table of executions.
    pub fn link(&self) -> Rc<RefCell<ShimLink>> {
        Rc::clone(&self.link)
    }

    /// Moves the bytes that can be moved now. The connection must be taken over.
    ///
    /// # Errors
    /// The client's connection is broken, or a descriptor cannot be watched.
    pub fn step(&mut self, exchange: &mut Exchange<'_>) -> io::Result<Step> {
        if !self.is_watched {
            self.watch(exchange)?;
        }
        // The shim sends its last message after the last byte of output, so the message is read first.
        let end = self.link.borrow_mut().receive().cloned();
        let is_input_left = self.move_input(exchange)?;
        self.move_output(exchange)?;
        match end {
            Some(end) if self.outputs.is_empty() => Ok(Step::Ended(end)),
            // The link of a client that has detached may close before the streams do.
            Some(end @ (End::Lost | End::Detached)) if self.is_detaching => Ok(Step::Ended(end)),
            _ if is_input_left => Ok(Step::Goes(Progress::Again)),
            _ => Ok(Step::Goes(Progress::Waits)),
        }
    }

    fn watch(&mut self, exchange: &Exchange<'_>) -> io::Result<()> {
        self.is_watched = true;
        exchange.watch(&*self.link.borrow(), Interest::READABLE)?;
        if let Some(input) = &self.input {
            exchange.watch(input, Interest::WRITABLE)?;
        }
        self.outputs.iter().try_for_each(|output| exchange.watch(&output.fd, Interest::READABLE))
    }

    /// Moves input to the shim. Returns whether more can be moved at once.
    fn move_input(&mut self, exchange: &mut Exchange<'_>) -> io::Result<bool> {
        let mut left = INPUT_PER_TURN;
        let mut bytes = Vec::new();
        loop {
            self.write_input();
            if self.has_input_ended && self.pending.is_empty() {
                self.end_input();
                return Ok(false);
            }
            if !self.pending.is_empty() {
                // Nobody waits for a client that has gone while the process reads no input.
                return if exchange.is_peer_gone() {
                    Err(io::ErrorKind::ConnectionReset.into())
                } else {
                    Ok(false)
                };
            }
            if left == 0 {
                return Ok(true);
            }
            bytes.clear();
            match exchange.receive(&mut bytes)? {
                Received::Nothing => return Ok(false),
                Received::End => {
                    self.has_input_ended = true;
                    self.keys.finish(&mut self.pending);
                }
                Received::Bytes => {
                    left = left.saturating_sub(bytes.len());
                    self.take_input(&bytes);
                }
            }
        }
    }

    fn take_input(&mut self, bytes: &[u8]) {
        if self.input.is_none() || self.is_detaching {
            return;
        }
        if self.keys.filter(bytes, &mut self.pending) {
            self.write_input();
            self.pending.clear();
            self.is_detaching = true;
            self.link.borrow_mut().send(Control::Detach);
        }
    }

    fn write_input(&mut self) {
        while let Some(input) = &self.input
            && !self.pending.is_empty()
        {
            match nix::unistd::write(input, &self.pending) {
                Ok(len) => drop(self.pending.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // The process has closed its stdin, or has ended: nobody reads the rest.
                Err(_) => self.input = None,
            }
        }
        self.pending = Vec::new();
    }

    /// Ends the process's input: the client sends no more.
    fn end_input(&mut self) {
        if let Some(input) = self.input.take()
            && self.is_terminal
        {
            let _ = shutdown(input.as_raw_fd(), Shutdown::Write);
        }
    }

    fn move_output(&mut self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let mut bytes = [0; READ_LEN];
        let mut nth = 0;
        while let Some(output) = self.outputs.get(nth)
            && exchange.room() > 0
        {
            let part = bytes.get_mut(..READ_LEN.min(exchange.room())).unwrap_or_default();
            match nix::unistd::read(&output.fd, part) {
                Ok(0) => drop(self.outputs.remove(nth)),
                Ok(len) => {
                    let part = part.get(..len).unwrap_or_default();
                    if !self.is_terminal {
                        exchange.send(&frame::header(output.stream, len));
                    }
                    exchange.send(part);
                    // The other stream goes next.
                    self.outputs.rotate_left(1);
                    nth = 0;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => nth += 1,
                // The shim has closed the terminal's stream while input was on its way.
                Err(_) => drop(self.outputs.remove(nth)),
            }
        }
        Ok(())
    }
}

/// Sets O_NONBLOCK. Only for a descriptor whose open file no other process has.
fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
