//! The error of a command: the message, the hint and the exit status.
//!
//! The commands make a [`Failure`], and only `main` prints it.

use sampan_client::engine::{Code, EngineError};
use sampan_client::{CursorError, Paths, WatchError};
use sampan_ipc::report::chain;
use sampan_ipc::{accounts, trust};
use signal_hook::consts::SIGPIPE;
use std::error::Error;
use std::io;
use std::path::Path;

pub(crate) const FAILED: u8 = 1;
/// Exit status of `emit` for an event that is not allowed.
pub(crate) const BAD_EVENT: u8 = 2;
/// Exit status for a template that cannot be parsed, as in docker.
pub(crate) const BAD_TEMPLATE: u8 = 64;
/// Exit status for invalid arguments, as in podman-run(1).
pub(crate) const USAGE: u8 = 125;

/// The run directory of root's daemons.
const HOST_RUN: &str = "/run/sampan";

/// An error for a person: what went wrong, and what the person can do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: u8,
    /// One line in lower case.
    pub message: String,
    /// One line; empty if there is none.
    pub hint: String,
    /// Whether nothing is printed, because the reader of the output has closed it.
    pub quiet: bool,
    /// The signal that ends this process instead of an exit with `status`.
    pub signal: Option<i32>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { status: FAILED, message: message.into(), hint: String::new(), quiet: false, signal: None }
    }

    /// Makes the failure for invalid arguments.
    pub(crate) fn usage(error: impl Error) -> Self {
        Failure { status: USAGE, ..Failure::new(chain(&error)) }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Failure { hint: hint.into(), ..self }
    }

    #[must_use]
    pub(crate) fn status(self, status: u8) -> Self {
        Failure { status, ..self }
    }

    /// Makes the failure for standard output that cannot be written. Prints nothing if the reader has closed it.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::reader_left(),
            _ => Failure::new(format!("cannot write to standard output: {error}")),
        }
    }

    /// Makes the failure for a reader that has closed standard output: SIGPIPE ends this process, as in other
    /// programs.
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
                "see the log of sampan-monitord; without --no-reconnect, the stream continues when monitord returns",
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

/// Returns a hint for a cursor file that cannot be used. No hint makes the person lose the position.
fn cursor_hint(error: &CursorError) -> &'static str {
    let error = match error {
        CursorError::Locked { .. } => return "give each reader a cursor file of its own",
        CursorError::NotRegular(_) => return "name a regular file, or one that does not exist yet",
        CursorError::NotCursor => return "name another file; this one was not changed",
        CursorError::Removed => {
            return "start again: the file that is at this path now says where reading begins";
        }
        CursorError::Io(error) => error,
    };
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some disk space, and start again: the position is not lost"
        }
        io::ErrorKind::PermissionDenied => {
            "the user of this command must have permission to read and write the file"
        }
        io::ErrorKind::ReadOnlyFilesystem => "name a file on a file system that is writable",
        io::ErrorKind::NotFound => "create its directory first",
        _ => "check the disk of the file, and start again: the position is not lost",
    }
}

/// Returns a hint for a person who cannot reach a daemon by its socket or FIFO.
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
                true => format!("; set SAMPAN_RUN_DIR={HOST_RUN} to use the daemons of root"),
                false => String::new(),
            };
            format!(
                "is {who} running? start it with 'sampan up' or systemctl; SAMPAN_RUN_DIR here is {}{other}",
                run.display()
            )
        }
    }
}

/// Names the group that may use `path`, and says what its members may do.
fn denied_hint(path: &Path) -> String {
    let (group, may) = match path.file_name().and_then(|name| name.to_str()) {
        Some("engine.sock") => {
            (accounts::ADMIN_GROUP, "are root in all but name: they may mount any directory of the host")
        }
        Some("monitor.fifo") => {
            (accounts::FACTS_GROUP, "may write any event, including events of containers and images")
        }
        _ => (accounts::WATCH_GROUP, "may watch events and emit their own"),
    };
    match accounts::group_id(group) {
        Some(_) => format!("become root, or join the group {group}, whose members {may}"),
        None => format!("become root: this host has no group {group}, whose members {may}"),
    }
}
