//! The answer to a request: status, headers, and a body of segments.
//!
//! Made by the program that serves; formats the head. Sends nothing: [`crate::connection`] does.

use ::http::StatusCode;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status code, from 200 on.
    pub status: u16,
    /// The headers, without `Content-Length`, `Transfer-Encoding` and `Connection`.
    pub headers: Vec<(&'static str, String)>,
    /// The body. The answer to HEAD contains only its length. Not sent with the codes 204 and 304.
    pub body: Body,
}

impl Answer {
    /// An answer without headers and body.
    pub fn empty(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Body::default() }
    }

    /// An answer whose body has the media type `kind`.
    pub fn new(status: u16, kind: &str, body: impl Into<Body>) -> Self {
        Answer { status, headers: vec![("content-type", kind.to_owned())], body: body.into() }
    }
}

/// The body of an answer: segments, which are sent in their order.
#[derive(Debug, Default)]
pub struct Body {
    segments: Vec<Segment>,
}

/// A part of a body.
#[derive(Debug)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A part of a file. If the file turns out to be shorter, the connection ends there.
    File {
        /// The file.
        file: Arc<File>,
        /// The offset of the first byte.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
}

impl Segment {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File { len, .. } => *len,
        }
    }

    /// Whether the segment has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Body {
    /// A part of a file.
    pub fn file(file: Arc<File>, offset: u64, len: u64) -> Self {
        Body { segments: vec![Segment::File { file, offset, len }] }
    }

    /// The number of bytes of all segments.
    pub fn len(&self) -> u64 {
        self.segments.iter().map(Segment::len).fold(0, u64::saturating_add)
    }

    /// Whether the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(Segment::is_empty)
    }

    /// The segments, in their order.
    pub fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}

impl From<Vec<Segment>> for Body {
    fn from(segments: Vec<Segment>) -> Self {
        Body { segments }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body { segments: if bytes.is_empty() { Vec::new() } else { vec![Segment::Bytes(bytes)] } }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        text.as_bytes().to_vec().into()
    }
}

/// Whether the connection outlives an answer, as its head says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// HTTP/1.1: the connection stays, and no header says so.
    Stays,
    /// HTTP/1.0: the connection stays, because the client asked for it.
    StaysAsAsked,
    /// The connection ends.
    Ends,
}

/// Whether an answer with this code never has a body. RFC 9110, 15.3.5 and 15.4.5.
pub(crate) fn is_bodiless(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

/// Appends the head of `answer` to `out`, with the headers that `common` appends. Returns false, and appends nothing,
/// if the answer cannot be sent: a value has a control character, or the code is none of an answer.
pub(crate) fn write_head(
    answer: &Answer,
    persistence: Persistence,
    common: fn(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> bool {
    let framing = (!is_bodiless(answer.status)).then(|| format!("content-length: {}\r\n", answer.body.len()));
    write_lines(answer, framing.as_deref().unwrap_or_default(), persistence, common, out)
}

/// Appends the head of an answer whose body is streamed: chunked, or until the connection ends. Returns false as
/// [`write_head`].
pub(crate) fn write_stream_head(
    answer: &Answer,
    persistence: Persistence,
    is_chunked: bool,
    common: fn(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> bool {
    let framing = if is_chunked { "transfer-encoding: chunked\r\n" } else { "" };
    write_lines(answer, framing, persistence, common, out)
}

fn write_lines(
    answer: &Answer,
    framing: &str,
    persistence: Persistence,
    common: fn(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> bool {
    let is_plain = |value: &str| value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    let status = StatusCode::from_u16(answer.status).ok().filter(|_| answer.status >= 200);
    let Some(status) = status.filter(|_| answer.headers.iter().all(|(_, value)| is_plain(value))) else {
        return false;
    };
    let reason = status.canonical_reason().unwrap_or("Unknown");
    // Writing into a vector never fails.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_str());
    out.extend_from_slice(framing.as_bytes());
    common(out);
    for (name, value) in &answer.headers {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(match persistence {
        Persistence::Stays => b"\r\n",
        Persistence::StaysAsAsked => b"connection: keep-alive\r\n\r\n",
        Persistence::Ends => b"connection: close\r\n\r\n",
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(answer: &Answer, persistence: Persistence) -> Option<String> {
        let mut out = Vec::new();
        write_head(answer, persistence, |_| {}, &mut out).then(|| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_head_says_length_headers_and_whether_the_connection_ends() {
        let answer = Answer::new(200, "text/plain", "abc");
        assert_eq!(
            head(&answer, Persistence::Ends).as_deref(),
            Some(
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
            )
        );
        let none = head(&Answer::empty(204), Persistence::Stays);
        assert_eq!(none.as_deref(), Some("HTTP/1.1 204 No Content\r\n\r\n"));
    }

    #[test]
    fn a_header_cannot_begin_another_line() {
        let mut answer = Answer::empty(200);
        answer.headers.push(("location", "/a\r\nset-cookie: b".to_owned()));
        assert_eq!(head(&answer, Persistence::Stays), None);
        assert_eq!(head(&Answer::empty(100), Persistence::Stays), None);
        assert_eq!(head(&Answer::empty(1000), Persistence::Stays), None);
    }

    #[test]
    fn the_length_of_a_body_is_that_of_its_segments() {
        let file = Arc::new(File::open("/dev/null").expect("a file"));
        let part = Segment::File { file, offset: 7, len: 10 };
        let body = Body::from(vec![Segment::Bytes(vec![0; 4]), part, Segment::Bytes(vec![0x7f])]);
        assert_eq!(body.len(), 15);
        assert!(Body::from(String::new()).is_empty());
    }
}
