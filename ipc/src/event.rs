//! Events: their fields, rules and bytes. An event is complete: no reader has to look anything up.
//!
//! Producers build an [`Event`], and consumers receive it. [`EventView`] reads the bytes of an event in place; monitord
//! checks and filters events with this view, so that it copies an event only once. This module does no I/O.
//!
//! Wire layout (postcard, fields in this order; pinned by golden tests): `tag 0 · writer u64 LE · counter varint · lost
//! u32 LE · time i64 LE · kind str · action str · id str · attributes [(str, str)] · labels [(str, str)] · seq u64 LE`.
//! A FIFO record has all fields but `seq`. monitord makes a frame of a record by appending the eight bytes of `seq`,
//! and changes the tag of a record from the emit FIFO to 8. Integers are little-endian or LEB128 varints; a string is
//! its length as a varint, and UTF-8. postcard wire format specification, version 1.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Longest type word, in bytes.
pub const KIND_MAX: usize = 32;
/// Longest first word of an action, in bytes.
pub const ACTION_WORD_MAX: usize = 32;
/// Most attributes, and most labels, of one event.
pub const PAIRS_MAX: usize = 256;
/// The postcard variant number of an event in [`crate::watch::Item`].
pub const EVENT_TAG: u8 = 0;
/// The postcard variant number of an event from the emit FIFO in [`crate::watch::Item`].
pub const EMITTED_TAG: u8 = 8;
/// Bytes of `seq`, which only a frame has.
pub(crate) const SEQ_LEN: usize = 8;

/// An event: something that happened to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// ID of the writer, drawn at random when the writing process opened the FIFO.
    #[serde(with = "postcard::fixint::le")]
    pub writer: u64,
    /// Number of the event among this writer's events, from 1.
    pub counter: u64,
    /// Number of events that this writer dropped directly before this one, because its spool was full.
    #[serde(with = "postcard::fixint::le")]
    pub lost: u32,
    /// Time of the event in nanoseconds since the Unix epoch, by the writer's clock.
    #[serde(with = "postcard::fixint::le")]
    pub time: i64,
    /// Type of the object: `container`, `image`, `job`, `daemon`, or a type of the producer's own.
    pub kind: String,
    /// What happened, by Docker's name if there is one: `start`, `die`, `exec_start: sh -c true`.
    pub action: String,
    /// ID of the object: the ID of a container or an image, a reference, or the number of a job.
    pub id: String,
    /// Attributes in the producer's order; keys are unique.
    pub attributes: Pairs,
    /// Labels of the image or container; keys are unique. Labels and attributes are separate, so that a reader cannot
    /// take a label for an attribute.
    pub labels: Pairs,
    /// Sequence number, which monitord assigns: each event gets the next higher number. 0 in an event that monitord
    /// has not numbered.
    #[serde(with = "postcard::fixint::le")]
    pub seq: u64,
    /// Which FIFO the event came from. Not part of the event's bytes: the variant of [`crate::watch::Item`] carries it.
    #[serde(skip)]
    pub origin: Origin,
}

/// The FIFO that an event came from, which decides who can have written it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The event came through the monitor FIFO: the engine, a shim, or another member of the group `sampan-facts`
    /// wrote it.
    #[default]
    Facts,
    /// The event came through the emit FIFO: any member of the group `sampan` can have written it. Its type is none of
    /// [`FACT_KINDS`].
    Emit,
}

/// Types of events that monitord accepts only from the monitor FIFO, and refuses from the emit FIFO.
pub const FACT_KINDS: [&str; 8] =
    ["container", "image", "job", "task", "peer", "network", "volume", "daemon"];

/// Ordered pairs of key and value; keys are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Sets `key` to `value`: replaces the value of an existing key, or appends the pair.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value of `key`; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Iterates over the pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes and returns the last pair.
    pub fn pop(&mut self) -> Option<(String, String)> {
        self.0.pop()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut all = Pairs::default();
        for (key, value) in pairs {
            all.set(key, value);
        }
        all
    }
}

/// A field of an event that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The type is not a word `[a-z0-9][a-z0-9_.-]{0,31}`.
    #[error("type {0:?} is not allowed: a type is [a-z0-9][a-z0-9_.-]*, at most {KIND_MAX} bytes")]
    Kind(String),
    /// The action does not begin with a word `[a-z0-9][a-z0-9_.-]{0,31}`, or the word is followed by text that does
    /// not begin with a colon and a space.
    #[error(
        "action {0:?} is not allowed: an action is [a-z0-9][a-z0-9_.-]*, at most {ACTION_WORD_MAX} bytes, \
         then nothing or ': ' and text"
    )]
    Action(String),
    /// A key is empty, or contains `=` or a control character.
    #[error("{map} key {key:?} is not allowed: a key is not empty and has no '=' and no control character")]
    Key {
        /// `attribute` or `label`.
        map: &'static str,
        /// The key as given.
        key: String,
    },
    /// A key occurs twice.
    #[error("{map} key {key:?} occurs twice")]
    Twice {
        /// `attribute` or `label`.
        map: &'static str,
        /// The key as given.
        key: String,
    },
    /// More than [`PAIRS_MAX`] pairs.
    #[error("{count} {map}s are too many: at most {PAIRS_MAX}")]
    TooMany {
        /// `attribute` or `label`.
        map: &'static str,
        /// Number of pairs.
        count: usize,
    },
}

impl Event {
    /// Makes an event with the current time.
    pub fn new(kind: impl Into<String>, action: impl Into<String>, id: impl Into<String>) -> Self {
        Event {
            time: crate::time::now(),
            kind: kind.into(),
            action: action.into(),
            id: id.into(),
            ..Event::default()
        }
    }

    /// Returns the event with an additional attribute.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.attributes.set(key, value.to_string());
        self
    }

    /// Returns the event with an additional label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.set(key, value);
        self
    }

    /// The body of the event's FIFO record. Checks neither the fields nor the size.
    #[expect(clippy::expect_used, reason = "postcard refuses only shapes that no event has")]
    pub(crate) fn record_body(&self) -> Vec<u8> {
        /// The first variant of [`crate::watch::Item`], borrowed.
        #[derive(Serialize)]
        enum Item<'a> {
            Event(&'a Event),
        }
        let mut bytes = postcard::to_allocvec(&Item::Event(self))
            .expect("an event has no shape that postcard cannot write");
        bytes.truncate(bytes.len() - SEQ_LEN);
        bytes
    }

    /// Checks every field against the rules that readers rely on.
    ///
    /// # Errors
    /// The [`FieldError`] of the first field that breaks a rule.
    pub fn check(&self) -> Result<(), FieldError> {
        check_words(&self.kind, &self.action)?;
        check_pairs("attribute", self.attributes.iter())?;
        check_pairs("label", self.labels.iter())
    }

    /// Formats the event for people: `TIME TYPE ACTION ID (key=value, …)`, in local time with nine digits and offset.
    ///
    /// The parentheses hold `origin=emit` if the event came from the emit FIFO, then the attributes, then the labels.
    /// Control characters and line breaks are escaped as in Rust (`\n`, `\u{1b}`), so that an event cannot break a line
    /// or a terminal.
    #[cfg(feature = "calendar")]
    pub fn line(&self) -> String {
        let mut out = crate::time::local(self.time);
        for word in [&self.kind, &self.action, &self.id] {
            if !word.is_empty() {
                out.push(' ');
                escape(&mut out, word);
            }
        }
        let mut open = " (";
        if self.origin == Origin::Emit {
            out.push_str(" (origin=emit");
            open = ", ";
        }
        for (key, value) in self.attributes.iter().chain(self.labels.iter()) {
            out.push_str(open);
            escape(&mut out, key);
            out.push('=');
            escape(&mut out, value);
            open = ", ";
        }
        if open == ", " {
            out.push(')');
        }
        out
    }
}

/// Whether a character must be escaped before it is printed: control characters, and characters that reorder a line.
pub fn is_hidden(c: char) -> bool {
    // Bidirectional overrides and line separators would let a field change how the rest of the line looks.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `text`, and escapes its characters that [`is_hidden`].
pub fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        if is_hidden(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// Whether `bytes` are a word `[a-z0-9][a-z0-9_.-]*` of at most `max` bytes.
pub(crate) fn is_word(bytes: &[u8], max: usize) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match bytes.split_first() {
        Some((first, rest)) => {
            bytes.len() <= max
                && plain(first)
                && rest.iter().all(|b| plain(b) || matches!(b, b'_' | b'.' | b'-'))
        }
        None => false,
    }
}

/// Whether `action` is a word of at most [`ACTION_WORD_MAX`] bytes, then nothing or a colon, a space and text.
fn is_action(action: &str) -> bool {
    // A search for one character is much cheaper than one for a string, and monitord checks every event. A word has no
    // colon, so the first colon must be the one after the word.
    let (word, rest) = action.split_at(action.find(':').unwrap_or(action.len()));
    is_word(word.as_bytes(), ACTION_WORD_MAX) && (rest.is_empty() || rest.starts_with(": "))
}

fn check_words(kind: &str, action: &str) -> Result<(), FieldError> {
    if !is_word(kind.as_bytes(), KIND_MAX) {
        return Err(FieldError::Kind(kind.to_owned()));
    }
    if !is_action(action) {
        return Err(FieldError::Action(action.to_owned()));
    }
    Ok(())
}

fn check_pairs<'a>(
    map: &'static str,
    pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<(), FieldError> {
    if pairs.len() > PAIRS_MAX {
        return Err(FieldError::TooMany { map, count: pairs.len() });
    }
    let mut seen: Vec<&str> = Vec::with_capacity(pairs.len());
    for (key, _) in pairs {
        if !is_key(key) {
            return Err(FieldError::Key { map, key: key.to_owned() });
        }
        if seen.contains(&key) {
            return Err(FieldError::Twice { map, key: key.to_owned() });
        }
        seen.push(key);
    }
    Ok(())
}

/// Whether `key` is allowed as the key of an attribute or a label.
pub(crate) fn is_key(key: &str) -> bool {
    // Comparing bytes is enough for `=`, C0 controls and DEL, which are single bytes in UTF-8. C1 controls have two
    // bytes.
    !key.is_empty()
        && !key.bytes().any(|b| b == b'=' || b < 0x20 || b == 0x7f)
        && (key.is_ascii() || !key.contains(is_c1))
}

fn is_c1(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

/// An event read in place from the bytes of a record or of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventView<'a> {
    /// See [`Event::writer`].
    pub writer: u64,
    /// See [`Event::counter`].
    pub counter: u64,
    /// See [`Event::lost`].
    pub lost: u32,
    /// See [`Event::time`].
    pub time: i64,
    /// See [`Event::kind`].
    pub kind: &'a str,
    /// See [`Event::action`].
    pub action: &'a str,
    /// See [`Event::id`].
    pub id: &'a str,
    /// See [`Event::attributes`].
    pub attributes: PairsView<'a>,
    /// See [`Event::origin`]. Always [`Origin::Facts`] for a FIFO record, whose bytes do not contain the origin.
    pub origin: Origin,
}

/// Pairs that are decoded only when they are needed, since most filters compare none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairsView<'a> {
    count: usize,
    /// The pairs, and all bytes of the event after them.
    bytes: &'a [u8],
}

impl<'a> EventView<'a> {
    /// Reads and checks the body of a FIFO record, which has all fields of an event but `seq`.
    ///
    /// Returns `None` for bytes that are no event, and for an event that [`Event::check`] refuses. Never panics.
    pub fn of_record(body: &'a [u8]) -> Option<Self> {
        let view = Walk(body).event().filter(|view| view.origin == Origin::Facts)?;
        let labels = view.attributes.next_pairs()?;
        let is_whole = labels.rest()?.is_empty();
        (is_whole && view.fits_the_rules(labels)).then_some(view)
    }

    /// See [`Event::labels`].
    pub fn labels(&self) -> PairsView<'a> {
        self.attributes.next_pairs().unwrap_or(PairsView { count: 0, bytes: &[] })
    }

    /// Reads the body of an event frame that this program has written, without checking the rules again. Never panics.
    pub fn of_frame(body: &'a [u8]) -> Option<Self> {
        Walk(body.get(..body.len().checked_sub(SEQ_LEN)?)?).event()
    }

    /// See [`Event::seq`]. Reads the body of an event frame.
    pub fn seq_of_frame(body: &[u8]) -> Option<u64> {
        body.last_chunk().copied().map(u64::from_le_bytes)
    }

    fn fits_the_rules(&self, labels: PairsView<'_>) -> bool {
        is_word(self.kind.as_bytes(), KIND_MAX)
            && is_action(self.action)
            && self.attributes.fits_the_rules()
            && labels.fits_the_rules()
    }
}

impl<'a> PairsView<'a> {
    /// Iterates over the pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut at = Walk(self.bytes);
        (0..self.count).map_while(move |_| Some((at.str()?, at.str()?)))
    }

    /// The value of `key`; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The list of pairs that follows this one in the event.
    fn next_pairs(&self) -> Option<PairsView<'a>> {
        Walk(self.rest()?).pairs()
    }

    /// The bytes after these pairs. A pair has at least two bytes, so the loop ends early for a `count` beyond the
    /// length.
    fn rest(&self) -> Option<&'a [u8]> {
        let mut at = Walk(self.bytes);
        for _ in 0..self.count {
            at.skip()?;
            at.skip()?;
        }
        Some(at.0)
    }

    /// Whether all pairs can be read, and every key is allowed and occurs once.
    fn fits_the_rules(&self) -> bool {
        let is_new = |nth, key| !self.iter().take(nth).any(|(earlier, _)| earlier == key);
        let fitting = self.iter().enumerate().take_while(|(nth, (key, _))| is_key(key) && is_new(*nth, *key));
        self.count <= PAIRS_MAX && fitting.count() == self.count
    }
}

/// A cursor over postcard bytes; every step is checked.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn event(&mut self) -> Option<EventView<'a>> {
        let origin = match self.take(1)? {
            [EVENT_TAG] => Origin::Facts,
            [EMITTED_TAG] => Origin::Emit,
            _ => return None,
        };
        Some(EventView {
            origin,
            writer: u64::from_le_bytes(self.take(8)?.try_into().ok()?),
            counter: self.varint()?,
            lost: u32::from_le_bytes(self.take(4)?.try_into().ok()?),
            time: i64::from_le_bytes(self.take(8)?.try_into().ok()?),
            kind: self.str()?,
            action: self.str()?,
            id: self.str()?,
            attributes: self.pairs()?,
        })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        // Nearly all varints are the lengths of short strings, and have one byte.
        if let Some((&byte, rest)) = self.0.split_first()
            && byte < 0x80
        {
            self.0 = rest;
            return Some(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (nth, &byte) in self.0.iter().enumerate().take(10) {
            // Nine bytes hold 63 bits, so the tenth byte has only one bit of the 64.
            if nth == 9 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(nth + 1..)?;
                return Some(value);
            }
        }
        None
    }

    fn str(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.varint()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn skip(&mut self) -> Option<()> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len).map(drop)
    }

    fn pairs(&mut self) -> Option<PairsView<'a>> {
        let count = usize::try_from(self.varint()?).ok()?;
        Some(PairsView { count, bytes: self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn sample() -> Event {
        let mut event =
            Event::new("container", "start", "3277ec2e57cd").with("image", "busybox").with("pid", 9007);
        event.labels.set("image", "a label cannot pass for a fact");
        event.writer = 7;
        event.counter = 300;
        event
    }

    #[test]
    fn a_view_reads_what_postcard_wrote() {
        let event = sample();
        let body = record::body(&event).expect("small");
        let view = EventView::of_record(&body).expect("an event");
        assert_eq!(view.counter, 300);
        assert_eq!(view.kind, "container");
        assert_eq!(view.attributes.get("image"), Some("busybox"));
        assert_eq!(view.labels().get("image"), Some("a label cannot pass for a fact"));
        assert_eq!(view.attributes.iter().count(), 2);
    }

    #[test]
    fn every_shortened_or_changed_body_is_read_without_panic() {
        let body = record::body(&sample()).expect("small");
        for end in 0..body.len() {
            assert!(EventView::of_record(&body[..end]).is_none(), "cut at {end}");
        }
        for at in 0..body.len() {
            for bit in 0..8 {
                let mut bad = body.clone();
                bad[at] ^= 1 << bit;
                let _ = EventView::of_record(&bad);
            }
        }
    }

    #[test]
    fn check_and_view_accept_the_same_events() {
        let mut cases = vec![sample()];
        for (kind, action) in [
            ("", "start"),
            ("UPPER", "x"),
            ("a b", "x"),
            ("ok", "exec_start: sh -c 'x'"),
            ("ok", "a:b"),
            ("ok", ""),
        ] {
            cases.push(Event::new(kind, action, "id"));
        }
        cases.push(Event::new("ok", "ok", "id").with("a=b", 1));
        cases.push(Event::new("ok", "ok", "id").with("", 1));
        cases.push(Event::new("ok", "ok", "id").with("\u{85}", 1));
        for event in cases {
            let body = event.record_body();
            assert_eq!(event.check().is_ok(), EventView::of_record(&body).is_some(), "{event:?}");
        }
    }

    #[test]
    fn a_line_begins_with_the_origin_of_an_emitted_event() {
        let event =
            Event { origin: Origin::Emit, ..Event::new("backup", "done", "x").with("origin", "facts") };
        assert!(event.line().ends_with(" backup done x (origin=emit, origin=facts)"), "{}", event.line());
        let event = Event { origin: Origin::Emit, ..Event::new("backup", "done", "x") };
        assert!(event.line().ends_with(" backup done x (origin=emit)"), "{}", event.line());
    }

    #[test]
    fn a_record_that_claims_another_tag_is_no_event() {
        let mut body = record::body(&sample()).expect("small");
        for tag in 1..=u8::MAX {
            body[0] = tag;
            assert!(EventView::of_record(&body).is_none(), "tag {tag}");
        }
    }

    #[test]
    fn a_line_never_breaks_a_terminal() {
        let event = Event::new("image", "pull", "a\nb\u{1b}[2J\u{202e}").with("k", "v\r");
        let line = event.line();
        assert!(line.ends_with(r"image pull a\nb\u{1b}[2J\u{202e} (k=v\r)"), "{line}");
    }
}
