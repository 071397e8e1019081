//! One HTTP/1.1 connection: requests in, answers out, files by sendfile.
//!
//! ureq-proto reads the requests and writes the heads; this owns the socket, the bounds and the body. Only GET
//! and HEAD are spoken. What a path means is the caller's.

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
const HEAD_MAX: usize = 16 << 10;
/// Longest head of an answer.
const ANSWER_HEAD: usize = 4 << 10;
/// Most body bytes that one connection sends before the others have their turn.
const TURN: u64 = 256 << 10;

/// Most bytes that are read of a peer that goes on after our last word.
const LINGER_MAX: usize = 1 << 20;

/// What a request is answered with.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, `Content-Length` excepted.
    pub headers: Vec<(&'static str, String)>,
    /// The body; its length is told to HEAD too.
    pub body: Body,
}

/// A body.
pub enum Body {
    /// From memory.
    Bytes(Vec<u8>),
    /// `len` bytes of a file from `offset`.
    File {
        /// The file.
        file: File,
        /// First byte.
        offset: u64,
        /// How many.
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

/// How many body bytes may go out at present, all connections together.
pub trait Budget {
    /// Of `wanted` bytes, how many may go now; 0 is to wait.
    fn allow(&mut self, wanted: u64) -> u64;
    /// So many have gone.
    fn spend(&mut self, bytes: u64);
}

/// Where a connection stands after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its peer.
    Idle,
    /// It could go on at once, and gave way to the others.
    Busy,
    /// It waits for budget.
    Throttled,
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    file: Option<(File, u64, u64)>,
    close: bool,
    /// Bytes read and thrown away since all was said.
    lingered: usize,
    /// Something may be there to read.
    pub readable: bool,
    /// Something may be written.
    pub writable: bool,
    /// When bytes last went either way.
    pub moved: Instant,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(stream: TcpStream) -> Self {
        // A head and its file are two packets: with Nagle's algorithm the second waits until the peer has acknowledged the
        // first, which peers put off by 40 ms (tcp(7)). Where it cannot be set the answers are late, and no less right.
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
            moved: Instant::now(),
        }
    }

    /// The socket, to be registered.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads, answers and writes as far as it goes.
    ///
    /// # Errors
    /// The connection is over: ended, broken, or after an answer that ends it.
    pub fn step(
        &mut self,
        budget: &mut impl Budget,
        answer: &mut impl FnMut(&Request<()>) -> Answer,
    ) -> io::Result<Standing> {
        let mut turn = TURN;
        loop {
            if !self.write_out()? {
                return Ok(Standing::Idle);
            }
            match self.write_file(budget, &mut turn)? {
                None => {}
                Some(standing) => return Ok(standing),
            }
            if self.close {
                return self.linger();
            }
            // Pipelined requests are answered one after the other.
            if !self.take_request(budget, answer) && !self.read()? {
                return Ok(Standing::Idle);
            }
        }
    }

    /// All is said: waits for the peer to end. Closing at once, with bytes of it unread, would reset the
    /// connection and take our last answer from it.
    fn linger(&mut self) -> io::Result<Standing> {
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
        Ok(Standing::Idle)
    }

    /// True once all of `out` is written.
    fn write_out(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            if !self.writable {
                return Ok(false);
            }
            match self.stream.write(self.out.get(self.sent..).unwrap_or_default()) {
                Ok(len) => {
                    self.sent += len;
                    self.moved = Instant::now();
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

    /// `None` once there is no file, or all of it is sent.
    fn write_file(&mut self, budget: &mut impl Budget, turn: &mut u64) -> io::Result<Option<Standing>> {
        while let Some((file, offset, left)) = &mut self.file {
            if *left == 0 {
                self.file = None;
                return Ok(None);
            }
            if !self.writable {
                return Ok(Some(Standing::Idle));
            }
            if *turn == 0 {
                return Ok(Some(Standing::Busy));
            }
            let count = budget.allow((*left).min(*turn));
            if count == 0 {
                return Ok(Some(Standing::Throttled));
            }
            let mut at = i64::try_from(*offset).map_err(io::Error::other)?;
            match sendfile64(
                &self.stream,
                &*file,
                Some(&mut at),
                usize::try_from(count).unwrap_or(usize::MAX),
            ) {
                // The file is shorter than it was: the peer must not take what came for all.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let len = len as u64;
                    (*offset, *left) = (*offset + len, *left - len);
                    *turn = turn.saturating_sub(len);
                    budget.spend(len);
                    self.moved = Instant::now();
                }
                Err(Errno::EAGAIN) => self.writable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(None)
    }

    /// False if nothing is there.
    fn read(&mut self) -> io::Result<bool> {
        while self.readable {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.input.extend_from_slice(bytes.get(..len).unwrap_or_default());
                    self.moved = Instant::now();
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Answers the first request of the input; false if it is not whole yet.
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
            Ok((_, None)) if self.input.len() >= HEAD_MAX => {
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
        // A GET with a body is nothing that a registry's client sends.
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
        let mut head = vec![0; ANSWER_HEAD];
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
                // The body goes by sendfile, past the state machine: it is told of all at once.
                let told = usize::try_from(len).is_ok_and(|len| reply.consume_direct_write(len).is_ok());
                !told || reply.proceed().must_close_connection()
            }
            SendResponseResult::Cleanup(reply) => reply.must_close_connection(),
        };
        true
    }

    /// Says that a request is none, and ends.
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
