//! An iterator over events that survives restarts of monitord and of the program that reads the events.
//!
//! [`Watch`] describes a subscription, [`Subscription`] is one. Used by the client library, and by the engine. Keeps
//! the reader's position, so that a new connection continues exactly where the last one broke; docs/events.md draws
//! what moves the position. Starts no thread.

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

/// Least time between two writes of a cursor file, unless the program sets another.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the first attempt to reconnect; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts to reconnect.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a subscription returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// The events `first` to `last`, both included, are lost: monitord's journal was too small, or damaged.
    Lost {
        /// Sequence number of the first lost event.
        first: u64,
        /// Sequence number of the last lost event.
        last: u64,
    },
    /// monitord has another journal than the one of the position, for instance because the old one was deleted. The
    /// sequence numbers that follow are unrelated to earlier ones, and begin at the oldest event of the new journal.
    ///
    /// From here on, the program must not commit numbers of earlier items. Events that were not committed do not come
    /// again, unless the new journal has them, too.
    Replaced {
        /// True if an item that was returned had not been committed.
        uncommitted: bool,
    },
}

/// Which events to return, from where, until when, and what to do when monitord goes away.
///
/// The default is every event from now on, without end, with reconnection.
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
    /// monitord cannot be reached.
    #[error("cannot connect to monitord at {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The connection broke, and [`Watch::reconnect`] is off.
    #[error("connection to monitord at {} broke off", socket.display())]
    Broken {
        /// Its socket.
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
    /// monitord sent a message where another belongs.
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
    /// Watches every event from now on, at the socket that the environment names.
    pub fn new() -> Self {
        Watch {
            socket: Paths::from_env().events_socket(),
            subscribe: Subscribe { follow: true, ..Subscribe::default() },
            reconnect: true,
            cursor_file: None,
            cursor_interval: CURSOR_INTERVAL,
        }
    }

    /// Connects to monitord at this socket.
    #[must_use]
    pub fn socket(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = socket.into();
        self
    }

    /// Adds a `key=value` filter. An event must match one value of each key: [`crate::filter`].
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

    /// Ends after the last event of this time, in nanoseconds since the epoch, or when the clock passes this time.
    #[must_use]
    pub fn until(mut self, until: i64) -> Self {
        self.subscribe.until = Some(until);
        self
    }

    /// Begins after the event with this sequence number; 0 begins with the oldest event.
    #[must_use]
    pub fn after(mut self, seq: u64) -> Self {
        self.subscribe.after = Some(seq);
        self
    }

    /// Whether to continue with new events. If not, the iterator ends after the last past event.
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.subscribe.follow = follow;
        self
    }

    /// Whether to connect again when monitord restarts, and continue after the last event.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Stores the program's position in this file. Only [`Subscription::commit`] moves the position.
    ///
    /// If the file has a position, the subscription begins after it, and [`Watch::since`] and [`Watch::after`] have no
    /// effect: they are for the first run. The file is locked while the subscription lives. It is written once before
    /// the first item, so that [`Watch::start`] fails if the file cannot be written. After a kill, the next run gets
    /// again the events that were not committed, and those committed within the last [`Watch::cursor_interval`].
    #[must_use]
    pub fn cursor_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cursor_file = Some(path.into());
        self
    }

    /// Sets the least time between two writes of the cursor file; the default is one second. The file is also written
    /// at the end, and when the subscription is dropped.
    #[must_use]
    pub fn cursor_interval(mut self, interval: Duration) -> Self {
        self.cursor_interval = interval;
        self
    }

    /// Subscribes.
    ///
    /// Returns once monitord has accepted the subscription, so that no later event is missed. Fails if monitord does
    /// not run, with one exception: a subscription that follows, reconnects and has a cursor file belongs to a program
    /// that runs for long and may start before monitord. Such a subscription waits inside the iterator.
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

/// An iterator over events; made by [`Watch::start`].
///
/// It ends when all events have come (`until` has passed, or the last past event was returned), when its [`Stopper`]
/// was used, and after an error.
#[derive(Debug)]
pub struct Subscription {
    watch: Watch,
    connection: Option<Connection>,
    stop: Stop,
    position: Position,
    /// True once monitord has said that it speaks only version 1.
    old_monitord: bool,
    /// Set when monitord has another journal, until [`Item::Replaced`] is returned: its `uncommitted`.
    replaced: Option<bool>,
    acks: Option<Acks>,
    cursor_file: Option<CursorFile>,
    ended: bool,
    stopped: bool,
}

/// Commits of other threads.
#[derive(Debug)]
struct Acks {
    seq: Arc<AtomicU64>,
    woken: UnixStream,
    wake: UnixStream,
}

/// Commits for a [`Subscription`] from another thread, as [`Subscription::commit`] does.
#[derive(Debug)]
pub struct Committer {
    seq: Arc<AtomicU64>,
    wake: UnixStream,
}

impl Committer {
    /// Commits everything up to `seq`. Takes effect when the subscription waits, or when its next item is requested.
    pub fn commit(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::SeqCst);
        // A full socket has a byte already.
        let _ = (&self.wake).write(&[0]);
    }
}

/// Ends a [`Subscription`] from another thread, or from a signal handler that writes a byte to its descriptor.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// A stopper that writes its byte to this descriptor.
    pub fn new(wake: UnixStream) -> Self {
        Stopper(wake)
    }

    /// Ends the iterator: it returns `None` instead of waiting.
    pub fn stop(&self) {
        // A full socket has a byte already.
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
    /// The sequence number of the last event that was returned, or of the newest event at the beginning; `None` if
    /// neither is known yet. A value for a later [`Watch::after`].
    pub fn cursor(&self) -> Option<u64> {
        self.position.returned()
    }

    /// Commits everything up to `seq`: no later run gets it again. Has no effect for a number that was not returned.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`]: the file was due, and cannot be written. The commit counts nevertheless.
    pub fn commit(&mut self, seq: u64) -> Result<(), WatchError> {
        self.position.commit(seq);
        self.remember()
    }

    /// True if an item that was returned is not committed.
    pub fn is_uncommitted(&mut self) -> bool {
        self.take_acks();
        self.position.waits()
    }

    /// Returns a handle that commits from another thread.
    ///
    /// # Errors
    /// [`WatchError::System`]: the process has no free descriptor.
    pub fn committer(&mut self) -> Result<Committer, WatchError> {
        let acks = match self.acks.take() {
            Some(acks) => acks,
            None => Acks::new().map_err(WatchError::System)?,
        };
        let committer = acks.wake.try_clone().map(|wake| Committer { seq: Arc::clone(&acks.seq), wake });
        self.acks = Some(acks);
        committer.map_err(WatchError::System)
    }

    /// Writes the cursor file if it is due; for a program that works for long between two items.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`]: the file cannot be written. The position is not lost: the next write has it.
    pub fn keep(&mut self) -> Result<(), WatchError> {
        self.take_acks();
        self.remember()
    }

    /// Writes and syncs the cursor file now. The end of the iterator and a drop do this, too.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`]: the file cannot be written. The position is not lost: the next write has it.
    pub fn save(&mut self) -> Result<(), WatchError> {
        self.keep()?;
        self.with_file(CursorFile::finish)
    }

    /// Returns a handle that ends the iterator from another thread.
    ///
    /// # Errors
    /// [`WatchError::System`]: the process has no free descriptor.
    pub fn stopper(&self) -> Result<Stopper, WatchError> {
        self.stop.sender().map(Stopper).map_err(WatchError::System)
    }

    /// True if the next item is an event that is already buffered, so that output may wait to be flushed with it.
    pub fn is_pending(&self) -> bool {
        !self.ended && self.replaced.is_none() && self.connection.as_ref().is_some_and(Connection::has_event)
    }

    /// True if the iterator has ended because of a [`Stopper`].
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

    /// Waits for the next message, and writes the cursor file whenever it is due.
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

    /// Applies the commits of other threads.
    fn take_acks(&mut self) {
        if let Some(acks) = &mut self.acks {
            // Reads the wake-ups before the number, so that the wake-up of a later commit stays.
            while matches!((&acks.woken).read(&mut [0; 64]), Ok(1..)) {}
            self.position.commit(acks.seq.load(Ordering::SeqCst));
        }
    }

    /// Passes the committed position to the cursor file, which writes it when it is due.
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

    /// Drops the connection. Fails with `error` unless the subscription reconnects.
    fn broken(&mut self, error: WatchError) -> Result<(), WatchError> {
        self.connection = None;
        if !self.watch.reconnect {
            return Err(error);
        }
        log::warn!("{}; waiting for it to return", chain(&error));
        Ok(())
    }

    /// Connects as soon as possible; false if a stop came first.
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

    /// True for a program that runs for long and may start before monitord.
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

    /// Connects once, and waits until monitord has accepted the subscription.
    fn connect(&mut self) -> Result<(), WatchError> {
        match self.subscribe() {
            // Version 1 has no lineages, and treats a number beyond its newest event as a mistake of the program.
            Err(WatchError::Refused(refusal)) if self.speaks_version_1(&refusal) => {
                self.old_monitord = true;
                self.subscribe()
            }
            Err(WatchError::Refused(refusal)) if self.is_ahead_by_file(&refusal) => {
                // With a lineage that no journal has, monitord answers as for a replaced journal.
                self.position.forget_journal();
                self.subscribe()
            }
            other => other,
        }
    }

    fn speaks_version_1(&self, refusal: &Refusal) -> bool {
        refusal.reason == Reason::Version && refusal.versions.contains(&1) && !self.old_monitord
    }

    /// True if the number beyond the newest event comes from events or a cursor file, not from the program.
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
            // A reader that begins "from now" needs no earlier event. If `until` has passed, monitord sends past events
            // instead.
            if from_now && self.watch.subscribe.until.is_none_or(|until| until >= time::now()) {
                self.position.begin_at(head);
            }
            return self.remember();
        }
        let lineage = self.lineage()?;
        let uncommitted = self.position.waits();
        self.position.begin(lineage, by_time);
        if lineage.replaced {
            // A late commit of another thread has a number of the old journal.
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

    /// Waits for a message that comes before the first event.
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

    /// The socket of monitord.
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
