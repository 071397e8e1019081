//! The event loop: reads the FIFOs and serves the sockets.
//!
//! `main` runs the event loop in one thread, which owns the intake (FIFOs and store), the listener and every client. A
//! poll event only marks a source as ready; then the work is done in a fixed order, up to a budget for each source.
//! The loop never waits for a subscriber, and never for a disk, for which only the syncer thread waits.

use crate::client::{Client, Criteria, KnownPosition, State, Subscription};
use crate::clients::{Clients, item_frame};
use crate::config::Settings;
use crate::deadlines::Deadlines;
use crate::intake::{Intake, ORIGINS};
use crate::request::{self, Plan};
use crate::setup::{self, SetupError};
use crate::until::{self, EndPlan};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use sampan_daemon::accept::Accept;
use sampan_daemon::listen::{Listener, Peer};
use sampan_daemon::signals::{self, SIGHUP, SIGINT, SIGTERM, SIGUSR1, Signals};
use sampan_daemon::systemd::{self, NotifyState, Watchdog};
use sampan_ipc::event::Origin;
use sampan_ipc::watch::{self, End, Item, Reason, Refusal, Request, Status, Subscribe, Subscriber};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
const FIFO: Token = Token(1);
const LISTENER: Token = Token(2);
const WAKER: Token = Token(3);
const EMIT_FIFO: Token = Token(4);
/// Token of the first client. Each later client has the next number, and no number is used twice.
const FIRST_CLIENT: usize = 16;

/// Most windows that are read from each FIFO in one turn, so that a full FIFO delays the other FIFO only by these.
const WINDOWS_PER_TURN: usize = 2;
/// Most connections that are accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Longest time until a client must have sent its request. Its connection is then closed, since it only occupies a
/// descriptor.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// Idle time after which the process releases the memory of its code pages. Longer than the default of `sync-interval`:
/// the syncer thread, which then runs for the last time, would bring pages back.
const IDLE_TIME: Duration = Duration::from_millis(1500);
/// Longest time for subscribers to receive their last events when this process stops.
const SHUTDOWN_TIME: Duration = Duration::from_millis(500);
/// Most bytes of the list of subscribers in a status, so that the status fits into one frame.
const STATUS_BYTES_MAX: usize = 768 << 10;

#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    facts: bool,
    emit: bool,
    woken: bool,
}

impl Ready {
    fn fifo(&mut self, origin: Origin) -> &mut bool {
        match origin {
            Origin::Facts => &mut self.facts,
            Origin::Emit => &mut self.emit,
        }
    }
}

/// The objects that the process owns while it serves clients.
pub(crate) struct EventLoop {
    settings: Settings,
    poll: Poll,
    signals: Signals,
    intake: Intake,
    clients: Clients,
    deadlines: Deadlines,
    listener: Listener,
    ready: Ready,
    next_token: usize,
    /// Clients without a complete request whose sockets have bytes to read.
    openings: Vec<usize>,
    watchdog: Watchdog,
    accept: Accept,
    /// When the memory of code pages is released. Set after each activity and cleared by the release, so that an idle
    /// process never wakes up.
    release_memory_at: Option<Instant>,
    /// Whether a client can accept more bytes at once, but has used up its budget.
    more: bool,
    /// When a subscriber with a filter must get the next position frame.
    position_at: Option<Instant>,
    stopping: bool,
}

impl EventLoop {
    /// Opens FIFOs, socket and journal, and starts the threads.
    ///
    /// # Errors
    /// A FIFO, the socket, the journal or a thread cannot be opened or started: see [`SetupError`].
    pub(crate) fn open(settings: Settings) -> Result<Self, SetupError> {
        let system = |what| move |source| SetupError::System { what, source };
        let (fifo, emit_fifo, listener) = setup::endpoints(&settings)?;
        let poll = Poll::new().map_err(system("polling"))?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(system("a waker"))?);
        let deadlines = Deadlines::start(Arc::clone(&waker)).map_err(system("the deadline thread"))?;
        let signals = signals::register(poll.registry(), SIGNALS, &[SIGTERM, SIGINT, SIGHUP, SIGUSR1]);
        let signals = signals.map_err(system("signals"))?;
        setup::raise_descriptor_limit(settings.subscribers_max);
        let (journal, recovery, failure) = setup::journal(&settings)?;
        let intake = Intake::new(fifo, emit_fifo, journal, &recovery, &settings, waker);
        let mut event_loop = EventLoop {
            poll,
            signals,
            intake: intake.map_err(system("the syncer thread"))?,
            clients: Clients::default(),
            deadlines,
            listener,
            ready: Ready { facts: true, emit: true, ..Ready::default() },
            next_token: FIRST_CLIENT,
            openings: Vec::new(),
            watchdog: Watchdog::from_env(),
            accept: Accept::new(),
            release_memory_at: None,
            more: false,
            position_at: None,
            stopping: false,
            settings,
        };
        event_loop.register().map_err(system("polling"))?;
        event_loop.intake.emit_start(&recovery.damage, failure.as_deref());
        Ok(event_loop)
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        for (origin, token) in [(Origin::Facts, FIFO), (Origin::Emit, EMIT_FIFO)] {
            registry.register(&mut SourceFd(&self.intake.raw(origin)), token, Interest::READABLE)?;
        }
        registry.register(self.listener.source(), LISTENER, Interest::READABLE)
    }

    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// Polling or reading a FIFO failed.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        log::info!(
            "serving {} from {} and {}, newest event {}",
            self.settings.socket.display(),
            self.settings.fifo.display(),
            self.settings.emit_fifo.display(),
            self.intake.store().head()
        );
        systemd::notify(&[NotifyState::Ready]);
        sampan_os::memory::drop_code_pages();
        while !self.stopping {
            self.wait(&mut events)?;
            self.mark(&events);
            self.take_signals();
            self.accept_clients();
            self.read_fifos()?;
            self.open_subscriptions();
            self.end_passed_deadlines();
            self.serve_clients();
            self.watchdog.feed();
            self.intake.report_bad_input();
            self.release_idle_memory(!events.is_empty());
        }
        self.shut_down(&mut events)
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let can_take = |origin| !self.intake.is_waiting_for_disk(origin);
        let has_input =
            (self.ready.facts && can_take(Origin::Facts)) || (self.ready.emit && can_take(Origin::Emit));
        let busy = self.more || has_input || self.accept.is_marked();
        let timeout = if busy { Some(Duration::ZERO) } else { self.next_deadline() };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// How long the loop may sleep; `None` if no work is scheduled.
    fn next_deadline(&self) -> Option<Duration> {
        let scheduled = [
            self.intake.next_report(),
            self.watchdog.deadline(),
            self.accept.next_attempt(),
            self.release_memory_at,
            self.position_at,
        ];
        let earliest = scheduled.into_iter().flatten().min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    fn mark(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                SIGNALS => self.ready.signals = true,
                FIFO => self.ready.facts = true,
                EMIT_FIFO => self.ready.emit = true,
                LISTENER => self.accept.mark_ready(),
                WAKER => self.ready.woken = true,
                Token(token) => {
                    let Some(client) = self.clients.get_mut(token) else {
                        continue;
                    };
                    if event.is_writable() {
                        client.blocked = false;
                    }
                    if event.is_read_closed() || event.is_error() {
                        // The peer has closed the connection, so unsent frames have no receiver.
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
                    log::info!("stopping on signal {signal}");
                    self.stopping = true;
                }
            }
        }
    }

    fn reread_settings(&mut self) {
        systemd::notify(&reloading());
        match self.settings.reread() {
            Err(error) => {
                let error = sampan_ipc::report::chain(&error);
                log::error!("the settings stay as they were, reading them again failed: {error}");
            }
            Ok(new) => {
                for name in self.settings.needs_restart(&new) {
                    log::warn!("'{name}' changed: this takes effect when sampan-monitord is restarted");
                }
                self.settings.limits = new.limits;
                self.settings.subscribers_max = new.subscribers_max.min(self.settings.subscribers_max);
                if new.subscribers_max > self.settings.subscribers_max {
                    log::warn!(
                        "'subscribers-max' was raised: this takes effect when sampan-monitord is restarted"
                    );
                }
                self.settings.subscribers_per_uid_max = new.subscribers_per_uid_max;
                log::info!("the new settings are in effect");
                self.intake.apply_settings(new.limits, new.sync);
            }
        }
        systemd::notify(&[NotifyState::Ready]);
    }

    fn accept_clients(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.accept.is_ready(Instant::now()) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.accept.record_success();
                    self.admit(Client::new(stream, peer, watch::REQUEST_MAX));
                }
                Err(error) => {
                    if self.accept.record_failure(&error, Instant::now()) {
                        log::warn!("cannot accept a subscriber's connection, will try again: {error}");
                    }
                }
            }
        }
    }

    fn admit(&mut self, mut client: Client) {
        let (token, peer) = (self.next_token, client.peer);
        self.next_token += 1;
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut client.stream, Token(token), Interest::READABLE) {
            log::warn!("closed a connection of user {}: cannot poll it: {error}", peer.uid);
            return;
        }
        log::debug!("connection {token}: accepted from user {}, process {}", peer.uid, peer.pid);
        let deadline = (clock_after(OPENING_TIME), Token(token));
        self.deadlines.arm(deadline);
        client.deadline = Some(deadline);
        let exceeded = self.exceeded_limit(peer);
        self.clients.insert(token, client);
        if let Some(message) = exceeded {
            log::warn!("refused a subscriber of user {} (process {}): {message}", peer.uid, peer.pid);
            self.intake.counters.refused += 1;
            self.refuse(token, request::refusal(Reason::Limit, message));
        }
    }

    /// The limit that another client of `peer`'s user would exceed, in words; `None` if another client is allowed.
    fn exceeded_limit(&self, peer: Peer) -> Option<String> {
        let (all, of_user) = (self.settings.subscribers_max, self.settings.subscribers_per_uid_max);
        if self.clients.len() >= all {
            Some(format!("{all} subscribers are served already, which is the limit"))
        } else if self.clients.count_of_uid(peer.uid) >= of_user {
            Some(format!("{of_user} subscribers of user {} are served already, which is the limit", peer.uid))
        } else {
            None
        }
    }

    /// Reads records from both FIFOs, up to the turn's budget, and removes journal segments that exceed the limits.
    fn read_fifos(&mut self) -> io::Result<()> {
        for origin in self.intake.take_synced()? {
            *self.ready.fifo(origin) = true;
        }
        for origin in ORIGINS {
            // Before a new subscriber begins, read every event that was written before it sent its request, even if
            // the poll has not reported the FIFO yet.
            if *self.ready.fifo(origin) || !self.openings.is_empty() {
                *self.ready.fifo(origin) = self.intake.take(origin, WINDOWS_PER_TURN)?;
            }
        }
        self.intake.report_bad_input();
        if self.intake.store().is_over_limits() {
            for token in self.clients.finish_frames(self.intake.store()) {
                self.end(token);
            }
            self.intake.store_mut().prune();
        }
        Ok(())
    }

    fn open_subscriptions(&mut self) {
        for token in std::mem::take(&mut self.openings) {
            let Some(client) = self.clients.get_mut(token) else {
                continue;
            };
            match request::read(client) {
                Ok(None) => {}
                Ok(Some(Ok((version, request)))) => self.open_request(token, version, request),
                Ok(Some(Err(refusal))) => self.refuse(token, refusal),
                Err(error) => {
                    log::debug!("connection {token}: {error}");
                    self.end(token);
                }
            }
        }
    }

    fn open_request(&mut self, token: usize, version: u16, request: Request) {
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
                if let Err(refusal) = self.subscribe(token, version, subscribe) {
                    self.refuse(token, refusal);
                }
            }
        }
    }

    fn subscribe(&mut self, token: usize, version: u16, subscribe: Subscribe) -> Result<(), Refusal> {
        let Plan { filters, at, lineage, end } = request::plan(&subscribe, self.intake.store())?;
        let unmarked = version < watch::VERSION;
        let criteria = Criteria { filters, since: subscribe.since, until: subscribe.until, unmarked };
        let criteria = self.clients.share_criteria(criteria);
        let head = self.intake.store().head();
        let Some(client) = self.clients.get_mut(token) else { return Ok(()) };
        let (uid, pid) = (client.peer.uid, client.peer.pid);
        log::debug!("connection {token}: user {uid}, process {pid} subscribes {subscribe:?}");
        if let Some(opening) = client.deadline.take() {
            self.deadlines.disarm(opening);
        }
        let stop = match end {
            EndPlan::Stop(stop) => Some(stop),
            EndPlan::Deadline(until) => {
                self.deadlines.arm((until, Token(token)));
                client.deadline = Some((until, Token(token)));
                None
            }
            EndPlan::Open => None,
        };
        client.out = item_frame(&Item::Welcome { version, head });
        if version >= watch::VERSION {
            client.out.extend(item_frame(&Item::Journal(lineage)));
        }
        let terms = subscribe.filters.into();
        let needs_position = criteria.is_some() && version >= watch::VERSION;
        let known = needs_position.then(|| Box::new(KnownPosition { seq: lineage.after, sent_at: None }));
        client.state = State::Subscribed(Subscription { at, inside: false, criteria, stop, terms, known });
        Ok(())
    }

    fn refuse(&mut self, token: usize, refusal: Refusal) {
        log::debug!("connection {token}: refused: {}", refusal.message);
        if let Some(client) = self.clients.get_mut(token) {
            client.out = item_frame(&Item::Error(refusal));
            client.state = State::Leaving;
        }
    }

    /// Ends the subscriptions whose `until` has passed, and closes the connections of clients that sent no request in
    /// time.
    fn end_passed_deadlines(&mut self) {
        if !std::mem::take(&mut self.ready.woken) {
            return;
        }
        let committed = self.intake.store().committed();
        for Token(token) in self.deadlines.take_passed() {
            let Some(client) = self.clients.get_mut(token) else {
                continue;
            };
            client.deadline = None;
            match &mut client.state {
                State::Subscribed(subscription) => until::end_at_until(&mut subscription.stop, committed),
                State::Opening(_) | State::Leaving => {
                    log::info!("connection {token}: closed, no request within {} s", OPENING_TIME.as_secs());
                    self.end(token);
                }
            }
        }
    }

    fn serve_clients(&mut self) {
        let served = self.clients.serve(self.intake.store());
        self.more = served.more;
        self.position_at = served.position_at;
        for token in served.interest_changed {
            self.update_interest(token);
        }
        for token in served.gone {
            self.end(token);
        }
        self.intake.counters.subscribers_lost = self.clients.lost;
    }

    /// Polls a socket for writing only while the socket is full. Otherwise every read by the peer would wake this
    /// process.
    fn update_interest(&mut self, token: usize) {
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let interest =
            if client.blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        match self.poll.registry().reregister(&mut client.stream, Token(token), interest) {
            Ok(()) => client.polled_for_write = client.blocked,
            Err(error) => {
                log::warn!("connection {token}: closed, cannot poll it: {error}");
                self.end(token);
            }
        }
    }

    fn end(&mut self, token: usize) {
        let Some(mut client) = self.clients.remove(token) else {
            return;
        };
        if let Some(deadline) = client.deadline {
            self.deadlines.disarm(deadline);
        }
        let _ = self.poll.registry().deregister(&mut client.stream);
        log::debug!("connection {token}: closed");
    }

    /// Releases the memory of code pages after the process was idle for [`IDLE_TIME`]. The kernel reads the pages from
    /// the program's file again when they are used.
    fn release_idle_memory(&mut self, is_busy: bool) {
        let now = Instant::now();
        if is_busy || self.more {
            self.release_memory_at = Some(now + IDLE_TIME);
        } else if self.release_memory_at.take_if(|at| *at <= now).is_some() {
            sampan_os::memory::drop_code_pages();
        }
    }

    /// Reads the remaining records from the FIFOs, sends every subscriber its events up to them, and then the end
    /// frame.
    fn shut_down(mut self, events: &mut Events) -> io::Result<()> {
        systemd::notify(&[NotifyState::Stopping]);
        self.intake.close()?;
        let committed = self.intake.store().committed();
        for client in self.clients.iter_mut() {
            match &mut client.state {
                State::Subscribed(subscription) => until::end_at_shutdown(&mut subscription.stop, committed),
                State::Opening(_) => client.state = State::Leaving,
                State::Leaving => {}
            }
        }
        let deadline = Instant::now() + SHUTDOWN_TIME;
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
        log::info!("stopped, newest event {}; {}", self.intake.store().head(), self.counters_line());
        Ok(())
    }

    fn counters_line(&mut self) -> String {
        let rate = self.intake.counters.events_per_1000s();
        let counters = &self.intake.counters;
        format!(
            "seq={} events={} events/s={}.{:03} subscribers={} skipped_bytes={} repeated={} emit_refused={} \
             writers_lost={} subscribers_lost={} refused={}",
            self.intake.store().head(),
            counters.events,
            rate / 1000,
            rate % 1000,
            self.clients.len(),
            counters.skipped_bytes,
            counters.repeated,
            counters.emit_refused,
            counters.writers_lost,
            counters.subscribers_lost,
            counters.refused,
        )
    }

    fn status(&mut self) -> Status {
        let visible = self.intake.store().visible();
        let mut bytes = 0;
        let mut subscribers = Vec::new();
        let mut left_out = 0;
        for (_, client) in self.clients.iter() {
            let State::Subscribed(subscription) = &client.state else {
                continue;
            };
            bytes += 32 + subscription.terms.iter().map(|term| term.len() + 4).sum::<usize>();
            if bytes > STATUS_BYTES_MAX {
                left_out += 1;
                continue;
            }
            subscribers.push(Subscriber {
                uid: client.peer.uid,
                pid: client.peer.pid,
                lag: client.lag(visible),
                filters: subscription.terms.to_vec(),
                age_ms: u64::try_from(client.connected_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.intake.counters.uptime_ms(),
            seq: self.intake.store().head(),
            events: self.intake.counters.events,
            events_per_1000s: self.intake.counters.events_per_1000s(),
            skipped_bytes: self.intake.counters.skipped_bytes,
            repeated: self.intake.counters.repeated,
            writers_lost: self.intake.counters.writers_lost,
            subscribers_lost: self.intake.counters.subscribers_lost,
            refused: self.intake.counters.refused,
            ring: self.intake.store().ring_extent(),
            journal: self.intake.store().journal_status(),
            subscribers,
            subscribers_left_out: left_out,
        }
    }
}

/// The wall clock's time when `time` will have passed, in nanoseconds since the epoch.
fn clock_after(time: Duration) -> i64 {
    sampan_ipc::time::now().saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

fn reloading() -> Vec<NotifyState<'static>> {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => vec![NotifyState::Reloading, now],
        Err(_) => vec![NotifyState::Reloading],
    }
}
