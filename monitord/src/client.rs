//! One connected client: its peer, its request, and its place in the events.
//!
//! [`crate::clients::Clients`] owns it; no thread shares it. A client has no queue: it has a cursor into the store
//! and, at times, the rest of one frame that its socket did not accept. [`crate::clients`] decides which frames it
//! gets.

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
    /// Bytes to send before anything else: the rest of an event's frame, or a frame that this process has made.
    pub(crate) out: Vec<u8>,
    /// Whether the socket's send buffer is full.
    pub(crate) blocked: bool,
    /// Whether the poll also reports when the socket can be written.
    pub(crate) polled_for_write: bool,
    /// The deadline of this client, stored so that it can be disarmed.
    pub(crate) deadline: Option<Deadline>,
}

/// The phase of a connection.
#[derive(Debug)]
pub(crate) enum State {
    /// The request has not arrived completely.
    Opening(Box<Decoder>),
    /// The client gets events.
    Subscribed(Subscription),
    /// The client gets the bytes in `out`; then its connection is closed.
    Leaving,
}

/// A subscriber's place in the events, and the events that it wants.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The next byte to send, and the sequence number of the frame that this byte belongs to.
    pub(crate) at: Cursor,
    /// Whether `at.pos` is inside a frame of the journal; `at.seq` is then the number of an earlier frame. The rest of
    /// the frame is sent from the file. Before the journal removes that file,
    /// [`crate::clients::Clients::finish_frames`] reads the rest into `out`.
    pub(crate) inside: bool,
    /// The events that the subscriber wants; `None` means all events, unchanged.
    pub(crate) criteria: Option<Rc<SharedCriteria>>,
    /// The end of the subscription; `None` while it has no end. [`crate::until`] sets it.
    pub(crate) stop: Option<Stop>,
    /// The filters as the subscriber sent them, for `sampan system info`.
    pub(crate) terms: Rc<[String]>,
    /// The subscriber's knowledge of its position. `None` if it needs no position frames: it has no filter, or it
    /// speaks version 1. Boxed, since most subscribers have no filter, and an idle subscriber must stay small.
    pub(crate) known: Option<Box<KnownPosition>>,
}

/// The position up to which a subscriber with a filter knows that monitord has searched.
#[derive(Debug)]
pub(crate) struct KnownPosition {
    /// Sequence number of the last event or position frame that the subscriber was sent.
    pub(crate) seq: u64,
    /// When the subscriber was last sent a position frame.
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

/// The events that a subscriber wants, and their form.
#[derive(Debug, PartialEq)]
pub(crate) struct Criteria {
    pub(crate) filters: FilterSet,
    /// Earliest event time, inclusive, in nanoseconds since the epoch.
    pub(crate) since: Option<i64>,
    /// Latest event time, inclusive, in nanoseconds since the epoch.
    pub(crate) until: Option<i64>,
    /// Whether events of the emit FIFO are sent without their mark, which version 1 of the protocol does not have.
    pub(crate) unmarked: bool,
}

impl Criteria {
    /// Whether the subscriber wants every event, unchanged.
    pub(crate) fn is_all(&self) -> bool {
        self.filters.is_empty() && self.since.is_none() && self.until.is_none() && !self.unmarked
    }

    /// Whether the subscriber wants `event`.
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

    /// Writes the bytes in `out`. Returns whether all of them are written.
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
        // Free the buffer, so that an idle subscriber has none.
        self.out = Vec::new();
        Ok(true)
    }

    /// Number of visible events that the client has not been sent yet.
    pub(crate) fn lag(&self, visible: Cursor) -> u64 {
        match &self.state {
            State::Subscribed(subscription) => visible.seq.saturating_sub(subscription.at.seq),
            State::Opening(_) | State::Leaving => 0,
        }
    }
}
