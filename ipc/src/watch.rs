//! The protocol of `events.sock`: who asks, what it may ask, what it hears.
//!
//! A connection does one thing. The client sends one [`Opening`], the first exchange, which names the protocol
//! version; the server answers with [`Item`]s. A stream ends with [`Item::End`] or [`Item::Error`]; one that
//! stops without either is broken. Enum variants are numbered by position on the wire: append, never reorder.

use crate::event::Event;
use crate::frame::{self, FrameError};
use serde::{Deserialize, Serialize};

/// The protocol version spoken. Version 1 is served as well: it has no [`Subscribe::lineage`], and hears no
/// [`Item::Position`], [`Item::Journal`] or [`Item::Emitted`].
pub const VERSION: u16 = 2;
/// The oldest version that monitord serves.
pub const VERSION_MIN: u16 = 1;
/// Longest request, in bytes.
pub const REQUEST_MAX: usize = 64 << 10;
/// Most filters in one subscription.
pub const FILTERS_MAX: usize = 256;

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The version that `request` is of.
    pub version: u16,
    /// What is asked for.
    pub request: Request,
}

/// What may be asked on `events.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Events, as told; answered by [`Item::Welcome`], events, [`Item::End`].
    Subscribe(Subscribe),
    /// monitord's own state; answered by [`Item::Status`], [`Item::End`].
    Status,
}

/// Which events, from where, until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// `key=value` filters, see [`crate::filter`]; OR within a key, AND across keys.
    pub filters: Vec<String>,
    /// Only events whose time is this or later, in nanoseconds since the epoch; starts with history.
    pub since: Option<i64>,
    /// Only events whose time is this or earlier; the stream ends when the clock has passed it.
    pub until: Option<i64>,
    /// Only events behind this sequence number, history first: `Some(0)` is all there is.
    pub after: Option<u64>,
    /// Go on with what happens from now; without it the stream ends when history is through.
    pub follow: bool,
    /// The lineage that `after` is a number of; `None` if the reader does not know. Since version 2.
    pub lineage: Option<u64>,
}

/// A [`Request`] of version 1, which lacks the last field of [`Subscribe`].
#[derive(Serialize, Deserialize)]
enum Request1 {
    Subscribe(Subscribe1),
    Status,
}

#[derive(Serialize, Deserialize)]
struct Subscribe1 {
    filters: Vec<String>,
    since: Option<i64>,
    until: Option<i64>,
    after: Option<u64>,
    follow: bool,
}

impl From<Request1> for Request {
    fn from(request: Request1) -> Self {
        match request {
            Request1::Status => Request::Status,
            Request1::Subscribe(Subscribe1 { filters, since, until, after, follow }) => {
                Request::Subscribe(Subscribe { filters, since, until, after, follow, lineage: None })
            }
        }
    }
}

/// What is heard on `events.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// Something happened. Variant 0: see [`crate::event`].
    Event(Event),
    /// The events `first` to `last`, both included, are gone: the journal was too small, or damaged.
    Lost {
        /// Sequence number of the first one.
        first: u64,
        /// Sequence number of the last one.
        last: u64,
    },
    /// The stream is complete.
    End(End),
    /// The request cannot be served.
    Error(Refusal),
    /// The subscription stands. Events follow.
    Welcome {
        /// The version spoken from here.
        version: u16,
        /// Sequence number of the newest event at this moment; 0 if there was none yet.
        head: u64,
    },
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// monitord has looked at every event up to `seq` for this subscriber: a reader that filters goes on behind it.
    /// Sent since version 2, at most once a second, and before [`Item::End`].
    Position {
        /// Sequence number of the last event that was looked at.
        seq: u64,
    },
    /// Which journal the numbers of this stream are of. Sent since version 2, right behind [`Item::Welcome`].
    Journal(Lineage),
    /// Something happened, as told through the emit FIFO: not a fact of the engine. Variant 8: see [`crate::event`].
    /// Sent since version 2; version 1 hears it as [`Item::Event`].
    Emitted(Event),
}

/// Where a stream begins, and in which journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Identity of the numbers, drawn at random. It changes when a boot may have taken back what readers saw.
    pub id: u64,
    /// The stream has the events behind this number.
    pub after: u64,
    /// True if the reader named a journal that is not known here: the stream begins at the oldest event then.
    pub replaced: bool,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// History is through, and nothing more was asked for.
    History,
    /// The clock has passed `until`.
    Until,
    /// monitord is stopping. Come back later with the last sequence number.
    Shutdown,
    /// The answer is complete.
    Done,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub reason: Reason,
    /// What was wrong with what, for people.
    pub message: String,
    /// The protocol versions that are spoken here.
    pub versions: Vec<u16>,
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The version is not spoken here.
    Version,
    /// The request is malformed or unknown.
    Request,
    /// A filter, or `since` and `until`, make no sense.
    Argument,
    /// A limit on subscribers is reached.
    Limit,
    /// `after` is a number that no event has yet: the journal is not the one that it came from.
    Ahead,
}

/// monitord's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Time since start, in milliseconds.
    pub uptime_ms: u64,
    /// Sequence number of the newest event; 0 if there is none.
    pub seq: u64,
    /// Events taken since start.
    pub events: u64,
    /// Events per second over the last minute, in thousandths.
    pub events_per_1000s: u64,
    /// Bytes of the FIFO that were no record, since start.
    pub skipped_bytes: u64,
    /// Records refused because this process had them already, since start.
    pub repeated: u64,
    /// Events that writers say they dropped, since start.
    pub writers_lost: u64,
    /// Events that subscribers were told are gone, since start.
    pub subscribers_lost: u64,
    /// Subscribers turned away by a limit, since start.
    pub refused: u64,
    /// The ring.
    pub ring: Extent,
    /// The journal; `None` when it is off.
    pub journal: Option<Journal>,
    /// Everyone connected.
    pub subscribers: Vec<Subscriber>,
    /// Subscribers that did not fit into this answer.
    pub subscribers_left_out: u64,
}

/// What a store of events holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Sequence number of the oldest event in it; 0 if empty.
    pub first: u64,
    /// Sequence number of the newest event in it; 0 if empty.
    pub last: u64,
    /// Bytes taken.
    pub bytes: u64,
    /// Bytes that it may take.
    pub bytes_max: u64,
}

/// The journal's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// What it holds.
    pub extent: Extent,
    /// Number of segment files.
    pub segments: u32,
    /// Why it takes nothing at present; `None` when it works.
    pub failed: Option<String>,
}

/// One subscriber's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// User id of the process that connected. SO_PEERCRED, unix(7).
    pub uid: u32,
    /// Its process id.
    pub pid: i32,
    /// How many events it has still to be given.
    pub lag: u64,
    /// Its filters, as it sent them.
    pub filters: Vec<String>,
    /// Time since it connected, in milliseconds.
    pub age_ms: u64,
}

/// Reads the first frame of a connection on which only `spoken` is spoken.
///
/// # Errors
/// A [`Refusal`] that says which versions are spoken, ready to be sent.
pub fn open<R: serde::de::DeserializeOwned>(body: &[u8], spoken: u16) -> Result<R, Refusal> {
    let refuse = |reason, message| Refusal { reason, message, versions: vec![spoken] };
    match postcard::take_from_bytes::<u16>(body) {
        Ok((version, rest)) if version == spoken => match postcard::take_from_bytes::<R>(rest) {
            Ok((request, [])) => Ok(request),
            _ => Err(refuse(Reason::Request, "request is unknown or malformed".to_owned())),
        },
        Ok((version, _)) => {
            Err(refuse(Reason::Version, format!("protocol version {version} is not spoken here")))
        }
        Err(_) => Err(refuse(Reason::Request, "request names no protocol version".to_owned())),
    }
}

/// Reads the first frame of a connection to `events.sock`: the version, and the request in today's form.
///
/// # Errors
/// A [`Refusal`] that says which versions are spoken, ready to be sent.
pub fn open_watch(body: &[u8]) -> Result<(u16, Request), Refusal> {
    let opened = match postcard::take_from_bytes::<u16>(body) {
        Ok((VERSION_MIN, _)) => {
            open::<Request1>(body, VERSION_MIN).map(|request| (VERSION_MIN, request.into()))
        }
        _ => open::<Request>(body, VERSION).map(|request| (VERSION, request)),
    };
    opened.map_err(|refusal| Refusal { versions: vec![VERSION, VERSION_MIN], ..refusal })
}

/// The first frame of a connection that asks for `request`.
///
/// # Errors
/// [`FrameError::Length`] if the request is larger than a frame.
pub fn opening(request: Request) -> Result<Vec<u8>, FrameError> {
    frame::encode(&Opening { version: VERSION, request })
}

/// [`opening`] for a monitord that speaks version 1 alone. The lineage stays unsaid.
///
/// # Errors
/// [`FrameError::Length`] if the request is larger than a frame.
pub fn opening_1(request: Request) -> Result<Vec<u8>, FrameError> {
    let request = match request {
        Request::Status => Request1::Status,
        Request::Subscribe(Subscribe { filters, since, until, after, follow, lineage: _ }) => {
            Request1::Subscribe(Subscribe1 { filters, since, until, after, follow })
        }
    };
    frame::encode(&(VERSION_MIN, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_either_version_is_read_and_another_version_is_refused() {
        let subscribe = Subscribe { after: Some(7), follow: true, lineage: Some(9), ..Subscribe::default() };
        let old = Subscribe { lineage: None, ..subscribe.clone() };
        for (frame, version, expected) in [
            (opening(Request::Subscribe(subscribe.clone())), 2, subscribe.clone()),
            (opening_1(Request::Subscribe(subscribe)), 1, old),
        ] {
            let frame = frame.expect("small");
            let opened = open_watch(&frame[frame::HEADER_LEN..]).expect("good");
            assert_eq!(opened, (version, Request::Subscribe(expected)));
        }
        let refusal = open_watch(&[3, 0]).expect_err("version 3");
        assert_eq!((refusal.reason, refusal.versions), (Reason::Version, vec![2, 1]));
        // The bytes of version 1 as programs of today send them.
        assert_eq!(opening_1(Request::Status).expect("small")[frame::HEADER_LEN..], [1, 1]);
    }
}
