//! HTTP/1.1 messages as bytes: heads, and bodies by length, in chunks, or up to the end of the connection.
//!
//! Used by the recorder and by the plain client of the tests. Interprets only what a proxy must know (RFC 9112), and
//! forwards everything else unchanged.

use std::io::{self, ErrorKind, Read};

/// Most bytes that one read takes.
const PIECE: usize = 64 << 10;
/// Most bytes of a head.
const HEAD_MAX: usize = 64 << 10;

/// A message's first line and its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line, without its line break.
    pub line: String,
    /// Headers in the order of the message; the case of their names is unchanged.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Parses the bytes up to and including the empty line.
    ///
    /// # Errors The bytes are no head.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("a head that is not UTF-8"))?;
        let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
        let line = lines.next().ok_or_else(|| malformed("a head without a line"))?.to_owned();
        if !line.contains("HTTP/1.") {
            return Err(malformed("not HTTP/1"));
        }
        let header = |line: &str| {
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header without a colon"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        };
        Ok(Head { line, headers: lines.map(header).collect::<io::Result<_>>()? })
    }

    /// The first value of a header; `name` is in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    /// The `nth` word of the first line, from 0; empty if there is none.
    pub fn word(&self, nth: usize) -> &str {
        self.line.split(' ').nth(nth).unwrap_or_default()
    }

    /// Encodes the head, with the empty line.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Where the body of this request ends.
    pub fn request_body(&self) -> Body {
        if self.is_chunked() {
            return Body::Size;
        }
        Body::Length(self.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0))
    }

    /// Where the body of this answer to a request with `method` ends.
    pub fn answer_body(&self, method: &str) -> Body {
        if method == "HEAD" || self.word(1) == "204" || self.word(1) == "304" {
            return Body::Length(0);
        }
        if self.is_chunked() {
            return Body::Size;
        }
        self.header("content-length").and_then(|len| len.parse().ok()).map_or(Body::UntilEnd, Body::Length)
    }

    /// Whether the sender keeps the connection open after this message.
    pub fn keeps_open(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
    }
}

/// What follows of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This number of bytes.
    Length(u64),
    /// Bytes up to the end of the connection.
    UntilEnd,
    /// The line with the size of a chunk.
    Size,
    /// This number of bytes of a chunk.
    Chunk(u64),
    /// The line break after a chunk.
    Break,
    /// Trailers after the last chunk.
    Trailers,
}

/// A part of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The bytes on the connection, with the framing of chunks.
    pub raw: Vec<u8>,
    /// Number of bytes of content among them. A piece is either content or framing.
    pub content: usize,
}

/// A connection from which messages are read.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: Read> Wire<S> {
    /// Begins to read from `stream`.
    pub fn new(stream: S) -> Self {
        Wire { stream, buffer: Vec::new() }
    }

    /// The connection.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The connection, not to be read from.
    pub fn stream_ref(&self) -> &S {
        &self.stream
    }

    /// Whether bytes have been read that no message has taken.
    pub fn has_bytes(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads the next head; `None` if the connection ends before it.
    ///
    /// # Errors The connection fails, or the bytes are no head.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let bytes: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Head::parse(&bytes).map(Some);
            }
            // The greeting of TLS has no line break, but a client that speaks TLS waits for an answer.
            if self.buffer.first().is_some_and(|byte| !byte.is_ascii_alphabetic())
                || self.buffer.len() > HEAD_MAX
            {
                return Err(malformed("not HTTP"));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads the next part of a body, with at most `most` bytes of content; `None` after the last one.
    ///
    /// # Errors The connection fails or ends too soon, or the framing is wrong.
    pub fn piece(&mut self, body: &mut Body, most: u64) -> io::Result<Option<Piece>> {
        match *body {
            Body::Length(0) => Ok(None),
            Body::Length(left) | Body::Chunk(left) => {
                let raw = self.take(left.min(most))?;
                let rest = left - raw.len() as u64;
                *body = match *body {
                    Body::Length(_) => Body::Length(rest),
                    _ if rest == 0 => Body::Break,
                    _ => Body::Chunk(rest),
                };
                Ok(Some(Piece { content: raw.len(), raw }))
            }
            Body::UntilEnd => {
                if self.buffer.is_empty() && self.fill()? == 0 {
                    return Ok(None);
                }
                let raw = self.take(most)?;
                Ok(Some(Piece { content: raw.len(), raw }))
            }
            Body::Size => {
                let raw = self.line()?;
                let digits = String::from_utf8_lossy(&raw);
                let digits = digits.trim_end().split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("no size of a chunk"))?;
                *body = if size == 0 { Body::Trailers } else { Body::Chunk(size) };
                Ok(Some(Piece { raw, content: 0 }))
            }
            Body::Break => {
                let raw = self.line()?;
                *body = Body::Size;
                Ok(Some(Piece { raw, content: 0 }))
            }
            Body::Trailers => {
                let raw = self.line()?;
                if raw == b"\r\n" {
                    *body = Body::Length(0);
                }
                Ok(Some(Piece { raw, content: 0 }))
            }
        }
    }

    /// Takes between one byte and `most` bytes.
    fn take(&mut self, most: u64) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() && self.fill()? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.drain(..len).collect())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.drain(..=end).collect());
            }
            if self.buffer.len() > HEAD_MAX || self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + PIECE, 0);
        loop {
            let read = self.stream.read(&mut self.buffer[before..]);
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => {
                    self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
                    return read;
                }
            }
        }
    }
}

/// The path and query of a URL, absolute or not.
pub(crate) fn without_host(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => url,
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, as the worst of networks would.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(1);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn content(wire: &mut Wire<impl Read>, mut body: Body) -> (Vec<u8>, Vec<u8>) {
        let (mut raw, mut content) = (Vec::new(), Vec::new());
        while let Some(piece) = wire.piece(&mut body, 3).expect("a body") {
            assert!(piece.content <= 3);
            content.extend_from_slice(&piece.raw[..piece.content]);
            raw.extend(piece.raw);
        }
        (raw, content)
    }

    #[test]
    fn messages_are_split_wherever_the_network_splits_them() {
        let bytes =
            b"PATCH /a?b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nwiki\r\n5\r\npedia\r\n\
                      0\r\nTrailer: t\r\n\r\nGET / HTTP/1.1\r\nContent-length: 2\r\n\r\nok";
        for whole in [true, false] {
            let stream: Box<dyn Read> = if whole { Box::new(&bytes[..]) } else { Box::new(Trickle(bytes)) };
            let mut wire = Wire::new(stream);
            let head = wire.head().expect("read").expect("there");
            assert_eq!((head.word(0), head.word(1)), ("PATCH", "/a?b"));
            let (raw, bytes) = content(&mut wire, head.request_body());
            assert_eq!(bytes, b"wikipedia");
            assert!(raw.starts_with(b"4;x=y\r\nwiki\r\n") && raw.ends_with(b"0\r\nTrailer: t\r\n\r\n"));
            let head = wire.head().expect("read").expect("there");
            assert_eq!(content(&mut wire, head.request_body()).1, b"ok");
            assert_eq!(wire.head().expect("read"), None);
        }
    }

    #[test]
    fn an_answer_has_the_body_that_its_request_calls_for() {
        let head = |text: &str| Head::parse(text.as_bytes()).expect("a head");
        let sized = head("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
        assert_eq!(sized.answer_body("GET"), Body::Length(7));
        assert_eq!(sized.answer_body("HEAD"), Body::Length(0));
        assert_eq!(head("HTTP/1.1 204 None\r\n\r\n").answer_body("GET"), Body::Length(0));
        assert_eq!(head("HTTP/1.0 200 OK\r\n\r\n").answer_body("GET"), Body::UntilEnd);
    }
}
