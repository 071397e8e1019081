//! One connection to engine.sock: bytes and descriptors in, frames out.
//!
//! Owned by the event loop. Holds at most one request, and output only up to what the loop gave it; progress is
//! made anew when there is room, never queued. Never decides what an answer is.

use mio::net::UnixStream;
use nix::sys::socket::{getsockopt, sockopt};
use sampan_ipc::engine::{Answer, DESCRIPTORS_MAX, REQUEST_MAX};
use sampan_ipc::frame;
use sampan_ipc::socket::FrameSocket;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Bytes read at a time.
const READ: usize = 16 << 10;

/// What a client is waiting for.
#[derive(Debug)]
pub enum State {
    /// Its request is not whole yet; it must be by then.
    ReadingRequest(Instant),
    /// A task works on its answer.
    Waiting,
    /// It watches a job, and has been told of rows up to a version.
    Watching {
        /// The job.
        job: u64,
        /// Rows up to this version are sent.
        version: u64,
    },
    /// The registry of this job is served to it.
    Serving(u64),
    /// All is said; it goes when it has read that.
    Closing,
}

/// A connected client.
pub struct Client {
    socket: FrameSocket<UnixStream>,
    /// Since when it has read nothing of what there is for it.
    unread: Option<Instant>,
    /// What goes with the next answer.
    descriptors: Vec<OwnedFd>,
    /// What it is waiting for.
    pub state: State,
    /// Something may be there to read.
    pub readable: bool,
    /// Something may be written.
    pub writable: bool,
}

impl Client {
    /// A client that just connected.
    pub fn new(stream: UnixStream, deadline: Instant) -> Self {
        Client {
            socket: FrameSocket::new(stream, REQUEST_MAX, DESCRIPTORS_MAX),
            unread: None,
            descriptors: Vec::new(),
            state: State::ReadingRequest(deadline),
            readable: true,
            writable: true,
        }
    }

    /// The connection, to be registered.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.socket.stream_mut()
    }

    /// Its user, if the kernel says. SO_PEERCRED, unix(7).
    pub fn uid(&self) -> Option<u32> {
        getsockopt(self.socket.stream(), sockopt::PeerCredentials).ok().map(|peer| peer.uid())
    }

    /// Its user and its process, if the kernel says. SO_PEERCRED, unix(7).
    pub fn peer(&self) -> Option<(u32, i32)> {
        getsockopt(self.socket.stream(), sockopt::PeerCredentials).ok().map(|peer| (peer.uid(), peer.pid()))
    }

    /// Who it is, for the log. SO_PEERCRED, unix(7).
    pub fn description(&self) -> String {
        match getsockopt(self.socket.stream(), sockopt::PeerCredentials) {
            Ok(peer) => format!("uid {} pid {}", peer.uid(), peer.pid()),
            Err(_) => "unknown".to_owned(),
        }
    }

    /// Reads until nothing is there; the body of the request once it is whole. `None` and `readable` unset: wait.
    ///
    /// # Errors
    /// The client is gone, or sent what is no request.
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
                // One request a connection. Read on for as long as it sends, and nobody else would be served.
                Ok(_) => return Err(io::Error::other("there is something behind its request")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The descriptors that came with the request.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.socket.take_all_descriptors()
    }

    /// True when all that was said is written.
    pub fn is_drained(&self) -> bool {
        self.socket.unsent() == 0
    }

    /// Since when it has read nothing, if there is something for it.
    pub fn unread_since(&self) -> Option<Instant> {
        self.unread
    }

    /// Appends an answer to what is to be written.
    pub fn send(&mut self, answer: &Answer) {
        match frame::encode(answer) {
            Ok(bytes) => self.socket.push(bytes, std::mem::take(&mut self.descriptors)),
            Err(error) => log::error!("an answer cannot be encoded: {error}"),
        }
    }

    /// Sends these descriptors with the next answer.
    pub fn attach_descriptors(&mut self, descriptors: Vec<OwnedFd>) {
        self.descriptors = descriptors;
    }

    /// Writes as much as goes.
    ///
    /// # Errors
    /// The client is gone.
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
    fn a_client_that_sends_on_behind_its_request_is_hung_up_on() {
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
