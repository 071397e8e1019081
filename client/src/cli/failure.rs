//! How a command fails: what is printed, and the exit status.
//!
//! Made by the commands, printed once, by `main`.

use sampan_client::engine::{Code, EngineError};
use sampan_client::{Paths, WatchError};
use sampan_ipc::report::chain;
use signal_hook::consts::SIGPIPE;
use std::error::Error;
use std::io;

/// The work was tried and failed.
pub const FAILED: u8 = 1;
/// An event that `emit` was given is not allowed.
pub const BAD_EVENT: u8 = 2;
/// The arguments make no sense. podman-run(1) says 125 for this as well.
pub const USAGE: u8 = 125;

/// An error for a person: what went wrong, and what may be done about it.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// One line, lower case.
    pub message: String,
    /// One line; empty if nothing comes to mind.
    pub hint: String,
    /// True if nothing is to be said: whoever reads the output has left.
    pub quiet: bool,
    /// The signal that this process dies of instead of exiting with the status.
    pub signal: Option<i32>,
}

impl Failure {
    /// The work failed.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { status: FAILED, message: message.into(), hint: String::new(), quiet: false, signal: None }
    }

    /// The arguments make no sense.
    pub fn usage(error: impl Error) -> Self {
        Failure { status: USAGE, ..Failure::new(chain(&error)) }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Failure { hint: hint.into(), ..self }
    }

    /// The same with an exit status.
    #[must_use]
    pub fn status(self, status: u8) -> Self {
        Failure { status, ..self }
    }

    /// Standard output cannot be written; that its reader has left is no news.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::unread(),
            _ => Failure::new(format!("cannot write to standard output: {error}")),
        }
    }

    /// The reader of standard output has left. The process ends as the kernel ends one that does not ignore SIGPIPE.
    pub fn unread() -> Self {
        Failure { quiet: true, signal: Some(SIGPIPE), ..Failure::new("the reader of the output has left") }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        let failure = Failure::new(chain(&error));
        match &error {
            WatchError::Connect { source, .. } => failure.hint(absent_hint(source, "monitord")),
            WatchError::Broken { .. } | WatchError::Shutdown => failure.hint(
                "see the log of sampan-monitord; without --no-reconnect the stream goes on when it returns",
            ),
            WatchError::Time(_) => failure.status(USAGE),
            WatchError::CursorFile { .. } => {
                failure.hint("it holds one sequence number; remove it to begin anew")
            }
            _ => failure,
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let failure = Failure::new(chain(&error));
        match &error {
            EngineError::Connect { source, .. } => failure.hint(absent_hint(source, "the engine")),
            EngineError::Broken { .. } => failure.hint("see the log of sampan-engine"),
            EngineError::Failed(told) => match told.code {
                Code::Usage => failure.status(USAGE).hint(&told.hint),
                _ => failure.hint(&told.hint),
            },
            _ => failure,
        }
    }
}

/// What a person may do who cannot reach a daemon.
pub fn absent_hint(error: &io::Error, who: &str) -> String {
    let run = Paths::from_env().run;
    match error.kind() {
        io::ErrorKind::PermissionDenied => "join the group that owns the socket, or become root".to_owned(),
        io::ErrorKind::InvalidInput => "set SAMPAN_RUN_DIR to a shorter path".to_owned(),
        _ => format!(
            "is {who} running? start it with 'sampan up' or systemctl; SAMPAN_RUN_DIR here is {}",
            run.display()
        ),
    }
}
