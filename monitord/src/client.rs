//! One connected client: its peer, its request, and how far it has been served.
//!
//! Owned by [`crate::clients::Clients`]; shared with no thread. A client has no queue: it is a cursor over the store
//! and, at times, the rest of one frame that its socket did not take. Which frames it is sent is decided in
//! [`crate::clients`].

use crate::deadlines::Deadline;
use crate::ring::Cursor;
use crate::until::Stop;
use mio::net::UnixStream;
use sampan_daemon::listen::Peer;
use sampan_ipc::event::EventView;
use sampan_ipc::filter::FilterSet;
use sampan_ipc::frame::Decoder;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Instant;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) peer: Peer,
    pub(crate) connected_at: Instant,
    pub(crate) state: State,
    /// Bytes that are sent before anything else: the rest of an event's frame, or a frame of this process's own.
    pub(crate) out: Vec<u8>,
    /// True while the socket's send buffer is full.
    pub(crate) blocked: bool,
    /// True while the poll also reports when the socket can be written.
    pub(crate) polled_for_write: bool,
    /// The deadline that is armed for this client, so that it can be disarmed.
    pub(crate) deadline: Option<Deadline>,
}

/// The phase of a connection.
#[derive(Debug)]
pub(crate) enum State {
    /// The request has not arrived completely.
    Opening(Box<Decoder>),
    /// The client is served events.
    Subscribed(Subscription),
    /// The client is sent the bytes in `out`, and then closed.
    Leaving,
}

/// A subscriber's place in the events, and which of them it wants.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The next byte to be served, and the sequence number of the frame that this byte belongs to.
    pub(crate) at: Cursor,
    /// True while `at.pos` is inside a frame of the journal; `at.seq` is then the number of an earlier frame. The rest
    /// of the frame is served from the file. Before the journal removes that file,
    /// [`crate::clients::Clients::finish_frames`] reads the rest into `out`.
    pub(crate) inside: bool,
    /// Which events the subscriber wants; `None` is all of them, unchanged.
    pub(crate) criteria: Option<Rc<SharedCriteria>>,
    /// Where the subscription ends; `None` while it has no end. Set by [`crate::until`].
    pub(crate) stop: Option<Stop>,
    /// The filters as the subscriber sent them, for `sampan system info`.
    pub(crate) terms: Rc<[String]>,
    /// What the subscriber knows of its position. `None` if it needs no position frames: it has no filter, or speaks
    /// version 1.
    pub(crate) known: Option<KnownPosition>,
}

/// How far a subscriber with a filter knows that monitord has searched for it.
#[derive(Debug)]
pub(crate) struct KnownPosition {
    /// Number of the last event, or of the last position frame, that it was sent.
    pub(crate) seq: u64,
    /// When it was last sent a position frame.
    pub(crate) sent_at: Option<Instant>,
}

impl Subscription {
    /// The number of the last event that monitord has searched, if the subscriber does not know it yet.
    pub(crate) fn unreported_position(&self) -> Option<u64> {
        let seq = self.at.seq.saturating_sub(1);
        self.known.as_ref().filter(|known| known.seq < seq).map(|_| seq)
    }
}

/// Criteria that all subscribers with equal criteria share.
#[derive(Debug)]
pub(crate) struct SharedCriteria {
    /// Unique number of these criteria, from 1; never used again.
    pub(crate) id: u64,
    pub(crate) criteria: Criteria,
}

/// Which events a subscriber wants, and in which form.
#[derive(Debug, PartialEq)]
pub(crate) struct Criteria {
    pub(crate) filters: FilterSet,
    /// Earliest event time, inclusive, in nanoseconds since the epoch.
    pub(crate) since: Option<i64>,
    /// Latest event time, inclusive, in nanoseconds since the epoch.
    pub(crate) until: Option<i64>,
    /// Send events of the emit FIFO without their mark: version 1 of the protocol does not know it.
    pub(crate) unmarked: bool,
}

impl Criteria {
    /// True if every event is wanted, unchanged.
    pub(crate) fn is_all(&self) -> bool {
        self.filters.is_empty() && self.since.is_none() && self.until.is_none() && !self.unmarked
    }

    /// True if `event` is wanted.
    pub(crate) fn matches(&self, event: &EventView<'_>) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
            && self.filters.matches(event)
    }
}

impl Client {
    /// Makes the state of a new connection, whose request may be `request_max` bytes long.
    pub(crate) fn new(stream: UnixStream, peer: Peer, request_max: usize) -> Self {
        Client {
            stream,
            peer,
            connected_at: Instant::now(),
            state: State::Opening(Box::new(Decoder::new(request_max))),
            out: Vec::new(),
            blocked: false,
            polled_for_write: false,
            deadline: None,
        }
    }

    /// Writes the bytes in `out`; true once all are written.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // An idle subscriber keeps no buffer.
        self.out = Vec::new();
        Ok(true)
    }

    /// Number of visible events that the client has not been served yet.
    pub(crate) fn lag(&self, visible: Cursor) -> u64 {
        match &self.state {
            State::Subscribed(subscription) => visible.seq.saturating_sub(subscription.at.seq),
            State::Opening(_) | State::Leaving => 0,
        }
    }
}
