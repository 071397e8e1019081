//! One HTTP/1.1 connection: reads requests, writes answers, sends files by sendfile(2).
//!
//! Owned by the event loop of a server, which calls [`Connection::step`] when the stream is ready or an answer has
//! come. This module owns the stream, the order of requests and answers, and the order of sending. It gives paths
//! no meaning, and measures no time: [`Connection::deadline`] says until when the caller should wait.
//!
//! ```text
//!            request        begin             finish
//! Head/Body ────────▶ Waiting ────▶ Streaming ────────▶ Head, or Ending if the connection ends
//!                      │  │ answer                  ╲ break_off
//!                      │  └──────────────────▶ Head  ▶ Ending, without the last chunk
//!                      └ take_over ▶ TakenOver ─ finish ─▶ Ending
//! ```
//!
//! A program may let bodies of some requests be streamed ([`Rules::is_streamed`]): it then gets the head at once, and
//! the body by [`Connection::receive`] while the request waits or its answer is streamed.

use crate::answer::{self, Answer, Persistence, Segment};
use crate::request::{Exchange, Incoming, Limits};
use crate::transport::Transport;
use ::http::Request;
use mio::event::Event;
use mio::net::TcpStream;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most bytes that one connection reads or sends before the other connections have their turn.
const TURN_BYTES: u64 = 256 << 10;
/// Most requests of one connection that are answered before the other connections have their turn.
const TURN_REQUESTS: usize = 32;
/// Most bytes that are read at once.
const READ_BYTES: usize = 4 << 10;
/// Most bytes of a body that are copied behind the head, so that both are sent at once.
const INLINE_MAX: usize = 16 << 10;
/// Largest buffer that a connection keeps for its next request, in bytes.
const KEPT_BUFFER_MAX: usize = 4 << 10;
/// Most bytes that are read and discarded from a peer that keeps sending after the last answer.
const LINGER_MAX: usize = 1 << 20;

/// The decision about a request.
#[derive(Debug)]
pub enum Reply {
    /// The request is answered now.
    Now(Answer),
    /// A later call of [`Connection::answer`], [`Connection::begin`] or [`Connection::take_over`] answers the request.
    Later,
}

/// The result of [`Connection::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes were appended.
    Bytes,
    /// No byte can be read now. The poll reports when more can.
    Nothing,
    /// The body is complete, or the peer of a connection that was taken over sends no more.
    End,
}

/// A limit on the bytes that all connections of a server send together.
pub trait Budget {
    /// Returns how many of `wanted` bytes may be sent now; 0 means that the connection must wait.
    fn allow(&mut self, wanted: u64) -> u64;
    /// Records that `bytes` were sent. Bytes in memory are sent without a call of `allow`.
    fn spend(&mut self, bytes: u64);
}

/// No limit.
pub struct Unlimited;

impl Budget for Unlimited {
    fn allow(&mut self, wanted: u64) -> u64 {
        wanted
    }

    fn spend(&mut self, _: u64) {}
}

/// What a connection waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The peer: no more bytes can be read or written now.
    Peer,
    /// The next turn: more can be done, but other connections go first.
    Turn,
    /// The [`Budget`].
    Budget,
    /// The program: a call of [`Connection::answer`], or of another function that sends.
    Answer,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No byte of a request has arrived.
    Idle,
    /// A part of a request has arrived.
    Receiving,
    /// A request waits for its answer.
    Waiting,
    /// An answer is being sent.
    Sending,
    /// The last answer is sent, and the peer has not closed the connection yet.
    Lingering,
}

/// How long a server waits for a peer.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the first byte of a request.
    pub idle: Duration,
    /// For all of a request, from its first byte on: a peer that sends a byte now and then gains nothing.
    pub request: Duration,
    /// For the peer to take another byte of an answer that is complete. After the last answer, the peer has this time
    /// to close the connection, but no longer than `request`.
    pub send: Duration,
}

/// What a program decides for all of its connections.
#[derive(Debug)]
pub struct Rules {
    /// Whether the body of a request is streamed. The program then gets the request without its body and must return
    /// [`Reply::Later`]; [`Limits::body_max`] does not hold for the request.
    pub is_streamed: fn(&Request<()>) -> bool,
    /// Whether a client that waits for the answer to this request has gone when it sends no more. Otherwise only a client
    /// that receives no more either has gone: a client may end its own direction right after a short request.
    pub is_long_poll: fn(&Request<()>) -> bool,
    /// Appends the headers that all answers have: lines that end in CR LF.
    pub write_headers: fn(&mut Vec<u8>),
    /// The answer to a request that is refused, with this status, before the program sees it.
    pub refusal: fn(u16) -> Answer,
}

impl Rules {
    /// No streamed body, no headers, refusals without a body; a client that sends no more has gone.
    pub const PLAIN: Rules = Rules {
        is_streamed: |_| false,
        is_long_poll: |_| true,
        write_headers: |_| {},
        refusal: Answer::empty,
    };
}

/// Where the connection stands between request and answer.
pub(crate) enum State {
    /// The head of the next request is read.
    Head,
    /// The body of a request is read.
    Body(Box<Incoming>),
    /// A request waits for its answer. Its body is still read if it is streamed.
    Waiting(Exchange, Option<Box<Incoming>>),
    /// The answer is a stream that has not ended.
    Streaming(Exchange, Option<Box<Incoming>>),
    /// The program uses the connection for bytes of its own.
    TakenOver,
    /// Nothing is read: the connection ends after the answer that is being sent.
    Ending,
}

/// A part of a file that is being sent.
struct FilePart {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

/// One accepted connection.
pub struct Connection<T = TcpStream> {
    stream: T,
    limits: Limits,
    pub(crate) rules: &'static Rules,
    pub(crate) state: State,
    pub(crate) input: Vec<u8>,
    /// Bytes at the front of `input` that are known to be no complete head.
    scanned: usize,
    /// The decoded part of a chunked body.
    body: Vec<u8>,
    pub(crate) out: Vec<u8>,
    /// Bytes of `out` that were sent.
    pub(crate) sent: usize,
    file: Option<FilePart>,
    /// The segments that follow `out` and `file`.
    segments: std::vec::IntoIter<Segment>,
    /// Bytes discarded since the last answer was sent; at least 1 once sending is ended.
    lingered: usize,
    readable: bool,
    writable: bool,
    /// The peer has closed the connection, or only its own direction.
    hung_up: bool,
    /// The peer has closed both directions.
    pub(crate) is_gone: bool,
    /// The program has received all bytes of a peer whose connection it has taken over.
    pub(crate) has_received_all: bool,
    /// Whether the connection ends without linger, so that the peer sees an incomplete answer.
    pub(crate) is_broken_off: bool,
    active_at: Instant,
    /// When the first byte of the current request arrived, the request began to wait, or the lingering began.
    since: Instant,
}

impl<T: Transport> Connection<T> {
    /// Takes over a connection that was just accepted.
    pub fn new(stream: T, limits: Limits) -> Self {
        // The head and the file go out in two packets. With Nagle's algorithm the second would wait until the peer
        // acknowledges the first, and peers delay acknowledgements by 40 ms (tcp(7)). A failure only costs that
        // delay.
        let _ = stream.set_nodelay();
        let now = Instant::now();
        Connection {
            stream,
            limits,
            rules: &Rules::PLAIN,
            state: State::Head,
            input: Vec::new(),
            scanned: 0,
            body: Vec::new(),
            out: Vec::new(),
            sent: 0,
            file: None,
            segments: Vec::new().into_iter(),
            lingered: 0,
            readable: true,
            writable: true,
            hung_up: false,
            is_gone: false,
            has_received_all: false,
            is_broken_off: false,
            active_at: now,
            since: now,
        }
    }

    /// The stream, for registration in a poll.
    pub fn stream(&mut self) -> &mut T {
        &mut self.stream
    }

    /// Sets the rules of the program; a new connection has [`Rules::PLAIN`].
    pub fn set_rules(&mut self, rules: &'static Rules) {
        self.rules = rules;
    }

    /// Notes what the poll reports about the stream. [`Connection::step`] acts on it.
    pub fn mark(&mut self, event: &Event) {
        let is_over = event.is_read_closed() || event.is_write_closed() || event.is_error();
        self.mark_ready(event.is_readable(), event.is_writable(), is_over);
        self.is_gone |= event.is_write_closed() || event.is_error();
    }

    /// Notes that the stream may be readable or writable, or that the peer has closed it.
    pub fn mark_ready(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        self.writable |= writable;
        self.hung_up |= hung_up;
    }

    /// What the connection is doing.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Body(_) => Phase::Receiving,
            _ if self.has_output() => Phase::Sending,
            State::Waiting(..) | State::Streaming(..) | State::TakenOver => Phase::Waiting,
            State::Ending => Phase::Lingering,
            State::Head if self.input.is_empty() => Phase::Idle,
            State::Head => Phase::Receiving,
        }
    }

    /// Whether a request waits for a call of [`Connection::answer`].
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..))
    }

    /// Whether the answer is a stream that has not ended, or the program has taken the connection over.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(..) | State::TakenOver)
    }

    /// When the caller should drop the connection, unless something happens before; `None` if the caller owes the
    /// peer an answer.
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        match self.phase() {
            Phase::Idle => Some(self.active_at + timeouts.idle),
            Phase::Receiving => Some(self.since + timeouts.request),
            Phase::Waiting => None,
            // The program decides how long it streams to a peer that reads nothing.
            Phase::Sending if self.is_streaming() => None,
            Phase::Sending => Some(self.active_at + timeouts.send),
            Phase::Lingering => Some(self.since + timeouts.send.min(timeouts.request)),
        }
    }

    /// Answers the request that waits, if one does. The caller calls [`Connection::step`] next, which sends the
    /// answer.
    pub fn answer(&mut self, answer: Answer) {
        if let State::Waiting(exchange, ref body) = self.state {
            // Nobody knows where the rest of a streamed body ends.
            let ends = exchange.ends || body.is_some();
            self.put(answer, Exchange { ends, ..exchange });
        }
    }

    /// Reads requests, calls `answer` for each, and writes the answers, until the connection must wait.
    ///
    /// While a request waits for its answer, nothing is read. If the peer closes the connection meanwhile, the connection
    /// has ended: nobody waits for the answer. [`Rules::is_long_poll`] decides about a peer that closes only its own
    /// direction.
    ///
    /// # Errors
    /// The connection has ended and must be dropped: the peer closed it, it broke, or its last answer was sent.
    pub fn step(
        &mut self,
        budget: &mut impl Budget,
        answer: &mut impl FnMut(&Request<&[u8]>) -> Reply,
    ) -> io::Result<WaitsFor> {
        let (mut bytes, mut requests) = (TURN_BYTES, TURN_REQUESTS);
        self.flush()?;
        loop {
            if let Some(wait) = self.send(budget, &mut bytes)? {
                return Ok(wait);
            }
            match self.state {
                State::Ending => return self.linger(),
                State::TakenOver if self.is_gone && self.has_received_all => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                State::Waiting(exchange, _) | State::Streaming(exchange, _)
                    if self.is_gone || (self.hung_up && exchange.is_long_poll) =>
                {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                State::Waiting(..) | State::Streaming(..) | State::TakenOver => return Ok(WaitsFor::Answer),
                State::Head | State::Body(_) if requests == 0 => return Ok(WaitsFor::Turn),
                State::Head | State::Body(_) => {}
            }
            // Pipelined requests are answered one after the other.
            if self.take_request(answer) {
                requests -= 1;
            } else if bytes == 0 {
                return Ok(WaitsFor::Turn);
            } else {
                match self.read()? {
                    0 => return Ok(WaitsFor::Peer),
                    len => bytes = bytes.saturating_sub(len as u64),
                }
            }
        }
    }

    fn has_output(&self) -> bool {
        self.sent < self.out.len()
            || self.file.is_some()
            || !self.segments.as_slice().is_empty()
            || self.stream.wants_flush()
    }

    /// Shuts down sending after the last answer and waits for the peer to close. Closing at once, with unread
    /// bytes of the peer, would reset the connection, and the peer could lose the last answer.
    fn linger(&mut self) -> io::Result<WaitsFor> {
        if self.is_broken_off {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.lingered == 0 {
            if !self.flush()? {
                return Ok(WaitsFor::Peer);
            }
            self.stream.end_sending()?;
            self.since = Instant::now();
            self.lingered = 1;
        }
        loop {
            self.input.clear();
            match self.read()? {
                0 => return Ok(WaitsFor::Peer),
                len => self.lingered += len,
            }
            if self.lingered > LINGER_MAX {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    /// Hands bytes that the stream keeps to the socket; returns true once it keeps none.
    fn flush(&mut self) -> io::Result<bool> {
        while self.stream.wants_flush() {
            if !self.writable {
                return Ok(false);
            }
            match self.stream.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends the rest of the current answer. Returns `None` once all of it is sent.
    fn send(&mut self, budget: &mut impl Budget, turn: &mut u64) -> io::Result<Option<WaitsFor>> {
        loop {
            let wait = match self.write_out(budget, turn)? {
                None => self.write_file(budget, turn)?,
                wait => wait,
            };
            if wait.is_some() {
                return Ok(wait);
            }
            match self.segments.next() {
                None => return Ok(None),
                Some(Segment::Bytes(bytes)) => self.out = bytes,
                Some(Segment::File { file, offset, len }) => {
                    self.file = Some(FilePart { file, offset, left: len });
                }
            }
        }
    }

    fn write_out(&mut self, budget: &mut impl Budget, turn: &mut u64) -> io::Result<Option<WaitsFor>> {
        while self.sent < self.out.len() {
            if !self.writable {
                return Ok(Some(WaitsFor::Peer));
            }
            if *turn == 0 {
                return Ok(Some(WaitsFor::Turn));
            }
            let rest = self.out.get(self.sent..).unwrap_or_default();
            let count = rest.len().min(usize::try_from(*turn).unwrap_or(usize::MAX));
            match self.stream.write(rest.get(..count).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.sent += len;
                    *turn = turn.saturating_sub(len as u64);
                    budget.spend(len as u64);
                    self.active_at = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        empty(&mut self.out);
        Ok(None)
    }

    fn write_file(&mut self, budget: &mut impl Budget, turn: &mut u64) -> io::Result<Option<WaitsFor>> {
        while let Some(part) = &mut self.file {
            if part.left == 0 {
                self.file = None;
                return Ok(None);
            }
            if !self.writable {
                return Ok(Some(WaitsFor::Peer));
            }
            if *turn == 0 {
                return Ok(Some(WaitsFor::Turn));
            }
            let count = budget.allow(part.left.min(*turn));
            if count == 0 {
                return Ok(Some(WaitsFor::Budget));
            }
            match self.stream.send_file(&part.file, part.offset, count) {
                // The file was truncated. Closing the connection early tells the peer that the body is incomplete.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    part.offset += len;
                    part.left = part.left.saturating_sub(len);
                    *turn = turn.saturating_sub(len);
                    budget.spend(len);
                    self.active_at = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads once, to the end of `input`. Returns the number of bytes; 0 if there is nothing to read now.
    pub(crate) fn read(&mut self) -> io::Result<usize> {
        while self.readable {
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    // The poll does not report the end of the stream again, so this loop must read it.
                    if len < bytes.len() && !self.hung_up && self.stream.is_empty_after_short_read() {
                        self.readable = false;
                    }
                    self.active_at = Instant::now();
                    if self.input.is_empty() && matches!(self.state, State::Head) {
                        self.since = self.active_at;
                    }
                    self.input.extend_from_slice(bytes.get(..len).unwrap_or_default());
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    /// Handles the first request in `input`; returns false if more bytes of it must be read first.
    fn take_request(&mut self, answer: &mut impl FnMut(&Request<&[u8]>) -> Reply) -> bool {
        match std::mem::replace(&mut self.state, State::Head) {
            State::Head => {
                // A head is parsed again only when a line was added to it.
                let is_new_line = self.input.get(self.scanned..).unwrap_or_default().contains(&b'\n');
                if !is_new_line && self.input.len() < self.limits.head_max {
                    self.scanned = self.input.len();
                    return false;
                }
                match Incoming::parse(&self.input, &self.limits) {
                    Err(refusal) => self.refuse(refusal.status()),
                    Ok(None) => {
                        self.scanned = self.input.len();
                        return false;
                    }
                    Ok(Some((incoming, used))) => {
                        self.scanned = 0;
                        self.input.drain(..used.min(self.input.len()));
                        if (self.rules.is_streamed)(incoming.head()) {
                            self.take_streamed(incoming, answer);
                            return true;
                        }
                        if !incoming.fits(&self.limits) {
                            self.refuse(413);
                            return true;
                        }
                        return self.take_body(incoming, answer);
                    }
                }
            }
            State::Body(incoming) => return self.take_body(*incoming, answer),
            other => self.state = other,
        }
        true
    }

    /// Hands the head of a request with a streamed body to the program.
    fn take_streamed(&mut self, incoming: Incoming, answer: &mut impl FnMut(&Request<&[u8]>) -> Reply) {
        let is_long_poll = (self.rules.is_long_poll)(incoming.head());
        let reply = answer(&incoming.without_body());
        self.since = self.active_at;
        let exchange = Exchange { is_long_poll, ..incoming.exchange() };
        match reply {
            Reply::Now(answer) => self.put(answer, Exchange { ends: true, ..exchange }),
            Reply::Later => self.state = State::Waiting(exchange, Some(Box::new(incoming))),
        }
    }

    /// Handles `incoming` if its body is complete; returns false if more bytes of it must be read first.
    fn take_body(
        &mut self,
        mut incoming: Incoming,
        answer: &mut impl FnMut(&Request<&[u8]>) -> Reply,
    ) -> bool {
        let len = match incoming.receive(&mut self.input, &mut self.body) {
            Err(refusal) => {
                self.refuse(refusal.status());
                return true;
            }
            Ok(None) => {
                let wants_continue = incoming.take_wants_continue();
                if wants_continue {
                    self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                self.state = State::Body(Box::new(incoming));
                return wants_continue;
            }
            Ok(Some(len)) => len,
        };
        let plain = self.input.get(..len).unwrap_or_default();
        let is_long_poll = (self.rules.is_long_poll)(incoming.head());
        let (request, exchange) =
            incoming.with_body(if self.body.is_empty() { plain } else { self.body.as_slice() });
        let exchange = Exchange { is_long_poll, ..exchange };
        let reply = answer(&request);
        drop(request);
        empty(&mut self.body);
        if len == self.input.len() {
            empty(&mut self.input);
        } else {
            self.input.drain(..len);
        }
        self.since = self.active_at;
        match reply {
            Reply::Now(answer) => self.put(answer, exchange),
            Reply::Later => self.state = State::Waiting(exchange, None),
        }
        true
    }

    /// Puts `answer` into the output, as the next bytes to send.
    fn put(&mut self, answer: Answer, exchange: Exchange) {
        let persistence = match exchange {
            Exchange { ends: true, .. } => Persistence::Ends,
            Exchange { is_http_10: true, .. } => Persistence::StaysAsAsked,
            Exchange { .. } => Persistence::Stays,
        };
        if !answer::write_head(&answer, persistence, self.rules.write_headers, &mut self.out) {
            self.refuse(500);
            return;
        }
        self.state = if exchange.ends { State::Ending } else { State::Head };
        if exchange.is_head || answer::is_bodiless(answer.status) {
            return;
        }
        let mut segments = answer.body.into_segments().into_iter();
        while let Some(Segment::Bytes(bytes)) = segments.as_slice().first()
            && self.out.len().saturating_add(bytes.len()) <= INLINE_MAX
        {
            self.out.extend_from_slice(bytes);
            segments.next();
        }
        self.segments = segments;
    }

    /// Answers with `status`; the connection ends after that answer.
    pub(crate) fn refuse(&mut self, status: u16) {
        empty(&mut self.input);
        empty(&mut self.body);
        let mut answer = (self.rules.refusal)(status);
        if status == 405 {
            answer.headers.push(("allow", "GET, HEAD".to_owned()));
        }
        answer::write_head(&answer, Persistence::Ends, self.rules.write_headers, &mut self.out);
        self.segments = answer.body.into_segments().into_iter();
        self.state = State::Ending;
    }
}

/// Empties a buffer and keeps its memory for the next request, unless it is large: most connections are idle.
fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BUFFER_MAX {
        *buffer = Vec::new();
    }
    buffer.clear();
}

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
