//! A connection to a shim: frames and descriptors both ways.
//!
//! Owned by the event loop. Never blocks: what does not go at once waits here, a few requests at most, since each
//! client has one. Never decides what an answer means.

use mio::net::UnixStream;
use sampan_ipc::frame::{self, FRAME_MAX};
use sampan_ipc::shim::{Action, ShimMessage, ShimRequest};
use sampan_ipc::socket::FrameSocket;
use std::io;
use std::os::fd::OwnedFd;

/// Bytes read at a time.
const READ: usize = 16 << 10;

/// Most descriptors that a shim may send: none has a word that brings one yet.
const DESCRIPTORS_MAX: usize = 16;

/// A connected shim.
pub struct ShimConnection {
    socket: FrameSocket<UnixStream>,
    /// Something may be there to read.
    pub readable: bool,
    /// Something may be written.
    pub writable: bool,
}

impl ShimConnection {
    /// A connection, which must not block.
    pub fn new(stream: UnixStream) -> Self {
        ShimConnection {
            socket: FrameSocket::new(stream, FRAME_MAX, DESCRIPTORS_MAX),
            readable: true,
            writable: true,
        }
    }

    /// The connection, to be registered.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.socket.stream_mut()
    }

    /// The next thing that the shim says; `None` if there is no more for now.
    ///
    /// # Errors
    /// The shim is gone, or says what is no [`ShimMessage`].
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

    /// Asks the shim, at once or as soon as there is room.
    ///
    /// # Errors
    /// The question is too large for a frame, or cannot be sent. That the shim is gone is heard by [`ShimConnection::receive`].
    pub fn request(&mut self, number: u64, action: Action, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = frame::encode(&ShimRequest { number, action }).map_err(io::Error::other)?;
        self.socket.push(bytes, descriptors);
        self.flush()
    }

    /// Sends what a shim that is not there yet reads first.
    ///
    /// # Errors
    /// As [`ShimConnection::request`].
    pub fn send_setup(&mut self, setup: Vec<u8>) -> io::Result<()> {
        self.socket.push(setup, Vec::new());
        self.flush()
    }

    /// Writes as much as goes.
    ///
    /// # Errors
    /// It cannot be sent. That the shim is gone is heard by [`ShimConnection::receive`].
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        match self.socket.flush() {
            Ok(all) => self.writable = all,
            // It has gone: what it said before that is still to be heard, and its end thereafter.
            Err(error) if is_gone(&error) => self.socket.discard_unsent(),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
