//! One container in the manager's table, and the requests that wait for it.
//!
//! Plain data, owned by [`super::manager::ContainerManager`]; nothing here reads files or sends anything.

use super::definition::Definition;
use super::shim_connection::ShimConnection;
use sampan_ipc::container::Condition;
use sampan_ipc::engine::{Answer, Request, Stop};
use sampan_ipc::shim::{self, State};
use sampan_store::Pin;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The answers to one client.
pub struct Reply {
    /// The client's token.
    pub client: usize,
    /// The answers; the last one ends the stream.
    pub answers: Vec<Answer>,
    /// Descriptors to send with the first answer.
    pub descriptors: Vec<OwnedFd>,
}

/// A request that waits until its container is no longer busy.
pub struct Queued {
    /// The client's token.
    pub client: usize,
    /// The request.
    pub request: Request,
    /// Descriptors that came with the request.
    pub descriptors: Vec<OwnedFd>,
}

/// An operation that is under way on a container; other requests wait for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A thread creates the container.
    Creating,
    /// A shim starts the container; this client, if any, waits for the start.
    Starting(Option<usize>),
    /// The container has exited and its shim removes what the run left.
    Ending,
    /// A thread or the shim removes the container.
    Removing,
    /// A thread removes what a killed shim left, or replays its events.
    CleaningUp,
    /// The engine looks for the shim, or is connected to it and has not received its state yet.
    Connecting,
}

/// One container.
pub struct Entry {
    /// How it was created.
    pub definition: Arc<Definition>,
    /// Its state, as last reported.
    pub state: State,
    /// The connection to its shim, with its poll token, if it has a shim.
    pub connection: Option<(usize, ShimConnection)>,
    /// The operation under way.
    pub busy: Option<Busy>,
    /// Requests that wait for the operation's end.
    pub queue: VecDeque<Queued>,
    /// Keeps the image's blobs and layers in the store.
    pub pin: Option<Pin>,
    /// The container is removed and only its shim still ends: lookups and lists leave it out.
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
            is_removed: false,
        }
    }
}

/// A request that was sent to a shim and is not answered yet.
pub struct PendingRequest {
    /// The container.
    pub id: String,
    /// The client that waits for the answer, if any.
    pub client: Option<usize>,
    /// Process ids that the shim has sent before its answer.
    pub pids: Option<Vec<i32>>,
    /// The request to execute without the shim if the shim ends before it answers.
    pub fallback: Option<Request>,
}

/// A client that waits for a container's end.
pub struct Wait {
    /// The container.
    pub id: String,
    /// The client.
    pub client: usize,
    /// Which end it waits for.
    pub condition: Condition,
    /// The container's last end when the wait began, in nanoseconds since the epoch; 0 if there was none.
    pub finished: i64,
}

/// A prune whose removals are under way.
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

/// Returns the request to execute without a shim, for those requests to a shim that can be.
pub(super) fn fallback(id: &str, what: &shim::Action) -> Option<Request> {
    let container = id.to_owned();
    match what {
        shim::Action::Remove => Some(Request::RemoveContainer { container, force: true }),
        shim::Action::Restart(..) => Some(Request::Restart(Stop { container, timeout: None, signal: None })),
        _ => None,
    }
}
