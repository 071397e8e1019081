//! A client of HTTP/1.1: one connection, one request at a time, from an address of choice.
//!
//! Used by the client of Dragonfly's wire, and by tests that send requests of their own. Follows no redirect, and never
//! opens a second connection beside the first.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Longest time for a request, unless another one is set.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer's head.
const HEAD_MAX: usize = 64 << 10;
/// Most bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// Takes the bytes of a body as they arrive; an error ends the request.
pub type OnBytes<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// An answer.
#[derive(Clone, Default)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body; empty if the caller took its bytes.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Response {
    /// Shows the length of the body, which may be long.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} and {} bytes", self.status, self.headers, self.body.len())
    }
}

impl Response {
    /// The value of the header `name`, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics if it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in '{}'", self.text()))
    }
}

/// A client of one server. Keeps its connection open between requests.
#[derive(Debug)]
pub struct HttpClient {
    server: SocketAddrV4,
    from: Ipv4Addr,
    timeout: Duration,
    stream: Option<TcpStream>,
}

impl HttpClient {
    /// Makes a client of the server at `server`, which connects from any address of this host.
    pub fn new(server: SocketAddrV4) -> Self {
        Self::from(Ipv4Addr::UNSPECIFIED, server)
    }

    /// Makes a client that connects from `from`, an address of this host.
    pub fn from(from: Ipv4Addr, server: SocketAddrV4) -> Self {
        HttpClient { server, from, timeout: PATIENCE, stream: None }
    }

    /// Sets the longest time of a request, from the connection to the last byte.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a GET.
    ///
    /// # Errors There is no complete answer in time.
    pub fn get(&mut self, target: &str) -> io::Result<Response> {
        self.request("GET", target, &[], b"")
    }

    /// Sends a POST of JSON.
    ///
    /// # Errors There is no complete answer in time.
    pub fn post(&mut self, target: &str, body: &serde_json::Value) -> io::Result<Response> {
        let headers = [("Content-Type", "application/json;charset=utf-8")];
        self.request("POST", target, &headers, body.to_string().as_bytes())
    }

    /// Sends a request; returns the answer with its body.
    ///
    /// # Errors There is no complete answer in time.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut bytes = Vec::new();
        let mut response = self.stream(method, target, headers, body, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        response.body = bytes;
        Ok(response)
    }

    /// Sends a request; `on_bytes` takes the body of the answer, whatever the status.
    ///
    /// A request on a connection that the server has closed meanwhile is repeated once on a new one, unless it is a POST.
    ///
    /// # Errors There is no complete answer in time.
    pub fn stream(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        on_bytes: OnBytes,
    ) -> io::Result<Response> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.server);
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" || !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut message = text.into_bytes();
        message.extend_from_slice(body);
        let until = Instant::now() + self.timeout;
        let kept = self.stream.take();
        let may_repeat = kept.is_some() && method != "POST";
        let stream = kept.map_or_else(|| open(self.from, self.server), Ok)?;
        let mut conversation =
            Conversation { stream, until, buffer: Vec::new(), next: 0, has_answered: false };
        let mut answer = conversation.converse(method, &message, on_bytes);
        if may_repeat && !conversation.has_answered && answer.as_ref().is_err_and(is_closed) {
            let stream = open(self.from, self.server)?;
            conversation = Conversation { stream, until, buffer: Vec::new(), next: 0, has_answered: false };
            answer = conversation.converse(method, &message, on_bytes);
        }
        let (response, is_kept) = answer?;
        if is_kept {
            self.stream = Some(conversation.stream);
        }
        Ok(response)
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Connects to `server` from the address `from`.
///
/// # Errors The server refuses, or `from` is no address of this host.
pub fn open(from: Ipv4Addr, server: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if !from.is_unspecified() {
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    }
    connect(socket.as_raw_fd(), &SockaddrIn::from(server))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Conversation {
    stream: TcpStream,
    until: Instant,
    buffer: Vec<u8>,
    /// Offset of the first byte in `buffer` that is not yet taken.
    next: usize,
    /// True after the first byte of the answer.
    has_answered: bool,
}

impl Conversation {
    /// Sends `message` and reads the answer; tells whether the connection can be used again.
    fn converse(&mut self, method: &str, message: &[u8], on_bytes: OnBytes) -> io::Result<(Response, bool)> {
        self.stream.set_write_timeout(Some(self.time_left()?))?;
        self.stream.write_all(message)?;
        loop {
            let response = self.head()?;
            if response.status < 200 {
                continue;
            }
            let is_chunked = response.header("transfer-encoding").is_some();
            let length = response.header("content-length").map(str::to_owned);
            let mut is_kept = response.header("connection").is_none_or(|value| value != "close");
            match length.map(|text| text.parse::<u64>()) {
                _ if method == "HEAD" || matches!(response.status, 204 | 304) => {}
                _ if is_chunked => self.chunks(on_bytes)?,
                Some(Ok(length)) => self.body(length, on_bytes)?,
                Some(Err(_)) => return Err(bad("Content-Length is no number")),
                None => {
                    is_kept = false;
                    while self.fill()? > 0 {
                        self.give(usize::MAX, on_bytes)?;
                    }
                }
            }
            return Ok((response, is_kept));
        }
    }

    fn time_left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Reads more bytes; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.time_left()?))?;
        if self.next == self.buffer.len() {
            self.buffer.clear();
            self.next = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let read = loop {
            match self.stream.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Err(ErrorKind::TimedOut.into()),
                read => break read,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        self.has_answered |= self.buffer.len() > filled;
        read
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let rest = &self.buffer[self.next..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
                self.next += end + 1;
                return Ok(line);
            }
            if rest.len() > HEAD_MAX {
                return Err(bad("a line has no end"));
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn head(&mut self) -> io::Result<Response> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.filter(|_| first.starts_with("HTTP/1."));
        let mut response =
            Response { status: status.ok_or_else(|| bad("no HTTP answer"))?, ..Response::default() };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok(response) };
            response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Gives at most `max` bytes of the buffer to the caller; returns their number.
    fn give(&mut self, max: usize, on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<usize> {
        let end = self.buffer.len().min(self.next.saturating_add(max));
        let given = &self.buffer[self.next..end];
        on_bytes(given)?;
        let len = given.len();
        self.next = end;
        Ok(len)
    }

    fn body(&mut self, length: u64, on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.next == self.buffer.len() && self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            left -= self.give(usize::try_from(left).unwrap_or(usize::MAX), on_bytes)? as u64;
        }
        Ok(())
    }

    fn chunks(&mut self, on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            let length =
                u64::from_str_radix(&self.line()?, 16).map_err(|_| bad("a chunk without its length"))?;
            self.body(length, on_bytes)?;
            self.line()?;
            if length == 0 {
                return Ok(());
            }
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
