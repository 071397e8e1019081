//! One connection to a socket of Sampan: a request goes out, messages come in, and a wait can be ended.
//!
//! Used by subscriptions and by the engine's client. Knows frames, and no message.

use crate::event::{EMITTED_TAG, EVENT_TAG};
use crate::frame::{FRAME_MAX, FrameError};
use crate::socket::{self, FrameSocket};
use crate::trust::{self, Server};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes taken off a socket at once.
const READ_BYTES: usize = 64 << 10;
/// Most descriptors that are kept for whoever asks for them. A kernel sends no more in one message either.
const DESCRIPTORS_HELD: usize = 253;

/// A connected socket and the bytes of it that are no whole message yet.
#[derive(Debug)]
pub struct Connection {
    socket: FrameSocket<UnixStream>,
    buffer: Box<[u8]>,
}

/// What became of a wait for a message.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, or bytes of one.
    Message(T),
    /// The time is over.
    Timeout,
    /// A [`Stop`] was pulled.
    Stopped,
    /// The peer has closed, or went away.
    Closed,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.stream().as_fd()
    }
}

impl Connection {
    /// Connects, checks who listens, and only then sends `request`, with descriptors on its first byte.
    pub fn open(path: &Path, server: Server, request: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let stream = trust::connect(path, server)?;
        match socket::send_all(&stream, request, fds) {
            // A server that is full says so and closes, without waiting for the request: its word is read next.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        let socket = FrameSocket::new(stream, FRAME_MAX, DESCRIPTORS_HELD);
        Ok(Connection { socket, buffer: vec![0; READ_BYTES].into() })
    }

    /// The descriptors that have come with messages so far.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.socket.take_all_descriptors()
    }

    /// The body of the next message, if it is here already.
    pub fn buffered(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.socket.next_body()
    }

    /// Takes what the socket holds; waits for it, until `deadline` or a stop, if it holds nothing.
    ///
    /// `Message(())` says that bytes came.
    pub fn fill(&mut self, stop: &Stop, deadline: Option<Instant>) -> io::Result<Received<()>> {
        self.fill_or_wake(stop, None, deadline)
    }

    /// [`Connection::fill`] whose wait `wake` ends as well: `Timeout` if it is readable.
    pub fn fill_or_wake(
        &mut self,
        stop: &Stop,
        wake: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<Received<()>> {
        loop {
            // A peer that never pauses must not outrun a stop.
            if stop.is_asked() {
                return Ok(Received::Stopped);
            }
            match self.socket.receive(&mut self.buffer) {
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

    /// True if [`Connection::buffered`] has something to give, and that is an event of `events.sock`.
    pub fn has_event(&self) -> bool {
        matches!(self.socket.next_tag(), Some(EVENT_TAG | EMITTED_TAG))
    }
}

/// The receiving end of whatever may end a wait.
#[derive(Debug)]
pub struct Stop {
    receiver: UnixStream,
    sender: UnixStream,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor is readable.
    Readable,
    /// A stop was asked for.
    Stopped,
    /// The deadline has passed.
    Timeout,
}

impl Stop {
    /// A stop that nobody has asked for yet.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        // A signal handler may write here, and must never wait.
        sender.set_nonblocking(true)?;
        Ok(Stop { receiver, sender })
    }

    /// A descriptor; a byte written to it ends the wait, now or as soon as there is one.
    pub fn sender(&self) -> io::Result<UnixStream> {
        self.sender.try_clone()
    }

    /// True once a stop was asked for.
    pub fn is_asked(&self) -> bool {
        is_readable(self.receiver.as_fd())
    }

    /// True if a stop was asked for; the next one is news again.
    pub fn take(&mut self) -> io::Result<bool> {
        let asked = self.is_asked();
        if asked && self.receiver.read(&mut [0; 64])? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(asked)
    }

    /// Waits until `readable` is, a stop is asked for, or `deadline` is reached.
    pub fn wait(&self, readable: Option<BorrowedFd<'_>>, deadline: Option<Instant>) -> io::Result<Woken> {
        self.wait_any(readable, deadline)
    }

    /// The same for any number of descriptors.
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

/// Until `deadline`, rounded up, so that the last fraction of a millisecond is not spun through.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(left) = deadline.map(|at| at.saturating_duration_since(Instant::now())) else {
        return PollTimeout::NONE;
    };
    PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1..))
}

/// True for what a process meets while a daemon is restarted: it is worth trying again.
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
