//! The protocol of `events.sock`: requests of clients and answers of monitord.
//!
//! Each connection carries one request. The client sends one [`Opening`], which has the protocol version; monitord
//! answers with [`Item`]s. A stream ends with [`Item::End`] or [`Item::Error`]; a stream that ends without either is
//! broken. Enum variants are numbered by position on the wire: append, never reorder.

use crate::event::Event;
use crate::frame::{self, FrameError};
use serde::{Deserialize, Serialize};

/// The current protocol version. monitord also serves version 1, which has no [`Subscribe::lineage`],
/// [`Item::Position`], [`Item::Journal`] and [`Item::Emitted`].
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
    /// The protocol version of `request`.
    pub version: u16,
    /// The request.
    pub request: Request,
}

/// A request to monitord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Subscribe to events; answered by [`Item::Welcome`], events, and [`Item::End`].
    Subscribe(Subscribe),
    /// Report monitord's state; answered by [`Item::Status`] and [`Item::End`].
    Status,
}

/// Which events to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// `key=value` filters, see [`crate::filter`]; OR within a key, AND across keys.
    pub filters: Vec<String>,
    /// Only events with this time or a later one, in nanoseconds since the epoch. The stream begins with past events.
    pub since: Option<i64>,
    /// Only events with this time or an earlier one, in nanoseconds since the epoch. The stream ends after this time.
    pub until: Option<i64>,
    /// Only events after this sequence number. The stream begins with past events; `Some(0)` means all events.
    pub after: Option<u64>,
    /// Go on with new events; otherwise the stream ends after the past events.
    pub follow: bool,
    /// The ID of the lineage to which the number `after` belongs; `None` if the reader does not know it. Since version
    /// 2.
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

/// An answer of monitord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// An event from the monitor FIFO. Variant 0: see [`crate::event`].
    Event(Event),
    /// The events from `first` to `last`, including both, are lost: monitord's journal was too small, or damaged.
    Lost {
        /// Sequence number of the first lost event.
        first: u64,
        /// Sequence number of the last lost event.
        last: u64,
    },
    /// The stream is complete.
    End(End),
    /// monitord refuses the request.
    Error(Refusal),
    /// monitord has accepted the subscription. Events follow.
    Welcome {
        /// The protocol version of this connection.
        version: u16,
        /// Sequence number of the newest event at this moment; 0 if there is none yet.
        head: u64,
    },
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// monitord has compared every event up to `seq` with this subscriber's filters, and the subscriber may resume
    /// after `seq`. Sent since version 2, at most once a second, and before [`Item::End`].
    Position {
        /// Sequence number of the last event that monitord has compared.
        seq: u64,
    },
    /// The journal to which the sequence numbers of this stream belong. Sent since version 2, directly after
    /// [`Item::Welcome`].
    Journal(Lineage),
    /// An event from the emit FIFO. The engine does not vouch for its truth. Variant 8: see [`crate::event`]. Sent
    /// since version 2; a client of version 1 gets [`Item::Event`] instead.
    Emitted(Event),
}

/// The journal of a stream, and the stream's beginning in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// ID of the sequence of numbers, drawn at random. monitord draws a new ID when a crash of the host may have
    /// removed events that readers have got, because new events then get the numbers of the removed ones.
    pub id: u64,
    /// The stream has the events after this sequence number.
    pub after: u64,
    /// Whether the reader named another lineage than this one; the stream then begins with the oldest event.
    pub replaced: bool,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// All past events are sent, and the request did not include [`Subscribe::follow`].
    History,
    /// The time [`Subscribe::until`] has passed.
    Until,
    /// monitord is stopping. The client can connect later and resume after the last sequence number.
    Shutdown,
    /// The answer is complete.
    Done,
}

/// Why monitord or the engine refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of refusal.
    pub reason: Reason,
    /// The reason for people.
    pub message: String,
    /// The protocol versions that the server speaks.
    pub versions: Vec<u16>,
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The server does not speak the protocol version of the request.
    Version,
    /// The request is malformed or unknown.
    Request,
    /// A filter is invalid, or the time `since` is later than the time `until`.
    Argument,
    /// A limit on subscribers is reached.
    Limit,
    /// No event has the sequence number `after` yet, so the number belongs to another journal.
    Ahead,
}

/// monitord's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Process ID.
    pub pid: u32,
    /// Time since monitord's start, in milliseconds.
    pub uptime_ms: u64,
    /// Sequence number of the newest event; 0 if there is none.
    pub seq: u64,
    /// Number of events accepted since the start.
    pub events: u64,
    /// Events per second over the last minute, in thousandths.
    pub events_per_1000s: u64,
    /// Bytes from the FIFOs that belonged to no valid record, since the start.
    pub skipped_bytes: u64,
    /// Number of records discarded as duplicates since the start.
    pub repeated: u64,
    /// Number of events that writers report as dropped, since the start.
    pub writers_lost: u64,
    /// Number of events reported to subscribers as lost, since the start.
    pub subscribers_lost: u64,
    /// Number of subscribers refused because of a limit, since the start.
    pub refused: u64,
    /// The events that monitord holds in memory.
    pub ring: Extent,
    /// The journal; `None` if it is switched off.
    pub journal: Option<Journal>,
    /// The connected subscribers.
    pub subscribers: Vec<Subscriber>,
    /// Number of subscribers that did not fit into this answer.
    pub subscribers_left_out: u64,
}

/// The range of events in memory or in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Sequence number of the oldest event; 0 if there is none.
    pub first: u64,
    /// Sequence number of the newest event; 0 if there is none.
    pub last: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Most bytes that may be in use.
    pub bytes_max: u64,
}

/// The journal's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The events in the journal.
    pub extent: Extent,
    /// Number of segment files.
    pub segments: u32,
    /// Why the journal accepts no events at present; `None` if it works.
    pub failed: Option<String>,
}

/// One subscriber's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// User ID of the process that connected. SO_PEERCRED, unix(7).
    pub uid: u32,
    /// ID of the process that connected.
    pub pid: i32,
    /// Number of events that monitord has not yet sent to the subscriber.
    pub lag: u64,
    /// The filters as the subscriber sent them.
    pub filters: Vec<String>,
    /// Age of the connection in milliseconds.
    pub age_ms: u64,
}

/// Parses the first frame of a connection to a server that speaks only the protocol version `spoken`.
///
/// # Errors
/// The [`Refusal`] to send to the client, if the version is another one or the request is malformed.
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

/// Parses the first frame of a connection to `events.sock`. Returns the version, and the request in its current form.
///
/// # Errors
/// The [`Refusal`] to send to the client, if the version is unknown or the request is malformed.
pub fn open_watch(body: &[u8]) -> Result<(u16, Request), Refusal> {
    let opened = match postcard::take_from_bytes::<u16>(body) {
        Ok((VERSION_MIN, _)) => {
            open::<Request1>(body, VERSION_MIN).map(|request| (VERSION_MIN, request.into()))
        }
        _ => open::<Request>(body, VERSION).map(|request| (VERSION, request)),
    };
    opened.map_err(|refusal| Refusal { versions: vec![VERSION, VERSION_MIN], ..refusal })
}

/// Encodes `request` as the first frame of a connection.
///
/// # Errors
/// [`FrameError::Length`] if the request is larger than a frame.
pub fn opening(request: Request) -> Result<Vec<u8>, FrameError> {
    frame::encode(&Opening { version: VERSION, request })
}

/// Like [`opening`], for a monitord that speaks only version 1. The frame lacks [`Subscribe::lineage`].
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
        // The bytes of version 1 as released programs send them.
        assert_eq!(opening_1(Request::Status).expect("small")[frame::HEADER_LEN..], [1, 1]);
    }
}
