//! A subscriber that speaks the protocol of `events.sock` by itself, without the client library.
//!
//! Used by the end-to-end tests, so that monitord and the library are not tested by each other's mistakes.

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

/// One connection to monitord.
#[derive(Debug)]
pub struct Subscriber {
    stream: UnixStream,
    decoder: Decoder,
    read: Box<[u8]>,
    /// What monitord said of its journal.
    pub lineage: Option<Lineage>,
    /// The positions that it told.
    pub positions: Vec<u64>,
}

impl Subscriber {
    /// Connects and subscribes; the answer is not awaited.
    ///
    /// # Errors
    /// Nobody listens, or the connection broke.
    pub fn subscribe(socket: &Path, subscribe: Subscribe) -> io::Result<Self> {
        Self::ask(socket, Request::Subscribe(subscribe))
    }

    /// Connects and sends `request`.
    ///
    /// # Errors
    /// As [`Subscriber::subscribe`].
    pub fn ask(socket: &Path, request: Request) -> io::Result<Self> {
        let mut subscriber = Self::connect(socket)?;
        subscriber.send(&opening(request).expect("a test's request is small"))?;
        Ok(subscriber)
    }

    /// Connects and says nothing.
    ///
    /// # Errors
    /// As [`Subscriber::subscribe`].
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

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.write_all(bytes) {
            // One that is turned away may be told, and closed, before its request is out.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// The connection itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next item; `None` when monitord has closed the connection. Lineage and positions are put aside.
    ///
    /// # Errors
    /// The connection broke, nothing came in time, or what came is no item.
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

    /// The next item, which must come.
    pub fn item(&mut self) -> Item {
        match self.try_next() {
            Ok(Some(item)) => item,
            Ok(None) => panic!("monitord closed the connection"),
            Err(error) => panic!("no item came: {error}"),
        }
    }

    /// The head that the subscription was welcomed with; must come first.
    pub fn welcome(&mut self) -> u64 {
        match self.item() {
            Item::Welcome { head, .. } => head,
            item => panic!("not a welcome: {item:?}"),
        }
    }

    /// The next event; a welcome before it is passed over, anything else is a failure.
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

    /// The number of the next event, which must come, without reading the rest of it.
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

    /// Events as they come until one of them is `last`, which is among them.
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

    /// All that comes until the end, which must come: events, and why it ended.
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

    /// The refusal that must come.
    pub fn refusal(&mut self) -> Refusal {
        match self.item() {
            Item::Error(refusal) => refusal,
            item => panic!("not refused: {item:?}"),
        }
    }
}
