//! A client's connection to a daemon: sends one request and receives messages, until a [`Stop`] ends the wait.
//!
//! Used by subscriptions and by the client of the engine. Returns the bodies of frames, and does not parse them.

use crate::event::{EMITTED_TAG, EVENT_TAG};
use crate::frame::{FRAME_MAX, FrameError};
use crate::socket::{self, FrameSocket};
use crate::trust::{self, Server};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most bytes of one read from the socket.
const READ_BYTES: usize = 64 << 10;
/// Most received descriptors that a connection holds: the kernel's limit for one message. unix(7), SCM_RIGHTS.
const DESCRIPTORS_HELD: usize = 253;

thread_local! {
    /// The bytes of one read, before the frame socket keeps what is no complete frame. All connections of a thread share
    /// this buffer, so that a program with many of them does not need 64 KiB for each.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: FrameSocket<UnixStream>,
}

/// The result of waiting for a message.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, or bytes of a message.
    Message(T),
    /// The deadline has passed.
    Timeout,
    /// The [`Stop`] was used.
    Stopped,
    /// The peer has closed the connection, or has ended.
    Closed,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.stream().as_fd()
    }
}

impl Connection {
    /// Connects, checks the user that listens, and only then sends `request`, with descriptors on its first byte.
    pub fn open(path: &Path, server: Server, request: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let stream = trust::connect(path, server)?;
        match socket::send_all(&stream, request, fds) {
            // A server at its limit sends a refusal and closes without reading the request. The refusal is read later.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        let socket = FrameSocket::new(stream, FRAME_MAX, DESCRIPTORS_HELD);
        Ok(Connection { socket })
    }

    /// Sends a further frame. Waits until the daemon has room for it, which it has for a few short frames.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        socket::send_all(self.socket.stream(), frame, &[] as &[BorrowedFd<'_>])
    }

    /// Takes the descriptors that have been received.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.socket.take_all_descriptors()
    }

    /// The body of the next message, if it was received completely.
    pub fn buffered(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.socket.next_body()
    }

    /// Reads from the socket. If there is nothing to read, waits for bytes, until `deadline`, or until a stop.
    ///
    /// Returns `Message(())` after it has read bytes.
    pub fn fill(&mut self, stop: &Stop, deadline: Option<Instant>) -> io::Result<Received<()>> {
        self.fill_or_wake(stop, None, deadline)
    }

    /// Like [`Connection::fill`], but also returns when `wake` becomes readable, with `Timeout`.
    pub fn fill_or_wake(
        &mut self,
        stop: &Stop,
        wake: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<Received<()>> {
        loop {
            // Check before each read, since a peer that sends without pause must not delay a stop.
            if stop.is_requested() {
                return Ok(Received::Stopped);
            }
            match READ_BUFFER.with_borrow_mut(|buffer| self.socket.receive(buffer)) {
                Ok(0) => return Ok(Received::Closed),
                Ok(_) => return Ok(Received::Message(())),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        return Ok(Received::Closed);
                    }
                    _ => return Err(error),
                },
            }
            match stop.wait_any([self.as_fd()].into_iter().chain(wake), deadline)? {
                Woken::Readable if wake.is_some_and(is_readable) => return Ok(Received::Timeout),
                Woken::Readable => {}
                Woken::Stopped => return Ok(Received::Stopped),
                Woken::Timeout => return Ok(Received::Timeout),
            }
        }
    }

    /// Whether the next message was received completely, and is an event of `events.sock`.
    pub fn has_event(&self) -> bool {
        matches!(self.socket.next_tag(), Some(EVENT_TAG | EMITTED_TAG))
    }
}

/// Ends waits: one byte in its socket pair requests a stop.
#[derive(Debug)]
pub struct Stop {
    receiver: UnixStream,
    sender: UnixStream,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor is readable.
    Readable,
    /// A stop was requested.
    Stopped,
    /// The deadline has passed.
    Timeout,
}

impl Stop {
    /// Makes a stop that is not requested yet.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        // A signal handler may write to this socket, so a write must not block.
        sender.set_nonblocking(true)?;
        Ok(Stop { receiver, sender })
    }

    /// Returns a socket by which a stop is requested: a byte written to it ends the current wait, or the next one.
    pub fn sender(&self) -> io::Result<UnixStream> {
        self.sender.try_clone()
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        is_readable(self.receiver.as_fd())
    }

    /// Returns whether a stop was requested, and resets the stop: only a later request ends the next wait.
    pub fn take(&mut self) -> io::Result<bool> {
        let is_requested = self.is_requested();
        if is_requested && self.receiver.read(&mut [0; 64])? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(is_requested)
    }

    /// Waits until the descriptor `readable` is readable, a stop is requested, or `deadline` has passed.
    pub fn wait(&self, readable: Option<BorrowedFd<'_>>, deadline: Option<Instant>) -> io::Result<Woken> {
        self.wait_any(readable, deadline)
    }

    /// Waits until a descriptor of `readable` is readable, a stop is requested, or `deadline` has passed.
    pub fn wait_any<'a>(
        &'a self,
        readable: impl IntoIterator<Item = BorrowedFd<'a>>,
        deadline: Option<Instant>,
    ) -> io::Result<Woken> {
        let all = [self.receiver.as_fd()].into_iter().chain(readable);
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        loop {
            match poll(&mut fds, timeout(deadline)) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(Woken::Timeout),
                Ok(0) => {}
                Ok(_) if fds.first().is_some_and(|stop| stop.any().unwrap_or(true)) => {
                    return Ok(Woken::Stopped);
                }
                Ok(_) => return Ok(Woken::Readable),
            }
        }
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// The time until `deadline`, rounded up to milliseconds. Rounded down, the last millisecond would be a busy loop.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(left) = deadline.map(|at| at.saturating_duration_since(Instant::now())) else {
        return PollTimeout::NONE;
    };
    PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1..))
}

/// Whether `error` may occur while a daemon restarts, so that the caller should try again.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::WouldBlock
    )
}
