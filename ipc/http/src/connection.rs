//! One HTTP/1.1 connection: reads requests, writes answers, sends files by sendfile(2).
//!
//! Owned by the event loop of a server, which calls [`Connection::step`] when the socket is ready. ureq-proto parses
//! the requests and formats the heads of answers; this module owns the socket, the bounds and the body. Accepts only
//! GET and HEAD, and gives paths no meaning: the caller does.

use ::http::{Method, Request, Response};
use mio::net::TcpStream;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Instant;
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult};

/// Longest head of a request, in bytes.
const REQUEST_HEAD_MAX: usize = 16 << 10;
/// Longest head of an answer, in bytes.
const ANSWER_HEAD_MAX: usize = 4 << 10;
/// Most body bytes that one connection sends before the other connections have their turn.
const TURN_BYTES: u64 = 256 << 10;

/// Most bytes that are read and discarded from a peer that keeps sending after the last answer.
const LINGER_MAX: usize = 1 << 20;

/// The answer to a request.
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The headers, without `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body. The answer to HEAD contains only its length.
    pub body: Body,
}

/// The body of an answer.
pub enum Body {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A part of a file.
    File {
        /// The file.
        file: File,
        /// The offset of the first byte.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }
}

/// A limit on the body bytes that all connections of a server send together.
pub trait Budget {
    /// Returns how many of `wanted` bytes may be sent now; 0 means that the connection must wait.
    fn allow(&mut self, wanted: u64) -> u64;
    /// Records that `bytes` were sent.
    fn spend(&mut self, bytes: u64);
}

/// What a connection waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its peer: no more bytes can be read or written now.
    Peer,
    /// Its next turn: more bytes can be written, but other connections go first.
    Turn,
    /// The [`Budget`].
    Budget,
}

/// One accepted connection.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of `out` that were sent.
    sent: usize,
    /// The file of the current answer, the next offset, and the number of bytes left.
    file: Option<(File, u64, u64)>,
    close: bool,
    /// Bytes discarded since the last answer was sent; at least 1 once sending is shut down.
    lingered: usize,
    /// The socket may be readable. The caller sets this when the poll reports it.
    pub readable: bool,
    /// The socket may be writable. The caller sets this when the poll reports it.
    pub writable: bool,
    /// The time at which bytes were last received or sent.
    pub active_at: Instant,
}

impl Connection {
    /// Takes over a connection that was just accepted.
    pub fn new(stream: TcpStream) -> Self {
        // The head and the file go out in two packets. With Nagle's algorithm the second would wait until the peer
        // acknowledges the first, and peers delay acknowledgements by 40 ms (tcp(7)). A failure only costs that delay.
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            input: Vec::new(),
            out: Vec::new(),
            sent: 0,
            file: None,
            close: false,
            lingered: 0,
            readable: true,
            writable: true,
            active_at: Instant::now(),
        }
    }

    /// The socket, for registration in a poll.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads requests, calls `answer` for each, and writes the answers, until the connection must wait.
    ///
    /// # Errors
    /// The connection has ended and must be dropped: the peer closed it, it broke, or its last answer was sent.
    pub fn step(
        &mut self,
        budget: &mut impl Budget,
        answer: &mut impl FnMut(&Request<()>) -> Answer,
    ) -> io::Result<WaitsFor> {
        let mut turn = TURN_BYTES;
        loop {
            if !self.write_out()? {
                return Ok(WaitsFor::Peer);
            }
            if let Some(wait) = self.write_file(budget, &mut turn)? {
                return Ok(wait);
            }
            if self.close {
                return self.linger();
            }
            // Pipelined requests are answered one after the other.
            if !self.take_request(budget, answer) && !self.read()? {
                return Ok(WaitsFor::Peer);
            }
        }
    }

    /// Shuts down sending after the last answer and waits for the peer to close. Closing at once, with unread bytes of
    /// the peer, would reset the connection, and the peer could lose the last answer.
    fn linger(&mut self) -> io::Result<WaitsFor> {
        if self.lingered == 0 {
            self.stream.shutdown(Shutdown::Write)?;
        }
        while self.read()? {
            self.lingered += self.input.len();
            self.input.clear();
            if self.lingered > LINGER_MAX {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        self.lingered = self.lingered.max(1);
        Ok(WaitsFor::Peer)
    }

    /// Writes `out`; returns true once all of it is written.
    fn write_out(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            if !self.writable {
                return Ok(false);
            }
            match self.stream.write(self.out.get(self.sent..).unwrap_or_default()) {
                Ok(len) => {
                    self.sent += len;
                    self.active_at = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// Sends the file of the answer. Returns `None` if there is no file or all of it is sent.
    fn write_file(&mut self, budget: &mut impl Budget, turn: &mut u64) -> io::Result<Option<WaitsFor>> {
        while let Some((file, offset, left)) = &mut self.file {
            if *left == 0 {
                self.file = None;
                return Ok(None);
            }
            if !self.writable {
                return Ok(Some(WaitsFor::Peer));
            }
            if *turn == 0 {
                return Ok(Some(WaitsFor::Turn));
            }
            let count = budget.allow((*left).min(*turn));
            if count == 0 {
                return Ok(Some(WaitsFor::Budget));
            }
            let mut at = i64::try_from(*offset).map_err(io::Error::other)?;
            match sendfile64(
                &self.stream,
                &*file,
                Some(&mut at),
                usize::try_from(count).unwrap_or(usize::MAX),
            ) {
                // The file was truncated. Closing the connection early tells the peer that the body is incomplete.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let len = len as u64;
                    (*offset, *left) = (*offset + len, *left - len);
                    *turn = turn.saturating_sub(len);
                    budget.spend(len);
                    self.active_at = Instant::now();
                }
                Err(Errno::EAGAIN) => self.writable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(None)
    }

    /// Reads once into `input`; returns false if there is nothing to read now.
    fn read(&mut self) -> io::Result<bool> {
        while self.readable {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.input.extend_from_slice(bytes.get(..len).unwrap_or_default());
                    self.active_at = Instant::now();
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Answers the first request in `input`; returns false if its head is incomplete.
    fn take_request(
        &mut self,
        budget: &mut impl Budget,
        answer: &mut impl FnMut(&Request<()>) -> Answer,
    ) -> bool {
        if self.input.is_empty() {
            return false;
        }
        let Ok(mut reply) = Reply::new() else {
            return self.refuse("500 Internal Server Error");
        };
        let request = match reply.try_request(&self.input) {
            Err(_) => return self.refuse("400 Bad Request"),
            Ok((_, None)) if self.input.len() >= REQUEST_HEAD_MAX => {
                return self.refuse("431 Request Header Fields Too Large");
            }
            Ok((_, None)) => return false,
            Ok((used, Some(request))) => {
                self.input.drain(..used.min(self.input.len()));
                request
            }
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.refuse("405 Method Not Allowed");
        }
        // A request with a body is refused: no client of a registry sends a GET or HEAD with a body.
        let Some(RecvRequestResult::ProvideResponse(reply)) = reply.proceed() else {
            return self.refuse("400 Bad Request");
        };
        let answer = answer(&request);
        let mut response =
            Response::builder().status(answer.status).header("content-length", answer.body.len());
        for (name, value) in &answer.headers {
            response = response.header(*name, value);
        }
        let Some(mut reply) = response.body(()).ok().and_then(|r| reply.provide(r).ok()) else {
            return self.refuse("500 Internal Server Error");
        };
        let mut head = vec![0; ANSWER_HEAD_MAX];
        match reply.write(&mut head) {
            Ok(len) if reply.is_finished() => head.truncate(len),
            _ => return self.refuse("500 Internal Server Error"),
        }
        self.out = head;
        let len = answer.body.len();
        if *request.method() == Method::GET {
            match answer.body {
                Body::Bytes(bytes) => {
                    budget.spend(len);
                    self.out.extend_from_slice(&bytes);
                }
                Body::File { file, offset, len } => self.file = Some((file, offset, len)),
            }
        }
        self.close = match reply.proceed() {
            SendResponseResult::SendBody(mut reply) => {
                // ureq-proto does not see the body, which sendfile sends: report its whole length here at once.
                let is_counted =
                    usize::try_from(len).is_ok_and(|len| reply.consume_direct_write(len).is_ok());
                !is_counted || reply.proceed().must_close_connection()
            }
            SendResponseResult::Cleanup(reply) => reply.must_close_connection(),
        };
        true
    }

    /// Answers a bad request with `status`; the connection ends after that answer.
    fn refuse(&mut self, status: &str) -> bool {
        self.input.clear();
        self.out =
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
        self.close = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_answer_does_not_wait_for_the_peer_to_acknowledge_its_head() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let _peer =
            std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (stream, _) = listener.accept().expect("accepted");
        stream.set_nonblocking(true).expect("set");
        let mut connection = Connection::new(TcpStream::from_std(stream));
        assert!(connection.stream().nodelay().expect("asked"));
    }
}
