//! One end of a stream socket that carries frames and descriptors: an engine's, or a client's control socket.
//!
//! Never blocks and never changes the socket's flags, which other processes may share. Bytes that a peer does not read
//! are kept up to [`OUT_MAX`]; beyond that the connection is closed.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_ipc::frame;
use sampan_ipc::socket::FrameSocket;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most bytes that wait for a peer to read them.
const OUT_MAX: usize = 4 << 20;
/// Most descriptors that wait for the frame that names them.
const DESCRIPTORS_MAX: usize = 16;
/// Most reads in a turn, so that one peer does not keep the others waiting.
const READS_PER_TURN: usize = 16;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: FrameSocket<OwnedFd>,
    pub(super) number: u64,
    pub(super) is_open: bool,
}

impl Connection {
    /// Makes a connection to an engine.
    pub(crate) fn new(stream: impl Into<OwnedFd>, number: u64) -> Self {
        Self::with_max(stream.into(), number, frame::FRAME_MAX)
    }

    /// Makes a connection whose frames have at most `max` bytes.
    pub(crate) fn with_max(stream: OwnedFd, number: u64, max: usize) -> Self {
        Connection { socket: FrameSocket::new(stream, max, DESCRIPTORS_MAX), number, is_open: true }
    }

    /// Waits for bytes, and blocks for it: only for the start of the process. False if none came in `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let stream = PollFd::new(self.socket.stream().as_fd(), PollFlags::POLLIN);
        poll(&mut [stream], timeout).is_ok_and(|count| count > 0)
    }

    /// Reads what has arrived, at most [`READS_PER_TURN`] times; false once the peer has gone.
    pub(crate) fn receive(&mut self) -> bool {
        for _ in 0..READS_PER_TURN {
            if !self.is_open || self.socket.has_frame() {
                break;
            }
            match self.socket.receive(&mut [0; 4096]) {
                Ok(0) => self.is_open = false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.is_open = false,
            }
        }
        self.is_open
    }

    /// The next whole message.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let message = self.socket.next_message().map_err(|error| {
            self.is_open = false;
            io::Error::other(error)
        })?;
        self.socket.release_memory();
        Ok(message)
    }

    /// Whether [`Connection::next`] has a message although poll(2) reports nothing to read.
    pub(crate) fn has_more(&self) -> bool {
        self.is_open && self.socket.has_frame()
    }

    /// Removes the next `count` descriptors that arrived; `None` if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        self.socket.take_descriptors(count)
    }

    /// Queues `message` and writes what the peer takes now.
    pub(crate) fn send(&mut self, message: &impl Serialize) {
        match frame::encode(message) {
            Ok(bytes) if self.socket.unsent() + bytes.len() <= OUT_MAX => self.socket.push(bytes, Vec::new()),
            _ => self.is_open = false,
        }
        self.flush();
    }

    /// Writes what the peer takes now.
    pub(crate) fn flush(&mut self) {
        if !self.is_open {
            return self.socket.discard_unsent();
        }
        if self.socket.flush().is_err() {
            self.is_open = false;
            self.socket.discard_unsent();
        }
    }

    /// What poll(2) is to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let writable = if self.socket.unsent() == 0 { PollFlags::empty() } else { PollFlags::POLLOUT };
        (self.socket.stream().as_fd(), PollFlags::POLLIN | writable)
    }

    /// Whether nothing waits to be written, or the peer has gone.
    pub(crate) fn is_drained(&self) -> bool {
        !self.is_open || self.socket.unsent() == 0
    }
}
