//! The loop: accepts clients, steps them when something is ready, closes late ones, ends after an idle time.
//!
//! Run by `main`; owns all sockets. Knows no route: `client` asks `route`.

use super::client::Client;
use super::quota::{CONNECTIONS_MAX, Quota};
use crate::exchange::{self, Shared};
use crate::refusal::Refusal;
use mio::event::Event;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use sampan_daemon::accept::Accept;
use sampan_daemon::descriptors;
use sampan_daemon::listen::Listener;
use sampan_daemon::signals::{self, SIGINT, SIGTERM, Signals};
use sampan_daemon::systemd::{self, NotifyState};
use sampan_http::connection::Timeouts;
use sampan_os::memory;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Write};
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
const LISTENER: Token = Token(1);
/// Tokens of clients are even. The odd token after a client's is that of all descriptors that its operation watches.
const FIRST_TOKEN: usize = 2;
const WATCHED: usize = 1;

/// Most connections that are accepted before the clients have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Descriptors that a connection needs at most in the usual case: its own, one to a daemon, three of an attachment.
const DESCRIPTORS_EACH: u64 = 5;
/// How long the gateway waits for its clients. docker's command line ends with its command; SDKs keep connections.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(300),
    request: Duration::from_secs(30),
    send: Duration::from_secs(300),
};
/// How long the gateway that is told to stop waits for short answers. docker's daemon waits as long.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// How long the loop must be idle before free memory returns to the kernel.
const TRIM_DELAY: Duration = Duration::from_secs(2);

/// The loop with all that it owns.
pub struct Server {
    poll: Poll,
    signals: Signals,
    listener: Listener,
    accept: Accept,
    clients: HashMap<usize, Client>,
    quota: Quota,
    queue: VecDeque<usize>,
    /// The clients that have a deadline, the earliest first: an idle client costs no turn anything.
    deadlines: BTreeSet<(Instant, usize)>,
    next_token: usize,
    shared: Shared,
    idle_timeout: Option<Duration>,
    idle_since: Instant,
    trim_at: Option<Instant>,
    /// When the gateway ends although clients wait for their answers; `None` before it is told to stop.
    stop_at: Option<Instant>,
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
        descriptors::raise_limit(CONNECTIONS_MAX as u64 * DESCRIPTORS_EACH, "4,096 connections");
        Ok(Server {
            poll,
            signals,
            listener,
            accept: Accept::new(),
            clients: HashMap::new(),
            quota: Quota::new(nix::unistd::geteuid().as_raw()),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_token: FIRST_TOKEN,
            shared,
            idle_timeout,
            idle_since: Instant::now(),
            trim_at: None,
            stop_at: None,
        })
    }

    /// Serves until SIGTERM, SIGINT, or the idle end. After a signal, clients get the short answers that they wait for;
    /// streams are cut, since they may never end.
    ///
    /// # Errors
    /// The loop cannot wait for events.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while !self.is_over(Instant::now()) {
            self.turn(&mut events)?;
            // The exit codes of executions end with this process.
            if self.clients.is_empty()
                && let Some(until) = self.shared.executions.kept_until()
            {
                self.shared.keep_alive_until(until);
            }
        }
        systemd::notify(&[NotifyState::Stopping]);
        Ok(())
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.stop_at {
            Some(at) => self.clients.is_empty() || at <= now,
            None => self.idle_end().is_some_and(|at| at <= now),
        }
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.timeout()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let now = Instant::now();
        for event in events.iter() {
            match event.token() {
                SIGNALS if self.signals.pending().next().is_some() => self.stop(now),
                SIGNALS => {}
                LISTENER => self.accept.mark_ready(),
                Token(token) => self.mark(token, event),
            }
        }
        if !events.is_empty() {
            self.trim_at = Some(now + TRIM_DELAY);
        }
        self.accept(now);
        self.expire(now);
        self.serve();
        if self.trim_at.take_if(|at| *at <= now).is_some() {
            memory::trim();
        }
        Ok(())
    }

    /// Begins the end: accepts nobody, and keeps only clients that wait for a short answer.
    fn stop(&mut self, now: Instant) {
        if self.stop_at.is_some() {
            return;
        }
        self.stop_at = Some(now + STOP_WAIT);
        let ends = |client: &Client| !client.awaits_short_answer();
        let ended: Vec<usize> =
            self.clients.iter().filter(|(_, client)| ends(client)).map(|(token, _)| *token).collect();
        for token in ended {
            self.close(token);
        }
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
        if !self.queue.is_empty() || (self.accepts() && self.accept.is_marked()) {
            return Some(Duration::ZERO);
        }
        let retry = self.accept.next_attempt().filter(|_| self.accepts());
        let client = self.deadlines.first().map(|(at, _)| *at);
        let all = [client, retry, self.trim_at, self.idle_end(), self.stop_at];
        all.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// When the gateway ends, if nobody connects before.
    fn idle_end(&self) -> Option<Instant> {
        let timeout = self.idle_timeout.filter(|_| self.clients.is_empty())?;
        Some(self.idle_since + timeout).max(self.shared.needed_until)
    }

    fn enqueue(&mut self, token: usize) {
        if let Some(client) = self.clients.get_mut(&token).filter(|client| !client.is_queued) {
            client.is_queued = true;
            self.queue.push_back(token);
        }
    }

    /// Closes the clients that have let a time limit pass, and enqueues those whose operation wants to be stepped.
    fn expire(&mut self, now: Instant) {
        while let Some((_, token)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.pop_first();
            let Some(client) = self.clients.get_mut(&token) else { continue };
            client.listed = None;
            match client.is_late(&TIMEOUTS, now) {
                true => self.close(token),
                false => self.enqueue(token),
            }
        }
    }

    /// Lists the client by its deadline, which may have changed.
    fn list(&mut self, token: usize) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let deadline = client.deadline(&TIMEOUTS);
        let before = std::mem::replace(&mut client.listed, deadline);
        if before == deadline {
            return;
        }
        if let Some(at) = before {
            self.deadlines.remove(&(at, token));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, token));
        }
    }

    /// Whether further connections are accepted.
    fn accepts(&self) -> bool {
        self.stop_at.is_none() && !self.quota.is_full()
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.accepts() || !self.accept.is_ready(now) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.accept.record_success();
                    self.admit(stream, peer.uid);
                }
                Err(error) => {
                    if self.accept.record_failure(&error, now) {
                        log::warn!("cannot accept a connection, trying again every 200 ms: {error}");
                    }
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, uid: u32) {
        if !self.quota.admit(uid) {
            log::debug!("user {uid} has too many connections: another one is refused");
            return refuse(stream);
        }
        let token = self.next_token;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(token), interest) {
            log::warn!("cannot watch a connection of user {uid}, which is closed: {error}");
            return self.quota.release(uid);
        }
        self.next_token += 2;
        self.clients.insert(token, Client::new(stream, uid));
        self.enqueue(token);
    }

    fn serve(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(client) = self.clients.get_mut(&token) else { continue };
            client.is_queued = false;
            match client.step(self.poll.registry(), Token(token | WATCHED), &mut self.shared) {
                Ok(_) if self.stop_at.is_some() && !client.awaits_short_answer() => self.close(token),
                Ok(true) => self.enqueue(token),
                Ok(false) => {}
                Err(_) => self.close(token),
            }
            self.list(token);
        }
    }

    fn close(&mut self, token: usize) {
        let Some(client) = self.clients.remove(&token) else { return };
        if let Some(at) = client.listed {
            self.deadlines.remove(&(at, token));
        }
        if self.quota.is_full() {
            self.accept.mark_ready();
        }
        self.quota.release(client.uid);
        self.idle_since = Instant::now();
        client.hang_up(&mut self.shared);
    }
}

/// Refuses a connection beyond its user's limit.
fn refuse(mut stream: UnixStream) {
    let body = Refusal::new(503, "too many connections of this user: close some first").body();
    let mut answer = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n".to_vec();
    exchange::write_common_headers(&mut answer);
    let len = body.len();
    answer.extend(format!("content-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}").bytes());
    // A new socket has room for these bytes. A client that does not get them sees the end of the connection.
    let _ = stream.write(&answer);
}
