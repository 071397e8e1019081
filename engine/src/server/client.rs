//! One client connection to engine.sock: bytes and descriptors in, frames out.
//!
//! Owned by the event loop, which writes the answers. A connection holds at most one request. Progress is never queued:
//! the loop makes the next progress frame only after the client has read the previous ones. Never blocks.

use mio::net::UnixStream;
use nix::sys::socket::{getsockopt, sockopt};
use sampan_ipc::engine::{Answer, DESCRIPTORS_MAX, REQUEST_MAX};
use sampan_ipc::frame;
use sampan_ipc::pull::PullMessage;
use sampan_ipc::socket::FrameSocket;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Bytes read by one system call.
const READ: usize = 16 << 10;

/// What the connection is doing.
#[derive(Debug)]
pub enum State {
    /// The request is incomplete; it must be complete by this time.
    ReadingRequest(Instant),
    /// A thread or a container's shim works on the answer.
    Waiting,
    /// The client follows a job.
    Watching {
        /// The job's number.
        job: u64,
        /// Version of the newest progress rows that were sent.
        version: u64,
        /// Whether the job goes on when the connection breaks before the client has released the job.
        is_kept: bool,
    },
    /// The client keeps this `serve` job running, until it disconnects.
    Serving(u64),
    /// All answers are queued; the connection closes when they are written.
    Closing,
}

/// A connected client.
pub struct Client {
    socket: FrameSocket<UnixStream>,
    /// Since when unsent output has made no progress.
    unread: Option<Instant>,
    /// Descriptors to send with the next answer.
    descriptors: Vec<OwnedFd>,
    /// What the connection is doing.
    pub state: State,
    /// Whether the client has released the job that it watches.
    pub has_released: bool,
    /// Whether a read may succeed; unset at `EAGAIN`.
    pub readable: bool,
    /// Whether a write may succeed; unset at `EAGAIN`.
    pub writable: bool,
}

impl Client {
    /// Wraps a new connection; its request must be complete by `deadline`.
    pub fn new(stream: UnixStream, deadline: Instant) -> Self {
        Client {
            socket: FrameSocket::new(stream, REQUEST_MAX, DESCRIPTORS_MAX),
            unread: None,
            descriptors: Vec::new(),
            state: State::ReadingRequest(deadline),
            has_released: false,
            readable: true,
            writable: true,
        }
    }

    /// Returns the socket, for registration with the poll.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.socket.stream_mut()
    }

    /// Returns the user that connected, if the kernel knows it. SO_PEERCRED, unix(7).
    pub fn uid(&self) -> Option<u32> {
        getsockopt(self.socket.stream(), sockopt::PeerCredentials).ok().map(|peer| peer.uid())
    }

    /// Returns the user and the process that connected, if the kernel knows them. SO_PEERCRED, unix(7).
    pub fn peer(&self) -> Option<(u32, i32)> {
        getsockopt(self.socket.stream(), sockopt::PeerCredentials).ok().map(|peer| (peer.uid(), peer.pid()))
    }

    /// Names the client in log lines, by user and process. SO_PEERCRED, unix(7).
    pub fn description(&self) -> String {
        match getsockopt(self.socket.stream(), sockopt::PeerCredentials) {
            Ok(peer) => format!("uid {} pid {}", peer.uid(), peer.pid()),
            Err(_) => "unknown".to_owned(),
        }
    }

    /// Reads until `EAGAIN`; returns the request's body once it is complete, and `None` before that.
    ///
    /// # Errors
    /// The client disconnected, its frame is malformed, or it sent more bytes after its request.
    pub fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.readable {
            let mut bytes = [0; READ];
            match self.socket.receive(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if matches!(self.state, State::ReadingRequest(_)) => match self.socket.next_body() {
                    Ok(None) => {}
                    Ok(Some(body)) => return Ok(Some(body.to_vec())),
                    Err(error) => return Err(io::Error::other(error)),
                },
                Ok(_)
                    if matches!(self.state, State::Watching { is_kept: true, .. }) && !self.has_released =>
                {
                    self.has_released =
                        self.socket.next_message::<PullMessage>().map_err(io::Error::other)?.is_some();
                }
                // A connection carries one request. Reading more for as long as the client sends would starve all
                // others.
                Ok(_) => return Err(io::Error::other("the client sent more data after its request")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Takes the descriptors that came with the request.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.socket.take_all_descriptors()
    }

    /// Whether all queued answers are written.
    pub fn is_drained(&self) -> bool {
        self.socket.unsent() == 0
    }

    /// Since when the client has read nothing although output is waiting for it.
    pub fn unread_since(&self) -> Option<Instant> {
        self.unread
    }

    /// Queues an answer, with the descriptors that were attached to it.
    pub fn send(&mut self, answer: &Answer) {
        match frame::encode(answer) {
            Ok(bytes) => self.socket.push(bytes, std::mem::take(&mut self.descriptors)),
            Err(error) => log::error!("an answer cannot be encoded: {error}"),
        }
    }

    /// Attaches descriptors to the next answer.
    pub fn attach_descriptors(&mut self, descriptors: Vec<OwnedFd>) {
        self.descriptors = descriptors;
    }

    /// Writes queued answers until `EAGAIN`.
    ///
    /// # Errors
    /// The client disconnected.
    pub fn flush(&mut self) -> io::Result<()> {
        let before = self.socket.unsent();
        if before > 0 && self.writable {
            self.writable = self.socket.flush()?;
        }
        if self.is_drained() {
            self.unread = None;
        } else if self.unread.is_none() || self.socket.unsent() < before {
            self.unread = Some(Instant::now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::engine::Request;
    use std::io::Write;

    #[test]
    fn a_client_that_sends_more_after_its_request_is_disconnected() {
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut client = Client::new(UnixStream::from_std(ours), Instant::now());
        let request = frame::encode(&Request::Jobs).expect("short");
        theirs.write_all(&request).expect("sent");
        assert!(client.read().expect("a request").is_some());
        client.state = State::Closing;
        assert!(client.read().expect("nothing is wrong").is_none() && !client.readable);
        theirs.write_all(&[0; 100]).expect("sent");
        client.readable = true;
        assert!(client.read().is_err(), "or reading it would keep the event loop from all others");
    }
}
