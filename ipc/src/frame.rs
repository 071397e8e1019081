//! A frame: one message on a socket, as length-prefixed, checksummed postcard.
//!
//! Used on every socket; monitord keeps the same bytes in its ring and its journal. [`encode`] makes a frame;
//! [`Decoder`] finds the frames in a byte stream, into whatever pieces reads split the stream. Does no I/O.
//!
//! Layout: `len u32 LE · crc u32 LE`, then `len` bytes of postcard. `crc` is the CRC-32C of the postcard bytes. `len`
//! is at least 1 and at most [`FRAME_MAX`].

use crate::event::EMITTED_TAG;
use serde::{Serialize, de::DeserializeOwned};

/// Longest body, in bytes. A request for a container with an environment of 1 MiB, which its command line repeats,
/// fits.
pub const FRAME_MAX: usize = 4 << 20;
/// Bytes of the header, which comes before the body.
pub const HEADER_LEN: usize = 8;

/// Why bytes cannot be read as a frame with a message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is 0, or larger than the largest length allowed.
    #[error("frame of {len} bytes, expected 1 to {max}")]
    Length {
        /// Length in the header.
        len: u32,
        /// The largest length allowed.
        max: usize,
    },
    /// The checksum in the header is not the body's.
    #[error("frame checksum does not match")]
    Checksum,
    /// The body is no message of the expected type.
    #[error("frame holds no known message")]
    Message,
}

/// Encodes `message` as one frame.
///
/// # Errors
/// [`FrameError::Length`] if the body is larger than [`FRAME_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes = postcard::to_extend(message, bytes).map_err(|_| FrameError::Message)?;
    let len = bytes.len() - HEADER_LEN;
    if len > FRAME_MAX {
        return Err(FrameError::Length { len: u32::try_from(len).unwrap_or(u32::MAX), max: FRAME_MAX });
    }
    let crc = crc32c::crc32c(bytes.get(HEADER_LEN..).unwrap_or_default());
    if let Some(place) = bytes.first_chunk_mut() {
        *place = header(len as u32, crc);
    }
    Ok(bytes)
}

fn header(len: u32, crc: u32) -> [u8; HEADER_LEN] {
    let ([l0, l1, l2, l3], [c0, c1, c2, c3]) = (len.to_le_bytes(), crc.to_le_bytes());
    [l0, l1, l2, l3, c0, c1, c2, c3]
}

/// Makes the header of an event's frame. The frame's body is the body of the record, followed by `seq`.
///
/// `crc` is the checksum of the record's body, so that monitord computes the body's checksum only once.
pub fn event_header(body_len: usize, crc: u32, seq: u64) -> [u8; HEADER_LEN] {
    let len = (body_len + crate::event::SEQ_LEN) as u32;
    header(len, crc32c::crc32c_append(crc, &seq.to_le_bytes()))
}

/// Makes the header and the tag of the frame of an event from the emit FIFO. The caller appends the rest of the
/// record's body, then `seq`.
///
/// The checksum covers the tag, so this function computes a new checksum of the body.
pub fn emitted_header(rest: &[u8], seq: u64) -> [u8; HEADER_LEN + 1] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[EMITTED_TAG]), rest);
    let mut header = [EMITTED_TAG; HEADER_LEN + 1];
    header[..HEADER_LEN].copy_from_slice(&event_header(1 + rest.len(), crc, seq));
    header
}

/// Splits the first frame off `bytes`; `None` if `bytes` end before the frame does.
///
/// Returns the body of the frame, and the length of the whole frame.
///
/// # Errors
/// [`FrameError::Length`] if the header has a wrong length, [`FrameError::Checksum`] if the frame is complete and its
/// checksum is wrong.
pub fn split(bytes: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, FrameError> {
    let Some(([l0, l1, l2, l3, c0, c1, c2, c3], rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    if len == 0 || len as usize > max {
        return Err(FrameError::Length { len, max });
    }
    let Some(body) = rest.get(..len as usize) else {
        return Ok(None);
    };
    if crc32c::crc32c(body) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return Err(FrameError::Checksum);
    }
    Ok(Some((body, HEADER_LEN + len as usize)))
}

/// Parses the message in a frame's body. Bytes after the message are an error.
///
/// # Errors
/// [`FrameError::Message`] if the body is not a message of type `T`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Message),
    }
}

/// Collects the bytes of a stream, and returns the frames one after the other.
///
/// Holds at most one frame of the largest length, and the bytes of one more read. After an error, the caller must
/// close the stream.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
    max: usize,
}

impl Decoder {
    /// Makes a decoder that refuses frames of more than `max` bytes; `max` is at most [`FRAME_MAX`].
    pub fn new(max: usize) -> Self {
        Decoder { bytes: Vec::new(), start: 0, max: max.min(FRAME_MAX) }
    }

    /// Adds bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the body of the next complete frame; `None` if there is none yet.
    ///
    /// # Errors
    /// The errors of [`split`].
    pub fn next_body(&mut self) -> Result<Option<&[u8]>, FrameError> {
        // Not a method call, which would borrow all of `self`: the body borrows only `bytes`, while `start` changes.
        let held = self.bytes.get(self.start..).unwrap_or_default();
        let Some((body, len)) = split(held, self.max)? else { return Ok(None) };
        self.start += len;
        Ok(Some(body))
    }

    /// Returns the message in the next complete frame; `None` if there is none yet.
    ///
    /// # Errors
    /// The errors of [`split`] and [`parse`].
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        self.next_body()?.map(parse).transpose()
    }

    /// Whether [`Decoder::next_body`] would return a body or an error.
    pub fn has_frame(&self) -> bool {
        let held = self.bytes.get(self.start..).unwrap_or_default();
        match held.split_at_checked(HEADER_LEN) {
            Some(([a, b, c, d, ..], rest)) => {
                let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                len == 0 || len > self.max || rest.len() >= len
            }
            _ => false,
        }
    }

    /// The first byte of the next body, which is the number of an enum variant; `None` if the frame is not complete.
    pub fn next_tag(&self) -> Option<u8> {
        self.has_frame().then(|| self.bytes.get(self.start + HEADER_LEN).copied()).flatten()
    }

    /// Whether the decoder holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventView, Origin};
    use crate::record;
    use crate::watch::Item;

    #[test]
    fn every_split_of_a_frame_decodes_to_the_same_event() {
        let mut event = Event::new("image", "pull", "busybox").with("digest", "sha256:0");
        event.seq = 42;
        let one = encode(&Item::Event(event.clone())).expect("small");
        let bytes = [one.clone(), one].concat();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new(FRAME_MAX);
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(item) = decoder.next_message::<Item>().expect("good bytes") {
                    got.push(item);
                }
            }
            assert_eq!(got, [Item::Event(event.clone()), Item::Event(event.clone())], "cut at {cut}");
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_record_becomes_a_frame_by_a_header_and_eight_bytes() {
        let mut event = Event::new("image", "pull", "busybox");
        let bytes = record::encode(&event).expect("small");
        let body = &bytes[record::HEADER_LEN..];
        event.seq = 7;
        let mut frame = event_header(body.len(), crc32c::crc32c(body), 7).to_vec();
        frame.extend_from_slice(body);
        frame.extend_from_slice(&7u64.to_le_bytes());
        assert_eq!(frame, encode(&Item::Event(event)).expect("small"));
    }

    #[test]
    fn a_record_of_the_emit_fifo_becomes_a_frame_by_a_header_a_tag_and_eight_bytes() {
        let mut event = Event::new("backup", "done", "nightly");
        let bytes = record::encode(&event).expect("small");
        let rest = &bytes[record::HEADER_LEN + 1..];
        event.seq = 7;
        let mut frame = emitted_header(rest, 7).to_vec();
        frame.extend_from_slice(rest);
        frame.extend_from_slice(&7u64.to_le_bytes());
        assert_eq!(frame, encode(&Item::Emitted(event.clone())).expect("small"));
        let (body, _) = split(&frame, FRAME_MAX).expect("good").expect("whole");
        let view = EventView::of_frame(body).expect("an event");
        assert_eq!((view.origin, view.id), (Origin::Emit, event.id.as_str()));
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(1000);
        decoder.push(&1001u32.to_le_bytes());
        decoder.push(&[0; 4]);
        assert_eq!(decoder.next_message::<Item>(), Err(FrameError::Length { len: 1001, max: 1000 }));
    }
}
