//! Events as an iterator, across restarts of monitord and of the program that reads them.
//!
//! [`Watch`] is what is asked for, [`Subscription`] is being answered. The reader's position is kept here, so that a new
//! connection goes on exactly where the last one broke; what moves it is drawn in docs/events.md. Starts no thread.

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

/// Least time between two writes of a cursor file, unless the program wants another.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);
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
    /// monitord's journal is not the one that the position was of: it was deleted, or is another one. The numbers of
    /// events that follow have nothing to do with those before, and what follows begins at the oldest event there is.
    ///
    /// Numbers of earlier items must not be committed from here on. Those that were not committed will not be given
    /// again, unless the new journal has their events as well.
    Replaced {
        /// True if something that was returned had not been committed.
        uncommitted: bool,
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
    /// Every event that happens from now on, from the socket that the environment gives.
    pub fn new() -> Self {
        Watch {
            socket: Paths::from_env().events_socket(),
            subscribe: Subscribe { follow: true, ..Subscribe::default() },
            reconnect: true,
            cursor_file: None,
            cursor_interval: CURSOR_INTERVAL,
        }
    }

    /// Asks the monitord that listens here.
    #[must_use]
    pub fn socket(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = socket.into();
        self
    }

    /// One more `key=value` filter, see [`crate::filter`]: OR within a key and AND across keys.
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

    /// Remembers in this file how far the program has come, by [`Subscription::commit`] alone.
    ///
    /// If the file knows a position, the subscription begins behind it, and [`Watch::since`] and [`Watch::after`] say
    /// nothing: they are for the first run. The file is locked while the subscription lives, and written once before
    /// the first item, so that one which cannot be written is an error of [`Watch::start`]. Whatever is killed, the next
    /// run meets what was not committed, and what was committed in the last [`Watch::cursor_interval`], once more.
    #[must_use]
    pub fn cursor_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cursor_file = Some(path.into());
        self
    }

    /// Least time between two writes of the cursor file; one second if nothing is said. It is written at the end as
    /// well, and when the subscription is dropped.
    #[must_use]
    pub fn cursor_interval(mut self, interval: Duration) -> Self {
        self.cursor_interval = interval;
        self
    }

    /// Subscribes.
    ///
    /// Returns once monitord has taken the subscription, so nothing that happens from here on is missed. A
    /// monitord that is not there is an error at this point, with one exception: a subscription that follows, reconnects
    /// and has a cursor file belongs to a program that is to run for long, perhaps started before monitord is;
    /// it waits inside the iterator.
    ///
    /// # Errors
    /// [`WatchError::Connect`]: nobody listens. [`WatchError::Refused`]: a filter is wrong, or a limit reached.
    /// [`WatchError::CursorFile`]: it cannot be used; [`CursorError`] says why.
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

/// Events, one after the other; made by [`Watch::start`].
///
/// The iterator ends when everything asked for has come (`until` has passed, history is through) or when its
/// [`Stopper`] was used. After an error it has ended as well.
#[derive(Debug)]
pub struct Subscription {
    watch: Watch,
    connection: Option<Connection>,
    stop: Stop,
    position: Position,
    /// True once monitord has said that it speaks version 1 alone.
    old_monitord: bool,
    /// Set when the journal was found to be another one, until the program is told: whether something waited.
    replaced: Option<bool>,
    acks: Option<Acks>,
    cursor_file: Option<CursorFile>,
    ended: bool,
    stopped: bool,
}

/// What other threads have committed.
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
    /// Everything up to `seq` is dealt with. Takes effect whenever the subscription waits or is asked for its next item.
    pub fn commit(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::SeqCst);
        // Full means that a byte is there already.
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
    /// Sequence number of the last event that was returned, or of the newest one when the subscription began;
    /// `None` if nothing is known yet. A later [`Watch::after`] takes it.
    pub fn cursor(&self) -> Option<u64> {
        self.position.returned()
    }

    /// Everything up to `seq` is dealt with: no later run meets it again. Numbers that were not returned say nothing.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`]: its time to be written had come, and it cannot be.
    pub fn commit(&mut self, seq: u64) -> Result<(), WatchError> {
        self.position.commit(seq);
        self.remember()
    }

    /// True while something was returned that is not committed.
    pub fn is_uncommitted(&mut self) -> bool {
        self.take_acks();
        self.position.waits()
    }

    /// A handle that commits from another thread.
    ///
    /// # Errors
    /// [`WatchError::System`]: there is no descriptor left.
    pub fn committer(&mut self) -> Result<Committer, WatchError> {
        let acks = match self.acks.take() {
            Some(acks) => acks,
            None => Acks::new().map_err(WatchError::System)?,
        };
        let committer = acks.wake.try_clone().map(|wake| Committer { seq: Arc::clone(&acks.seq), wake });
        self.acks = Some(acks);
        committer.map_err(WatchError::System)
    }

    /// Writes the cursor file if its time has come, for a program that works long between two items.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`].
    pub fn keep(&mut self) -> Result<(), WatchError> {
        self.take_acks();
        self.remember()
    }

    /// Writes the cursor file now, and brings it to the disk. The end of the iterator, and a drop, do so as well.
    ///
    /// # Errors
    /// [`WatchError::CursorFile`].
    pub fn save(&mut self) -> Result<(), WatchError> {
        self.keep()?;
        self.with_file(CursorFile::finish)
    }

    /// A handle that ends the iterator from elsewhere.
    ///
    /// # Errors
    /// [`WatchError::System`]: there is no descriptor left.
    pub fn stopper(&self) -> Result<Stopper, WatchError> {
        self.stop.sender().map(Stopper).map_err(WatchError::System)
    }

    /// True if the next item is here already and is an event, so that output may wait to be flushed together with it.
    pub fn is_pending(&self) -> bool {
        !self.ended && self.replaced.is_none() && self.connection.as_ref().is_some_and(Connection::has_event)
    }

    /// True if the iterator has ended because of a [`Stopper`], not because everything has come.
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

    /// The next message. Writes the cursor file whenever its time comes meanwhile.
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

    /// Takes what other threads have committed.
    fn take_acks(&mut self) {
        if let Some(acks) = &mut self.acks {
            // Non-blocking: empties the wake-ups first, so that none of a later commit is lost.
            while matches!((&acks.woken).read(&mut [0; 64]), Ok(1..)) {}
            self.position.commit(acks.seq.load(Ordering::SeqCst));
        }
    }

    /// Has the cursor file hold what is committed, as soon as its time has come.
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

    /// True of a program that is to run for long, perhaps started before monitord is.
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

    /// Connects once, and waits until the subscription stands.
    fn connect(&mut self) -> Result<(), WatchError> {
        match self.subscribe() {
            // Version 1 knows no lineage, and takes a number that lies ahead for a mistake of the program.
            Err(WatchError::Refused(refusal)) if self.speaks_version_1(&refusal) => {
                self.old_monitord = true;
                self.subscribe()
            }
            Err(WatchError::Refused(refusal)) if self.is_ahead_by_file(&refusal) => {
                // A lineage that no journal has: monitord answers as for any other that it does not know.
                self.position.forget_journal();
                self.subscribe()
            }
            other => other,
        }
    }

    fn speaks_version_1(&self, refusal: &Refusal) -> bool {
        refusal.reason == Reason::Version && refusal.versions.contains(&1) && !self.old_monitord
    }

    /// True if the number that lies ahead is one that events or a cursor file told, not the program.
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
            // A reader that begins "from now" has dealt with all events before. With an `until` that has passed, "now"
            // is history to monitord, and its events follow.
            if from_now && self.watch.subscribe.until.is_none_or(|until| until >= time::now()) {
                self.position.begin_at(head);
            }
            return self.remember();
        }
        let lineage = self.lineage()?;
        let uncommitted = self.position.waits();
        self.position.begin(lineage, by_time);
        if lineage.replaced {
            // A number that another thread commits late is of the old journal.
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

    /// A message from before the first event.
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
                    log::warn!("cursor file {path} does not name its journal: it is taken to be this one");
                }
                self.position = Position::of_file(lineage, seq);
            }
        }
        self.watch.subscribe.since = None;
        Ok(())
    }

    /// The socket that is asked.
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
