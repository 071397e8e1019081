//! The head of a connection that was taken over, and the frames of docker's multiplexed streams.
//!
//! docker's API, "Attach to a container", "Stream format".

use crate::api_version::Version;
use crate::call::Call;
use crate::exchange::write_common_headers;
use http::header::{CONNECTION, UPGRADE};

/// The first version of the API that names the multiplexed stream in `Content-Type`.
const MULTIPLEXED: Version = Version { minor: 42 };
const RAW_TYPE: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED_TYPE: &str = "application/vnd.docker.multiplexed-stream";

/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 8;

/// An output stream of a container, with its number in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// The header of a frame with `len` bytes: the stream, three zero bytes, the length in network byte order.
pub fn header(stream: Stream, len: usize) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// The content type of a stream: with a terminal it has no frames.
pub fn content_type(version: Version, is_terminal: bool) -> &'static str {
    match version >= MULTIPLEXED && !is_terminal {
        true => MULTIPLEXED_TYPE,
        false => RAW_TYPE,
    }
}

/// How the answer to a request begins that takes its connection over.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    version: Version,
    is_upgrade: bool,
}

impl Takeover {
    /// Reads from the headers whether the client wants the status 101.
    pub fn of(call: &Call<'_>) -> Self {
        let has = |name, word: &str| {
            let values = call.request.headers().get_all(name).iter();
            values.filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word) || word.is_empty())
            })
        };
        Takeover { version: call.version, is_upgrade: has(CONNECTION, "upgrade") && has(UPGRADE, "") }
    }

    /// The head of the answer.
    pub fn head(&self, is_terminal: bool) -> Vec<u8> {
        let mut head = match self.is_upgrade {
            true => format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
                content_type(self.version, is_terminal)
            ),
            false => format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW_TYPE}\r\n"),
        }
        .into_bytes();
        write_common_headers(&mut head);
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// An answer that says why a request failed that has taken its connection over: docker sends it as plain text, and
/// closes the connection behind it.
pub fn refusal(status: u16, message: &str) -> Vec<u8> {
    let reason =
        http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {RAW_TYPE}\r\n").into_bytes();
    write_common_headers(&mut head);
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(message.as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_stream_and_the_length_before_the_bytes() {
        assert_eq!(header(Stream::Stdout, 3), [1, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(header(Stream::Stderr, 0x0102_0304), [2, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_content_type_depends_on_terminal_and_version() {
        let of = |minor, is_terminal| content_type(Version { minor }, is_terminal);
        assert_eq!(of(50, false), MULTIPLEXED_TYPE);
        assert_eq!(of(50, true), RAW_TYPE);
        assert_eq!(of(41, false), RAW_TYPE);
        let upgraded = Takeover { version: Version { minor: 50 }, is_upgrade: true }.head(false);
        assert!(upgraded.starts_with(b"HTTP/1.1 101 UPGRADED\r\n") && upgraded.ends_with(b"\r\n\r\n"));
    }
}
