//! One end of a stream socket that carries frames and descriptors: an engine's, or a client's control socket.
//!
//! Never blocks and never changes the socket's flags, which other processes may share. What a peer does not read
//! is kept up to [`OUT_MAX`]; then the connection is closed.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, send};
use sampan_ipc::frame::{self, Decoder};
use sampan_os::syscall;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Most bytes that wait for a peer.
const OUT_MAX: usize = 4 << 20;
/// Most descriptors that wait for the frame that names them.
const DESCRIPTORS_MAX: usize = 16;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
    pub(super) number: u64,
    decoder: Decoder,
    max: usize,
    descriptors: VecDeque<OwnedFd>,
    out: Vec<u8>,
    pub(super) is_open: bool,
}

impl Connection {
    /// An engine's connection.
    pub fn new(stream: impl Into<OwnedFd>, number: u64) -> Self {
        Self::with_max(stream.into(), number, frame::FRAME_MAX)
    }

    /// One whose frames are of `max` bytes at most.
    pub fn with_max(stream: OwnedFd, number: u64, max: usize) -> Self {
        let decoder = Decoder::new(max);
        Connection {
            stream,
            number,
            decoder,
            max,
            descriptors: VecDeque::new(),
            out: Vec::new(),
            is_open: true,
        }
    }

    /// Waits for bytes; false if none came.
    pub fn wait(&self, timeout: Duration) -> bool {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|count| count > 0)
    }

    /// Reads what is there, up to some bytes a turn; false once the peer is gone.
    pub fn receive(&mut self) -> bool {
        for _ in 0..16 {
            if !self.is_open || self.decoder.has_frame() {
                break;
            }
            match self.receive_some() {
                Ok(0) => self.is_open = false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.is_open = false,
            }
        }
        self.is_open
    }

    fn receive_some(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<UnixAddr>(self.stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let len = message.bytes;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raws) = control {
                self.descriptors.extend(raws.into_iter().filter_map(syscall::adopt));
            }
        }
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(Errno::EMFILE);
        }
        self.decoder.push(bytes.get(..len).unwrap_or_default());
        Ok(len)
    }

    /// The next whole message.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let message = self.decoder.next_message().map_err(|error| {
            self.is_open = false;
            io::Error::other(error)
        })?;
        if self.decoder.is_empty() {
            self.decoder = Decoder::new(self.max);
        }
        Ok(message)
    }

    /// True if [`Connection::next`] has something although nothing more comes.
    pub fn has_more(&self) -> bool {
        self.is_open && self.decoder.has_frame()
    }

    /// The next `count` descriptors that came; `None` if there are fewer.
    pub fn take(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.descriptors.len() >= count).then(|| self.descriptors.drain(..count).collect())
    }

    /// Says `message`.
    pub fn say(&mut self, message: &impl Serialize) {
        match frame::encode(message) {
            Ok(bytes) if self.out.len() + bytes.len() <= OUT_MAX => self.out.extend_from_slice(&bytes),
            _ => self.is_open = false,
        }
        self.flush();
    }

    /// Writes what the peer takes now.
    pub fn flush(&mut self) {
        while self.is_open && !self.out.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), &self.out, flags) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.is_open = false,
            }
        }
        self.out = Vec::new();
    }

    /// What to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let room = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        (self.stream.as_fd(), PollFlags::POLLIN | room)
    }

    /// True if nothing waits to be written, or nobody is there to read it.
    pub fn is_drained(&self) -> bool {
        !self.is_open || self.out.is_empty()
    }
}
