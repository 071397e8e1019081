//! A subscription that an event loop drives: it never blocks, and continues where it was when monitord restarts.
//!
//! Used by the gateway, one for each client. [`crate::subscription`] is the same for a program with a thread to spare;
//! it has a cursor file and commits, which this module does not have. Starts no thread, and holds no buffer while
//! nothing arrives.
//!
//! ```text
//!            connect            Welcome, Journal
//!  Absent ───────────▶ Opening ─────────────────▶ Subscribed ── End{Until, History} ──▶ Ended
//!    ▲  after a pause     │ closed, limit             │ closed, End{Shutdown}
//!    └────────────────────┴───────────────────────────┘
//! ```

use crate::connection::is_absence;
use crate::event::{EMITTED_TAG, EVENT_TAG, EventView};
use crate::frame::FrameError;
use crate::socket::FrameSocket;
use crate::subscription::WatchError;
use crate::trust::{self, Server};
use crate::watch::{self, End, Item, Lineage, Reason, Request, Subscribe};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most bytes of one read. A read is small, so that a stream whose client does not read holds few bytes.
const READ_BYTES: usize = 8 << 10;
/// Longest message of monitord in a subscription, in bytes. An event has at most 4096 bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// Pause before the first attempt to reconnect; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts to reconnect.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a stream does next.
#[derive(Debug)]
pub enum Next<'a> {
    /// There is a new connection. The caller watches the descriptor for readability, and calls [`EventStream::next_item`]
    /// again. An earlier descriptor is closed.
    Connected(BorrowedFd<'a>),
    /// monitord has accepted the subscription, and says where the stream begins.
    Subscribed(Lineage),
    /// An event, and its sequence number.
    Event(EventView<'a>, u64),
    /// The events from `first` to `last`, including both, are lost: monitord's journal was too small, or damaged.
    Lost {
        /// Sequence number of the first lost event.
        first: u64,
        /// Sequence number of the last lost event.
        last: u64,
    },
    /// There is nothing now. The stream goes on when its descriptor is readable, or at [`EventStream::retry_at`].
    Nothing,
    /// The stream is complete.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is no connection until this time.
    Absent(Instant),
    /// The request is sent. `true` after monitord's welcome.
    Opening(bool),
    Subscribed,
    Ended,
}

/// A sequence number, and the lineage of the journal to which it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The lineage: [`Lineage::id`].
    pub journal: u64,
    /// The sequence number.
    pub seq: u64,
}

/// A subscription that never blocks.
#[derive(Debug)]
pub struct EventStream {
    path: PathBuf,
    subscribe: Subscribe,
    connection: Option<FrameSocket<UnixStream>>,
    stage: Stage,
    pause: Duration,
    /// Whether monitord has accepted the subscription at least once.
    has_begun: bool,
    /// The journal of the present connection.
    journal: u64,
    /// After which event a new connection continues; `None` while only a time says where the stream begins.
    place: Option<Place>,
}

impl EventStream {
    /// Makes a stream from monitord's socket at `path`. The first call of [`EventStream::next_item`] connects.
    pub fn new(path: PathBuf, subscribe: Subscribe) -> Self {
        EventStream {
            path,
            subscribe,
            connection: None,
            stage: Stage::Absent(Instant::now()),
            pause: RETRY_MIN,
            has_begun: false,
            journal: 0,
            place: None,
        }
    }

    /// The journal of the present connection: [`Lineage::id`]; 0 before monitord has accepted the subscription.
    pub fn journal(&self) -> u64 {
        self.journal
    }

    /// After which event a new connection continues; `None` while that is unknown.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// When to call [`EventStream::next_item`] although no descriptor is ready.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Absent(at) => Some(at),
            Stage::Opening(_) | Stage::Subscribed | Stage::Ended => None,
        }
    }

    /// Goes on until there is something for the caller, or nothing can be done now.
    ///
    /// # Errors
    /// [`WatchError::Connect`]: monitord does not listen, and the stream has never begun. [`WatchError::Refused`]:
    /// monitord refuses the subscription. A stream that has begun waits for monitord instead, and for room at
    /// monitord. No call may follow an error.
    pub fn next_item(&mut self) -> Result<Next<'_>, WatchError> {
        loop {
            match self.stage {
                Stage::Ended => return Ok(Next::End),
                Stage::Absent(at) if Instant::now() < at => return Ok(Next::Nothing),
                Stage::Absent(_) => {
                    self.connect()?;
                    if self.connection.is_some() {
                        return Ok(self.connected());
                    }
                    continue;
                }
                Stage::Opening(_) | Stage::Subscribed => {}
            }
            let Some(connection) = &mut self.connection else {
                self.lose();
                continue;
            };
            match connection.next_tag() {
                Some(EVENT_TAG | EMITTED_TAG) if self.stage == Stage::Subscribed => break,
                Some(_) => {
                    if let Some(item) = connection.next_message()?
                        && let Some(next) = self.on_message(item)?
                    {
                        return Ok(next);
                    }
                }
                // A frame that is not valid has no tag.
                None if connection.has_frame() => return Err(FrameError::Message.into()),
                None => {
                    if !self.receive()? {
                        return Ok(Next::Nothing);
                    }
                }
            }
        }
        self.event()
    }

    fn connected(&self) -> Next<'_> {
        self.connection
            .as_ref()
            .map_or(Next::Nothing, |connection| Next::Connected(connection.stream().as_fd()))
    }

    fn event(&mut self) -> Result<Next<'_>, WatchError> {
        let Some(body) = self.connection.as_mut().map(FrameSocket::next_body).transpose()?.flatten() else {
            return Ok(Next::Nothing);
        };
        let event = EventView::of_frame(body).zip(EventView::seq_of_frame(body));
        let (event, seq) = event.ok_or(FrameError::Message)?;
        self.place = Some(Place { journal: self.journal, seq });
        Ok(Next::Event(event, seq))
    }

    /// Makes one attempt to connect. Sets the next attempt if this one fails and is worth another.
    fn connect(&mut self) -> Result<(), WatchError> {
        let mut subscribe = self.subscribe.clone();
        if let Some(place) = self.place {
            (subscribe.after, subscribe.lineage) = (Some(place.seq), Some(place.journal));
        }
        let opening = watch::opening(Request::Subscribe(subscribe))?;
        match self.try_connect(opening) {
            Ok(connection) => (self.connection, self.stage) = (Some(connection), Stage::Opening(false)),
            Err(error) if is_transient(&error) || (self.has_begun && is_absence(&error)) => self.lose(),
            Err(source) => return Err(WatchError::Connect { socket: self.path.clone(), source }),
        }
        Ok(())
    }

    fn try_connect(&self, opening: Vec<u8>) -> io::Result<FrameSocket<UnixStream>> {
        let stream = trust::connect_now(&self.path, Server::Monitord)?;
        let mut connection = FrameSocket::new(stream, MESSAGE_MAX, 0);
        connection.push(opening, Vec::new());
        match connection.flush() {
            // A server at its limit sends a refusal and closes without reading the request. The refusal is read later.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            // The buffer of a new socket is larger than any request.
            Ok(false) => Err(io::Error::other("the socket does not accept the whole request")),
            _ => Ok(connection),
        }
    }

    /// Drops the connection, and sets when to try again.
    fn lose(&mut self) {
        self.connection = None;
        self.stage = Stage::Absent(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }

    /// Reads once. Returns false if there is nothing to read now.
    fn receive(&mut self) -> Result<bool, WatchError> {
        let Some(connection) = &mut self.connection else { return Ok(true) };
        let mut bytes = [0; READ_BYTES];
        match connection.receive(&mut bytes) {
            Ok(0) => self.lose(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.release_memory();
                return Ok(false);
            }
            Err(error) if is_absence(&error) => self.lose(),
            Err(source) => {
                return Err(WatchError::Broken { socket: self.path.clone(), source: Some(source) });
            }
        }
        Ok(true)
    }

    /// Handles a message that is no event. Returns what the caller must know of it.
    fn on_message(&mut self, item: Item) -> Result<Option<Next<'static>>, WatchError> {
        match (item, self.stage) {
            (Item::Welcome { .. }, Stage::Opening(false)) => self.stage = Stage::Opening(true),
            (Item::Journal(lineage), Stage::Opening(true)) => {
                self.begin(lineage);
                return Ok(Some(Next::Subscribed(lineage)));
            }
            (Item::Lost { first, last }, Stage::Subscribed) => {
                self.place = Some(Place { journal: self.journal, seq: last });
                return Ok(Some(Next::Lost { first, last }));
            }
            (Item::Position { seq }, Stage::Subscribed) => {
                self.place = Some(Place { journal: self.journal, seq });
            }
            (Item::End(End::Shutdown), _) => self.lose(),
            (Item::End(_), _) => (self.stage, self.connection) = (Stage::Ended, None),
            (Item::Error(refusal), _) if self.has_begun && refusal.reason == Reason::Limit => self.lose(),
            (Item::Error(refusal), _) => return Err(WatchError::Refused(refusal)),
            _ => return Err(WatchError::OutOfPlace("a message")),
        }
        Ok(None)
    }

    fn begin(&mut self, lineage: Lineage) {
        let by_time =
            self.place.is_none() && self.subscribe.after.is_none() && self.subscribe.since.is_some();
        self.journal = lineage.id;
        // A stream that resumes at the number before the time would also get events from before the time.
        self.place = (!by_time).then_some(Place { journal: lineage.id, seq: lineage.after });
        (self.stage, self.pause, self.has_begun) = (Stage::Subscribed, RETRY_MIN, true);
    }
}

/// Whether another attempt is worthwhile even at the beginning: too many clients wait to be accepted at this moment.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::frame;
    use crate::watch::Refusal;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A monitord of one connection at a time.
    struct Monitord {
        _dir: tempfile::TempDir,
        listener: UnixListener,
        path: PathBuf,
    }

    impl Monitord {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("events.sock");
            let listener = UnixListener::bind(&path).expect("bound");
            Monitord { _dir: dir, listener, path }
        }

        fn accept(&self) -> (UnixStream, Subscribe) {
            let (mut stream, _) = self.listener.accept().expect("a client");
            let mut bytes = vec![0; 4096];
            let len = stream.read(&mut bytes).expect("a request");
            let (body, _) = frame::split(&bytes[..len], MESSAGE_MAX).expect("good").expect("whole");
            match watch::open_watch(body).expect("a request") {
                (watch::VERSION, Request::Subscribe(subscribe)) => (stream, subscribe),
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(stream: &mut UnixStream, items: &[Item]) {
        for item in items {
            stream.write_all(&frame::encode(item).expect("small")).expect("sent");
        }
    }

    fn begin(stream: &mut UnixStream, id: u64, after: u64) {
        let journal = Item::Journal(Lineage { id, after, replaced: false });
        send(stream, &[Item::Welcome { version: 2, head: after }, journal]);
    }

    /// Calls `next` until it is not `Nothing`, and describes what it is.
    fn described(stream: &mut EventStream) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match stream.next_item() {
                Ok(Next::Nothing) => assert!(Instant::now() < until, "nothing happens"),
                Ok(Next::Connected(_)) => return "connected".to_owned(),
                Ok(Next::Subscribed(lineage)) => return format!("journal {} {}", lineage.id, lineage.after),
                Ok(Next::Event(event, seq)) => return format!("{seq} {}", event.id),
                Ok(Next::Lost { first, last }) => return format!("lost {first} {last}"),
                Ok(Next::End) => return "end".to_owned(),
                Err(error) => return crate::report::chain(&error),
            }
        }
    }

    #[test]
    fn a_stream_continues_after_the_last_number_of_the_journal() {
        let monitord = Monitord::new();
        let mut events =
            EventStream::new(monitord.path.clone(), Subscribe { follow: true, ..<_>::default() });
        assert_eq!(described(&mut events), "connected");
        let (mut stream, subscribe) = monitord.accept();
        assert_eq!((subscribe.after, subscribe.lineage), (None, None));
        assert!(matches!(events.next_item(), Ok(Next::Nothing)) && events.retry_at().is_none());
        begin(&mut stream, 5, 10);
        let event = Event { seq: 11, ..Event::new("image", "pull", "a") };
        send(&mut stream, &[Item::Event(event), Item::Position { seq: 20 }]);
        assert_eq!(described(&mut events), "journal 5 10");
        assert_eq!(described(&mut events), "11 a");
        assert!(matches!(events.next_item(), Ok(Next::Nothing)));
        assert_eq!(events.place(), Some(Place { journal: 5, seq: 20 }));
        drop(stream);
        assert!(matches!(events.next_item(), Ok(Next::Nothing)) && events.retry_at().is_some());
        assert_eq!(described(&mut events), "connected");
        let (mut stream, subscribe) = monitord.accept();
        assert_eq!((subscribe.after, subscribe.lineage), (Some(20), Some(5)));
        begin(&mut stream, 6, 20);
        send(&mut stream, &[Item::Lost { first: 21, last: 30 }, Item::End(End::Until)]);
        assert_eq!(described(&mut events), "journal 6 20");
        assert_eq!(described(&mut events), "lost 21 30");
        assert_eq!(events.place(), Some(Place { journal: 6, seq: 30 }));
        assert_eq!(described(&mut events), "end");
    }

    #[test]
    fn a_time_is_asked_for_again_until_the_first_event() {
        let monitord = Monitord::new();
        let subscribe = Subscribe { since: Some(7), follow: true, ..Subscribe::default() };
        let mut events = EventStream::new(monitord.path.clone(), subscribe);
        for _ in 0..2 {
            assert_eq!(described(&mut events), "connected");
            let (mut stream, subscribe) = monitord.accept();
            assert_eq!((subscribe.after, subscribe.since), (None, Some(7)));
            begin(&mut stream, 5, 10);
            assert_eq!(described(&mut events), "journal 5 10");
            assert_eq!(events.place(), None);
        }
    }

    #[test]
    fn an_absent_monitord_is_an_error_only_before_the_stream_has_begun() {
        let mut events = EventStream::new("/nonexistent/events.sock".into(), Subscribe::default());
        assert!(matches!(events.next_item(), Err(WatchError::Connect { .. })));
        let monitord = Monitord::new();
        let mut events =
            EventStream::new(monitord.path.clone(), Subscribe { follow: true, ..<_>::default() });
        assert_eq!(described(&mut events), "connected");
        let (mut stream, _) = monitord.accept();
        begin(&mut stream, 5, 10);
        assert_eq!(described(&mut events), "journal 5 10");
        let Monitord { listener, _dir, .. } = monitord;
        drop((listener, stream));
        for _ in 0..3 {
            while events.retry_at().is_some_and(|at| Instant::now() < at) {
                assert!(matches!(events.next_item(), Ok(Next::Nothing)));
            }
            assert!(matches!(events.next_item(), Ok(Next::Nothing)));
        }
    }

    #[test]
    fn a_refusal_and_bytes_that_are_no_message_end_a_stream() {
        for (answer, expected) in [
            (
                frame::encode(&Item::Error(Refusal {
                    reason: Reason::Argument,
                    message: "no such filter".to_owned(),
                    versions: vec![2],
                }))
                .expect("small"),
                "no such filter",
            ),
            (vec![0xff; 64], "cannot understand what monitord sends"),
            (frame::encode(&Item::Position { seq: 1 }).expect("small"), "out of place"),
        ] {
            let monitord = Monitord::new();
            let mut events = EventStream::new(monitord.path.clone(), Subscribe::default());
            assert_eq!(described(&mut events), "connected");
            let (mut stream, _) = monitord.accept();
            stream.write_all(&answer).expect("sent");
            let said = described(&mut events);
            assert!(said.contains(expected), "{said}");
        }
    }
}
