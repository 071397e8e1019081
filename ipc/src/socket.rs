//! A Unix stream socket that carries frames and, with them, descriptors. unix(7), SCM_RIGHTS.
//!
//! Used by monitord for subscribers, by the engine for clients and shims, and by a shim for engines. [`FrameSocket`]
//! never blocks, and never changes the socket's flags, which other processes may share. The owner of a [`FrameSocket`]
//! waits for readiness by poll(2) or mio, and limits the number of queued bytes.

use crate::frame::{Decoder, FrameError};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sampan_os::receive::receive;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Queued bytes, and the descriptors to send with the first of them.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// A connected socket with its receive buffer and its send queue.
#[derive(Debug)]
pub struct FrameSocket<S> {
    stream: S,
    decoder: Decoder,
    frame_max: usize,
    descriptors: Vec<OwnedFd>,
    descriptors_max: usize,
    out: VecDeque<Outgoing>,
}

impl<S: AsFd> FrameSocket<S> {
    /// Makes a frame socket from `stream`. The socket accepts frames of at most `frame_max` bytes, and holds at most
    /// `descriptors_max` received descriptors.
    pub fn new(stream: S, frame_max: usize, descriptors_max: usize) -> Self {
        FrameSocket {
            stream,
            decoder: Decoder::new(frame_max),
            frame_max,
            descriptors: Vec::new(),
            descriptors_max,
            out: VecDeque::new(),
        }
    }

    /// The stream, to wait for readiness.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, to register it with a poll.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads from the socket once, through `buffer`. Returns the number of bytes; 0 means that the peer has closed.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to read; another error if the connection is broken, or if the peer has sent too
    /// many descriptors.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let max = self.descriptors_max.saturating_sub(self.descriptors.len());
            match receive(&self.stream, buffer, max, &mut self.descriptors) {
                Ok(len) => {
                    self.decoder.push(buffer.get(..len).unwrap_or_default());
                    return Ok(len);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EMFILE) => {
                    return Err(io::Error::other("more descriptors came than may come"));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Returns the body of the next complete frame; `None` if there is none yet.
    ///
    /// # Errors
    /// The errors of [`crate::frame::split`]. After an error the rest of the stream cannot be read.
    pub fn next_body(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.decoder.next_body()
    }

    /// Returns the message in the next complete frame; `None` if there is none yet.
    ///
    /// # Errors
    /// The errors of [`crate::frame::split`] and [`crate::frame::parse`].
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        self.decoder.next_message()
    }

    /// Whether a complete frame was received, which [`FrameSocket::next_body`] would return.
    pub fn has_frame(&self) -> bool {
        self.decoder.has_frame()
    }

    /// The first byte of the body of the next complete frame; `None` if there is no such frame.
    pub fn next_tag(&self) -> Option<u8> {
        self.decoder.next_tag()
    }

    /// Frees the receive buffer if it is empty.
    pub fn release_memory(&mut self) {
        if self.decoder.is_empty() {
            self.decoder = Decoder::new(self.frame_max);
        }
    }

    /// Takes the first `count` received descriptors; `None` if there are fewer.
    pub fn take_descriptors(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.descriptors.len() >= count).then(|| self.descriptors.drain(..count).collect())
    }

    /// Takes all received descriptors.
    pub fn take_all_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Queues complete frames, and `descriptors` to send with their first byte. [`FrameSocket::flush`] sends them.
    pub fn push(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        match self.out.back_mut() {
            Some(last) if descriptors.is_empty() => {
                // Without this the buffer would grow without limit while the peer always leaves some bytes unread.
                if last.sent > last.bytes.len() / 2 {
                    last.bytes.drain(..last.sent);
                    last.sent = 0;
                }
                last.bytes.extend_from_slice(&bytes);
            }
            _ => self.out.push_back(Outgoing { bytes, sent: 0, descriptors }),
        }
    }

    /// Number of queued bytes.
    pub fn unsent(&self) -> usize {
        self.out.iter().map(|outgoing| outgoing.bytes.len() - outgoing.sent).sum()
    }

    /// Drops the queued bytes and descriptors.
    pub fn discard_unsent(&mut self) {
        self.out = VecDeque::new();
    }

    /// Sends queued bytes until the socket would block. Returns whether the queue is empty.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some(outgoing) = self.out.front_mut() {
            let rest = outgoing.bytes.get(outgoing.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.out.pop_front();
                continue;
            }
            match send(&self.stream, rest, &outgoing.descriptors, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    outgoing.sent += len;
                    outgoing.descriptors.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Free the queue's memory, so that an idle connection has none.
        self.out = VecDeque::new();
        Ok(true)
    }
}

/// Sends all of `bytes`, and `descriptors` with the first byte. Blocks if the socket is blocking.
///
/// # Errors
/// The errors of sendmsg(2): `BrokenPipe` if the peer has closed. Never raises SIGPIPE.
pub fn send_all(mut stream: &UnixStream, bytes: &[u8], descriptors: &[impl AsFd]) -> io::Result<()> {
    let sent = loop {
        match send(stream, bytes, descriptors, MsgFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => break sent?,
        }
    };
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

/// Sends as many of `bytes` as the socket accepts. The descriptors go with the first byte: if this function succeeds,
/// they are sent.
fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[impl AsFd], flags: MsgFlags) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let part = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(socket.as_fd().as_raw_fd(), &part, rights, flags | MsgFlags::MSG_NOSIGNAL, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, FRAME_MAX};
    use std::fs::File;
    use std::io::Read;

    fn pair() -> (FrameSocket<UnixStream>, FrameSocket<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (FrameSocket::new(ours, FRAME_MAX, 2), FrameSocket::new(theirs, FRAME_MAX, 2))
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("opened").into()
    }

    #[test]
    fn frames_arrive_in_order_with_the_descriptors_of_each_however_little_the_peer_takes() {
        let (mut ours, mut theirs) = pair();
        let large = "x".repeat(1 << 20);
        for (text, descriptors) in
            [(large.as_str(), vec![null()]), ("plain", vec![]), ("second", vec![null()])]
        {
            ours.push(frame::encode(&text).expect("small"), descriptors);
        }
        assert!(!ours.flush().expect("sent") && ours.unsent() > 0, "a socket holds no mebibyte");
        let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
        while came.len() < 3 {
            match theirs.receive(&mut buffer) {
                Ok(0) => panic!("closed"),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            while let Some(text) = theirs.next_message::<String>().expect("frames") {
                came.push(text);
            }
            ours.flush().expect("sent");
        }
        assert_eq!((came[0].len(), came[1].as_str(), came[2].as_str()), (1 << 20, "plain", "second"));
        assert!(ours.unsent() == 0 && theirs.take_descriptors(3).is_none());
        let descriptors = theirs.take_descriptors(2).expect("one of the first, one of the last");
        assert_eq!(
            File::from(descriptors.into_iter().next().expect("two")).read(&mut buffer).expect("read"),
            0
        );
    }

    #[test]
    fn more_descriptors_than_may_come_end_the_connection() {
        let (mut ours, mut theirs) = pair();
        ours.push(frame::encode(&"three").expect("small"), vec![null(), null(), null()]);
        assert!(ours.flush().expect("sent"));
        assert!(theirs.receive(&mut [0; 64]).is_err());
    }

    #[test]
    fn a_peer_that_has_closed_is_an_end_and_an_error_and_no_signal() {
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert_eq!(ours.receive(&mut [0; 64]).expect("the end"), 0);
        ours.push(vec![1], Vec::new());
        assert_eq!(ours.flush().expect_err("nobody").kind(), io::ErrorKind::BrokenPipe);
    }
}
