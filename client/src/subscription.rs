//! Events as an iterator, across restarts of monitord and of the program that reads them.
//!
//! [`Watch`] is what is asked for, [`Subscription`] is being answered. The place in the sequence of all events
//! is kept here, so that a new connection goes on exactly where the last one broke. Starts no thread.

use crate::connection::{Connection, Received, Stop, Woken, is_absence};
use crate::cursor::CursorFile;
use sampan_ipc::event::{Event, Origin};
use sampan_ipc::frame::{self, FrameError};
use sampan_ipc::paths::Paths;
use sampan_ipc::report::chain;
use sampan_ipc::time::{self, TimeError};
use sampan_ipc::trust::Server;
use sampan_ipc::watch::{self, End, Reason, Refusal, Request, Subscribe};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// First pause before monitord is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause: the most that monitord's return can go unnoticed.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Something happened.
    Event(Event),
    /// The events `first` to `last`, both included, are gone: monitord's journal was too small, or damaged.
    Lost {
        /// Sequence number of the first one.
        first: u64,
        /// Sequence number of the last one.
        last: u64,
    },
}

/// Which events, from where, until when, and what to do when monitord goes away.
///
/// By default: every event that happens from now on, for ever, with reconnection.
#[derive(Clone, Debug)]
pub struct Watch {
    socket: PathBuf,
    subscribe: Subscribe,
    reconnect: bool,
    cursor_file: Option<PathBuf>,
}

/// Why a subscription failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// monitord cannot be reached.
    #[error("cannot connect to monitord at {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection failed, or ended without saying why, and was not to be made again.
    #[error("connection to monitord at {} broke off", socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// Why; `None` if it was closed without a word.
        source: Option<io::Error>,
    },
    /// monitord is stopping, and the connection was not to be made again.
    #[error("monitord is stopping")]
    Shutdown,
    /// monitord refuses what is asked for.
    #[error("monitord refuses the subscription: {}", .0.message)]
    Refused(Refusal),
    /// monitord sends what is no message.
    #[error("cannot understand what monitord sends")]
    Protocol(#[from] FrameError),
    /// monitord sends a message where another belongs.
    #[error("monitord sends {0} out of place")]
    OutOfPlace(&'static str),
    /// `since` lies behind `until`.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The cursor file cannot be read or written.
    #[error("cannot use cursor file {}", path.display())]
    CursorFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A system call on this process's own descriptors failed.
    #[error("cannot wait for events")]
    System(#[source] io::Error),
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

impl Watch {
    /// Every event that happens from now on, from the socket that the environment gives.
    pub fn new() -> Self {
        Watch {
            socket: Paths::from_env().events_socket(),
            subscribe: Subscribe { follow: true, ..Subscribe::default() },
            reconnect: true,
            cursor_file: None,
        }
    }

    /// Asks the monitord that listens here.
    #[must_use]
    pub fn socket(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = socket.into();
        self
    }

    /// One more `key=value` filter, see [`sampan_ipc::filter`]: OR within a key and AND across keys.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.subscribe.filters.push(filter.into());
        self
    }

    /// Begins with past events of this time and later, in nanoseconds since the epoch.
    #[must_use]
    pub fn since(mut self, since: i64) -> Self {
        self.subscribe.since = Some(since);
        self
    }

    /// Ends behind the last event of this time, in nanoseconds since the epoch, or when the clock passes it.
    #[must_use]
    pub fn until(mut self, until: i64) -> Self {
        self.subscribe.until = Some(until);
        self
    }

    /// Begins behind the event with this sequence number; 0 is all there is.
    #[must_use]
    pub fn after(mut self, seq: u64) -> Self {
        self.subscribe.after = Some(seq);
        self
    }

    /// Whether to go on with what happens from now; without it the iterator ends when history is through.
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.subscribe.follow = follow;
        self
    }

    /// Whether to connect again, and go on behind the last event, when monitord restarts.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Remembers in this file how far the program has come.
    ///
    /// If the file knows a sequence number, the subscription begins behind it, and [`Watch::since`] and
    /// [`Watch::after`] say nothing: they are for the first run. An event counts as dealt with when the next one
    /// is asked for. The file is written whenever the iterator is about to wait, and every 100 ms while it has
    /// no need to; so a program that is killed may meet the last events a second time, never miss one.
    #[must_use]
    pub fn cursor_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cursor_file = Some(path.into());
        self
    }

    /// Subscribes.
    ///
    /// Returns once monitord has taken the subscription, so nothing that happens from here on is missed. A
    /// monitord that is not there is an error at this point, with one exception: a subscription that reconnects
    /// and has a cursor file belongs to a program that is to run for long, perhaps started before monitord is;
    /// it waits inside the iterator.
    ///
    /// # Errors
    /// [`WatchError::Connect`]: nobody listens. [`WatchError::Refused`]: a filter is wrong, or a limit reached.
    pub fn start(self) -> Result<Subscription, WatchError> {
        time::in_order(self.subscribe.since, self.subscribe.until)?;
        let mut subscription = Subscription {
            stop: Stop::new().map_err(WatchError::System)?,
            watch: self,
            connection: None,
            cursor: None,
            dealt_with: None,
            cursor_file: None,
            ended: false,
            stopped: false,
        };
        subscription.open_cursor_file()?;
        match subscription.connect() {
            Err(error) if subscription.cursor_file.is_some() && subscription.is_worth_a_retry(&error) => {
                log::warn!("{}; waiting for it", chain(&error));
            }
            other => other?,
        }
        Ok(subscription)
    }
}

/// Events, one after the other; made by [`Watch::start`].
///
/// The iterator ends when everything asked for has come (`until` has passed, history is through) or when its
/// [`Stopper`] was used. After an error it has ended as well.
#[derive(Debug)]
pub struct Subscription {
    watch: Watch,
    connection: Option<Connection>,
    stop: Stop,
    /// Everything up to this sequence number has been returned.
    cursor: Option<u64>,
    /// Everything up to this one has been dealt with.
    dealt_with: Option<u64>,
    cursor_file: Option<CursorFile>,
    ended: bool,
    stopped: bool,
}

/// Ends a [`Subscription`] from another thread, or from a signal handler that writes a byte to its descriptor.
#[derive(Debug)]
pub struct Stopper(pub(crate) UnixStream);

impl Stopper {
    /// Ends the iterator: it returns `None` instead of waiting.
    pub fn stop(&self) {
        use std::io::Write as _;
        // Full means that a byte is there already.
        let _ = (&self.0).write(&[0]);
    }
}

impl AsRawFd for Stopper {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Stopper> for UnixStream {
    fn from(stopper: Stopper) -> UnixStream {
        stopper.0
    }
}

impl Iterator for Subscription {
    type Item = Result<Item, WatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.dealt_with = self.cursor;
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.ended = true;
            self.connection = None;
            if let Err(error) = self.save_cursor() {
                return Some(Err(error));
            }
        }
        next
    }
}

impl Subscription {
    /// Sequence number of the last event that was returned, or of the newest one when the subscription began;
    /// `None` if nothing is known yet. A later [`Watch::after`] takes it.
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// A handle that ends the iterator from elsewhere.
    ///
    /// # Errors
    /// [`WatchError::System`]: there is no descriptor left.
    pub fn stopper(&self) -> Result<Stopper, WatchError> {
        self.stop.sender().map(Stopper).map_err(WatchError::System)
    }

    /// True if the next item is likely here already, so that output may wait to be flushed together with it.
    pub fn is_pending(&self) -> bool {
        !self.ended && self.connection.as_ref().is_some_and(Connection::has_message)
    }

    /// True if the iterator has ended because of a [`Stopper`], not because everything has come.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Counts the last item returned as dealt with and writes the cursor file, for a program that leaves the
    /// loop of its own accord.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`].
    pub fn commit(&mut self) -> Result<(), WatchError> {
        self.dealt_with = self.cursor;
        self.save_cursor()
    }

    fn advance(&mut self) -> Result<Option<Item>, WatchError> {
        loop {
            if self.connection.is_none() && !self.reconnect()? {
                return Ok(None);
            }
            match self.message()? {
                Received::Message(watch::Item::Event(event)) => {
                    self.cursor = Some(event.seq);
                    return Ok(Some(Item::Event(event)));
                }
                Received::Message(watch::Item::Emitted(event)) => {
                    self.cursor = Some(event.seq);
                    return Ok(Some(Item::Event(Event { origin: Origin::Emit, ..event })));
                }
                Received::Message(watch::Item::Position { .. } | watch::Item::Journal(_)) => {}
                Received::Message(watch::Item::Lost { first, last }) => {
                    self.cursor = Some(last);
                    return Ok(Some(Item::Lost { first, last }));
                }
                Received::Message(watch::Item::End(End::Shutdown)) => self.broken(WatchError::Shutdown)?,
                Received::Message(watch::Item::End(_)) => return Ok(None),
                Received::Stopped => {
                    self.stopped = true;
                    return Ok(None);
                }
                Received::Message(watch::Item::Error(refusal)) => return Err(WatchError::Refused(refusal)),
                Received::Message(watch::Item::Welcome { .. }) => {
                    return Err(WatchError::OutOfPlace("a welcome"));
                }
                Received::Message(watch::Item::Status(_)) => return Err(WatchError::OutOfPlace("a status")),
                Received::Closed => {
                    let socket = self.watch.socket.clone();
                    self.broken(WatchError::Broken { socket, source: None })?;
                }
                Received::Timeout => {}
            }
        }
    }

    /// The next message; before it waits for one, what was dealt with is remembered.
    fn message(&mut self) -> Result<Received<watch::Item>, WatchError> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Ok(Received::Closed);
            };
            if let Some(body) = connection.buffered()? {
                return Ok(Received::Message(frame::parse(body)?));
            }
            let fresh = self.cursor_file.as_ref().is_none_or(CursorFile::is_fresh);
            if self.cursor_file.is_some() && !(fresh && connection.is_readable()) {
                self.save_cursor()?;
            }
            let Some(connection) = &mut self.connection else {
                return Ok(Received::Closed);
            };
            match connection.fill(&self.stop, None) {
                Ok(Received::Message(())) => {}
                Ok(Received::Closed) => return Ok(Received::Closed),
                Ok(Received::Stopped) => return Ok(Received::Stopped),
                Ok(Received::Timeout) => return Ok(Received::Timeout),
                Err(source) => {
                    let socket = self.watch.socket.clone();
                    return Err(WatchError::Broken { socket, source: Some(source) });
                }
            }
        }
    }

    /// Drops the connection; an error unless another one is to be made.
    fn broken(&mut self, error: WatchError) -> Result<(), WatchError> {
        self.connection = None;
        if !self.watch.reconnect {
            return Err(error);
        }
        log::warn!("{}; waiting for it to return", chain(&error));
        Ok(())
    }

    /// Connects as soon as that is possible; false if it was stopped meanwhile.
    fn reconnect(&mut self) -> Result<bool, WatchError> {
        self.save_cursor()?;
        let mut pause = RETRY_MIN;
        loop {
            match self.connect() {
                Ok(()) => return Ok(true),
                Err(error) if self.is_worth_a_retry(&error) => log::debug!("{}", chain(&error)),
                Err(error) => return Err(error),
            }
            match self.stop.wait(None, Some(Instant::now() + pause)).map_err(WatchError::System)? {
                Woken::Stopped => {
                    self.stopped = true;
                    return Ok(false);
                }
                Woken::Timeout | Woken::Readable => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    fn is_worth_a_retry(&self, error: &WatchError) -> bool {
        self.watch.reconnect
            && match error {
                WatchError::Connect { source, .. } => is_absence(source),
                WatchError::Broken { .. } | WatchError::Shutdown => true,
                WatchError::Refused(refusal) => refusal.reason == Reason::Limit,
                _ => false,
            }
    }

    /// Connects once, and waits until the subscription stands.
    fn connect(&mut self) -> Result<(), WatchError> {
        let socket = self.watch.socket.clone();
        let mut subscribe = self.watch.subscribe.clone();
        subscribe.after = self.cursor.or(subscribe.after);
        let from_now = subscribe.after.is_none() && subscribe.since.is_none() && subscribe.follow;
        let request = watch::opening(Request::Subscribe(subscribe))?;
        match Connection::open(&socket, Server::Monitord, &request, &[]) {
            Ok(connection) => self.connection = Some(connection),
            Err(source) => return Err(WatchError::Connect { socket, source }),
        }
        let head = match self.welcome() {
            Ok(head) => head,
            Err(error) => {
                self.connection = None;
                return Err(error);
            }
        };
        // Whoever wants what happens from now on has dealt with all that was before. With an `until` that has
        // passed, "now" is history to monitord, and its events follow.
        let ended = self.watch.subscribe.until.is_some_and(|until| until < time::now());
        if from_now && !ended {
            self.cursor = Some(head);
            self.dealt_with = Some(head);
        }
        Ok(())
    }

    fn welcome(&mut self) -> Result<u64, WatchError> {
        match self.message()? {
            Received::Message(watch::Item::Welcome { head, .. }) => Ok(head),
            Received::Message(watch::Item::Error(refusal)) => Err(WatchError::Refused(refusal)),
            Received::Message(watch::Item::End(End::Shutdown)) => Err(WatchError::Shutdown),
            Received::Message(_) => Err(WatchError::OutOfPlace("something else than a welcome")),
            Received::Closed | Received::Timeout | Received::Stopped => {
                Err(WatchError::Broken { socket: self.watch.socket.clone(), source: None })
            }
        }
    }

    fn open_cursor_file(&mut self) -> Result<(), WatchError> {
        let Some(path) = self.watch.cursor_file.clone() else {
            return Ok(());
        };
        match CursorFile::open(&path) {
            Ok((file, seq)) => {
                if seq.is_some() {
                    self.watch.subscribe.since = None;
                }
                (self.cursor, self.dealt_with) = (seq, seq);
                self.cursor_file = Some(file);
                Ok(())
            }
            Err(source) => Err(WatchError::CursorFile { path, source }),
        }
    }

    fn save_cursor(&mut self) -> Result<(), WatchError> {
        match (&mut self.cursor_file, self.dealt_with) {
            (Some(file), Some(seq)) => match file.write(seq) {
                Ok(()) => Ok(()),
                Err(source) => Err(WatchError::CursorFile { path: file.path().to_owned(), source }),
            },
            _ => Ok(()),
        }
    }

    /// The socket that is asked.
    pub fn socket(&self) -> &Path {
        &self.watch.socket
    }
}
