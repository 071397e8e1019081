//! The streamed body of a request on its way to the engine, through a pipe whose other end the engine reads.
//!
//! Holds one buffer: while the engine does not read, nothing more is read from the client. The pipe closes when the
//! body is complete. If the client leaves before, the operation ends, and the engine's job with it.

use crate::exchange::Exchange;
use crate::refusal::Refusal;
use mio::Interest;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, write};
use sampan_http::connection::Received;
use std::io;
use std::os::fd::OwnedFd;

/// Most parts of a body that are passed on before the other clients have their turn.
const PARTS_PER_STEP: usize = 64;

/// A body that is being passed on.
pub(crate) struct Upload {
    /// The end for the engine, until the request is sent.
    read_end: Option<OwnedFd>,
    /// Our end; `None` once the body is complete, or the engine reads no more.
    write_end: Option<OwnedFd>,
    /// Bytes of the client that the pipe has not taken yet, and how many of them it has.
    buffer: Vec<u8>,
    written: usize,
    is_complete: bool,
}

impl Upload {
    /// Makes the pipe.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub(crate) fn new() -> Result<Self, Refusal> {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        // The engine's end blocks: each end has its own flags.
        fcntl(&write_end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        Ok(Upload {
            read_end: Some(read_end),
            write_end: Some(write_end),
            buffer: Vec::new(),
            written: 0,
            is_complete: false,
        })
    }

    /// Takes the end that the engine reads. It must be closed here once it is sent.
    pub(crate) fn take_read_end(&mut self) -> Option<OwnedFd> {
        self.read_end.take()
    }

    /// Steps the operation when the pipe has room.
    ///
    /// # Errors
    /// The kernel has no memory for the watch.
    pub(crate) fn watch(&self, exchange: &Exchange<'_>) -> Result<(), Refusal> {
        let Some(pipe) = &self.write_end else { return Ok(()) };
        Ok(exchange.watch(pipe, Interest::WRITABLE)?)
    }

    /// Passes on what the client has sent, until the client has sent no more or the pipe is full. Returns true if
    /// there may be more.
    ///
    /// # Errors
    /// The client's body is broken, or the pipe.
    pub(crate) fn pump(&mut self, exchange: &mut Exchange<'_>) -> Result<bool, Refusal> {
        for _ in 0..PARTS_PER_STEP {
            if !self.write()? || self.is_complete {
                return Ok(false);
            }
            self.buffer.clear();
            self.written = 0;
            match exchange.receive(&mut self.buffer)? {
                Received::Bytes => {}
                Received::Nothing => return Ok(false),
                Received::End => {
                    self.is_complete = true;
                    self.write_end = None;
                }
            }
        }
        Ok(true)
    }

    /// Writes the buffer. Returns true once all of it is written, or the engine reads no more: it then tells why, and
    /// the rest of the body is discarded.
    fn write(&mut self) -> Result<bool, Refusal> {
        while let Some(rest) = self.buffer.get(self.written..).filter(|rest| !rest.is_empty()) {
            let Some(pipe) = &self.write_end else { return Ok(true) };
            match write(pipe, rest) {
                Ok(len) => self.written += len,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EPIPE) => self.write_end = None,
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        Ok(true)
    }
}
