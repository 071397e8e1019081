//! The loop, its deadlines, its connections.
//!
//! Run by `main`; owns the managers, in [`Core`], and all sockets. Each turn serves the connections that the poll
//! has reported, or that have an answer, once; each has a budget, so that one transfer does not hold up the
//! others. Knows no route: `control` and `download` do.

use super::control::ControlRequest;
use super::core::Core;
use super::message::Message;
use super::tls::Stream;
use ::http::Request;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use sampan_daemon::accept::Accept;
use sampan_daemon::descriptors;
use sampan_daemon::signals::{self, SIGINT, SIGTERM, SIGUSR1, Signals};
use sampan_daemon::systemd::{self, NotifyState, Watchdog};
use sampan_http::connection::{Connection, Reply, Timeouts, Unlimited, WaitsFor};
use sampan_os::memory;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

const SIGNALS: Token = Token(0);
const CONTROL: Token = Token(1);
const DOWNLOAD: Token = Token(2);
/// The token of the [`mio::Waker`] by which threads wake the loop.
pub const WAKER: Token = Token(3);
const FIRST_TOKEN: usize = 16;

/// Most connections of both ports; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 16_000;
/// Descriptors that this process needs in addition to one for each connection: open files, connections to origins.
const DESCRIPTORS_OWN: u64 = 1024;
/// Most connections from one address; further ones are closed.
const PER_ADDRESS_MAX: usize = 4_000;
/// Most connections that are accepted in one turn.
const ACCEPTS_PER_TURN: usize = 256;
/// How long the supernode waits for the other end of a connection. Dragonfly's clients keep an idle one for 10 s.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(120),
    request: Duration::from_secs(30),
    send: Duration::from_secs(60),
};
/// How long it waits while three quarters of all connections are taken: idle ones make room for others.
const TIMEOUTS_CROWDED: Timeouts =
    Timeouts { idle: Duration::from_secs(3), request: Duration::from_secs(5), send: Duration::from_secs(15) };
/// How often connections that have waited too long are looked for then.
const IDLE_CHECK_CROWDED: Duration = Duration::from_secs(1);
/// How often the loop looks for connections that have waited too long, while there are connections.
const IDLE_CHECK: Duration = Duration::from_secs(15);
/// How long the loop must be idle before free memory returns to the kernel.
const TRIM_DELAY: Duration = Duration::from_secs(2);

/// Which port a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Control,
    Download,
}

/// An open connection of one of the ports.
struct PortConnection {
    connection: Connection<Stream>,
    port: Port,
    remote: IpAddr,
    /// Whether the connection is in the queue of this turn or the next.
    is_queued: bool,
}

/// A port that accepts connections.
struct PortListener {
    listener: TcpListener,
    accept: Accept,
    port: Port,
}

/// The loop with all that it owns.
pub struct Server {
    poll: Poll,
    signals: Signals,
    listeners: [PortListener; 2],
    tls: Option<Arc<rustls::ServerConfig>>,
    connections: HashMap<usize, PortConnection>,
    per_address: HashMap<IpAddr, usize>,
    /// The connections to serve next, each once.
    queue: VecDeque<usize>,
    next_token: usize,
    /// Everything but connections.
    pub core: Core,
    inbox: Receiver<Message>,
    watchdog: Watchdog,
    idle_check: Option<Instant>,
    trim_at: Option<Instant>,
    is_stopping: bool,
    /// Most connections: [`CONNECTIONS_MAX`], or fewer if there are not enough descriptors.
    connections_max: usize,
}

impl Server {
    /// Registers everything with `poll`, except the threads' waker, which is already registered as [`WAKER`]. With
    /// `tls`, both ports speak TLS.
    ///
    /// # Errors
    /// A listener or the signals cannot be registered.
    pub fn new(
        poll: Poll,
        mut control: TcpListener,
        mut download: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        core: Core,
        inbox: Receiver<Message>,
    ) -> io::Result<Self> {
        let signals = signals::register(poll.registry(), SIGNALS, &[SIGTERM, SIGINT, SIGUSR1])?;
        poll.registry().register(&mut control, CONTROL, Interest::READABLE)?;
        poll.registry().register(&mut download, DOWNLOAD, Interest::READABLE)?;
        let descriptors =
            descriptors::raise_limit(CONNECTIONS_MAX as u64 + DESCRIPTORS_OWN, "16,000 connections");
        let port_listener = |listener, port| PortListener { listener, accept: Accept::new(), port };
        Ok(Server {
            poll,
            signals,
            listeners: [port_listener(control, Port::Control), port_listener(download, Port::Download)],
            tls,
            connections: HashMap::new(),
            per_address: HashMap::new(),
            queue: VecDeque::new(),
            next_token: FIRST_TOKEN,
            core,
            inbox,
            watchdog: Watchdog::from_env(),
            idle_check: None,
            trim_at: None,
            is_stopping: false,
            connections_max: usize::try_from(descriptors.saturating_sub(DESCRIPTORS_OWN))
                .unwrap_or(usize::MAX)
                .clamp(16, CONNECTIONS_MAX),
        })
    }

    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// The loop cannot wait for events.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
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
                SIGNALS => self.take_signals(),
                CONTROL => self.listeners[0].accept.mark_ready(),
                DOWNLOAD => self.listeners[1].accept.mark_ready(),
                WAKER => {}
                Token(token) => {
                    if let Some(entry) = self.connections.get_mut(&token) {
                        entry.connection.mark(event);
                        self.enqueue(token);
                    }
                }
            }
        }
        if !events.is_empty() {
            self.trim_at = Some(Instant::now() + TRIM_DELAY);
        }
        self.accept();
        let clock = SystemTime::now();
        while let Ok(message) = self.inbox.try_recv() {
            self.core.on_message(message, Instant::now(), clock);
        }
        self.serve(clock);
        self.core.run_due(Instant::now(), clock);
        self.deliver();
        self.close_idle();
        self.watchdog.feed();
        if self.trim_at.take_if(|at| *at <= Instant::now()).is_some() {
            memory::trim();
        }
        Ok(())
    }

    fn take_signals(&mut self) {
        for signal in self.signals.pending().collect::<Vec<_>>() {
            match signal {
                SIGUSR1 => self.core.log_figures(),
                _ => self.is_stopping = true,
            }
        }
    }

    /// The time until the earliest deadline; `None` if there is no deadline.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let listeners = self.listeners.iter().filter_map(|port_listener| port_listener.accept.next_attempt());
        let others = [self.core.deadline(now), self.watchdog.deadline(), self.idle_check, self.trim_at];
        let earliest = listeners.chain(others.into_iter().flatten()).min();
        earliest.map(|at| at.saturating_duration_since(now))
    }

    fn enqueue(&mut self, token: usize) {
        if let Some(entry) = self.connections.get_mut(&token).filter(|entry| !entry.is_queued) {
            entry.is_queued = true;
            self.queue.push_back(token);
        }
    }

    fn accept(&mut self) {
        let now = Instant::now();
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let full = self.connections.len() >= self.connections_max;
                let Some(port_listener) = self.listeners.get_mut(index) else { break };
                if full || !port_listener.accept.is_ready(now) {
                    break;
                }
                match port_listener.listener.accept() {
                    Ok((stream, address)) => {
                        port_listener.accept.record_success();
                        let port = port_listener.port;
                        self.add_connection(stream, address, port, now);
                    }
                    Err(error) => {
                        if port_listener.accept.record_failure(&error, now) {
                            log::warn!("cannot accept a connection: {error}");
                        }
                    }
                }
            }
        }
    }

    fn add_connection(&mut self, stream: TcpStream, address: SocketAddr, port: Port, now: Instant) {
        let remote = address.ip().to_canonical();
        let count = self.per_address.entry(remote).or_default();
        if *count >= PER_ADDRESS_MAX {
            return;
        }
        let stream = match Stream::new(stream, self.tls.as_ref()) {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("cannot begin TLS: {error}");
                return;
            }
        };
        let limits = match port {
            Port::Control => super::control::LIMITS,
            Port::Download => sampan_http::request::Limits::READ_ONLY,
        };
        let mut connection = Connection::new(stream, limits);
        let token = self.next_token;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(connection.stream(), Token(token), interest).is_err() {
            return;
        }
        *count += 1;
        self.next_token += 1;
        self.core.open.insert(token);
        self.connections.insert(token, PortConnection { connection, port, remote, is_queued: false });
        self.idle_check.get_or_insert(now + IDLE_CHECK);
        if self.is_crowded() {
            self.idle_check = self.idle_check.map(|at| at.min(now + IDLE_CHECK_CROWDED));
        }
        self.enqueue(token);
    }

    /// Serves each connection of the queue once.
    fn serve(&mut self, clock: SystemTime) {
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(entry) = self.connections.get_mut(&token) else { continue };
            entry.is_queued = false;
            let (core, port, remote) = (&mut self.core, entry.port, entry.remote);
            let mut answer = |request: &Request<&[u8]>| match port {
                Port::Download => Reply::Now(core.download(request, remote, clock)),
                Port::Control => {
                    let request = ControlRequest { token, remote, request, now: Instant::now(), clock };
                    core.control(&request).map_or(Reply::Later, Reply::Now)
                }
            };
            match entry.connection.step(&mut Unlimited, &mut answer) {
                Ok(WaitsFor::Turn) => self.enqueue(token),
                Ok(_) => {}
                Err(_) => self.close(token),
            }
        }
    }

    /// Hands answers that are ready to their connections.
    fn deliver(&mut self) {
        for (token, answer) in std::mem::take(&mut self.core.answers) {
            if let Some(entry) = self.connections.get_mut(&token) {
                entry.connection.answer(answer);
                self.enqueue(token);
            }
        }
    }

    fn close(&mut self, token: usize) {
        let Some(entry) = self.connections.remove(&token) else { return };
        if let Some(count) = self.per_address.get_mut(&entry.remote) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&entry.remote);
            }
        }
        if self.connections.is_empty() {
            self.idle_check = None;
        }
        self.core.on_closed(token);
        if self.connections.len() + 1 == self.connections_max {
            self.listeners.iter_mut().for_each(|port_listener| port_listener.accept.mark_ready());
        }
    }

    fn close_idle(&mut self) {
        let now = Instant::now();
        if self.idle_check.take_if(|at| *at <= now).is_none() {
            return;
        }
        let timeouts = if self.is_crowded() { &TIMEOUTS_CROWDED } else { &TIMEOUTS };
        let is_over =
            |entry: &PortConnection| entry.connection.deadline(timeouts).is_some_and(|at| at <= now);
        let idle: Vec<usize> =
            self.connections.iter().filter(|(_, c)| is_over(c)).map(|(token, _)| *token).collect();
        idle.into_iter().for_each(|token| self.close(token));
        let after = if self.is_crowded() { IDLE_CHECK_CROWDED } else { IDLE_CHECK };
        self.idle_check = (!self.connections.is_empty()).then(|| now + after);
    }

    fn is_crowded(&self) -> bool {
        self.connections.len() >= self.connections_max / 4 * 3
    }
}
