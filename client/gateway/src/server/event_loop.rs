//! The loop: accepts clients, steps them when something is ready, closes late ones, ends after an idle time.
//!
//! Run by `main`; owns all sockets. Knows no route: `client` asks `route`.

use super::client::Client;
use crate::exchange::Shared;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use sampan_daemon::accept::Accept;
use sampan_daemon::descriptors;
use sampan_daemon::listen::Listener;
use sampan_daemon::signals::{self, SIGINT, SIGTERM, Signals};
use sampan_daemon::systemd::{self, NotifyState};
use sampan_http::connection::Timeouts;
use sampan_os::memory;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
const LISTENER: Token = Token(1);
/// Tokens of clients are even. The odd token after a client's is that of all descriptors that its operation watches.
const FIRST_TOKEN: usize = 2;
const WATCHED: usize = 1;

/// Most connections; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4_000;
/// Descriptors that a connection needs at most in the usual case: its own, one to a daemon, three of an attachment.
const DESCRIPTORS_EACH: u64 = 5;
/// How long the gateway waits for its clients. docker's command line ends with its command; SDKs keep connections.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(300),
    request: Duration::from_secs(30),
    send: Duration::from_secs(86_400),
};
/// How long the loop must be idle before free memory returns to the kernel.
const TRIM_DELAY: Duration = Duration::from_secs(2);

/// The loop with all that it owns.
pub struct Server {
    poll: Poll,
    signals: Signals,
    listener: Listener,
    accept: Accept,
    clients: HashMap<usize, Client>,
    queue: VecDeque<usize>,
    next_token: usize,
    shared: Shared,
    idle_timeout: Option<Duration>,
    idle_since: Instant,
    trim_at: Option<Instant>,
    is_stopping: bool,
}

impl Server {
    /// Registers the listener and the signals. The loop ends once no client was connected for `idle_timeout`.
    ///
    /// # Errors
    /// They cannot be registered.
    pub fn new(mut listener: Listener, shared: Shared, idle_timeout: Option<Duration>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let signals = signals::register(poll.registry(), SIGNALS, &[SIGTERM, SIGINT])?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        descriptors::raise_limit(CONNECTIONS_MAX as u64 * DESCRIPTORS_EACH, "4,000 connections");
        Ok(Server {
            poll,
            signals,
            listener,
            accept: Accept::new(),
            clients: HashMap::new(),
            queue: VecDeque::new(),
            next_token: FIRST_TOKEN,
            shared,
            idle_timeout,
            idle_since: Instant::now(),
            trim_at: None,
            is_stopping: false,
        })
    }

    /// Serves until SIGTERM, SIGINT, or the idle end.
    ///
    /// # Errors
    /// The loop cannot wait for events.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while !self.is_stopping {
            self.turn(&mut events)?;
        }
        systemd::notify(&[NotifyState::Stopping]);
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.timeout()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in events.iter() {
            match event.token() {
                SIGNALS => self.is_stopping |= self.signals.pending().next().is_some(),
                LISTENER => self.accept.mark_ready(),
                Token(token) => self.mark(token, event),
            }
        }
        let now = Instant::now();
        if !events.is_empty() {
            self.trim_at = Some(now + TRIM_DELAY);
        }
        self.accept(now);
        self.enqueue_due(now);
        self.serve();
        if self.trim_at.take_if(|at| *at <= now).is_some() {
            memory::trim();
        }
        self.is_stopping |= self.idle_end().is_some_and(|at| at <= now);
        Ok(())
    }

    /// Notes that the client's connection, or a descriptor that its operation watches, is ready.
    fn mark(&mut self, token: usize, event: &Event) {
        let client = token & !WATCHED;
        if token == client
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.connection.mark(event);
        }
        self.enqueue(client);
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let clients = self.clients.values().filter_map(|client| client.deadline(&TIMEOUTS));
        let others = [self.accept.next_attempt(), self.trim_at, self.idle_end()];
        clients.chain(others.into_iter().flatten()).min().map(|at| at.saturating_duration_since(now))
    }

    /// When the gateway ends, if nobody connects before.
    fn idle_end(&self) -> Option<Instant> {
        let is_idle = self.clients.is_empty();
        self.idle_timeout.filter(|_| is_idle).map(|timeout| self.idle_since + timeout)
    }

    fn enqueue(&mut self, token: usize) {
        if let Some(client) = self.clients.get_mut(&token).filter(|client| !client.is_queued) {
            client.is_queued = true;
            self.queue.push_back(token);
        }
    }

    fn enqueue_due(&mut self, now: Instant) {
        let due = |client: &Client| client.deadline(&TIMEOUTS).is_some_and(|at| at <= now);
        let due: Vec<usize> =
            self.clients.iter().filter(|(_, client)| due(client)).map(|(token, _)| *token).collect();
        for token in due {
            match self.clients.get(&token).is_some_and(|client| client.is_late(&TIMEOUTS, now)) {
                true => self.close(token),
                false => self.enqueue(token),
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        while self.clients.len() < CONNECTIONS_MAX && self.accept.is_ready(now) {
            match self.listener.accept() {
                Ok((mut stream, peer)) => {
                    self.accept.record_success();
                    let token = self.next_token;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if self.poll.registry().register(&mut stream, Token(token), interest).is_err() {
                        continue;
                    }
                    self.next_token += 2;
                    self.clients.insert(token, Client::new(stream, peer.uid));
                    self.enqueue(token);
                }
                Err(error) => {
                    if self.accept.record_failure(&error, now) {
                        log::warn!("cannot accept a connection: {error}");
                    }
                }
            }
        }
    }

    fn serve(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(client) = self.clients.get_mut(&token) else { continue };
            client.is_queued = false;
            match client.step(self.poll.registry(), Token(token | WATCHED), &mut self.shared) {
                Ok(true) => self.enqueue(token),
                Ok(false) => {}
                Err(_) => self.close(token),
            }
        }
    }

    fn close(&mut self, token: usize) {
        if self.clients.remove(&token).is_some() {
            self.idle_since = Instant::now();
            if self.clients.len() + 1 == CONNECTIONS_MAX {
                self.accept.mark_ready();
            }
        }
    }
}
