//! One client: its HTTP connection, and the operation that answers its request.

use crate::call::Started;
use crate::exchange::{self, BACKLOG_MAX, Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use crate::route;
use http::Request;
use mio::net::UnixStream;
use mio::{Registry, Token};
use sampan_http::connection::{Connection, Phase, Reply, Rules, Timeouts, Unlimited, WaitsFor};
use sampan_http::request::Limits;
use std::io;
use std::time::Instant;

/// Most operations of one client that begin before the other clients have their turn.
const TURN_OPERATIONS: usize = 8;

/// Limits of a request. The largest bodies are those of `create`, with a seccomp profile in them.
const LIMITS: Limits = Limits { head_max: 64 << 10, body_max: 4 << 20, is_read_only: false };

/// All answers have docker's headers, refusals of the HTTP side included.
const RULES: Rules = Rules {
    is_streamed: route::is_streamed,
    is_long_poll: route::is_long_poll,
    write_headers: exchange::write_common_headers,
    refusal: |status| Refusal::of_http(status).answer(),
};

/// A connected client.
pub(crate) struct Client {
    pub(crate) connection: Connection<UnixStream>,
    operation: Option<Box<dyn Operation>>,
    has_begun: bool,
    /// The user id of the process that has connected.
    pub(crate) uid: u32,
    /// Whether the client is in the loop's queue.
    pub(crate) is_queued: bool,
    /// The deadline by which the loop has listed the client.
    pub(crate) listed: Option<Instant>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream, uid: u32) -> Self {
        let mut connection = Connection::new(stream, LIMITS);
        connection.set_rules(&RULES);
        Client { connection, operation: None, has_begun: false, uid, is_queued: false, listed: None }
    }

    /// When the client should be stepped or closed, unless something happens before.
    pub(crate) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        let operation = self.operation.as_ref().and_then(|operation| operation.deadline());
        [operation, self.connection.deadline(timeouts)].into_iter().flatten().min()
    }

    /// Whether the peer has let a time limit pass.
    pub(crate) fn is_late(&self, timeouts: &Timeouts, now: Instant) -> bool {
        self.connection.deadline(timeouts).is_some_and(|at| at <= now)
    }

    /// Whether the client waits for an answer that ends by itself soon, or has not taken such an answer completely. A
    /// stream may never end.
    pub(crate) fn awaits_short_answer(&self) -> bool {
        let is_idle = matches!(self.connection.phase(), Phase::Idle | Phase::Receiving | Phase::Lingering);
        !is_idle && !self.connection.is_streaming()
    }

    /// Tells the operation that the client has left.
    pub(crate) fn hang_up(mut self, shared: &mut Shared) {
        if let Some(operation) = &mut self.operation {
            operation.on_hang_up(shared);
        }
    }

    /// Goes on with everything that is ready. Returns whether to come again at once.
    ///
    /// # Errors
    /// The connection has ended.
    pub(crate) fn step(
        &mut self,
        registry: &Registry,
        token: Token,
        shared: &mut Shared,
    ) -> io::Result<bool> {
        for _ in 0..TURN_OPERATIONS {
            let mut started = None;
            let mut take = |request: &Request<&[u8]>| match route::start(request, shared) {
                Started::Answer(answer) => Reply::Now(answer),
                Started::Operation(operation) => {
                    started = Some(operation);
                    Reply::Later
                }
            };
            let waits = self.connection.step(&mut Unlimited, &mut take)?;
            if let Some(operation) = started {
                (self.operation, self.has_begun) = (Some(operation), false);
            }
            let Some(operation) = &mut self.operation else {
                return Ok(waits == WaitsFor::Turn);
            };
            let mut exchange = Exchange {
                connection: &mut self.connection,
                registry,
                token,
                has_begun: &mut self.has_begun,
                shared,
            };
            let progress = operation.step(&mut exchange).unwrap_or_else(|refusal| refuse(exchange, &refusal));
            if progress == Progress::Ended {
                self.operation = None;
                continue;
            }
            // An operation without room waits until its output is sent.
            let is_unfinished = progress == Progress::Again || self.connection.backlog() >= BACKLOG_MAX;
            let waits = self.connection.step(&mut Unlimited, &mut |_| Reply::Later)?;
            let has_room = self.connection.backlog() < BACKLOG_MAX;
            return Ok(waits == WaitsFor::Turn || (is_unfinished && has_room));
        }
        Ok(true)
    }
}

fn refuse(mut exchange: Exchange<'_>, refusal: &Refusal) -> Progress {
    match exchange.has_begun() {
        true => exchange.break_off(),
        false => exchange.answer(refusal.answer()),
    }
}
