//! What is opened before the loop runs, and why it cannot be.
//!
//! Called once, by [`crate::event_loop::EventLoop::open`].

use crate::config::Settings;
use crate::fifo::{Fifo, FifoError};
use crate::journal::{Found, Journal, OpenError};
use crate::ring::Cursor;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{SFlag, fstat, stat};
use nix::unistd::Gid;
use sampan_daemon::listen::{ListenError, Listener};
use sampan_daemon::systemd;
use sampan_ipc::paths::{Paths, unwritable_hint};
use sampan_ipc::trust::{self, TrustError};
use sampan_ipc::{accounts, report};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Descriptors that this process needs besides those of its clients.
const DESCRIPTORS_OWN: u64 = 256;

/// Why this process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Another instance is at work.
    #[error("{what}")]
    Busy {
        /// On what, in words.
        what: String,
    },
    /// A FIFO cannot be used.
    #[error(transparent)]
    Fifo(FifoError),
    /// The socket cannot be used.
    #[error(transparent)]
    Listen(ListenError),
    /// The directory of FIFO, socket or journal is not trusted, or cannot be made.
    #[error(transparent)]
    Directory(#[from] TrustError),
    /// A thread, a poll or a signal handler cannot be had.
    #[error("cannot set up {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl SetupError {
    /// What a person may do; empty if the error says it all.
    pub fn hint(&self) -> String {
        match self {
            SetupError::Directory(error) => error.hint(),
            _ => String::new(),
        }
    }
}

/// Descriptors that were passed.
#[derive(Debug, Default)]
struct Passed {
    /// The monitor FIFO (`fifo`), open for reading and writing.
    fifo: Option<OwnedFd>,
    /// The emit FIFO (`emit`), open for reading and writing.
    emit: Option<OwnedFd>,
    /// The listening events socket (`events`).
    listener: Option<OwnedFd>,
}

/// Takes what LISTEN_FDS passed: by name (`fifo`, `emit`, `events`), and by what it is where the name says nothing.
///
/// A FIFO without such a name is the emit FIFO if it is the file at `emit_path`, and that of facts otherwise.
fn passed(emit_path: &Path) -> Passed {
    let mut passed = Passed::default();
    for (name, fd) in systemd::passed() {
        let kind = fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        let place = match (name.as_str(), kind) {
            ("fifo", Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            ("emit", Ok(SFlag::S_IFIFO)) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) if is_at(&fd, emit_path) => &mut passed.emit,
            (_, Ok(SFlag::S_IFIFO)) => &mut passed.fifo,
            (_, Ok(SFlag::S_IFSOCK)) => &mut passed.listener,
            _ => {
                log::warn!("descriptor '{name}' was passed but is of no use here: closed");
                continue;
            }
        };
        match place {
            None => *place = Some(fd),
            Some(_) => {
                log::warn!("descriptor '{name}' was passed, but there is one for that already: closed")
            }
        }
    }
    passed
}

/// True if the file at `path` is the one that `fd` has open.
fn is_at(fd: &OwnedFd, path: &Path) -> bool {
    matches!((fstat(fd), stat(path)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Opens the FIFO of facts, the emit FIFO and the listening socket, unless they were passed.
///
/// # Errors
/// See [`SetupError`].
pub fn endpoints(settings: &Settings) -> Result<(Fifo, Fifo, Listener), SetupError> {
    let passed = passed(&settings.emit_fifo);
    // First of all, as it changes nothing of another instance's.
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
        let what = "the socket that was passed";
        return Listener::adopt(fd).map_err(|source| SetupError::System { what, source });
    }
    make_parent(&settings.socket)?;
    Listener::bind(&settings.socket, "sampan-monitord", group, Duration::ZERO).map_err(|error| match error {
        ListenError::Busy { .. } => SetupError::Busy { what: error.to_string() },
        error => SetupError::Listen(error),
    })
}

/// Opens the journal. One that cannot be had leaves the ring alone, and says why.
///
/// # Errors
/// [`SetupError::Busy`], or [`SetupError::Directory`] if another user may have put something into the journal.
pub fn journal(settings: &Settings) -> Result<(Option<Journal>, Found, Option<String>), SetupError> {
    let none = Found { next: Cursor { pos: 0, seq: 1 }, ..Found::default() };
    let made = settings.journal.as_deref().map(|dir| make_journal(dir).map(|()| dir));
    let opened = made.map(|made| made.map(|dir| Journal::open(dir, settings.limits)));
    let (journal, mut found, failed) = match opened {
        None => (None, none, None),
        Some(Ok(Ok((journal, found)))) => {
            let failed = journal.failed().map(str::to_owned);
            (Some(journal), found, failed)
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
    let failed = failed.map(|why| {
        let place = settings.journal.as_deref().map(|dir| ("SAMPAN_STATE_DIR", dir));
        unwritable_hint(place.as_slice()).map_or(why.clone(), |hint| format!("{why}; {hint}"))
    });
    if journal.is_none() || failed.is_some() {
        // Nothing remembers the last number across a restart; microseconds rise faster than events come.
        found.next.seq = found.next.seq.max(u64::try_from(sampan_ipc::time::now() / 1000).unwrap_or(1));
    }
    Ok((journal, found, failed))
}

/// Makes the directory of FIFO or socket: root's is passed through by the members of groups, a user's own by nobody.
fn make_parent(path: &Path) -> Result<(), SetupError> {
    let parent = trust::parent(path);
    let mode = if nix::unistd::geteuid().is_root() { trust::PASSABLE } else { trust::PRIVATE };
    match parent == Paths::from_env().run {
        true => trust::make_own(parent, mode)?,
        false => trust::make(parent, mode)?,
    }
    Ok(())
}

/// Makes the directory of the journal, and the state root if it is in there.
fn make_journal(dir: &Path) -> Result<(), TrustError> {
    let state = Paths::from_env().state;
    if dir.starts_with(&state) {
        trust::make_root(&state, trust::PRIVATE)?;
    }
    trust::make_own(dir, trust::PRIVATE)
}

/// The group whose members may subscribe, if the host has it and this process may give files to it.
fn group() -> Option<Gid> {
    let is_root = nix::unistd::geteuid().is_root();
    is_root.then(|| accounts::group_id(accounts::WATCH_GROUP)).flatten().map(Gid::from_raw)
}

/// A subscriber is a descriptor: asks for as many as the limits allow. getrlimit(2).
pub fn raise_descriptor_limit(subscribers_max: usize) {
    let wanted = subscribers_max as u64 + DESCRIPTORS_OWN;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            let allowed = wanted.min(hard);
            if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, allowed, hard) {
                log::warn!("cannot raise the limit of descriptors: {errno}");
            } else if allowed < wanted {
                log::warn!(
                    "only {allowed} descriptors are allowed: fewer subscribers than {subscribers_max} fit"
                );
            }
        }
        Ok(_) => {}
        Err(errno) => log::warn!("cannot read the limit of descriptors: {errno}"),
    }
}
