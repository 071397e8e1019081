//! A record: one event as one atomic write to a FIFO.
//!
//! Producers call [`encode`]. monitord finds records with [`Scanner`], even among bytes of hostile or broken writers.
//! This module does no I/O.
//!
//! Layout: `magic u32 LE · version u8 · flags u8 (0) · len u16 LE · crc u32 LE`, then `len` bytes of body (see
//! [`crate::event`]). `crc` is the CRC-32C (RFC 3720, appendix B.4) of the body. A record has at most [`RECORD_MAX`]
//! bytes, which is PIPE_BUF, so that records of different writers never interleave. pipe(7), "PIPE_BUF".

use crate::event::{Event, EventView, FieldError};

/// Longest record, in bytes, including the header: PIPE_BUF on Linux.
pub const RECORD_MAX: usize = 4096;
/// Bytes of the header, which comes before the body.
pub const HEADER_LEN: usize = 12;
/// Longest body, in bytes.
pub const BODY_MAX: usize = RECORD_MAX - HEADER_LEN;
/// First four bytes of every record: `SMPN`.
pub const MAGIC: [u8; 4] = *b"SMPN";
/// The version of this layout.
pub const VERSION: u8 = 1;

/// Why an event cannot become a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A field of the event breaks a rule.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The event is too large for one atomic write.
    #[error(
        "event takes {len} bytes, at most {BODY_MAX} fit one atomic write; the largest field is {largest} with {largest_len}"
    )]
    TooLarge {
        /// Length of the body in bytes.
        len: usize,
        /// Name of the largest field.
        largest: String,
        /// Bytes of the largest field.
        largest_len: usize,
    },
}

/// Encodes `event` as one record. The record does not contain `seq`.
///
/// # Errors
/// [`RecordError::Field`] for a field that breaks a rule; [`RecordError::TooLarge`], with the largest field, for an
/// event that is too large.
pub fn encode(event: &Event) -> Result<Vec<u8>, RecordError> {
    body(event).map(|body| frame_of(&body))
}

/// Puts a header before `body`.
fn frame_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, 0]);
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Encodes a parsed record again; the bytes are those that were parsed.
pub fn encode_again(record: &Record<'_>) -> Vec<u8> {
    frame_of(record.body)
}

/// Checks the event and encodes the body, without a header.
pub(crate) fn body(event: &Event) -> Result<Vec<u8>, RecordError> {
    event.check()?;
    let body = event.record_body();
    if body.len() > BODY_MAX {
        let (largest, largest_len) = largest_field(event);
        return Err(RecordError::TooLarge { len: body.len(), largest, largest_len });
    }
    Ok(body)
}

/// Sets the `lost` count of an encoded record.
///
/// The count has a fixed width, so that a record that waits to be written keeps its length.
pub(crate) fn set_lost(record: &mut [u8], lost: u32) {
    // Tag and writer have fixed widths; `lost` follows the counter, which is a varint.
    let counter_at = HEADER_LEN + 1 + 8;
    let counter = record.get(counter_at..).unwrap_or_default();
    let counter_len = counter.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let at = counter_at + counter_len;
    if let Some(place) = record.get_mut(at..at + 4) {
        place.copy_from_slice(&lost.to_le_bytes());
    }
    let crc = crc32c::crc32c(record.get(HEADER_LEN..).unwrap_or_default());
    if let Some(place) = record.get_mut(8..HEADER_LEN) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn largest_field(event: &Event) -> (String, usize) {
    let words = [("type", &event.kind), ("action", &event.action), ("id", &event.id)];
    let words = words.map(|(name, word)| (name.to_owned(), word.len())).into_iter();
    let facts = event.attributes.iter().map(|(k, v)| (format!("attribute {k:?}"), k.len() + v.len()));
    let labels = event.labels.iter().map(|(k, v)| (format!("label {k:?}"), k.len() + v.len()));
    words.chain(facts).chain(labels).max_by_key(|(_, len)| *len).unwrap_or_default()
}

/// A record that a [`Scanner`] has found.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The event, which has passed the checks.
    pub event: EventView<'a>,
    /// The bytes of the body.
    pub body: &'a [u8],
    /// CRC-32C of `body`.
    pub crc: u32,
}

/// One step of a [`Scanner`].
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A valid record.
    Record(Record<'a>),
    /// Number of bytes that belong to no record.
    Garbage(usize),
    /// The bytes may be the beginning of a record. The scanner can decide only when more bytes are read.
    Partial,
}

/// Finds one record after the other in bytes from the FIFO.
///
/// Returns every valid record that does not overlap another record, and counts all other bytes. Allocates nothing.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Makes a scanner that starts at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Scanner { bytes, at: 0 }
    }

    /// Number of bytes that the previous steps have covered.
    pub fn consumed(&self) -> usize {
        self.at
    }

    /// Returns the next step; `None` at the end of the bytes.
    ///
    /// Writers write records as a whole. So `Partial` means garbage if the scanner stands at offset 0 and got at least
    /// [`RECORD_MAX`] bytes, or all bytes of the FIFO. The caller then calls [`Scanner::skip_partial`].
    #[expect(clippy::should_implement_trait, reason = "a step borrows the bytes, not the scanner")]
    pub fn next(&mut self) -> Option<Step<'a>> {
        let rest = self.rest();
        let (_, behind_first) = rest.split_first()?;
        Some(match parse(rest) {
            Parsed::Record(record) => {
                self.at += HEADER_LEN + record.body.len();
                Step::Record(record)
            }
            Parsed::Partial => Step::Partial,
            Parsed::Bad => {
                let skipped = 1 + to_magic(behind_first);
                self.at += skipped;
                Step::Garbage(skipped)
            }
        })
    }

    /// Skips bytes that looked like the beginning of a record, up to the next possible beginning. Returns the number
    /// of skipped bytes.
    pub fn skip_partial(&mut self) -> usize {
        let skipped = self.rest().split_first().map_or(0, |(_, behind)| 1 + to_magic(behind));
        self.at += skipped;
        skipped
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }
}

enum Parsed<'a> {
    Record(Record<'a>),
    Partial,
    Bad,
}

fn parse(rest: &[u8]) -> Parsed<'_> {
    let Some((header, after)) = rest.split_first_chunk::<HEADER_LEN>() else {
        return if may_be_magic(rest) { Parsed::Partial } else { Parsed::Bad };
    };
    let [m0, m1, m2, m3, version, flags, len0, len1, crc0, crc1, crc2, crc3] = *header;
    let len = usize::from(u16::from_le_bytes([len0, len1]));
    if [m0, m1, m2, m3] != MAGIC || version != VERSION || flags != 0 || len > BODY_MAX {
        return Parsed::Bad;
    }
    let crc = u32::from_le_bytes([crc0, crc1, crc2, crc3]);
    let Some(body) = after.get(..len) else {
        return Parsed::Partial;
    };
    if crc32c::crc32c(body) != crc {
        return Parsed::Bad;
    }
    match EventView::of_record(body) {
        Some(event) => Parsed::Record(Record { event, body, crc }),
        None => Parsed::Bad,
    }
}

/// The distance to the next position where a record may begin.
fn to_magic(bytes: &[u8]) -> usize {
    let begins = |at: &usize| bytes.get(*at..).is_some_and(may_be_magic);
    (0..bytes.len()).find(begins).unwrap_or(bytes.len())
}

/// Whether `bytes` begin with [`MAGIC`], or with its first bytes if they are fewer than four.
fn may_be_magic(bytes: &[u8]) -> bool {
    bytes.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Vec<u8> {
        let mut event = Event::new("job", "done", id);
        event.time = 1;
        encode(&event).expect("small")
    }

    fn ids(bytes: &[u8]) -> (Vec<String>, usize) {
        let (mut found, mut garbage) = (Vec::new(), 0);
        let mut scanner = Scanner::new(bytes);
        while let Some(step) = scanner.next() {
            match step {
                Step::Record(record) => found.push(record.event.id.to_owned()),
                Step::Garbage(bytes) => garbage += bytes,
                Step::Partial => garbage += scanner.skip_partial(),
            }
        }
        assert_eq!(scanner.consumed(), bytes.len());
        (found, garbage)
    }

    #[test]
    fn the_bytes_of_a_record_are_these() {
        let event = Event {
            writer: 0x0102_0304_0506_0708,
            counter: 300,
            lost: 2,
            time: -1,
            kind: "image".into(),
            action: "pull".into(),
            id: "x".into(),
            attributes: [("name", "a")].into_iter().collect(),
            labels: [("l", "")].into_iter().collect(),
            seq: 99,
            ..Event::default()
        };
        let mut body = vec![0, 8, 7, 6, 5, 4, 3, 2, 1, 0xac, 2, 2, 0, 0, 0];
        body.extend([0xff; 8]);
        body.extend(b"\x05image\x04pull\x01x\x01\x04name\x01a\x01\x01l\x00");
        let bytes = encode(&event).expect("small");
        assert_eq!(bytes[..8], [b'S', b'M', b'P', b'N', 1, 0, body.len() as u8, 0]);
        assert_eq!(bytes[8..12], crc32c::crc32c(&body).to_le_bytes());
        assert_eq!(bytes[12..], body);
        // The CRC-32C of 32 bytes of zeroes. RFC 3720, B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn good_records_are_found_among_garbage() {
        let mut bytes = b"noise SMPN noise SM".to_vec();
        bytes.extend(record("one"));
        bytes.extend(b"SMPN\x01\x00\xff\x00cut");
        bytes.extend(record("two"));
        let mut bad = record("bad");
        bad[20] ^= 1;
        bytes.extend(&bad);
        bytes.extend(record("three"));
        let (found, garbage) = ids(&bytes);
        assert_eq!(found, ["one", "two", "three"]);
        assert_eq!(garbage, bytes.len() - record("one").len() * 2 - record("three").len());
    }

    #[test]
    fn every_cut_of_two_records_gives_the_whole_ones() {
        let bytes = [record("one"), record("two")].concat();
        for cut in 0..=bytes.len() {
            let (found, _) = ids(&bytes[..cut]);
            let whole = usize::from(cut >= record("one").len()) + usize::from(cut == bytes.len());
            assert_eq!(found.len(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_that_does_not_fit_names_its_largest_field() {
        let event = Event::new("image", "pull", "x").with("small", 1).label("big", "y".repeat(5000));
        let error = encode(&event).expect_err("5000 bytes");
        assert!(error.to_string().contains("label \"big\" with 5003"), "{error}");
    }
}
