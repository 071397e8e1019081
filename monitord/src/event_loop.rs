//! The loop: FIFO in, sockets out.
//!
//! One thread owns the FIFO, the store, the listener and every client, and is called by nobody but `main`.
//! Readiness is only noted; work follows in a fixed order, each input on a budget. Never waits for a
//! subscriber, and never for a disk: that is the syncer's.

use crate::activation;
use crate::checker::Checker;
use crate::client::{Client, State, Subscription, Wish};
use crate::clients::{Clients, end_at, item_frame};
use crate::config::Settings;
use crate::counters::Counters;
use crate::fifo::{Fifo, FifoError, WINDOW};
use crate::journal::{Change, Journal, OpenError};
use crate::listener::{ListenError, Listener};
use crate::ring::Cursor;
use crate::store::Store;
use crate::syncer::{Policy, Syncer};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Gid;
use sampan_ipc::Event;
use sampan_ipc::filter::FilterSet;
use sampan_ipc::record::{Scanner, Step};
use sampan_ipc::watch::{self, End, Item, Reason, Refusal, Request, Status, Subscribe, Subscriber};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;
use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
const FIFO: Token = Token(1);
const LISTENER: Token = Token(2);
const WAKER: Token = Token(3);
/// Tokens from here on are clients'; none is used twice.
const FIRST_CLIENT: usize = 16;

/// Windows of the FIFO that are taken per turn.
const WINDOWS_PER_TURN: usize = 2;
/// Connections that are accepted per turn.
const ACCEPTS_PER_TURN: usize = 64;
/// A client that has not sent its request by then is closed: it holds a descriptor for nothing.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// Least time between two reports of bytes that are no record, so a hostile writer costs an event a second.
const GARBAGE_SPACING: Duration = Duration::from_secs(1);
/// Pause of accepting when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long subscribers may take to receive what is left when this process stops.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the FIFO is drained when this process stops, however fast writers are.
const LAST_DRAIN: Duration = Duration::from_millis(200);
/// Descriptors that this process needs besides those of its clients.
const DESCRIPTORS_OWN: u64 = 256;
/// Most bytes that the subscribers' part of a status takes.
const STATUS_BYTES_MAX: usize = 768 << 10;

/// Why this process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another instance is at work.
    #[error("{what}")]
    Busy {
        /// On what, in words.
        what: String,
    },
    /// The FIFO cannot be used.
    #[error(transparent)]
    Fifo(FifoError),
    /// The socket cannot be used.
    #[error(transparent)]
    Listen(ListenError),
    /// The directory of FIFO or socket cannot be made.
    #[error("cannot make directory {path}")]
    Directory {
        /// The directory.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A thread, a poll or a signal handler cannot be had.
    #[error("cannot set up {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    fifo: bool,
    listener: bool,
    woken: bool,
}

/// Records that are committed and wait for the disk: their bytes in the FIFO, and the request to the syncer.
#[derive(Debug)]
struct Unsynced {
    fifo_bytes: usize,
    request: u64,
    upto: Cursor,
}

/// Bytes of the FIFO that were no record, and when they were last reported.
#[derive(Debug)]
struct Garbage {
    bytes: u64,
    reported: Option<Instant>,
}

/// Records that may come once more after a restart, for so many bytes of the FIFO.
#[derive(Debug, Default)]
struct Repeats {
    known: HashSet<(u64, u64)>,
    bytes_left: usize,
}

/// The process.
pub struct EventLoop {
    settings: Settings,
    poll: Poll,
    signals: Signals,
    fifo: Fifo,
    store: Store,
    clients: Clients,
    counters: Counters,
    checker: Checker,
    syncer: Option<Syncer>,
    listener: Listener,
    ready: Ready,
    next_token: usize,
    /// Clients whose request waits to be read.
    openings: Vec<usize>,
    unsynced: Option<Unsynced>,
    repeats: Repeats,
    garbage: Garbage,
    identity: Identity,
    watchdog: Option<(Duration, Instant)>,
    accept_again: Option<Instant>,
    more: bool,
    stopping: bool,
}

/// This process as a writer of events.
#[derive(Debug)]
struct Identity {
    writer: u64,
    counter: u64,
}

impl EventLoop {
    /// Opens everything that the settings name.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(settings: Settings) -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let passed = activation::passed();
        let group = group();
        let fifo = match passed.fifo {
            Some(fd) => Fifo::adopt(fd, &settings.fifo),
            None => {
                make_parent(&settings.fifo)?;
                Fifo::open(&settings.fifo, group)
            }
        };
        let fifo = fifo.map_err(|error| match error {
            FifoError::Busy(_) => StartError::Busy {
                what: error.to_string(),
            },
            error => StartError::Fifo(error),
        })?;
        let listener = match passed.listener {
            Some(fd) => Listener::adopt(fd).map_err(system("the socket that was passed"))?,
            None => {
                make_parent(&settings.socket)?;
                Listener::bind(&settings.socket, group).map_err(|error| match error {
                    ListenError::Busy(_) => StartError::Busy {
                        what: error.to_string(),
                    },
                    error => StartError::Listen(error),
                })?
            }
        };
        let poll = Poll::new().map_err(system("polling"))?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(system("a waker"))?);
        let checker = Checker::start(Arc::clone(&waker)).map_err(system("the checker thread"))?;
        let syncer = match settings.sync {
            Policy::Never => None,
            policy if settings.journal.is_some() => {
                Some(Syncer::start(policy, waker).map_err(system("the syncer thread"))?)
            }
            _ => None,
        };
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(system("signals"))?;
        raise_descriptor_limit(settings.subscribers_max);
        let (store, found, refused) = open_store(&settings)?;
        let mut event_loop = EventLoop {
            poll,
            signals,
            fifo,
            store,
            clients: Clients::default(),
            counters: Counters::new(),
            checker,
            syncer,
            listener,
            ready: Ready {
                fifo: true,
                ..Ready::default()
            },
            next_token: FIRST_CLIENT,
            openings: Vec::new(),
            unsynced: None,
            repeats: Repeats {
                bytes_left: 2 * WINDOW,
                known: found.repeats.into_iter().collect(),
            },
            garbage: Garbage {
                bytes: 0,
                reported: None,
            },
            identity: Identity {
                writer: sampan_ipc::sender::FifoSender::new("").writer(),
                counter: 0,
            },
            watchdog: activation::watchdog().map(|every| (every, Instant::now() + every)),
            accept_again: None,
            more: false,
            stopping: false,
            settings,
        };
        event_loop.register().map_err(system("polling"))?;
        event_loop.announce_start(found.damage, refused);
        Ok(event_loop)
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        registry.register(&mut SourceFd(&self.fifo.raw()), FIFO, Interest::READABLE)?;
        registry.register(self.listener.source(), LISTENER, Interest::READABLE)
    }

    fn announce_start(&mut self, damage: Vec<String>, refused: Option<String>) {
        for what in damage {
            log::warn!("journal damaged: {what}");
            self.emit(Event::new("daemon", "journal-damaged", "sampan-monitord").with("reason", what));
        }
        if let Some(reason) = refused {
            log::error!("cannot write the journal, events are kept in memory only: {reason}");
            self.emit(Event::new("daemon", "journal-failed", "sampan-monitord").with("reason", reason));
        }
        let start = Event::new("daemon", "start", "sampan-monitord");
        self.emit(
            start
                .with("version", env!("CARGO_PKG_VERSION"))
                .with("pid", std::process::id()),
        );
        self.commit(0);
        log::info!(
            "serving {} from {}, newest event {}",
            self.settings.socket.display(),
            self.settings.fifo.display(),
            self.store.head()
        );
    }

    /// Runs until asked to stop.
    ///
    /// # Errors
    /// The poll or the FIFO failed.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        activation::tell(&[NotifyState::Ready]);
        crate::sys::forget_startup_code();
        while !self.stopping {
            self.wait(&mut events)?;
            self.mark(&events);
            self.take_signals();
            self.accept_clients();
            self.read_fifo()?;
            self.open_subscriptions();
            self.take_verdicts();
            self.serve_clients();
            self.keep_time();
        }
        self.farewell(&mut events)
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let busy = self.more || (self.ready.fifo && self.unsynced.is_none()) || self.ready.listener;
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            self.next_deadline()
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// How long the loop may sleep at most; for ever when nothing is pending.
    fn next_deadline(&self) -> Option<Duration> {
        let report = (self.garbage.bytes > 0)
            .then(|| self.garbage.reported.map(|at| at + GARBAGE_SPACING))
            .flatten();
        let watchdog = self.watchdog.map(|(_, at)| at);
        let earliest = [report, watchdog, self.accept_again]
            .into_iter()
            .flatten()
            .min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    fn mark(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                SIGNALS => self.ready.signals = true,
                FIFO => self.ready.fifo = true,
                LISTENER => self.ready.listener = true,
                WAKER => self.ready.woken = true,
                Token(token) => {
                    let Some(client) = self.clients.get_mut(token) else {
                        continue;
                    };
                    if event.is_writable() {
                        client.blocked = false;
                    }
                    if event.is_read_closed() || event.is_error() {
                        // Whatever it was to be given, nobody is there to take it.
                        self.end(token);
                    } else if event.is_readable() {
                        self.openings.push(token);
                    }
                }
            }
        }
    }

    fn take_signals(&mut self) {
        if !std::mem::take(&mut self.ready.signals) {
            return;
        }
        for signal in self.signals.pending().collect::<Vec<_>>() {
            match signal {
                SIGHUP => self.reread_settings(),
                SIGUSR1 => log::info!("{}", self.counters_line()),
                _ => {
                    log::info!("asked to stop by signal {signal}");
                    self.stopping = true;
                }
            }
        }
    }

    fn reread_settings(&mut self) {
        activation::tell(&reloading());
        match self.settings.reread() {
            Err(error) => log::error!("keep the settings as they are: {}", crate::logging::chain(&error)),
            Ok(new) => {
                for name in self.settings.needs_restart(&new) {
                    log::warn!("'{name}' changed: this takes effect when sampan-monitord is started again");
                }
                self.settings.limits = new.limits;
                self.settings.subscribers_max = new.subscribers_max.min(self.settings.subscribers_max);
                if new.subscribers_max > self.settings.subscribers_max {
                    log::warn!("'subscribers-max' can be raised only by a new start");
                }
                self.settings.subscribers_per_uid_max = new.subscribers_per_uid_max;
                if let Some(journal) = self.store.journal_mut() {
                    journal.set_limits(new.limits);
                }
                if let (Some(syncer), Policy::Interval(interval)) = (&self.syncer, new.sync) {
                    syncer.set_interval(interval);
                }
                log::info!("settings read again");
                self.emit(Event::new("daemon", "reload", "sampan-monitord"));
                self.commit(0);
            }
        }
        activation::tell(&[NotifyState::Ready]);
    }

    fn accept_clients(&mut self) {
        if self.accept_again.is_some_and(|at| at <= Instant::now()) {
            self.accept_again = None;
            self.ready.listener = true;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.ready.listener {
                return;
            }
            match self.listener.accept() {
                Ok(Some((stream, peer))) => self.admit(Client::new(stream, peer, watch::REQUEST_MAX)),
                Ok(None) => self.ready.listener = false,
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    self.ready.listener = false;
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                }
            }
        }
    }

    fn admit(&mut self, mut client: Client) {
        let (token, peer) = (self.next_token, client.peer);
        self.next_token += 1;
        let limits = (
            self.settings.subscribers_max,
            self.settings.subscribers_per_uid_max,
        );
        let full = if self.clients.len() >= limits.0 {
            Some(format!(
                "{} subscribers are served already, which is the limit",
                limits.0
            ))
        } else if self.clients.of_uid(peer.uid) >= limits.1 {
            Some(format!(
                "{} subscribers of user {} are served already, which is the limit",
                limits.1, peer.uid
            ))
        } else {
            None
        };
        let deadline = (after(OPENING_TIME), Token(token));
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut client.stream, Token(token), Interest::READABLE) {
            log::warn!("cannot poll a connection of user {}: {error}", peer.uid);
            return;
        }
        if let Some(message) = full {
            self.counters.refused += 1;
            log::warn!(
                "subscriber of user {} (process {}) turned away: {message}",
                peer.uid,
                peer.pid
            );
            refuse(&mut client, Reason::Limit, message);
        }
        self.checker.arm(deadline);
        client.deadline = Some(deadline);
        log::debug!("connection {token}: user {}, process {}", peer.uid, peer.pid);
        // A refused client is told once the table serves it, and closed then.
        self.clients.insert(token, client);
    }

    /// Takes what the FIFO holds, window by window, within the turn's budget.
    fn read_fifo(&mut self) -> io::Result<()> {
        self.finish_sync()?;
        if !self.openings.is_empty() {
            // A subscriber that asks now hears of what was emitted before it asked.
            self.ready.fifo = true;
        }
        for _ in 0..WINDOWS_PER_TURN {
            if !self.ready.fifo || self.unsynced.is_some() {
                break;
            }
            self.ready.fifo = self.read_window()?;
        }
        self.report_garbage();
        Ok(())
    }

    /// Takes one window; false if the FIFO is empty.
    fn read_window(&mut self) -> io::Result<bool> {
        let window = self.fifo.peek()?;
        if window.is_empty() {
            return Ok(false);
        }
        let (mut events, mut garbage, mut lost) = (0, 0, 0);
        let mut scanner = Scanner::new(window);
        while let Some(step) = scanner.next() {
            match step {
                Step::Record(record) => {
                    let origin = (record.event.writer, record.event.counter);
                    if self.repeats.bytes_left > 0 && self.repeats.known.contains(&origin) {
                        self.counters.repeated += 1;
                        continue;
                    }
                    lost += u64::from(record.event.lost);
                    events += 1;
                    self.store.push(&record);
                }
                Step::Garbage(bytes) => garbage += bytes,
                // It may be whole in the next window, whose front it will be; at the front it cannot become so.
                Step::Partial if scanner.consumed() > 0 => break,
                Step::Partial => garbage += scanner.skip_partial(),
            }
        }
        let consumed = scanner.consumed();
        self.counters.add_events(events);
        self.counters.writers_lost += lost;
        self.counters.skipped_bytes += garbage as u64;
        self.garbage.bytes += garbage as u64;
        self.repeats.pass(consumed);
        self.commit(consumed);
        if self.unsynced.is_none() {
            self.fifo.consume(consumed)?;
        }
        Ok(true)
    }

    /// Writes what was taken to the journal and lets readers see it, or has it synced first.
    fn commit(&mut self, fifo_bytes: usize) {
        let mut change = self.store.commit();
        while change != Change::None {
            match &change {
                Change::Failed(reason) => {
                    log::error!("cannot write the journal, events are kept in memory only: {reason}");
                    self.emit(
                        Event::new("daemon", "journal-failed", "sampan-monitord").with("reason", reason),
                    );
                }
                _ => {
                    log::info!("the journal can be written again");
                    self.emit(Event::new("daemon", "journal-recovered", "sampan-monitord"));
                }
            }
            change = self.store.commit();
        }
        if self.store.is_over_limits() {
            for token in self.clients.settle(&self.store) {
                self.end(token);
            }
            self.store.prune();
        }
        let upto = self.store.committed();
        let active = self.store.journal().and_then(Journal::active);
        match (&self.syncer, active, self.settings.sync) {
            (Some(syncer), Some(file), Policy::Always) => {
                let request = syncer.ask(file);
                let before = self.unsynced.take().map_or(0, |unsynced| unsynced.fifo_bytes);
                self.unsynced = Some(Unsynced {
                    fifo_bytes: before + fifo_bytes,
                    request,
                    upto,
                });
            }
            (syncer, active, _) => {
                if let (Some(syncer), Some(file)) = (syncer, active) {
                    syncer.ask(file);
                }
                self.store.show(upto);
            }
        }
    }

    /// Lets readers see what has reached the disk since the last turn.
    fn finish_sync(&mut self) -> io::Result<()> {
        let Some(syncer) = &self.syncer else { return Ok(()) };
        if (self.ready.woken || self.unsynced.is_some())
            && let Some(error) = syncer.error()
        {
            log::error!("cannot sync the journal: {error}");
            self.emit(Event::new("daemon", "journal-failed", "sampan-monitord").with("reason", error));
        }
        let Some(syncer) = &self.syncer else { return Ok(()) };
        if let Some(unsynced) = self
            .unsynced
            .take_if(|unsynced| syncer.done() >= unsynced.request)
        {
            self.store.show(unsynced.upto);
            self.fifo.consume(unsynced.fifo_bytes)?;
            self.ready.fifo = true;
        }
        Ok(())
    }

    /// Emits an event of this process's own; the next commit writes it.
    fn emit(&mut self, mut event: Event) {
        self.identity.counter += 1;
        event.writer = self.identity.writer;
        event.counter = self.identity.counter;
        self.counters.add_events(1);
        self.store.push_own(&event);
    }

    /// Tells of bytes that were no record: at once, and then at most once a second.
    fn report_garbage(&mut self) {
        let due = self
            .garbage
            .reported
            .is_none_or(|at| at.elapsed() >= GARBAGE_SPACING);
        if self.garbage.bytes == 0 || !due || self.unsynced.is_some() {
            return;
        }
        let bytes = std::mem::take(&mut self.garbage.bytes);
        self.garbage.reported = Some(Instant::now());
        log::warn!("skipped {bytes} bytes of the FIFO that are no record");
        self.emit(Event::new("daemon", "fifo-garbage", "sampan-monitord").with("bytes", bytes));
        self.commit(0);
    }

    fn open_subscriptions(&mut self) {
        for token in std::mem::take(&mut self.openings) {
            let Some(client) = self.clients.get_mut(token) else {
                continue;
            };
            match read_request(client) {
                Ok(None) => {}
                Ok(Some(Ok(request))) => self.open_request(token, request),
                Ok(Some(Err(refusal))) => self.turn_away(token, refusal),
                Err(error) => {
                    log::debug!("connection {token}: {error}");
                    self.end(token);
                }
            }
        }
    }

    fn open_request(&mut self, token: usize, request: Request) {
        match request {
            Request::Status => {
                let status = self.status();
                let Some(client) = self.clients.get_mut(token) else {
                    return;
                };
                client.out = item_frame(&Item::Status(Box::new(status)));
                client.out.extend(item_frame(&Item::End(End::Done)));
                client.state = State::Leaving;
            }
            Request::Subscribe(subscribe) => {
                if let Err(refusal) = self.subscribe(token, subscribe) {
                    self.turn_away(token, refusal);
                }
            }
        }
    }

    fn subscribe(&mut self, token: usize, subscribe: Subscribe) -> Result<(), Refusal> {
        let argument = |message| Refusal {
            reason: Reason::Argument,
            message,
            versions: vec![watch::VERSION],
        };
        let filters = FilterSet::parse(&subscribe.filters).map_err(|error| argument(error.to_string()))?;
        if let (Some(since), Some(until)) = (subscribe.since, subscribe.until)
            && since > until
        {
            return Err(argument("since is later than until".to_owned()));
        }
        let at = self.start_of(&subscribe).map_err(argument)?;
        let stop = self.stop_of(token, &subscribe);
        let select = self.clients.select(Wish {
            filters,
            since: subscribe.since,
            until: subscribe.until,
        });
        let head = self.store.head();
        let Some(client) = self.clients.get_mut(token) else {
            return Ok(());
        };
        let (uid, pid) = (client.peer.uid, client.peer.pid);
        log::debug!("connection {token}: user {uid}, process {pid} subscribes {subscribe:?}");
        client.out = item_frame(&Item::Welcome {
            version: watch::VERSION,
            head,
        });
        client.state = State::Subscribed(Subscription {
            at,
            inside: false,
            select,
            stop,
            terms: subscribe.filters.into(),
        });
        Ok(())
    }

    /// Where a subscription begins.
    fn start_of(&self, subscribe: &Subscribe) -> Result<Cursor, String> {
        let visible = self.store.visible();
        match (subscribe.after, subscribe.since) {
            (Some(after), _) if after >= visible.seq => Err(format!(
                "no event has number {after} yet: the newest one is {}",
                self.store.head()
            )),
            (Some(after), _) => self
                .store
                .after(after)
                .map_err(|error| format!("cannot read the journal: {error}")),
            (None, Some(since)) => Ok(self.store.since(since)),
            // The past up to a moment, or all of it, is history as well.
            (None, None)
                if !subscribe.follow || subscribe.until.is_some_and(|at| at < sampan_ipc::time::now()) =>
            {
                Ok(self.store.since(i64::MIN))
            }
            (None, None) => Ok(visible),
        }
    }

    /// Where it ends, as far as that is known now; hands what is later over to the checker.
    fn stop_of(&mut self, token: usize, subscribe: &Subscribe) -> Option<(u64, End)> {
        let here = self.store.visible().pos;
        if let Some(deadline) = self
            .clients
            .get_mut(token)
            .and_then(|client| client.deadline.take())
        {
            self.checker.disarm(deadline);
        }
        match subscribe.until {
            Some(until) if until < sampan_ipc::time::now() => Some((here, End::Until)),
            _ if !subscribe.follow => Some((here, End::History)),
            Some(until) => {
                let deadline = (until, Token(token));
                self.checker.arm(deadline);
                if let Some(client) = self.clients.get_mut(token) {
                    client.deadline = Some(deadline);
                }
                None
            }
            None => None,
        }
    }

    fn turn_away(&mut self, token: usize, refusal: Refusal) {
        log::debug!("connection {token}: refused: {}", refusal.message);
        if let Some(client) = self.clients.get_mut(token) {
            client.out = item_frame(&Item::Error(refusal));
            client.state = State::Leaving;
        }
    }

    /// Ends those whose deadline has passed.
    fn take_verdicts(&mut self) {
        if !std::mem::take(&mut self.ready.woken) {
            return;
        }
        let here = self.store.committed().pos;
        for Token(token) in self.checker.verdicts() {
            let Some(client) = self.clients.get_mut(token) else {
                continue;
            };
            client.deadline = None;
            match &mut client.state {
                // What came before the deadline is given still; what comes later is not.
                State::Subscribed(subscription) => end_at(subscription, here, End::Until),
                State::Opening(_) | State::Leaving => {
                    log::info!(
                        "connection {token}: no request within {} s, closed",
                        OPENING_TIME.as_secs()
                    );
                    self.end(token);
                }
            }
        }
    }

    fn serve_clients(&mut self) {
        let served = self.clients.serve(&self.store);
        self.more = served.more;
        for token in served.room {
            self.watch_for_room(token);
        }
        for token in served.gone {
            self.end(token);
        }
        self.counters.subscribers_lost = self.clients.lost;
    }

    /// Polls for room only while a socket is full: otherwise every read of a peer would wake this process.
    fn watch_for_room(&mut self, token: usize) {
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let interest = if client.blocked {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        match self
            .poll
            .registry()
            .reregister(&mut client.stream, Token(token), interest)
        {
            Ok(()) => client.watched_for_room = client.blocked,
            Err(error) => {
                log::warn!("connection {token}: cannot poll: {error}");
                self.end(token);
            }
        }
    }

    fn end(&mut self, token: usize) {
        let Some(mut client) = self.clients.remove(token) else {
            return;
        };
        if let Some(deadline) = client.deadline {
            self.checker.disarm(deadline);
        }
        let _ = self.poll.registry().deregister(&mut client.stream);
        log::debug!("connection {token}: closed");
    }

    fn keep_time(&mut self) {
        if let Some((every, at)) = &mut self.watchdog
            && Instant::now() >= *at
        {
            activation::tell(&[NotifyState::Watchdog]);
            *at = Instant::now() + *every;
        }
        self.report_garbage();
    }

    /// Takes what the FIFO still holds, tells every subscriber that this is the end, and goes.
    fn farewell(mut self, events: &mut Events) -> io::Result<()> {
        activation::tell(&[NotifyState::Stopping]);
        let drain_until = Instant::now() + LAST_DRAIN;
        while self.unsynced.is_none() && Instant::now() < drain_until && self.read_window()? {}
        self.emit(Event::new("daemon", "stop", "sampan-monitord").with("pid", std::process::id()));
        self.commit(0);
        // Joins the thread, which syncs what is left.
        self.syncer = None;
        if let Some(unsynced) = self.unsynced.take() {
            self.fifo.consume(unsynced.fifo_bytes)?;
        }
        let committed = self.store.committed();
        self.store.show(committed);
        if let Some(journal) = self.store.journal_mut() {
            journal.settle(committed.seq);
        }
        for client in self.clients.iter_mut() {
            match &mut client.state {
                State::Subscribed(subscription) => end_at(subscription, committed.pos, End::Shutdown),
                State::Opening(_) => client.state = State::Leaving,
                State::Leaving => {}
            }
        }
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.serve_clients();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.clients.len() == 0 || left.is_zero() {
                break;
            }
            let timeout = if self.more { Duration::ZERO } else { left };
            match self.poll.poll(events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.mark(events),
            }
        }
        log::info!(
            "stopped, newest event {}; {}",
            self.store.head(),
            self.counters_line()
        );
        Ok(())
    }

    fn counters_line(&mut self) -> String {
        let rate = self.counters.events_per_1000s();
        let counters = &self.counters;
        format!(
            "seq={} events={} events/s={}.{:03} subscribers={} skipped_bytes={} repeated={} writers_lost={} \
             subscribers_lost={} refused={}",
            self.store.head(),
            counters.events,
            rate / 1000,
            rate % 1000,
            self.clients.len(),
            counters.skipped_bytes,
            counters.repeated,
            counters.writers_lost,
            counters.subscribers_lost,
            counters.refused,
        )
    }

    fn status(&mut self) -> Status {
        let visible = self.store.visible();
        let mut bytes = 0;
        let mut subscribers = Vec::new();
        let mut left_out = 0;
        for (_, client) in self.clients.iter() {
            let State::Subscribed(subscription) = &client.state else {
                continue;
            };
            bytes += 32
                + subscription
                    .terms
                    .iter()
                    .map(|term| term.len() + 4)
                    .sum::<usize>();
            if bytes > STATUS_BYTES_MAX {
                left_out += 1;
                continue;
            }
            subscribers.push(Subscriber {
                uid: client.peer.uid,
                pid: client.peer.pid,
                lag: client.lag(visible),
                filters: subscription.terms.to_vec(),
                age_ms: u64::try_from(client.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.counters.uptime_ms(),
            seq: self.store.head(),
            events: self.counters.events,
            events_per_1000s: self.counters.events_per_1000s(),
            skipped_bytes: self.counters.skipped_bytes,
            repeated: self.counters.repeated,
            writers_lost: self.counters.writers_lost,
            subscribers_lost: self.counters.subscribers_lost,
            refused: self.counters.refused,
            ring: self.store.ring_extent(),
            journal: self.store.journal_status(),
            subscribers,
            subscribers_left_out: left_out,
        }
    }
}

impl Repeats {
    /// Forgets once the FIFO has moved past all that the process before this one can have left.
    fn pass(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        if self.bytes_left == 0 {
            self.known = HashSet::new();
        }
    }
}

/// Reads what a client sent; its request once that is whole.
fn read_request(client: &mut Client) -> io::Result<Option<Result<Request, Refusal>>> {
    let mut buffer = [0; 4096];
    loop {
        let len = match client.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let State::Opening(decoder) = &mut client.state else {
            return Err(io::Error::other("it sent more than its request"));
        };
        decoder.push(&buffer[..len]);
        match decoder.next_body() {
            Ok(None) => {}
            Ok(Some(body)) => return Ok(Some(watch::open(body))),
            Err(error) => {
                let message = format!("cannot read the request: {error}");
                return Ok(Some(Err(Refusal {
                    reason: Reason::Request,
                    message,
                    versions: vec![watch::VERSION],
                })));
            }
        }
    }
}

fn refuse(client: &mut Client, reason: Reason, message: String) {
    client.out = item_frame(&Item::Error(Refusal {
        reason,
        message,
        versions: vec![watch::VERSION],
    }));
    client.state = State::Leaving;
}

/// Opens the journal and the ring; a journal that cannot be had leaves the ring alone, and says why.
fn open_store(settings: &Settings) -> Result<(Store, crate::journal::Found, Option<String>), StartError> {
    let mut found = crate::journal::Found {
        next: Cursor { pos: 0, seq: 1 },
        ..Default::default()
    };
    let (mut journal, mut refused) = (None, None);
    match settings
        .journal
        .as_deref()
        .map(|dir| Journal::open(dir, settings.limits))
    {
        None => {}
        Some(Ok((opened, what))) => {
            refused = opened.failed().map(str::to_owned);
            journal = Some(opened);
            found = what;
        }
        Some(Err(OpenError::Busy(dir))) => {
            return Err(StartError::Busy {
                what: OpenError::Busy(dir).to_string(),
            });
        }
        Some(Err(error)) => refused = Some(crate::logging::chain(&error)),
    }
    if journal.is_none() || refused.is_some() {
        // Nothing remembers the last number across a restart; microseconds rise faster than events come.
        found.next.seq = found.next.seq.max((sampan_ipc::time::now() / 1000).max(1) as u64);
    }
    Ok((
        Store::new(settings.ring_bytes, journal, found.next),
        found,
        refused,
    ))
}

fn make_parent(path: &Path) -> Result<(), StartError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
    made.map_err(|source| StartError::Directory {
        path: parent.display().to_string(),
        source,
    })
}

/// The group whose members may emit and subscribe, if the host has it.
///
/// Read from /etc/group itself, group(5): the C library would load its name services for it, and keep them.
fn group() -> Option<Gid> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find_map(|line| line.strip_prefix("sampan:"))?;
    line.split(':').nth(1)?.parse().ok().map(Gid::from_raw)
}

/// A subscriber is a descriptor: asks for as many as the limits allow. getrlimit(2).
fn raise_descriptor_limit(subscribers_max: usize) {
    let wanted = subscribers_max as u64 + DESCRIPTORS_OWN;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            let allowed = wanted.min(hard);
            if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, allowed, hard) {
                log::warn!("cannot raise the limit of descriptors: {errno}");
            } else if allowed < wanted {
                log::warn!(
                    "only {allowed} descriptors are allowed: fewer subscribers than {subscribers_max} fit"
                );
            }
        }
        Ok(_) => {}
        Err(errno) => log::warn!("cannot read the limit of descriptors: {errno}"),
    }
}

/// `time` from now, in nanoseconds since the epoch.
fn after(time: Duration) -> i64 {
    sampan_ipc::time::now().saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

fn reloading() -> Vec<NotifyState<'static>> {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => vec![NotifyState::Reloading, now],
        Err(_) => vec![NotifyState::Reloading],
    }
}
