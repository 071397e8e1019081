//! One connected client: who it is, what it asked for, and how far it has been served.
//!
//! Owned by the table of clients; shared with no thread. It has no queue: it is a cursor over the store and,
//! at times, the rest of one frame that its socket did not take. Frames are chosen elsewhere.

use crate::checker::Deadline;
use crate::ring::Cursor;
use mio::net::UnixStream;
use sampan_daemon::listen::Peer;
use sampan_ipc::event::EventView;
use sampan_ipc::filter::FilterSet;
use sampan_ipc::frame::Decoder;
use sampan_ipc::watch::End;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Instant;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub stream: UnixStream,
    /// Who it is.
    pub peer: Peer,
    /// Since when it is here.
    pub since: Instant,
    /// What it is doing.
    pub state: State,
    /// Bytes that go before anything else: the rest of a frame, or a frame of this process's own.
    pub out: Vec<u8>,
    /// True while its socket takes no more.
    pub blocked: bool,
    /// True while the poll tells when its socket takes bytes again.
    pub watched_for_room: bool,
    /// Its deadline at the checker.
    pub deadline: Option<Deadline>,
}

/// What a client is doing.
#[derive(Debug)]
pub enum State {
    /// Its request is not whole yet.
    Opening(Box<Decoder>),
    /// It is given events.
    Subscribed(Subscription),
    /// It is given what is left of its last frame, and then closed.
    Leaving,
}

/// What a subscriber is to be given.
#[derive(Debug)]
pub struct Subscription {
    /// The next byte that it has not been given, and the number of the frame that it belongs to.
    pub at: Cursor,
    /// True while `at` is inside a frame of the journal: its number is that of an earlier frame then. The
    /// frame goes out from the file; before the file may go, [`crate::clients::Clients::settle`] reads the rest.
    pub inside: bool,
    /// Which events; `None` is all of them.
    pub select: Option<Rc<Select>>,
    /// Where its stream ends, and why; `None` while it follows.
    pub stop: Option<(u64, End)>,
    /// The filters as it sent them, for people.
    pub terms: Rc<[String]>,
    /// What it knows of its position; `None` if it needs no telling: it has no filter, or speaks version 1.
    pub told: Option<Told>,
}

/// What a subscriber with a filter knows of how far monitord has looked for it.
#[derive(Debug)]
pub struct Told {
    /// Everything up to this number: its last event, or its last position.
    pub seq: u64,
    /// When it was last sent a position.
    pub at: Option<Instant>,
}

impl Subscription {
    /// Up to which number the subscriber is to be told that monitord has looked; `None` if it knows.
    pub fn owed_position(&self) -> Option<u64> {
        let seq = self.at.seq.saturating_sub(1);
        self.told.as_ref().filter(|told| told.seq < seq).map(|_| seq)
    }
}

/// Which events a subscriber wants. Subscribers that want the same share one.
#[derive(Debug)]
pub struct Select {
    /// Tells it from the others.
    pub class: u64,
    /// What it is made of.
    pub wish: Wish,
}

/// The parts of a [`Select`].
#[derive(Debug, PartialEq)]
pub struct Wish {
    /// Filters.
    pub filters: FilterSet,
    /// Earliest time, included.
    pub since: Option<i64>,
    /// Latest time, included.
    pub until: Option<i64>,
    /// Events that came through the emit FIFO are sent as any other: version 1 knows no mark.
    pub unmarked: bool,
}

impl Wish {
    /// True if it is for every event.
    pub fn is_all(&self) -> bool {
        self.filters.is_empty() && self.since.is_none() && self.until.is_none() && !self.unmarked
    }

    /// True if the event is wanted.
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
            && self.filters.matches(event)
    }
}

impl Client {
    /// A client that has just come.
    pub fn new(stream: UnixStream, peer: Peer, request_max: usize) -> Self {
        Client {
            stream,
            peer,
            since: Instant::now(),
            state: State::Opening(Box::new(Decoder::new(request_max))),
            out: Vec::new(),
            blocked: false,
            watched_for_room: false,
            deadline: None,
        }
    }

    /// Writes what goes before anything else; true once nothing of it is left.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
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
        // An idle subscriber holds no buffer.
        self.out = Vec::new();
        Ok(true)
    }

    /// How many events it has still to be given, of those before `visible`.
    pub fn lag(&self, visible: Cursor) -> u64 {
        match &self.state {
            State::Subscribed(subscription) => visible.seq.saturating_sub(subscription.at.seq),
            State::Opening(_) | State::Leaving => 0,
        }
    }
}
