//! What the event loop gives to threads that work on containers, and what they give back. Plain data.

use super::definition::Definition;
use sampan_ipc::container::{Exec, Streams};
use sampan_ipc::engine::{Answer, Failure, StartUnit};
use sampan_ipc::shim::State;
use sampan_store::Pin;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// How a container is to be started.
#[derive(Default)]
pub struct StartOptions {
    /// A client is attached from the start.
    pub attach: Option<(Streams, Vec<OwnedFd>)>,
    /// Rows and columns of its terminal.
    pub size: (u16, u16),
    /// A person asked for a restart.
    pub is_restart: bool,
    /// The container's restart policy asked for it.
    pub by_policy: bool,
    /// The main process of a unit of systemd's asked for it, and becomes the shim.
    pub unit: Option<Box<StartUnit>>,
}

/// A start that is under way.
pub struct StartedShim {
    /// The way to the shim.
    pub stream: UnixStream,
    /// What a client has to become first.
    pub shim: Option<ShimCommand>,
}

/// A client that is to be the shim.
pub struct ShimCommand {
    /// The program, and its words.
    pub words: Vec<String>,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// What it reads there first.
    pub setup: Vec<u8>,
}

/// What a thread has done.
pub enum Outcome {
    /// A container was made, or not.
    Created {
        /// Its id.
        id: String,
        /// Who wanted it.
        client: usize,
        /// How it was made, and what a person should be told.
        result: Result<(Box<Definition>, Pin, Vec<String>), Failure>,
    },
    /// A shim was started for it, or not.
    ShimStarted {
        /// Its id.
        id: String,
        /// The way to the shim.
        result: Result<StartedShim, Failure>,
    },
    /// Its files are gone, or not.
    Removed {
        /// Its id.
        id: String,
        /// Who wanted that.
        client: Option<usize>,
        /// Bytes that became free.
        result: Result<u64, Failure>,
    },
    /// What a killed shim left is tidied up.
    CleanedUp {
        /// Its id.
        id: String,
        /// Where the container stands now.
        state: Box<State>,
    },
    /// A process of `exec` is described, or not.
    ExecPrepared {
        /// The container's id.
        id: String,
        /// Who wants it.
        client: usize,
        /// What the shim is to be asked.
        result: Result<(Box<Exec>, String), Failure>,
        /// What came along.
        descriptors: Vec<OwnedFd>,
    },
    /// Its shim was looked for.
    ShimSearched {
        /// The container's id.
        id: String,
        /// The way to it, if it lives.
        stream: Option<UnixStream>,
    },
    /// What its shim had kept for the monitor is told.
    Replayed {
        /// The container's id.
        id: String,
        /// The engine has just started.
        is_start: bool,
    },
    /// An answer that took a while.
    Answers {
        /// Who gets it.
        client: usize,
        /// The answers.
        answers: Vec<Answer>,
    },
}
