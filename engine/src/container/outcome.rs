//! What the event loop passes to threads that work on containers, and what they send back. Plain data.

use super::definition::Definition;
use sampan_ipc::container::{Exec, Streams};
use sampan_ipc::engine::{Answer, Failure, StartUnit};
use sampan_ipc::shim::State;
use sampan_store::Pin;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// How to start a container.
#[derive(Default)]
pub struct StartOptions {
    /// Streams of a client that is attached from the start, with their descriptors.
    pub attach: Option<(Streams, Vec<OwnedFd>)>,
    /// Rows and columns of the client's terminal.
    pub size: (u16, u16),
    /// A client requested a restart.
    pub is_restart: bool,
    /// The restart policy requires this start.
    pub by_policy: bool,
    /// The request of a systemd unit's main process, which becomes the shim.
    pub unit: Option<Box<StartUnit>>,
}

/// A shim that starts a container.
pub struct StartedShim {
    /// The connection to the shim.
    pub stream: UnixStream,
    /// The program that the client must execute to become the shim; `None` if the engine has started the shim.
    pub shim: Option<ShimCommand>,
}

/// The program that a unit's main process executes to become the shim.
pub struct ShimCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// The bytes that the shim reads there first.
    pub setup: Vec<u8>,
}

/// The result of a thread's work.
pub enum Outcome {
    /// A container was created, or creating it failed.
    Created {
        /// The container's id.
        id: String,
        /// The client that requested it.
        client: usize,
        /// The definition, the pin on its image, and warnings for the client.
        result: Result<(Box<Definition>, Pin, Vec<String>), Failure>,
    },
    /// A container's shim was started, or starting it failed.
    ShimStarted {
        /// The container's id.
        id: String,
        /// The started shim.
        result: Result<StartedShim, Failure>,
    },
    /// A container's files were removed, or removing them failed.
    Removed {
        /// The container's id.
        id: String,
        /// The client that requested it, if any.
        client: Option<usize>,
        /// Freed bytes.
        result: Result<u64, Failure>,
    },
    /// What a killed shim left was removed.
    CleanedUp {
        /// The container's id.
        id: String,
        /// The container's new state.
        state: Box<State>,
    },
    /// The process of an `exec` was described, or describing it failed.
    ExecPrepared {
        /// The container's id.
        id: String,
        /// The client that requested it.
        client: usize,
        /// The request for the shim, and the process as JSON (OCI runtime-spec, "Process").
        result: Result<(Box<Exec>, String), Failure>,
        /// Descriptors that came with the client's request.
        descriptors: Vec<OwnedFd>,
    },
    /// The search for a container's shim ended.
    ShimSearched {
        /// The container's id.
        id: String,
        /// The connection to the shim, if it lives.
        stream: Option<UnixStream>,
    },
    /// The events that a container's shim could not write were replayed.
    Replayed {
        /// The container's id.
        id: String,
        /// Whether this was part of the engine's start, rather than of the shim's end.
        is_start: bool,
    },
    /// Answers that a thread has made for a client.
    Answers {
        /// The client.
        client: usize,
        /// The answers.
        answers: Vec<Answer>,
    },
}
