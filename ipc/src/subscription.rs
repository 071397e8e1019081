//! An iterator over events that survives restarts of monitord and of the program that reads the events.
//!
//! [`Watch`] describes a subscription; [`Subscription`] is a running one. Used by the client library, and by the
//! engine. Keeps the reader's position, so that a new connection continues exactly where the last connection broke.
//! docs/events.md draws what moves the position. Starts no thread.

mod cursor_file;
mod position;

use crate::connection::{Connection, Received, Stop, Woken, is_absence};
use crate::event::{Event, Origin};
use crate::frame::{self, FrameError};
use crate::paths::Paths;
use crate::report::chain;
use crate::subscription::cursor_file::{CursorFile, Remembered};
use crate::subscription::position::Position;
use crate::time::{self, TimeError};
use crate::trust::Server;
use crate::watch::{self, End, Reason, Refusal, Request, Subscribe};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use crate::subscription::cursor_file::CursorError;

/// Least time between two writes of a cursor file, unless the program sets another time.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the first attempt to reconnect; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts to reconnect.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// An item of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// The events from `first` to `last`, including both, are lost: monitord's journal was too small, or damaged.
    Lost {
        /// Sequence number of the first lost event.
        first: u64,
        /// Sequence number of the last lost event.
        last: u64,
    },
    /// monitord has another journal than the journal of the position, for instance because the old journal was
    /// deleted. The following items come from the new journal, from its oldest event on; their sequence numbers are
    /// unrelated to earlier numbers.
    ///
    /// After this item, the program must not commit numbers of earlier items. Uncommitted events of the old journal do
    /// not come again, unless the new journal contains them, too.
    Replaced {
        /// Whether the program got items of the old journal that it has not committed.
        uncommitted: bool,
    },
}

/// The options of a subscription: which events, from where, until when, and whether to reconnect to monitord.
///
/// The default is every new event, without end, with reconnection.
#[derive(Clone, Debug)]
pub struct Watch {
    socket: PathBuf,
    subscribe: Subscribe,
    reconnect: bool,
    cursor_file: Option<PathBuf>,
    cursor_interval: Duration,
}

/// Why a subscription failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The process cannot connect to monitord.
    #[error("cannot connect to monitord at {}", socket.display())]
    Connect {
        /// monitord's socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The connection broke, and [`Watch::reconnect`] is off.
    #[error("connection to monitord at {} broke off", socket.display())]
    Broken {
        /// monitord's socket.
        socket: PathBuf,
        /// The cause; `None` if monitord closed the connection.
        source: Option<io::Error>,
    },
    /// monitord is stopping, and [`Watch::reconnect`] is off.
    #[error("monitord is stopping")]
    Shutdown,
    /// monitord refuses the subscription.
    #[error("monitord refuses the subscription: {}", .0.message)]
    Refused(Refusal),
    /// monitord sent bytes that are no message.
    #[error("cannot understand what monitord sends")]
    Protocol(#[from] FrameError),
    /// monitord sent a message that is not allowed at this point of the stream.
    #[error("monitord sends {0} out of place")]
    OutOfPlace(&'static str),
    /// `since` is later than `until`.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The cursor file cannot be read or written.
    #[error("cannot use cursor file {}", path.display())]
    CursorFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: CursorError,
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
    /// Makes a subscription to every new event, at the socket that the environment names.
    pub fn new() -> Self {
        Watch {
            socket: Paths::from_env().events_socket(),
            subscribe: Subscribe { follow: true, ..Subscribe::default() },
            reconnect: true,
            cursor_file: None,
            cursor_interval: CURSOR_INTERVAL,
        }
    }

    /// Sets the path of monitord's socket.
    #[must_use]
    pub fn socket(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = socket.into();
        self
    }

    /// Adds a `key=value` filter. An event must match one value of each key; see [`crate::filter`].
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.subscribe.filters.push(filter.into());
        self
    }

    /// Begins with the past events from this time on, in nanoseconds since the epoch.
    #[must_use]
    pub fn since(mut self, since: i64) -> Self {
        self.subscribe.since = Some(since);
        self
    }

    /// Ends after the last event up to this time, in nanoseconds since the epoch, when the clock has passed the time.
    #[must_use]
    pub fn until(mut self, until: i64) -> Self {
        self.subscribe.until = Some(until);
        self
    }

    /// Begins with the event after this sequence number; 0 begins with the oldest event.
    #[must_use]
    pub fn after(mut self, seq: u64) -> Self {
        self.subscribe.after = Some(seq);
        self
    }

    /// Sets whether the iterator continues with new events. Otherwise the iterator ends after the last past event.
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.subscribe.follow = follow;
        self
    }

    /// Sets whether the subscription connects again when monitord restarts, and continues after the last event.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Stores the program's position in this file. Only [`Subscription::commit`] moves the position.
    ///
    /// If the file has a position, the subscription begins after that position and ignores [`Watch::since`] and
    /// [`Watch::after`], which serve only the first run. The subscription locks the file. It writes the file before
    /// the first item, so that [`Watch::start`] fails if the file cannot be written. After a kill, the next run gets
    /// again all uncommitted events, and the events committed within the last [`Watch::cursor_interval`].
    #[must_use]
    pub fn cursor_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cursor_file = Some(path.into());
        self
    }

    /// Sets the least time between two writes of the cursor file; the default is one second. The end of the iterator
    /// and a drop of the subscription also write the file.
    #[must_use]
    pub fn cursor_interval(mut self, interval: Duration) -> Self {
        self.cursor_interval = interval;
        self
    }

    /// Connects to monitord and subscribes.
    ///
    /// Returns when monitord has accepted the subscription, so that the iterator misses no later event. Fails if
    /// monitord does not run, with one exception: a subscription that follows, reconnects and has a cursor file
    /// belongs to a program that runs for long and may start before monitord. Such a subscription waits for monitord
    /// inside the iterator.
    ///
    /// # Errors
    /// [`WatchError::Connect`]: monitord does not listen. [`WatchError::Refused`]: a filter is invalid, or a limit is
    /// reached. [`WatchError::CursorFile`]: the file cannot be used; [`CursorError`] says why.
    pub fn start(self) -> Result<Subscription, WatchError> {
        time::in_order(self.subscribe.since, self.subscribe.until)?;
        let mut subscription = Subscription {
            stop: Stop::new().map_err(WatchError::System)?,
            watch: self,
            connection: None,
            position: Position::default(),
            old_monitord: false,
            replaced: None,
            acks: None,
            cursor_file: None,
            ended: false,
            stopped: false,
        };
        subscription.open_cursor_file()?;
        match subscription.connect() {
            Err(error) if subscription.may_wait() && subscription.is_worth_a_retry(&error) => {
                log::warn!("{}; waiting for it", chain(&error));
            }
            other => other?,
        }
        Ok(subscription)
    }
}

/// A running subscription: an iterator over events. [`Watch::start`] makes it.
///
/// The iterator ends after an error, after a [`Stopper`] was used, and after the last event that the [`Watch`]
/// includes.
#[derive(Debug)]
pub struct Subscription {
    watch: Watch,
    connection: Option<Connection>,
    stop: Stop,
    position: Position,
    /// Whether monitord has refused version 2, and speaks only version 1.
    old_monitord: bool,
    /// The field `uncommitted` of an [`Item::Replaced`] that the iterator must still return; `None` if there is none.
    replaced: Option<bool>,
    acks: Option<Acks>,
    cursor_file: Option<CursorFile>,
    ended: bool,
    stopped: bool,
}

/// The commits that other threads have made and the subscription has not applied yet.
#[derive(Debug)]
struct Acks {
    seq: Arc<AtomicU64>,
    woken: UnixStream,
    wake: UnixStream,
}

/// Commits events of a [`Subscription`] from another thread, as [`Subscription::commit`] does.
#[derive(Debug)]
pub struct Committer {
    seq: Arc<AtomicU64>,
    wake: UnixStream,
}

impl Committer {
    /// Commits all events up to `seq`. The subscription applies the commit when it waits, or when its next item is
    /// requested.
    pub fn commit(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::SeqCst);
        // The write fails if the socket is full. The socket then has bytes to wake the subscription already.
        let _ = (&self.wake).write(&[0]);
    }
}

/// Ends a [`Subscription`] from another thread. A signal handler may instead write a byte to the stopper's socket.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Makes a stopper that writes its byte to the socket `wake`.
    pub fn new(wake: UnixStream) -> Self {
        Stopper(wake)
    }

    /// Ends the iterator, which then returns `None` instead of waiting.
    pub fn stop(&self) {
        // The write fails if the socket is full. The socket then has bytes to stop the subscription already.
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
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.ended = true;
            self.connection = None;
            if let Err(error) = self.save() {
                return Some(Err(error));
            }
        }
        next
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            log::warn!("{}", chain(&error));
        }
    }
}

impl Subscription {
    /// The sequence number of the last event that the iterator has returned, or of the newest event when the
    /// subscription began; `None` if both are unknown. A later run can pass the number to [`Watch::after`].
    pub fn cursor(&self) -> Option<u64> {
        self.position.returned()
    }

    /// Commits all events up to `seq`: no later run gets them again. Ignores a number that the iterator has not
    /// returned.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`] if the cursor file had to be written now and cannot be written. The commit counts
    /// nevertheless.
    pub fn commit(&mut self, seq: u64) -> Result<(), WatchError> {
        self.position.commit(seq);
        self.remember()
    }

    /// Whether the iterator has returned an item that is not committed.
    pub fn is_uncommitted(&mut self) -> bool {
        self.take_acks();
        self.position.waits()
    }

    /// Returns a handle that commits from another thread.
    ///
    /// # Errors
    /// [`WatchError::System`] if the process has no free descriptor.
    pub fn committer(&mut self) -> Result<Committer, WatchError> {
        let acks = match self.acks.take() {
            Some(acks) => acks,
            None => Acks::new().map_err(WatchError::System)?,
        };
        let committer = acks.wake.try_clone().map(|wake| Committer { seq: Arc::clone(&acks.seq), wake });
        self.acks = Some(acks);
        committer.map_err(WatchError::System)
    }

    /// Writes the cursor file if the interval since the last write is over. For a program that works for long between
    /// two items.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`] if the file cannot be written. The position is not lost: the next write contains it.
    pub fn keep(&mut self) -> Result<(), WatchError> {
        self.take_acks();
        self.remember()
    }

    /// Writes and syncs the cursor file now. The end of the iterator and a drop do this, too.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`] if the file cannot be written. The position is not lost: the next write contains it.
    pub fn save(&mut self) -> Result<(), WatchError> {
        self.keep()?;
        self.with_file(CursorFile::finish)
    }

    /// Returns a handle that ends the iterator from another thread.
    ///
    /// # Errors
    /// [`WatchError::System`] if the process has no free descriptor.
    pub fn stopper(&self) -> Result<Stopper, WatchError> {
        self.stop.sender().map(Stopper).map_err(WatchError::System)
    }

    /// Whether the next item is an event that has already arrived, so that the program may flush its output later.
    pub fn is_pending(&self) -> bool {
        !self.ended && self.replaced.is_none() && self.connection.as_ref().is_some_and(Connection::has_event)
    }

    /// Whether a [`Stopper`] has ended the iterator.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn advance(&mut self) -> Result<Option<Item>, WatchError> {
        loop {
            if let Some(uncommitted) = self.replaced.take() {
                return Ok(Some(Item::Replaced { uncommitted }));
            }
            if self.connection.is_none() {
                if !self.reconnect()? {
                    return Ok(None);
                }
                continue;
            }
            match self.message()? {
                Received::Message(watch::Item::Event(event)) => {
                    self.position.returns(event.seq);
                    return Ok(Some(Item::Event(event)));
                }
                Received::Message(watch::Item::Emitted(event)) => {
                    self.position.returns(event.seq);
                    return Ok(Some(Item::Event(Event { origin: Origin::Emit, ..event })));
                }
                Received::Message(watch::Item::Lost { first, last }) => {
                    self.position.returns(last);
                    return Ok(Some(Item::Lost { first, last }));
                }
                Received::Message(watch::Item::Position { seq }) => {
                    self.position.looked(seq);
                    self.remember()?;
                }
                Received::Message(watch::Item::End(End::Shutdown)) => self.broken(WatchError::Shutdown)?,
                Received::Message(watch::Item::End(_)) => return Ok(None),
                Received::Stopped => {
                    self.stopped = true;
                    return Ok(None);
                }
                Received::Message(watch::Item::Error(refusal)) => return Err(WatchError::Refused(refusal)),
                Received::Message(watch::Item::Welcome { .. } | watch::Item::Journal(_)) => {
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

    /// Waits for the next message; meanwhile writes the cursor file when the interval between writes is over.
    fn message(&mut self) -> Result<Received<watch::Item>, WatchError> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Ok(Received::Closed);
            };
            if let Some(body) = connection.buffered()? {
                return Ok(Received::Message(frame::parse(body)?));
            }
            self.keep()?;
            let deadline = self.cursor_file.as_ref().and_then(CursorFile::due);
            let wake = self.acks.as_ref().map(|acks| acks.woken.as_fd());
            let Some(connection) = &mut self.connection else {
                return Ok(Received::Closed);
            };
            match connection.fill_or_wake(&self.stop, wake, deadline) {
                Ok(Received::Message(()) | Received::Timeout) => {}
                Ok(Received::Closed) => return Ok(Received::Closed),
                Ok(Received::Stopped) => return Ok(Received::Stopped),
                Err(source) => {
                    let socket = self.watch.socket.clone();
                    return Err(WatchError::Broken { socket, source: Some(source) });
                }
            }
        }
    }

    /// Applies the commits that other threads have made.
    fn take_acks(&mut self) {
        if let Some(acks) = &mut self.acks {
            // Empty the socket before reading the number: the byte of a later commit then stays, and wakes the
            // subscription.
            while matches!((&acks.woken).read(&mut [0; 64]), Ok(1..)) {}
            self.position.commit(acks.seq.load(Ordering::SeqCst));
        }
    }

    /// The ID of the journal to which the sequence numbers belong; `None` before monitord has said it.
    pub fn journal(&self) -> Option<u64> {
        self.position.lineage()
    }

    /// Passes the committed position to the cursor file, which writes the position when its interval is over.
    fn remember(&mut self) -> Result<(), WatchError> {
        let Some((seq, lineage)) = self.position.committed() else { return Ok(()) };
        self.with_file(|file| file.remember(seq, lineage))
    }

    fn with_file(
        &mut self,
        write: impl FnOnce(&mut CursorFile) -> Result<(), CursorError>,
    ) -> Result<(), WatchError> {
        let Some(file) = &mut self.cursor_file else { return Ok(()) };
        write(file).map_err(|source| WatchError::CursorFile { path: file.path().to_owned(), source })
    }

    /// Drops the connection. Fails with `error` if the subscription does not reconnect.
    fn broken(&mut self, error: WatchError) -> Result<(), WatchError> {
        self.connection = None;
        if !self.watch.reconnect {
            return Err(error);
        }
        log::warn!("{}; waiting for it to return", chain(&error));
        Ok(())
    }

    /// Connects, and tries again after failures. Returns false if a stop was requested meanwhile.
    fn reconnect(&mut self) -> Result<bool, WatchError> {
        let mut pause = RETRY_MIN;
        loop {
            match self.connect() {
                Ok(()) => return Ok(true),
                Err(error) if self.is_worth_a_retry(&error) => log::debug!("{}", chain(&error)),
                Err(error) => return Err(error),
            }
            self.keep()?;
            match self.stop.wait(None, Some(Instant::now() + pause)).map_err(WatchError::System)? {
                Woken::Stopped => {
                    self.stopped = true;
                    return Ok(false);
                }
                Woken::Timeout | Woken::Readable => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    /// Whether the program may start before monitord: it follows, reconnects and has a cursor file.
    fn may_wait(&self) -> bool {
        self.cursor_file.is_some() && self.watch.subscribe.follow
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

    /// Makes one attempt to connect, and waits until monitord has accepted the subscription.
    fn connect(&mut self) -> Result<(), WatchError> {
        match self.subscribe() {
            // Version 1 has no lineages. It refuses a number beyond its newest event as a mistake of the program.
            Err(WatchError::Refused(refusal)) if self.speaks_version_1(&refusal) => {
                self.old_monitord = true;
                self.subscribe()
            }
            Err(WatchError::Refused(refusal)) if self.is_ahead_by_file(&refusal) => {
                // With a lineage that no journal has, monitord answers that the journal was replaced.
                self.position.forget_journal();
                self.subscribe()
            }
            other => other,
        }
    }

    fn speaks_version_1(&self, refusal: &Refusal) -> bool {
        refusal.reason == Reason::Version && refusal.versions.contains(&1) && !self.old_monitord
    }

    /// Whether monitord refused a number that comes from events or a cursor file, and is beyond its newest event.
    fn is_ahead_by_file(&self, refusal: &Refusal) -> bool {
        refusal.reason == Reason::Ahead && self.position.resume().0.is_some_and(|seq| seq > 0)
    }

    fn subscribe(&mut self) -> Result<(), WatchError> {
        let result = self.try_subscribe();
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn try_subscribe(&mut self) -> Result<(), WatchError> {
        let socket = self.watch.socket.clone();
        let mut subscribe = self.watch.subscribe.clone();
        let (after, lineage) = self.position.resume();
        (subscribe.after, subscribe.lineage) = (after.or(subscribe.after), lineage);
        let from_now = subscribe.after.is_none() && subscribe.since.is_none() && subscribe.follow;
        let by_time = subscribe.after.is_none() && subscribe.since.is_some();
        let request = Request::Subscribe(subscribe);
        let opening = if self.old_monitord { watch::opening_1(request) } else { watch::opening(request) };
        let connection = Connection::open(&socket, Server::Monitord, &opening?, &[]);
        self.connection = Some(connection.map_err(|source| WatchError::Connect { socket, source })?);
        let head = self.welcome()?;
        if self.old_monitord {
            // A subscription to new events only begins after the newest event. If `until` has passed, monitord sends
            // past events instead.
            if from_now && self.watch.subscribe.until.is_none_or(|until| until >= time::now()) {
                self.position.begin_at(head);
            }
            return self.remember();
        }
        let lineage = self.lineage()?;
        let uncommitted = self.position.waits();
        self.position.begin(lineage, by_time);
        if lineage.replaced {
            // A number that another thread has committed but that is not applied yet belongs to the old journal.
            self.acks.iter().for_each(|acks| acks.seq.store(0, Ordering::SeqCst));
            self.replaced = Some(uncommitted);
        }
        self.remember()
    }

    fn welcome(&mut self) -> Result<u64, WatchError> {
        match self.opening_message()? {
            watch::Item::Welcome { head, .. } => Ok(head),
            _ => Err(WatchError::OutOfPlace("something else than a welcome")),
        }
    }

    fn lineage(&mut self) -> Result<watch::Lineage, WatchError> {
        match self.opening_message()? {
            watch::Item::Journal(lineage) => Ok(lineage),
            _ => Err(WatchError::OutOfPlace("something else than its journal")),
        }
    }

    /// Waits for a message that monitord sends before the first event.
    fn opening_message(&mut self) -> Result<watch::Item, WatchError> {
        match self.message()? {
            Received::Message(watch::Item::Error(refusal)) => Err(WatchError::Refused(refusal)),
            Received::Message(watch::Item::End(End::Shutdown)) => Err(WatchError::Shutdown),
            Received::Message(item) => Ok(item),
            Received::Closed | Received::Timeout | Received::Stopped => {
                Err(WatchError::Broken { socket: self.watch.socket.clone(), source: None })
            }
        }
    }

    fn open_cursor_file(&mut self) -> Result<(), WatchError> {
        let Some(path) = self.watch.cursor_file.clone() else {
            return Ok(());
        };
        let (file, held) = CursorFile::open(&path, self.watch.cursor_interval)
            .map_err(|source| WatchError::CursorFile { path: path.clone(), source })?;
        self.cursor_file = Some(file);
        let path = path.display();
        match held {
            Remembered::Nothing => return Ok(()),
            Remembered::Emptied => {
                log::warn!("cursor file {path} has lost its content: reading begins at the oldest event");
                self.watch.subscribe.after = Some(0);
            }
            Remembered::Seq(seq, lineage) => {
                if lineage.is_none() {
                    log::warn!("cursor file {path} does not name its journal: assuming the current journal");
                }
                self.position = Position::of_file(lineage, seq);
            }
        }
        self.watch.subscribe.since = None;
        Ok(())
    }

    /// Path of monitord's socket.
    pub fn socket(&self) -> &Path {
        &self.watch.socket
    }
}

impl Acks {
    fn new() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        Ok(Acks { seq: Arc::new(AtomicU64::new(0)), woken, wake })
    }
}
