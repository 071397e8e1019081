//! How a command fails: what is printed, and the exit status.
//!
//! Made by the commands, printed once, by `main`.

use sampan_client::engine::{Code, EngineError};
use sampan_client::{CursorError, Paths, WatchError};
use sampan_ipc::report::chain;
use sampan_ipc::{accounts, trust};
use signal_hook::consts::SIGPIPE;
use std::error::Error;
use std::io;
use std::path::Path;

/// The work was tried and failed.
pub(crate) const FAILED: u8 = 1;
/// An event that `emit` was given is not allowed.
pub(crate) const BAD_EVENT: u8 = 2;
/// The arguments make no sense. podman-run(1) says 125 for this as well.
pub(crate) const USAGE: u8 = 125;

/// Where root's daemons are.
const HOST_RUN: &str = "/run/sampan";

/// An error for a person: what went wrong, and what may be done about it.
#[derive(Debug)]
pub(crate) struct Failure {
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
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { status: FAILED, message: message.into(), hint: String::new(), quiet: false, signal: None }
    }

    /// The arguments make no sense.
    pub(crate) fn usage(error: impl Error) -> Self {
        Failure { status: USAGE, ..Failure::new(chain(&error)) }
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Failure { hint: hint.into(), ..self }
    }

    /// The same with an exit status.
    #[must_use]
    pub(crate) fn status(self, status: u8) -> Self {
        Failure { status, ..self }
    }

    /// Standard output cannot be written; that its reader has left is no news.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::reader_left(),
            _ => Failure::new(format!("cannot write to standard output: {error}")),
        }
    }

    /// The reader of standard output has left. The process ends as the kernel ends one that does not ignore SIGPIPE.
    pub(crate) fn reader_left() -> Self {
        Failure { quiet: true, signal: Some(SIGPIPE), ..Failure::new("the reader of the output has left") }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        let failure = Failure::new(chain(&error));
        match &error {
            WatchError::Connect { socket, source } => {
                failure.hint(unreachable_hint(source, "monitord", socket))
            }
            WatchError::Broken { .. } | WatchError::Shutdown => failure.hint(
                "see the log of sampan-monitord; without --no-reconnect the stream goes on when it returns",
            ),
            WatchError::Time(_) => failure.status(USAGE),
            WatchError::CursorFile { source, .. } => failure.hint(cursor_hint(source)),
            _ => failure,
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let failure = Failure::new(chain(&error));
        match &error {
            EngineError::Connect { socket, source } => {
                failure.hint(unreachable_hint(source, "the engine", socket))
            }
            EngineError::Broken { .. } => failure.hint("see the log of sampan-engine"),
            EngineError::Failed(told) => match told.code {
                Code::Usage => failure.status(USAGE).hint(&told.hint),
                _ => failure.hint(&told.hint),
            },
            _ => failure,
        }
    }
}

/// What helps against a cursor file that cannot be used. Nothing here costs the position but what says so.
fn cursor_hint(error: &CursorError) -> &'static str {
    let error = match error {
        CursorError::Locked { .. } => return "give each reader a cursor file of its own",
        CursorError::NotRegular(_) => return "name a regular file, or one that is not there yet",
        CursorError::NotCursor => return "name another file; it was left as it is",
        CursorError::Removed => return "start again: what is there now says where reading begins",
        CursorError::Io(error) => error,
    };
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, and start again: the position is kept"
        }
        io::ErrorKind::PermissionDenied => "the user of this command must be able to read and write the file",
        io::ErrorKind::ReadOnlyFilesystem => "name a file on a disk that can be written",
        io::ErrorKind::NotFound => "make its directory first",
        _ => "see to the disk that it is on, and start again: the position is kept",
    }
}

/// What a person may do who cannot reach a daemon by its socket or FIFO.
pub(crate) fn unreachable_hint(error: &io::Error, who: &str, path: &Path) -> String {
    if let Some(distrust) = trust::reason(error) {
        return distrust.hint();
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => denied_hint(path),
        io::ErrorKind::InvalidInput => "set SAMPAN_RUN_DIR to a shorter path".to_owned(),
        _ => {
            let (run, host) = (Paths::from_env().run, Path::new(HOST_RUN));
            let other = match run != host && host.exists() {
                true => format!("; the host's daemons are reached with SAMPAN_RUN_DIR={HOST_RUN}"),
                false => String::new(),
            };
            format!(
                "is {who} running? start it with 'sampan up' or systemctl; SAMPAN_RUN_DIR here is {}{other}",
                run.display()
            )
        }
    }
}

/// Which group lets a person in at `path`, and what its members may do.
fn denied_hint(path: &Path) -> String {
    let (group, may) = match path.file_name().and_then(|name| name.to_str()) {
        Some("engine.sock") => {
            (accounts::ADMIN_GROUP, "are root in all but name: they may mount any directory of the host")
        }
        Some("monitor.fifo") => {
            (accounts::FACTS_GROUP, "may write any event, those of containers and images too")
        }
        _ => (accounts::WATCH_GROUP, "watch events and emit their own"),
    };
    match accounts::group_id(group) {
        Some(_) => format!("become root, or join the group {group}, whose members {may}"),
        None => format!("become root: this host has no group {group}, whose members {may}"),
    }
}
