//! HTTP/1.1 on a Unix socket as it is on the wire: the answer's head, its chunks with their boundaries, the bytes after a
//! takeover.

use crate::host::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Status and headers of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Names as the server spells them, and values, in the server's order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the header `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the body consists of chunks.
    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status and headers.
    pub head: Head,
    /// The chunks of the body; one for a body with a length.
    pub chunks: Vec<Vec<u8>>,
    /// Whether the body has its end: the last chunk, or all bytes of its length.
    pub is_whole: bool,
}

impl Reply {
    /// Status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of the header `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// All bytes of the body.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()).into_owned()
    }

    /// The body as JSON; panics if it is not.
    pub fn json(&self) -> serde_json::Value {
        let error = |error| panic!("{error} in '{}'", self.text());
        serde_json::from_slice(&self.body()).unwrap_or_else(error)
    }

    /// The JSON objects of a stream, one for each line.
    pub fn messages(&self) -> Vec<serde_json::Value> {
        let text = self.text();
        let error = |line: &str, error: serde_json::Error| panic!("{error} in '{line}'");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| error(line, e))).collect()
    }

    /// The text `message` of an error's body.
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_else(|| panic!("no message in '{}'", self.text()))
            .to_owned()
    }
}

/// A connection to a server. Reads end with a panic after [`PATIENCE`].
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to the socket at `path`.
    pub fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        Connection { stream, buffer: Vec::new() }
    }

    /// Sends a request. A header `Content-Length` is added if there is a body, and for POST.
    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: api.moby.localhost\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        self.write([text.as_bytes(), body].concat());
    }

    /// Sends a request that asks to take the connection over.
    pub fn send_upgrade(&mut self, target: &str, body: &[u8]) {
        let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", "tcp")];
        headers.push(("Content-Type", if body.is_empty() { "text/plain" } else { "application/json" }));
        self.send("POST", target, &headers, body);
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Ends the direction to the server, and keeps the other one.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("open");
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Receives status and headers; panics if the server closes the connection before their end.
    pub fn head(&mut self) -> Head {
        self.try_head().expect("the server answers")
    }

    /// Receives status and headers; `None` if the server closes the connection before their end.
    pub fn try_head(&mut self) -> Option<Head> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end,
                None if self.fill() == 0 => return None,
                None => {}
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let text = String::from_utf8(head).expect("ASCII");
        let (first, rest) = text.split_once("\r\n").expect("a line");
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let headers = rest.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Head { status: status.unwrap_or_else(|| panic!("no status in '{first}'")), headers })
    }

    /// Receives the next chunk; `None` after the last one.
    ///
    /// # Errors
    /// The server closes the connection before the last chunk.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let len = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no chunk's length: '{line}'"));
        let mut chunk = self.exactly(len + 2)?;
        assert_eq!(chunk.split_off(len), b"\r\n", "a chunk ends with a line end");
        Ok((len > 0).then_some(chunk))
    }

    /// Receives the next chunk, which is one JSON object and a line end.
    pub fn message(&mut self) -> serde_json::Value {
        let chunk = self.chunk().expect("whole").expect("one more message");
        serde_json::from_slice(&chunk)
            .unwrap_or_else(|e| panic!("{e} in '{}'", String::from_utf8_lossy(&chunk)))
    }

    /// Receives the whole answer to a request with `method`.
    pub fn reply(&mut self, method: &str) -> Reply {
        let head = self.head();
        let mut reply = Reply { head, chunks: Vec::new(), is_whole: true };
        let length = reply.header("content-length").map(|text| text.parse().expect("a number"));
        if method == "HEAD" || matches!(reply.status(), 204 | 304) {
            return reply;
        }
        match length {
            _ if reply.head.is_chunked() => loop {
                match self.chunk() {
                    Ok(Some(chunk)) => reply.chunks.push(chunk),
                    Ok(None) => return reply,
                    Err(_) => break,
                }
            },
            Some(length) => match self.exactly(length) {
                Ok(body) => {
                    reply.chunks.push(body);
                    return reply;
                }
                Err(_) => reply.chunks.push(std::mem::take(&mut self.buffer)),
            },
            None => {
                reply.chunks.push(self.rest());
                return reply;
            }
        }
        reply.is_whole = false;
        reply
    }

    /// Waits until there are bytes to receive, or the server has closed the connection; false after `time`.
    ///
    /// # Errors
    /// The kernel cannot wait.
    pub fn is_readable_within(&self, time: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        Ok(!self.buffer.is_empty() || poll(&mut fds, timeout)? > 0)
    }

    /// Receives exactly `len` bytes.
    ///
    /// # Errors
    /// The server closes the connection before.
    pub fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < len {
            if self.fill() == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// Receives one frame of a stream of a container: the stream's number and the bytes; `None` at the end.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        while self.buffer.is_empty() {
            if self.fill() == 0 {
                return None;
            }
        }
        let head = self.exactly(8).expect("a whole head of a frame");
        assert_eq!(head[1..4], [0; 3], "three zero bytes");
        let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        Some((head[0], self.exactly(len as usize).expect("a whole frame")))
    }

    /// Receives all bytes until the server closes its direction.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Receives bytes until they contain `shown`; returns all of them.
    pub fn until(&mut self, shown: &str) -> Vec<u8> {
        while !self.buffer.windows(shown.len()).any(|window| window == shown.as_bytes()) {
            let read = self.fill();
            assert!(read > 0, "no {shown:?} in {:?}", String::from_utf8_lossy(&self.buffer));
        }
        std::mem::take(&mut self.buffer)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill() == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads more bytes into the buffer; 0 when the connection has ended. Panics when nothing arrives in time.
    fn fill(&mut self) -> usize {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(len) => {
                self.buffer.extend_from_slice(&bytes[..len]);
                len
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("the server sends nothing after {:?}", String::from_utf8_lossy(&self.buffer))
            }
            // A server that is killed resets its connections.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}
