//! What happened: one event, complete in itself, and never looked up again.
//!
//! [`Event`] is what producers build and consumers get. [`EventView`] reads the same bytes in place; monitord
//! checks and filters with it, so that an event is copied once on its way through. Neither does any I/O.
//!
//! Wire layout (postcard, fields in this order; pinned by golden tests):
//! `tag 0 · writer u64 LE · counter varint · lost u32 LE · time i64 LE · kind str · action str · id str ·
//! attributes [(str, str)] · labels [(str, str)] · seq u64 LE`. A FIFO record carries all but `seq`; monitord
//! appends the eight bytes of `seq` and has the frame; of a record from the emit FIFO it makes the tag 8. Integers are little-endian or LEB128 varints, strings
//! are varint length and UTF-8. postcard wire format specification, version 1.

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
/// The postcard variant number of an event that came through the emit FIFO, in the same enum.
pub const EMITTED_TAG: u8 = 8;
/// Bytes of `seq`, which a frame has and a record has not.
pub(crate) const SEQ_LEN: usize = 8;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Identity of the writing process, drawn at random when it opened the FIFO.
    #[serde(with = "postcard::fixint::le")]
    pub writer: u64,
    /// This writer's own count of events, rising by one from 1.
    pub counter: u64,
    /// How many events this writer had to drop just before this one, because its spool overflowed.
    #[serde(with = "postcard::fixint::le")]
    pub lost: u32,
    /// When it happened, in nanoseconds since the Unix epoch, by the writer's clock.
    #[serde(with = "postcard::fixint::le")]
    pub time: i64,
    /// What sort of thing it happened to: `container`, `image`, `job`, `daemon`, or a producer's own word.
    pub kind: String,
    /// What happened, in Docker's words where Docker has one: `start`, `die`, `exec_start: sh -c true`.
    pub action: String,
    /// What it happened to: a container's or an image's id, a reference, a job's number.
    pub id: String,
    /// Facts told by the producer, in its order; keys are unique.
    pub attributes: Pairs,
    /// Words of the owner of the image or container; keys are unique. A label never stands in for a fact.
    pub labels: Pairs,
    /// monitord's number for the event, rising by one for ever; 0 until it has one.
    #[serde(with = "postcard::fixint::le")]
    pub seq: u64,
    /// Who could have told it. Not part of the bytes: the variant of [`crate::watch::Item`] carries it.
    #[serde(skip)]
    pub origin: Origin,
}

/// Which FIFO an event came through, and so who can have written it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The monitor FIFO: the engine, a shim, or another member of the group `sampan-facts`.
    #[default]
    Facts,
    /// The emit FIFO: any member of the group `sampan`. Its type is none of [`FACT_KINDS`].
    Emit,
}

/// Types of events that only the monitor FIFO may bring; monitord refuses them from the emit FIFO.
pub const FACT_KINDS: [&str; 8] =
    ["container", "image", "job", "task", "peer", "network", "volume", "daemon"];

/// Ordered `key=value` words; a key stands once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Sets `key` to `value`, in place if it is there and at the end otherwise.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value of `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is no pair.
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

/// A field of an event that breaks a rule, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The type is not a word `[a-z0-9][a-z0-9_.-]{0,31}`.
    #[error("type {0:?} is not allowed: a type is [a-z0-9][a-z0-9_.-]*, at most {KIND_MAX} bytes")]
    Kind(String),
    /// The action does not begin with such a word, or what follows it is not `: ` and text.
    #[error(
        "action {0:?} is not allowed: an action is [a-z0-9][a-z0-9_.-]*, at most {ACTION_WORD_MAX} bytes, \
         then nothing or ': ' and text"
    )]
    Action(String),
    /// A key is empty or holds `=` or a control character.
    #[error("{map} key {key:?} is not allowed: a key is not empty and holds no '=' and no control character")]
    Key {
        /// `attribute` or `label`.
        map: &'static str,
        /// The key as given.
        key: String,
    },
    /// A key stands twice.
    #[error("{map} key {key:?} stands twice")]
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
        /// How many there are.
        count: usize,
    },
}

impl Event {
    /// A new event that happened now.
    pub fn new(kind: impl Into<String>, action: impl Into<String>, id: impl Into<String>) -> Self {
        Event {
            time: crate::time::now(),
            kind: kind.into(),
            action: action.into(),
            id: id.into(),
            ..Event::default()
        }
    }

    /// The same event with one more fact.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.attributes.set(key, value.to_string());
        self
    }

    /// The same event with one more label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.set(key, value);
        self
    }

    /// The body of its FIFO record, whether or not the fields are allowed and fit.
    #[expect(clippy::expect_used, reason = "postcard refuses only shapes that no event has")]
    pub(crate) fn record_body(&self) -> Vec<u8> {
        /// [`crate::watch::Item`] as far as it is an event, borrowed.
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
    /// The first [`FieldError`], in field order.
    pub fn check(&self) -> Result<(), FieldError> {
        check_words(&self.kind, &self.action)?;
        check_pairs("attribute", self.attributes.iter())?;
        check_pairs("label", self.labels.iter())
    }

    /// The line for people: `TIME TYPE ACTION ID (key=value, …)`, local time with nine digits and offset.
    ///
    /// Attributes come first, then labels, each in their order; before them stands `origin=emit` if the event is no fact
    /// of the engine. Control characters and line breaks of any
    /// field are escaped as Rust does (`\n`, `\u{1b}`), so an event never breaks a line or a terminal.
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

/// True for a character that nobody may print as it is: control characters, and those that reorder a line.
pub fn is_hidden(c: char) -> bool {
    // Bidirectional overrides and line separators would let one field rewrite how a line looks.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `text` with the characters of [`is_hidden`] escaped.
pub fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        if is_hidden(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// True for a word `[a-z0-9][a-z0-9_.-]*` of at most `max` bytes.
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

fn check_words(kind: &str, action: &str) -> Result<(), FieldError> {
    if !is_word(kind.as_bytes(), KIND_MAX) {
        return Err(FieldError::Kind(kind.to_owned()));
    }
    let word = action.split_once(": ").map_or(action, |(word, _)| word);
    if !is_word(word.as_bytes(), ACTION_WORD_MAX) {
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

/// True for what may be a key of an attribute or a label.
pub(crate) fn is_key(key: &str) -> bool {
    // Bytes suffice: `=`, C0 controls and DEL are single bytes in UTF-8; C1 controls start with 0xC2.
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
    /// See [`Event::origin`]; [`Origin::Facts`] of a FIFO record, whose bytes do not tell.
    pub origin: Origin,
}

/// Pairs read in place, as they are asked for: most filters look at none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairsView<'a> {
    count: usize,
    /// The pairs, and whatever stands behind them.
    bytes: &'a [u8],
}

impl<'a> EventView<'a> {
    /// Reads and checks the body of a FIFO record: all of an event but `seq`.
    ///
    /// Total: any bytes give an event or `None`. Accepts exactly what [`Event::check`] accepts.
    pub fn of_record(body: &'a [u8]) -> Option<Self> {
        let view = Walk(body).event().filter(|view| view.origin == Origin::Facts)?;
        let labels = view.attributes.behind()?;
        let is_whole = labels.behind_bytes()?.is_empty();
        (is_whole && view.fits_the_rules(labels)).then_some(view)
    }

    /// See [`Event::labels`].
    pub fn labels(&self) -> PairsView<'a> {
        self.attributes.behind().unwrap_or(PairsView { count: 0, bytes: &[] })
    }

    /// Reads the body of an event frame that this program wrote and checked before, without checking the
    /// rules again. Still total.
    pub fn of_frame(body: &'a [u8]) -> Option<Self> {
        Walk(body.get(..body.len().checked_sub(SEQ_LEN)?)?).event()
    }

    fn fits_the_rules(&self, labels: PairsView<'_>) -> bool {
        let word = self.action.split_once(": ").map_or(self.action, |(word, _)| word);
        is_word(self.kind.as_bytes(), KIND_MAX)
            && is_word(word.as_bytes(), ACTION_WORD_MAX)
            && self.attributes.fits_the_rules()
            && labels.fits_the_rules()
    }
}

impl<'a> PairsView<'a> {
    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut at = Walk(self.bytes);
        (0..self.count).map_while(move |_| Some((at.str()?, at.str()?)))
    }

    /// The value of `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is no pair.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pairs that stand behind these.
    fn behind(&self) -> Option<PairsView<'a>> {
        Walk(self.behind_bytes()?).pairs()
    }

    /// What stands behind these pairs. A pair takes two bytes at least, so a count that the bytes cannot hold
    /// ends this loop early.
    fn behind_bytes(&self) -> Option<&'a [u8]> {
        let mut at = Walk(self.bytes);
        for _ in 0..self.count {
            at.skip()?;
            at.skip()?;
        }
        Some(at.0)
    }

    fn fits_the_rules(&self) -> bool {
        self.count <= PAIRS_MAX
            && self.iter().count() == self.count
            && self
                .iter()
                .enumerate()
                .all(|(nth, (key, _))| is_key(key) && !self.iter().take(nth).any(|(k, _)| k == key))
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
        // Nearly all are lengths of words.
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
            // The tenth byte holds the one bit that is left of 64.
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
    fn a_line_says_first_that_an_event_was_emitted_whatever_its_attributes_say() {
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
