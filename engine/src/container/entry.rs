//! One container as the event loop knows it, and who waits for what of it. Plain data.

use super::definition::Definition;
use super::shim_connection::ShimConnection;
use sampan_ipc::container::Condition;
use sampan_ipc::engine::{Answer, Request, Stop};
use sampan_ipc::shim::{self, State};
use sampan_store::Pin;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a client gets.
pub struct Reply {
    /// The client's token.
    pub client: usize,
    /// The answers; the last one ends the stream.
    pub answers: Vec<Answer>,
    /// Descriptors that go with the first.
    pub descriptors: Vec<OwnedFd>,
}

/// A request, and who wants it.
pub struct Queued {
    /// The client's token.
    pub client: usize,
    /// What it wants.
    pub request: Request,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

/// What is done to a container just now, so that other requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A thread makes it.
    Creating,
    /// A shim starts it; this client waits for that.
    Starting(Option<usize>),
    /// It has ended, and its shim tidies up.
    Ending,
    /// A thread, or its shim, removes it.
    Removing,
    /// A thread declares it dead.
    CleaningUp,
    /// Its shim was found, or is looked for, and has said nothing yet.
    Connecting,
}

/// One container.
pub struct Entry {
    /// How it was made.
    pub definition: Arc<Definition>,
    /// Where it stands.
    pub state: State,
    /// Its shim, if it has one.
    pub connection: Option<(usize, ShimConnection)>,
    /// What is done to it.
    pub busy: Option<Busy>,
    /// What is to be done next.
    pub queue: VecDeque<Queued>,
    /// Keeps its image's layers.
    pub pin: Option<Pin>,
    /// All of it is gone, and its shim about to end: nobody is told of it any more.
    pub is_removed: bool,
}

impl Entry {
    /// An entry of a container without a shim.
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

/// Who asked a shim for something.
pub struct PendingRequest {
    /// The container.
    pub id: String,
    /// The client; none if nobody waits.
    pub client: Option<usize>,
    /// Process ids that the shim told on the way.
    pub pids: Option<Vec<i32>>,
    /// What is to be done without the shim, if that ends before it answers.
    pub fallback: Option<Request>,
}

/// Who waits for a container's end.
pub struct Wait {
    /// The container.
    pub id: String,
    /// The client.
    pub client: usize,
    /// For what.
    pub condition: Condition,
    /// When the container had ended last, when the client asked.
    pub finished: i64,
}

/// A prune that waits for its removals.
pub struct Pruning {
    /// The client.
    pub client: usize,
    /// Removals that are not over yet.
    pub left: usize,
    /// Ids that are gone.
    pub removed: Vec<String>,
    /// Bytes that became free.
    pub freed: u64,
}

/// What of the things that a shim is asked for can be done without one as well.
pub(super) fn fallback(id: &str, what: &shim::What) -> Option<Request> {
    let container = id.to_owned();
    match what {
        shim::What::Remove => Some(Request::RemoveContainer { container, force: true }),
        shim::What::Restart(..) => Some(Request::Restart(Stop { container, timeout: None, signal: None })),
        _ => None,
    }
}
