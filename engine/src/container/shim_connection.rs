//! The engine's end of the connection to a shim: frames and descriptors in both directions.
//!
//! Owned by the manager. Never blocks: keeps the requests that the socket does not accept, at most one for each
//! client, since a client has one request at a time. Never interprets the shim's messages.

use mio::net::UnixStream;
use sampan_ipc::frame::{self, FRAME_MAX};
use sampan_ipc::shim::{Action, ShimMessage, ShimRequest};
use sampan_ipc::socket::FrameSocket;
use std::io;
use std::os::fd::OwnedFd;

/// Most bytes of one read.
const READ: usize = 16 << 10;

/// Most descriptors that a shim may send; no message of the protocol has one yet.
const DESCRIPTORS_MAX: usize = 16;

/// A connection to a shim.
pub struct ShimConnection {
    socket: FrameSocket<UnixStream>,
    /// Whether a read may succeed; false after `EAGAIN`.
    pub readable: bool,
    /// Whether a write may succeed; false after `EAGAIN`.
    pub writable: bool,
}

impl ShimConnection {
    /// Wraps a nonblocking socket.
    pub fn new(stream: UnixStream) -> Self {
        ShimConnection {
            socket: FrameSocket::new(stream, FRAME_MAX, DESCRIPTORS_MAX),
            readable: true,
            writable: true,
        }
    }

    /// Returns the socket, for registration with the poll.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.socket.stream_mut()
    }

    /// Receives the shim's next message; `None` if no complete message has arrived.
    ///
    /// # Errors
    /// The shim closed the connection, or sent a malformed message.
    pub fn receive(&mut self) -> io::Result<Option<ShimMessage>> {
        loop {
            if let Some(say) = self.socket.next_message().map_err(io::Error::other)? {
                return Ok(Some(say));
            }
            if !self.readable {
                return Ok(None);
            }
            let mut bytes = [0; READ];
            match self.socket.receive(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request to the shim; keeps the request while the socket does not accept it.
    ///
    /// # Errors
    /// The request is too large for a frame, or the socket fails. A shim that has ended is no error of this function:
    /// see [`ShimConnection::flush`].
    pub fn request(&mut self, number: u64, action: Action, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = frame::encode(&ShimRequest { number, action }).map_err(io::Error::other)?;
        self.socket.push(bytes, descriptors);
        self.flush()
    }

    /// Sends the setup, which the shim reads first. Called before the shim is started.
    ///
    /// # Errors
    /// The socket fails. A shim that has ended is no error of this function: see [`ShimConnection::flush`].
    pub fn send_setup(&mut self, setup: Vec<u8>) -> io::Result<()> {
        self.socket.push(setup, Vec::new());
        self.flush()
    }

    /// Writes kept requests until `EAGAIN`.
    ///
    /// # Errors
    /// The socket fails. If the shim has ended, the requests are dropped and [`ShimConnection::receive`] reports the
    /// end, after the messages that the shim sent before.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        match self.socket.flush() {
            Ok(all) => self.writable = all,
            // The shim has ended. The caller still has to receive its last messages, and then the end of the
            // connection.
            Err(error) if is_closed(&error) => self.socket.discard_unsent(),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
