//! What an operation may do to its client, and the trait of operations.
//!
//! An operation is a state machine that the event loop steps. It never blocks: it reads and writes until it would
//! block, and says so. See "An operation" in `docs/docker-api.md`.

use crate::api_version;
use crate::exec::table::Executions;
use crate::refusal::Refusal;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use sampan_client::Engine;
use sampan_http::answer::Answer;
use sampan_http::connection::{Connection, Received};
use sampan_ipc::paths::Paths;
use sampan_ipc::time;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Weak;
use std::time::Instant;

/// Most bytes that wait in the output of one client before its operation must wait.
pub const BACKLOG_MAX: usize = 64 << 10;

/// Appends the headers that every answer has, as lines. The head of [`Exchange::take_over`] needs them, too; the other
/// functions add them.
pub fn write_common_headers(out: &mut Vec<u8>) {
    const FIXED: &str = concat!("server: Sampan/", env!("CARGO_PKG_VERSION"), " (linux)\r\n");
    let lines = format!(
        "api-version: 1.{}\r\nostype: linux\r\ndocker-experimental: false\r\n{FIXED}date: {}\r\n",
        api_version::VERSION.minor,
        time::http_date(time::now())
    );
    out.extend_from_slice(lines.as_bytes());
}

/// A step's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The operation goes on when a watched descriptor is ready, the client has room or has sent bytes, or at the
    /// operation's deadline.
    Waits,
    /// The operation can go on at once, after the other clients had their turn.
    Again,
    /// The operation has answered completely.
    Ended,
}

/// The work on one request that the loop steps until it has ended.
pub trait Operation {
    /// Goes on until it would block.
    ///
    /// # Errors
    /// The request has failed. Before the answer has begun, the client gets the refusal. After that the connection
    /// breaks off, so that no client takes the incomplete answer for a complete one.
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal>;

    /// When to step, even if nothing is ready.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The client has left before the operation has ended. The operation is dropped next. Not called when the gateway
    /// itself ends.
    fn on_hang_up(&mut self, _shared: &mut Shared) {}
}

/// How the gateway reaches the daemons, and what the operations share.
#[derive(Debug)]
pub struct Shared {
    /// The engine's client.
    pub engine: Engine,
    /// Paths of the sockets.
    pub paths: Paths,
    /// The executions that clients have created.
    pub executions: Executions,
    /// Until when the gateway may not end although no client is connected.
    pub needed_until: Option<Instant>,
    /// Alive while a prune of containers runs.
    pub container_prune: Weak<()>,
}

impl Shared {
    /// How the gateway reaches the daemons at `paths`.
    pub fn new(paths: Paths) -> Self {
        Shared {
            engine: Engine::new(paths.engine_socket()),
            paths,
            executions: Executions::default(),
            needed_until: None,
            container_prune: Weak::new(),
        }
    }

    /// Keeps the gateway alive until `at` although no client may be connected: what only the gateway knows may be asked for
    /// until then.
    pub fn keep_alive_until(&mut self, at: Instant) {
        self.needed_until = self.needed_until.max(Some(at));
    }
}

/// One client's side of a request, lent to an operation for one step.
pub struct Exchange<'a> {
    pub(crate) connection: &'a mut Connection<mio::net::UnixStream>,
    pub(crate) registry: &'a Registry,
    pub(crate) token: Token,
    pub(crate) has_begun: &'a mut bool,
    /// What the operations share.
    pub shared: &'a mut Shared,
}

impl Exchange<'_> {
    /// Answers the request; no other function may be called after this one.
    pub fn answer(&mut self, answer: Answer) -> Progress {
        *self.has_begun = true;
        self.connection.answer(answer);
        Progress::Ended
    }

    /// Begins a chunked answer. The headers reach the client now, before the first chunk.
    pub fn begin(&mut self, head: &Answer) {
        *self.has_begun = true;
        self.connection.begin(head);
    }

    /// Whether an answer has begun.
    pub fn has_begun(&self) -> bool {
        *self.has_begun
    }

    /// Takes the connection over, after the bytes of `head`: a status line, headers, an empty line.
    pub fn take_over(&mut self, head: &[u8]) {
        *self.has_begun = true;
        self.connection.take_over(head);
    }

    /// Whether the client of a connection that was taken over has closed both directions. Bytes that it sent before
    /// can still be received; after the last one, the operation is dropped.
    pub fn is_peer_gone(&self) -> bool {
        self.connection.is_peer_gone()
    }

    /// Sends `bytes`: as one chunk of a streamed answer, or as they are on a connection that was taken over.
    pub fn send(&mut self, bytes: &[u8]) {
        self.connection.send_bytes(bytes);
    }

    /// Number of bytes that an operation may send now; 0 while the client has not taken enough of what was sent.
    pub fn room(&self) -> usize {
        BACKLOG_MAX.saturating_sub(self.connection.backlog())
    }

    /// Whether the client has taken all that was sent.
    pub fn is_drained(&self) -> bool {
        self.connection.backlog() == 0
    }

    /// Appends what the client has sent: the streamed body of the request, or bytes on a connection that was taken
    /// over.
    ///
    /// # Errors
    /// The connection is broken, or the body is not framed correctly.
    pub fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<Received> {
        self.connection.receive(bytes)
    }

    /// Ends the streamed answer, or the use of the connection.
    pub fn finish(&mut self) -> Progress {
        self.connection.finish();
        Progress::Ended
    }

    /// Ends the connection after the bytes that were sent, without the last chunk.
    pub fn break_off(&mut self) -> Progress {
        self.connection.break_off();
        Progress::Ended
    }

    /// Steps the operation whenever `fd` becomes ready. The operation must then read or write `fd` until it would
    /// block. The watch ends when `fd` is closed.
    ///
    /// # Errors
    /// The kernel has no memory for the watch, or `fd` is no file that can be watched.
    pub fn watch(&self, fd: &impl AsFd, interest: Interest) -> io::Result<()> {
        SourceFd(&fd.as_fd().as_raw_fd()).register(self.registry, self.token, interest)
    }
}
