//! One container in the manager's table, and the requests that wait for it.
//!
//! Plain data, which [`super::manager::ContainerManager`] owns. This module reads no files and sends nothing.

use super::definition::Definition;
use super::shim_connection::ShimConnection;
use sampan_ipc::container::{Condition, Streams};
use sampan_ipc::engine::{Answer, Request, Stop};
use sampan_ipc::shim::{self, State};
use sampan_store::Pin;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Most clients that wait for the start of one container.
pub const WAITING_CLIENTS_MAX: usize = 16;

/// The answers to one client.
pub struct Reply {
    /// The client's token.
    pub client: usize,
    /// The answers. [`Answer::Done`] and [`Answer::Error`] end the stream.
    pub answers: Vec<Answer>,
    /// Descriptors to send with the first answer.
    pub descriptors: Vec<OwnedFd>,
}

/// A request that waits while its container is busy.
pub struct Queued {
    /// The client's token.
    pub client: usize,
    /// The request.
    pub request: Request,
    /// Descriptors that came with the request.
    pub descriptors: Vec<OwnedFd>,
}

/// An operation that is running on a container. Most other requests wait until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A thread creates the container.
    Creating,
    /// A shim is starting the container. The client with this token, if any, waits for the start.
    Starting(Option<usize>),
    /// The container has exited, and its shim is removing the files of the run.
    Ending,
    /// A thread or the shim removes the container.
    Removing,
    /// A thread is removing the leftovers of a killed shim, or replaying its events.
    CleaningUp,
    /// The engine is looking for the shim, or waits for the shim's first message with the state.
    Connecting,
}

/// One container.
pub struct Entry {
    /// How the container was created.
    pub definition: Arc<Definition>,
    /// The container's state in the last report.
    pub state: State,
    /// The connection to the container's shim and its poll token; `None` without a shim.
    pub connection: Option<(usize, ShimConnection)>,
    /// The operation that is running.
    pub busy: Option<Busy>,
    /// Requests that wait until the operation ends.
    pub queue: VecDeque<Queued>,
    /// The pin that keeps the image's blobs and layers in the store.
    pub pin: Option<Pin>,
    /// Whether the container's shim is older than the engine and has closed a connection because of a request that it
    /// does not know.
    pub is_shim_old: bool,
    /// Clients that wait for the next start: their streams and descriptors. At most [`WAITING_CLIENTS_MAX`].
    pub waiting_clients: Vec<(Streams, Vec<OwnedFd>)>,
    /// Whether the container is removed, and only its shim still has to end. Lookups and lists then skip the
    /// container.
    pub is_removed: bool,
}

impl Entry {
    /// Makes the entry of a container without a shim.
    pub fn new(definition: Definition, state: State, pin: Option<Pin>) -> Self {
        let definition = Arc::new(definition);
        Entry {
            definition,
            state,
            connection: None,
            busy: None,
            queue: VecDeque::new(),
            pin,
            is_shim_old: false,
            waiting_clients: Vec::new(),
            is_removed: false,
        }
    }
}

/// A request that was sent to a shim and that the shim has not answered yet.
pub struct PendingRequest {
    /// The container.
    pub id: String,
    /// The client that waits for the answer, if any.
    pub client: Option<usize>,
    /// Process IDs that the shim has sent before its answer.
    pub pids: Option<Vec<i32>>,
    /// Whether a shim of the first release does not know the request, and closes the connection because of it.
    pub is_recent: bool,
    /// The request that the engine executes itself if the shim ends before it answers.
    pub fallback: Option<Request>,
}

/// A client that waits for a container's end.
pub struct Wait {
    /// The container.
    pub id: String,
    /// The client.
    pub client: usize,
    /// Which end the client waits for.
    pub condition: Condition,
    /// When the container had last ended before the wait began, in nanoseconds since the epoch; 0 if never.
    pub finished: i64,
}

/// A prune whose removals are still running.
pub struct Pruning {
    /// The client.
    pub client: usize,
    /// Number of removals that are not finished.
    pub left: usize,
    /// Ids of removed containers.
    pub removed: Vec<String>,
    /// Bytes freed so far.
    pub freed: u64,
}

/// Returns the request that the engine can execute itself instead of the shim's `what`; `None` if it cannot.
pub(super) fn fallback(id: &str, what: &shim::Action) -> Option<Request> {
    let container = id.to_owned();
    match what {
        shim::Action::Remove => Some(Request::RemoveContainer { container, force: true }),
        shim::Action::Restart(..) => Some(Request::Restart(Stop { container, timeout: None, signal: None })),
        _ => None,
    }
}
