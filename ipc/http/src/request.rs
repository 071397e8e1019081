//! A request as it arrives: its head, the length of its body, and refusals before the program sees it.
//!
//! Used by [`crate::connection`]. ureq-proto parses heads and chunks. What the headers say about the body is
//! decided here, strictly: if a proxy and this server disagreed about where a request ends, a client could hide a
//! second request in the first. RFC 9112, 6.3 and 11.2.

use ::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use ::http::{HeaderName, Method, Request, Version};
use ureq_proto::server::state::RecvBody;
use ureq_proto::server::{RecvRequestResult, Reply};

/// Longest part of a chunked body that is no content, in bytes: the size of a chunk with its extensions, or a
/// trailer.
const CHUNK_LINE_MAX: usize = 1 << 10;

/// The limits of requests that a server accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest head of a request, in bytes. A longer one is answered with 431.
    pub head_max: usize,
    /// Longest body of a request, in bytes. A longer one is answered with 413.
    pub body_max: usize,
    /// Whether only GET and HEAD are accepted. Other methods are answered with 405.
    pub is_read_only: bool,
}

impl Limits {
    /// GET and HEAD without a body.
    pub const READ_ONLY: Limits = Limits { head_max: 16 << 10, body_max: 0, is_read_only: true };

    /// All methods, with bodies of up to `body_max` bytes.
    pub const fn with_bodies(body_max: usize) -> Self {
        Limits { head_max: 16 << 10, body_max, is_read_only: false }
    }
}

/// Why a request is refused. The connection ends after the answer, since nobody knows where the next request
/// begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadRequest,
    MethodNotAllowed,
    ContentTooLarge,
    HeadTooLarge,
    NotImplemented,
}

impl Refusal {
    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::BadRequest => 400,
            Refusal::MethodNotAllowed => 405,
            Refusal::ContentTooLarge => 413,
            Refusal::HeadTooLarge => 431,
            Refusal::NotImplemented => 501,
        }
    }
}

/// Where the body of a request ends.
enum Framing {
    /// After this number of further bytes.
    Length(u64),
    /// After the last chunk.
    Chunked(Box<Reply<RecvBody>>),
}

/// A request whose head has arrived.
pub(crate) struct Incoming {
    head: Request<()>,
    framing: Framing,
    body_max: usize,
    wants_continue: bool,
}

/// The facts about a request that decide how its answer is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) is_head: bool,
    pub(crate) is_http_10: bool,
    /// Whether the connection ends after the answer.
    pub(crate) ends: bool,
    /// Whether the client has gone when it sends no more.
    pub(crate) is_long_poll: bool,
}

impl Incoming {
    /// Parses the head at the front of `input`. Returns it and its length in bytes; `None` if it is incomplete.
    pub(crate) fn parse(input: &[u8], limits: &Limits) -> Result<Option<(Incoming, usize)>, Refusal> {
        let mut reply = Reply::new().map_err(|_| Refusal::BadRequest)?;
        // Otherwise ureq-proto takes the body of a HEAD for the next request.
        reply.force_recv_body();
        let (used, head) = match reply.try_request(input).map_err(|_| Refusal::BadRequest)? {
            (_, None) if input.len() >= limits.head_max => return Err(Refusal::HeadTooLarge),
            (_, None) => return Ok(None),
            (used, Some(_)) if used > limits.head_max => return Err(Refusal::HeadTooLarge),
            (used, Some(head)) => (used, head),
        };
        if limits.is_read_only && !matches!(*head.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        let framing = match length(&head)? {
            Some(length) => Framing::Length(length),
            None => Framing::Chunked(Box::new(body_reader(reply).ok_or(Refusal::BadRequest)?)),
        };
        let wants_continue = head.version() == Version::HTTP_11 && has_token(&head, EXPECT, "100-continue");
        Ok(Some((Incoming { head, framing, body_max: limits.body_max, wants_continue }, used)))
    }

    /// Takes what has arrived of the body: moves decoded chunks from `input` to `body`, and leaves a body with a
    /// length in `input`. Returns the number of bytes of the body at the front of `input` if the body is complete.
    pub(crate) fn receive(
        &mut self,
        input: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refusal> {
        let reply = match &mut self.framing {
            Framing::Length(length) => {
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                return Ok((input.len() >= length).then_some(length));
            }
            Framing::Chunked(reply) => reply,
        };
        if reply.is_ended() {
            return Ok(Some(0));
        }
        let (mut used, mut decoded) = (0, [0; 4096]);
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let (read, len) = reply.read(rest, &mut decoded).map_err(|_| Refusal::BadRequest)?;
            used += read;
            body.extend_from_slice(decoded.get(..len).unwrap_or_default());
            if body.len() > self.body_max {
                return Err(Refusal::ContentTooLarge);
            }
            if reply.is_ended() || read == 0 {
                break;
            }
        }
        input.drain(..used.min(input.len()));
        match reply.is_ended() {
            true => Ok(Some(0)),
            // The rest of `input` is the beginning of a line.
            false if input.len() > CHUNK_LINE_MAX => Err(Refusal::BadRequest),
            false => Ok(None),
        }
    }

    /// The head.
    pub(crate) fn head(&self) -> &Request<()> {
        &self.head
    }

    /// Whether the body may fit into the limits, by what the head says.
    pub(crate) fn fits(&self, limits: &Limits) -> bool {
        match self.framing {
            Framing::Length(length) => length <= limits.body_max as u64,
            Framing::Chunked(_) => limits.body_max > 0,
        }
    }

    /// Moves what has arrived of a streamed body from `input` to `bytes`. Returns whether the body is complete.
    pub(crate) fn receive_part(&mut self, input: &mut Vec<u8>, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        match &mut self.framing {
            Framing::Length(left) => {
                let len = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                bytes.extend(input.drain(..len));
                *left -= len as u64;
                Ok(*left == 0)
            }
            Framing::Chunked(_) => {
                self.body_max = usize::MAX;
                Ok(self.receive(input, bytes)?.is_some())
            }
        }
    }

    /// The facts that decide how the answer is sent.
    pub(crate) fn exchange(&self) -> Exchange {
        let is_http_10 = self.head.version() == Version::HTTP_10;
        let ends = has_token(&self.head, CONNECTION, "close")
            || (is_http_10 && !has_token(&self.head, CONNECTION, "keep-alive"));
        let is_head = self.head.method() == Method::HEAD;
        Exchange { is_head, is_http_10, ends, is_long_poll: true }
    }

    /// The head with an empty body.
    pub(crate) fn without_body(&self) -> Request<&'static [u8]> {
        let mut request = Request::new(&[][..]);
        *request.method_mut() = self.head.method().clone();
        *request.uri_mut() = self.head.uri().clone();
        *request.version_mut() = self.head.version();
        *request.headers_mut() = self.head.headers().clone();
        request
    }

    /// Whether the client sends the body only after the server has answered `100 Continue`; true at most once.
    pub(crate) fn take_wants_continue(&mut self) -> bool {
        std::mem::take(&mut self.wants_continue)
    }

    /// The head together with the body.
    pub(crate) fn with_body(self, body: &[u8]) -> (Request<&[u8]>, Exchange) {
        let exchange = self.exchange();
        let (parts, ()) = self.head.into_parts();
        (Request::from_parts(parts, body), exchange)
    }
}

/// The length of the body; `None` if the body is chunked.
fn length(head: &Request<()>) -> Result<Option<u64>, Refusal> {
    let mut lengths = head.headers().get_all(CONTENT_LENGTH).iter();
    let mut codings = head.headers().get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        // A request that says nothing has no body, whatever its method. RFC 9112, 6.3.
        (None, None) => Ok(Some(0)),
        (Some(length), None) if lengths.next().is_none() => {
            let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or(Refusal::BadRequest)
        }
        (None, Some(_)) if head.version() == Version::HTTP_10 => Err(Refusal::BadRequest),
        (None, Some(coding)) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => match codings.next() {
            None => Ok(None),
            Some(_) => Err(Refusal::BadRequest),
        },
        (None, Some(_)) => Err(Refusal::NotImplemented),
        (Some(_), _) => Err(Refusal::BadRequest),
    }
}

fn body_reader(reply: Reply<ureq_proto::server::state::RecvRequest>) -> Option<Reply<RecvBody>> {
    match reply.proceed()? {
        RecvRequestResult::RecvBody(reply) => Some(reply),
        // ureq-proto writes `100 Continue` into this buffer, which is dropped: `connection` sends it.
        RecvRequestResult::Send100(reply) => reply.accept(&mut [0; 64]).ok().map(|(_, reply)| reply),
        RecvRequestResult::ProvideResponse(_) => None,
    }
}

/// Whether the list in the header `name` contains `token`.
fn has_token(head: &Request<()>, name: HeaderName, token: &str) -> bool {
    let values = head.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}
