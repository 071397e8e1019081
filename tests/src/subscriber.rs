//! A subscriber that implements the protocol of `events.sock` without the client library.
//!
//! Used by the end-to-end tests, so that an error of the library cannot hide an error of monitord.

use sampan_ipc::Event;
use sampan_ipc::event::{EMITTED_TAG, Origin};
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_ipc::watch::{End, Item, Lineage, Refusal, Request, Subscribe, opening};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a condition may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to monitord.
#[derive(Debug)]
pub struct Subscriber {
    stream: UnixStream,
    decoder: Decoder,
    read: Box<[u8]>,
    /// The lineage that monitord sent.
    pub lineage: Option<Lineage>,
    /// The positions that monitord sent.
    pub positions: Vec<u64>,
}

impl Subscriber {
    /// Connects and subscribes, without waiting for a reply.
    ///
    /// # Errors No process listens, or the connection broke.
    pub fn subscribe(socket: &Path, subscribe: Subscribe) -> io::Result<Self> {
        Self::ask(socket, Request::Subscribe(subscribe))
    }

    /// Connects and sends `request`.
    ///
    /// # Errors No process listens, or the connection broke.
    pub fn ask(socket: &Path, request: Request) -> io::Result<Self> {
        let mut subscriber = Self::connect(socket)?;
        subscriber.send(&opening(request).expect("a test's request is small"))?;
        Ok(subscriber)
    }

    /// Connects and sends nothing.
    ///
    /// # Errors No process listens.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Subscriber {
            stream,
            decoder: Decoder::new(FRAME_MAX),
            read: vec![0; 16 << 10].into(),
            lineage: None,
            positions: Vec::new(),
        })
    }

    /// Sends these bytes.
    ///
    /// # Errors The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.write_all(bytes) {
            // monitord may refuse and close a connection before the request is written.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// The connection's socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Receives the next item; `None` when monitord has closed the connection. Stores lineage and positions instead of
    /// returning them.
    ///
    /// # Errors The connection broke, nothing arrived in time, or the bytes are not an item.
    pub fn try_next(&mut self) -> io::Result<Option<Item>> {
        loop {
            match self.decoder.next_message().map_err(io::Error::other)? {
                Some(Item::Journal(lineage)) => {
                    self.lineage = Some(lineage);
                    continue;
                }
                Some(Item::Position { seq }) => {
                    self.positions.push(seq);
                    continue;
                }
                Some(item) => return Ok(Some(item)),
                None => {}
            }
            match self.stream.read(&mut self.read) {
                Ok(0) if self.decoder.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.decoder.push(&self.read[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives the next item; panics if there is none.
    pub fn item(&mut self) -> Item {
        match self.try_next() {
            Ok(Some(item)) => item,
            Ok(None) => panic!("monitord closed the connection"),
            Err(error) => panic!("no item came: {error}"),
        }
    }

    /// Receives the welcome, which must be the next item; returns its number of the newest event.
    pub fn welcome(&mut self) -> u64 {
        match self.item() {
            Item::Welcome { head, .. } => head,
            item => panic!("not a welcome: {item:?}"),
        }
    }

    /// Receives the next event; skips a welcome before it, and panics on any other item.
    pub fn event(&mut self) -> Event {
        loop {
            match self.item() {
                Item::Event(event) => return event,
                Item::Emitted(event) => return Event { origin: Origin::Emit, ..event },
                Item::Welcome { .. } => {}
                item => panic!("not an event: {item:?}"),
            }
        }
    }

    /// Receives the next event, and returns its number without decoding the rest.
    pub fn seq(&mut self) -> u64 {
        loop {
            match self.decoder.next_body() {
                // An event's frame begins with its tag and ends with its number.
                Ok(Some([0 | EMITTED_TAG, .., a, b, c, d, e, f, g, h])) => {
                    return u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                }
                Ok(Some(body)) => {
                    match frame::parse(body) {
                        Ok(Item::Journal(lineage)) => self.lineage = Some(lineage),
                        Ok(Item::Position { seq }) => self.positions.push(seq),
                        other => panic!("not an event: {other:?}"),
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => panic!("no frame came: {error}"),
            }
            match self.stream.read(&mut self.read) {
                Ok(0) => panic!("monitord closed the connection"),
                Ok(len) => self.decoder.push(&self.read[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no event came: {error}"),
            }
        }
    }

    /// Receives events up to and including the first for which `last` is true.
    pub fn until(&mut self, mut last: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.event();
            let done = last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
    }

    /// Receives all events up to the end of the stream; returns them and the reason of the end.
    pub fn to_end(&mut self) -> (Vec<Event>, End) {
        let mut events = Vec::new();
        loop {
            match self.item() {
                Item::Event(event) => events.push(event),
                Item::Emitted(event) => events.push(Event { origin: Origin::Emit, ..event }),
                Item::Welcome { .. } => {}
                Item::End(end) => {
                    assert!(matches!(self.try_next(), Ok(None)), "something came after the end");
                    return (events, end);
                }
                item => panic!("not an event: {item:?}"),
            }
        }
    }

    /// Receives a refusal; panics on any other item.
    pub fn refusal(&mut self) -> Refusal {
        match self.item() {
            Item::Error(refusal) => refusal,
            item => panic!("not refused: {item:?}"),
        }
    }
}
