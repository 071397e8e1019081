//! Opens FIFOs, socket and journal before the event loop runs.
//!
//! Called once, by [`crate::event_loop::EventLoop::open`]. Reads and writes no event.

use crate::config::Settings;
use crate::fifo::{Fifo, FifoError};
use crate::journal::{Journal, OpenError, Recovery};
use crate::ring::Cursor;
use nix::sys::stat::{SFlag, fstat, stat};
use nix::unistd::Gid;
use sampan_daemon::descriptors;
use sampan_daemon::listen::{ListenError, Listener};
use sampan_daemon::systemd;
use sampan_ipc::paths::{Paths, unwritable_hint};
use sampan_ipc::trust::{self, TrustError};
use sampan_ipc::{accounts, report};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Descriptors that this process needs in addition to one for each client.
const DESCRIPTORS_OWN: u64 = 256;

/// Why this process cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// Another instance uses the FIFO, the socket or the journal; the text says which.
    #[error("{what}")]
    Busy { what: String },
    #[error(transparent)]
    Fifo(FifoError),
    #[error(transparent)]
    Listen(ListenError),
    /// The directory of FIFO, socket or journal cannot be trusted or created.
    #[error(transparent)]
    Directory(#[from] TrustError),
    /// A thread, the poll or a signal handler cannot be created.
    #[error("cannot set up {what}")]
    System { what: &'static str, source: io::Error },
}

impl SetupError {
    /// What the administrator can do; empty if the text of the error says that already.
    pub(crate) fn hint(&self) -> String {
        match self {
            SetupError::Directory(error) => error.hint(),
            _ => String::new(),
        }
    }
}

/// Descriptors that the service manager passed. sd_listen_fds(3).
#[derive(Debug, Default)]
struct PassedDescriptors {
    /// The monitor FIFO (`fifo`), open for reading and writing.
    fifo: Option<OwnedFd>,
    /// The emit FIFO (`emit`), open for reading and writing.
    emit: Option<OwnedFd>,
    /// The listening events socket (`events`).
    listener: Option<OwnedFd>,
}

/// Takes the descriptors from systemd by their names (`fifo`, `emit`, `events`), or by their type if a name is another
/// one.
///
/// A FIFO with another name is the emit FIFO if it is the file at `emit_path`, and the monitor FIFO otherwise.
fn take_passed(emit_path: &Path) -> PassedDescriptors {
    let mut passed = PassedDescriptors::default();
    for (name, fd) in systemd::passed() {
        let kind = fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        let slot = match (name.as_str(), kind) {
            ("fifo", Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            ("emit", Ok(SFlag::S_IFIFO)) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) if is_at(&fd, emit_path) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            (_, Ok(SFlag::S_IFSOCK)) => &mut passed.listener,
            _ => {
                log::warn!("closed the passed descriptor '{name}': it is neither a FIFO nor a socket");
                continue;
            }
        };
        match slot {
            None => *slot = Some(fd),
            Some(_) => {
                log::warn!(
                    "closed the passed descriptor '{name}': another one was passed for the same purpose"
                )
            }
        }
    }
    passed
}

/// Whether `fd` is the file at `path`.
fn is_at(fd: &OwnedFd, path: &Path) -> bool {
    matches!((fstat(fd), stat(path)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Opens the monitor FIFO, the emit FIFO and the listening socket. Uses descriptors from systemd if it has passed any.
///
/// # Errors
/// [`SetupError::Busy`] if another instance uses one of the three; another [`SetupError`] if one cannot be opened.
pub(crate) fn endpoints(settings: &Settings) -> Result<(Fifo, Fifo, Listener), SetupError> {
    let passed = take_passed(&settings.emit_fifo);
    // The socket comes first: if another instance is running, this fails before it has changed anything of that
    // instance.
    let listener = listener(settings, passed.listener, group())?;
    let facts = fifo(&settings.fifo, passed.fifo, accounts::FACTS_GROUP)?;
    let emit = fifo(&settings.emit_fifo, passed.emit, accounts::WATCH_GROUP)?;
    Ok((facts, emit, listener))
}

fn fifo(path: &Path, passed: Option<OwnedFd>, group: &str) -> Result<Fifo, SetupError> {
    let fifo = match passed {
        Some(fd) => Fifo::adopt(fd, path),
        None => {
            make_parent(path)?;
            Fifo::open(path, sampan_ipc::fifo::group(group))
        }
    };
    fifo.map_err(|error| match error {
        FifoError::Busy(_) => SetupError::Busy { what: error.to_string() },
        error => SetupError::Fifo(error),
    })
}

fn listener(
    settings: &Settings,
    passed: Option<OwnedFd>,
    group: Option<Gid>,
) -> Result<Listener, SetupError> {
    if let Some(fd) = passed {
        let what = "the passed socket";
        return Listener::adopt(fd).map_err(|source| SetupError::System { what, source });
    }
    make_parent(&settings.socket)?;
    Listener::bind(&settings.socket, "sampan-monitord", group, Duration::ZERO).map_err(|error| match error {
        ListenError::Busy { .. } => SetupError::Busy { what: error.to_string() },
        error => SetupError::Listen(error),
    })
}

/// Opens the journal. If it cannot be opened or written, returns the reason: events are then stored in memory only.
///
/// # Errors
/// [`SetupError::Busy`] if another instance uses the journal; [`SetupError::Directory`] if another user may have
/// written to its directory.
pub(crate) fn journal(
    settings: &Settings,
) -> Result<(Option<Journal>, Recovery, Option<String>), SetupError> {
    let none = Recovery { next: Cursor { pos: 0, seq: 1 }, ..Recovery::default() };
    let made = settings.journal.as_deref().map(|dir| make_journal(dir).map(|()| dir));
    let opened = made.map(|made| made.map(|dir| Journal::open(dir, settings.limits)));
    let (journal, mut recovery, failure) = match opened {
        None => (None, none, None),
        Some(Ok(Ok((journal, recovery)))) => {
            let failure = journal.failure().map(str::to_owned);
            (Some(journal), recovery, failure)
        }
        Some(Ok(Err(error @ OpenError::Busy(_)))) => {
            return Err(SetupError::Busy { what: error.to_string() });
        }
        Some(Ok(Err(error))) => (None, none, Some(report::chain(&error))),
        Some(Err(
            error @ (TrustError::Make { .. } | TrustError::Look { .. } | TrustError::NotDirectory(_)),
        )) => (None, none, Some(report::chain(&error))),
        Some(Err(error)) => return Err(SetupError::Directory(error)),
    };
    let failure = failure.map(|reason| {
        let dir = settings.journal.as_deref().map(|dir| ("SAMPAN_STATE_DIR", dir));
        unwritable_hint(dir.as_slice()).map_or(reason.clone(), |hint| format!("{reason}; {hint}"))
    });
    if journal.is_none() || failure.is_some() {
        // The disk will not record the numbers of this process. They begin at the time in microseconds: the next
        // process then has higher numbers, since there are fewer events than microseconds.
        let micros = u64::try_from(sampan_ipc::time::now() / 1000).unwrap_or(1);
        recovery.next.seq = recovery.next.seq.max(micros);
    }
    Ok((journal, recovery, failure))
}

/// Creates the directory of a FIFO or the socket. All users may enter root's directory, since members of groups use
/// the files in it; only its owner may enter a user's directory.
fn make_parent(path: &Path) -> Result<(), SetupError> {
    let parent = trust::parent(path);
    let mode = if nix::unistd::geteuid().is_root() { trust::PASSABLE } else { trust::PRIVATE };
    match parent == Paths::from_env().run {
        true => trust::make_own(parent, mode)?,
        false => trust::make(parent, mode)?,
    }
    Ok(())
}

/// Creates the directory of the journal. Creates the state root first if the journal is in it.
fn make_journal(dir: &Path) -> Result<(), TrustError> {
    let state = Paths::from_env().state;
    if dir.starts_with(&state) {
        trust::make_root(&state, trust::PRIVATE)?;
    }
    trust::make_own(dir, trust::PRIVATE)
}

/// The group whose members may subscribe; `None` if the host does not have the group, or if this process is not root
/// and cannot give the socket to a group.
fn group() -> Option<Gid> {
    let is_root = nix::unistd::geteuid().is_root();
    is_root.then(|| accounts::group_id(accounts::WATCH_GROUP)).flatten().map(Gid::from_raw)
}

/// Raises the soft limit of descriptors, so that `subscribers_max` clients are possible, as far as the hard limit
/// allows. getrlimit(2).
pub(crate) fn raise_descriptor_limit(subscribers_max: usize) {
    let wanted = subscribers_max as u64 + DESCRIPTORS_OWN;
    descriptors::raise_limit(wanted, &format!("'subscribers-max' ({subscribers_max})"));
}
