//! The data that the event loop passes to threads that work on containers, and the results of the threads.

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
    /// Further clients that are attached from the start.
    pub clients: Vec<(Streams, Vec<OwnedFd>)>,
    /// Rows and columns of the client's terminal.
    pub size: (u16, u16),
    /// Whether a client requested a restart.
    pub is_restart: bool,
    /// Whether the restart policy requires this start.
    pub by_policy: bool,
    /// The request of a systemd unit's main process that becomes the shim; `None` for any other start.
    pub unit: Option<Box<StartUnit>>,
}

/// A shim that starts a container.
pub struct StartedShim {
    /// The connection to the shim.
    pub stream: UnixStream,
    /// The program that the client must execute to become the shim; `None` if the engine has started the shim.
    pub shim: Option<ShimCommand>,
}

/// The program that the main process of a systemd unit executes to become the shim.
pub struct ShimCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The shim's standard input.
    pub stdin: OwnedFd,
    /// The bytes that the shim reads first from its standard input.
    pub setup: Vec<u8>,
}

/// The result of a thread's work.
pub enum Outcome {
    /// A container was created, or could not be created.
    Created {
        /// The container's id.
        id: String,
        /// The client that requested the creation.
        client: usize,
        /// The definition, the pin on its image, and warnings for the client.
        result: Result<(Box<Definition>, Pin, Vec<String>), Failure>,
    },
    /// A container's shim was started, or could not be started.
    ShimStarted {
        /// The container's id.
        id: String,
        /// The started shim.
        result: Result<StartedShim, Failure>,
    },
    /// A container's files were removed, or could not be removed.
    Removed {
        /// The container's id.
        id: String,
        /// The client that requested the removal, if any.
        client: Option<usize>,
        /// Number of freed bytes.
        result: Result<u64, Failure>,
    },
    /// The leftovers of a killed shim were removed.
    CleanedUp {
        /// The container's id.
        id: String,
        /// The container's new state.
        state: Box<State>,
    },
    /// The process of an `exec` was described, or could not be described.
    ExecPrepared {
        /// The container's id.
        id: String,
        /// The client that requested the `exec`.
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
        /// The connection to the shim; `None` if no shim was found.
        stream: Option<UnixStream>,
    },
    /// The events that a container's shim could not write were replayed.
    Replayed {
        /// The container's id.
        id: String,
        /// Whether the engine's start caused the replay; otherwise the end of a shim did.
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
