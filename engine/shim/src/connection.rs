//! A stream socket that carries frames and descriptors: the connection of an engine, or the control socket of a
//! client.
//!
//! Never blocks and never changes the socket's flags, which other processes may share. Keeps up to [`OUT_MAX`] bytes
//! that a peer has not read; a connection with more is closed.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_ipc::frame;
use sampan_ipc::shim::{ShimMessage, ShimRequest};
use sampan_ipc::socket::FrameSocket;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most bytes that wait for a peer to read them.
const OUT_MAX: usize = 4 << 20;
/// Most received descriptors that wait for the frame of their request.
const DESCRIPTORS_MAX: usize = 16;
/// Most reads from one connection in a turn of the event loop, so that one peer does not delay the others.
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

    /// Waits until bytes arrive; false if none arrive within `timeout`. Blocks, so only the start of the process uses
    /// this.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let stream = PollFd::new(self.socket.stream().as_fd(), PollFlags::POLLIN);
        poll(&mut [stream], timeout).is_ok_and(|count| count > 0)
    }

    /// Reads the bytes that have arrived, in at most [`READS_PER_TURN`] reads. Returns false if the peer has closed.
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

    /// The next complete message; `None` if there is none yet.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let message = self.socket.next_message().map_err(|error| {
            self.is_open = false;
            io::Error::other(error)
        })?;
        self.socket.release_memory();
        Ok(message)
    }

    /// The next complete request of an engine; `None` if there is none yet. A newer engine may send an action that this
    /// shim does not know: the engine gets a failure as the reply.
    pub(crate) fn next_request(&mut self) -> Option<ShimRequest> {
        loop {
            let body = match self.socket.next_body() {
                Ok(body) => body?,
                Err(_) => {
                    self.is_open = false;
                    return None;
                }
            };
            match ShimRequest::parse(body) {
                Ok(request) => {
                    self.socket.release_memory();
                    return Some(request);
                }
                Err(Some(number)) => {
                    // How many of the descriptors belong to the request is not known.
                    drop(self.socket.take_all_descriptors());
                    let reason =
                        "the container's shim is older than the engine, and does not know the request";
                    self.send(&ShimMessage::Reply { number, result: Err((125, reason.to_owned())) });
                }
                Err(None) => {
                    self.is_open = false;
                    return None;
                }
            }
        }
    }

    /// Whether [`Connection::next`] would return a message although poll(2) reports nothing to read.
    pub(crate) fn has_more(&self) -> bool {
        self.is_open && self.socket.has_frame()
    }

    /// Removes and returns the first `count` received descriptors; `None` if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        self.socket.take_descriptors(count)
    }

    /// Queues `message`, and writes as many bytes as the peer accepts now.
    pub(crate) fn send(&mut self, message: &impl Serialize) {
        match frame::encode(message) {
            Ok(bytes) if self.socket.unsent() + bytes.len() <= OUT_MAX => self.socket.push(bytes, Vec::new()),
            _ => self.is_open = false,
        }
        self.flush();
    }

    /// Writes as many queued bytes as the peer accepts now.
    pub(crate) fn flush(&mut self) {
        if !self.is_open {
            return self.socket.discard_unsent();
        }
        if self.socket.flush().is_err() {
            self.is_open = false;
            self.socket.discard_unsent();
        }
    }

    /// The descriptor and the events that poll(2) should wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let writable = if self.socket.unsent() == 0 { PollFlags::empty() } else { PollFlags::POLLOUT };
        (self.socket.stream().as_fd(), PollFlags::POLLIN | writable)
    }

    /// Whether no bytes wait to be written, or the peer has closed.
    pub(crate) fn is_drained(&self) -> bool {
        !self.is_open || self.socket.unsent() == 0
    }
}
