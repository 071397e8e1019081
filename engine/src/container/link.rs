//! A connection to a shim: frames and descriptors both ways.
//!
//! Owned by the event loop. Never blocks: what does not go at once waits here, a few requests at most, since each
//! client has one. Never decides what an answer means.

use crate::rights;
use mio::net::UnixStream;
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_ipc::shim::{Ask, Say, What};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// Bytes read at a time.
const READ: usize = 16 << 10;

/// A frame that is not all written.
struct Waiting {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// A connected shim.
pub struct Link {
    stream: UnixStream,
    decoder: Decoder,
    out: VecDeque<Waiting>,
    /// Something may be there to read.
    pub readable: bool,
    /// Something may be written.
    pub writable: bool,
}

impl Link {
    /// A connection, which must not block.
    pub fn new(stream: UnixStream) -> Self {
        Link {
            stream,
            decoder: Decoder::new(FRAME_MAX),
            out: VecDeque::new(),
            readable: true,
            writable: true,
        }
    }

    /// The connection, to be registered.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// The next thing that the shim says; `None` if there is no more for now.
    ///
    /// # Errors
    /// The shim is gone, or says what is no [`Say`].
    pub fn hear(&mut self) -> io::Result<Option<Say>> {
        loop {
            if let Some(say) = self.decoder.next_message().map_err(io::Error::other)? {
                return Ok(Some(say));
            }
            if !self.readable {
                return Ok(None);
            }
            let mut bytes = [0; READ];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.decoder.push(bytes.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks the shim, at once or as soon as there is room.
    ///
    /// # Errors
    /// The question is too large for a frame, or cannot be sent. That the shim is gone is heard by [`Link::hear`].
    pub fn ask(&mut self, number: u64, what: What, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = frame::encode(&Ask { number, what }).map_err(io::Error::other)?;
        self.out.push_back(Waiting { bytes, sent: 0, descriptors });
        self.flush()
    }

    /// Sends what a shim that is not there yet reads first.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub fn begin(&mut self, setup: Vec<u8>) -> io::Result<()> {
        self.out.push_back(Waiting { bytes: setup, sent: 0, descriptors: Vec::new() });
        self.flush()
    }

    /// Writes as much as goes.
    ///
    /// # Errors
    /// It cannot be sent. That the shim is gone is heard by [`Link::hear`].
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(waiting) = self.out.front_mut() {
            if !self.writable {
                return Ok(());
            }
            let rest = waiting.bytes.get(waiting.sent..).unwrap_or_default();
            match rights::send(&self.stream, rest, &waiting.descriptors) {
                Ok(len) => {
                    waiting.sent += len;
                    waiting.descriptors.clear();
                    if waiting.sent == waiting.bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It has gone: what it said before that is still to be heard, and its end thereafter.
                Err(error) if is_gone(&error) => self.out.clear(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
