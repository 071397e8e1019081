//! What all threads of one execution share: its journal, limits, rows, events, and the means to stop it.
//!
//! The threads of tasks call this for everything that waits: requests to sides that are tried again, records that the
//! disk refuses. A *soft* stop ends waits and is checked between chunks; a *hard* stop ends running requests.

use crate::attempts::Attempts;
use crate::journal::{Journal, JournalError};
use crate::known_blobs::KnownBlobs;
use crate::record::{Order, Record};
use crate::rows::Rows;
use crate::side::{FailureKind, SideError};
use sampan_ipc::replication::{ErrorClass, LastError, State};
use sampan_ipc::report;
use sampan_job::buffers::Buffers;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::Limits;
use sampan_job::rate_limit::RateLimit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// First wait before a record is written again that the disk has refused; each later wait is twice as long.
const RECORD_RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait before a record is written again.
const RECORD_RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Called for the events of an execution.
pub trait Events: Send + Sync {
    /// An event of the execution's job: `retry`, `stop` and the like, with its facts.
    fn job(&self, action: &str, facts: &[(&str, &str)]);

    /// An artifact arrived at the destination under this name.
    fn pushed(&self, name: &str, digest: &str, source: &str);
}

/// Why a thread of an execution does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The execution is being stopped, or the engine is.
    #[error("stopped")]
    Stopped,
    /// A side failed, and no further attempt is left or useful.
    #[error("{0}")]
    Side(#[from] SideError),
    /// The state machine's table has a mistake.
    #[error(transparent)]
    Machine(#[from] crate::machine::MachineError<State>),
}

impl From<Cancelled> for Halt {
    fn from(_: Cancelled) -> Self {
        Halt::Stopped
    }
}

impl Halt {
    /// The failure as reports show it.
    pub fn last_error(&self) -> LastError {
        match self {
            Halt::Stopped => LastError::default(),
            Halt::Side(error) => LastError { class: error.class(), message: report::chain(error) },
            Halt::Machine(error) => LastError { class: ErrorClass::Host, message: report::chain(error) },
        }
    }

    /// Whether a later attempt may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Halt::Side(error) if matches!(error.class(), ErrorClass::Temporary | ErrorClass::Host))
    }
}

/// What the threads of one execution share.
pub struct Run<'a> {
    /// The execution's journal.
    pub journal: &'a Journal,
    /// What the execution is asked to do.
    pub order: &'a Order,
    /// The limits of all jobs of the engine.
    pub limits: &'a Limits,
    /// The memory for chunks.
    pub buffers: &'a Buffers,
    /// The execution's own limit of bytes per second.
    pub rate: RateLimit,
    /// The progress rows.
    pub(crate) rows: Rows,
    /// The execution's events.
    pub events: &'a dyn Events,
    /// The blobs that this engine has put into the destination.
    pub known: &'a KnownBlobs,
    /// Identifies the destination: see [`crate::side::Place::key`].
    pub destination_key: String,
    /// Whether source and destination are the same registry, so that blobs can be mounted from the source.
    pub is_same_place: bool,
    /// Ends waits, and is checked between chunks.
    pub soft: Arc<Cancel>,
    /// Ends running requests.
    pub hard: Arc<Cancel>,
    /// Whether the last record was refused, so that the log tells it once.
    pub(crate) is_journal_failing: AtomicBool,
}

impl Run<'_> {
    /// Fails if the execution is being stopped.
    ///
    /// # Errors
    /// [`Halt::Stopped`].
    pub fn check(&self) -> Result<(), Halt> {
        Ok(self.soft.check()?)
    }

    /// Writes a record. If the disk refuses it, tells so and tries again until it succeeds: nothing may happen that the
    /// journal does not know.
    ///
    /// # Errors
    /// [`Halt::Stopped`]: the execution is being stopped, and the record could not be written.
    pub fn record(&self, record: Record) -> Result<(), Halt> {
        let mut wait = RECORD_RETRY_FIRST;
        loop {
            let error = match self.journal.record(record.clone()) {
                Ok(()) => {
                    self.is_journal_failing.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ JournalError::TooLong(_)) => {
                    return Err(SideError { kind: FailureKind::Refused, source: Box::new(error) }.into());
                }
                Err(error) => error,
            };
            if !self.is_journal_failing.swap(true, Ordering::Relaxed) {
                let text = format!(
                    "replication {} waits, because its journal cannot be written: {}",
                    self.journal.id(),
                    report::chain(&error)
                );
                log::error!("{text}");
                self.rows.note(&text);
            }
            self.soft.wait(wait)?;
            wait = (wait * 2).min(RECORD_RETRY_LONGEST);
        }
    }

    /// Sends a request until it succeeds, fails in a way that no attempt can cure, or has failed too often.
    ///
    /// # Errors
    /// [`Halt::Side`] with the last failure, or [`Halt::Stopped`].
    pub fn persist<T>(
        &self,
        about: &str,
        mut request: impl FnMut() -> Result<T, SideError>,
    ) -> Result<T, Halt> {
        let mut attempts = Attempts::default();
        loop {
            self.check()?;
            match request() {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait_for_next(about, error, &mut attempts)?,
            }
        }
    }

    /// Waits before the next attempt of what failed with `error`.
    ///
    /// # Errors
    /// [`Halt::Side`] with `error` if no attempt is left or useful, or [`Halt::Stopped`].
    pub(crate) fn wait_for_next(
        &self,
        about: &str,
        error: SideError,
        attempts: &mut Attempts,
    ) -> Result<(), Halt> {
        // A hard stop makes requests fail; their errors are not to blame on the registry.
        self.check()?;
        let Some(wait) = attempts.after(&error) else { return Err(error.into()) };
        let reason = report::chain(&error);
        let seconds = wait.as_millis().div_ceil(1000).to_string();
        log::info!("replication {}: {about}: retrying in {seconds} s: {reason}", self.journal.id());
        self.events.job("retry", &[("artifact", about), ("wait", &seconds), ("reason", &reason)]);
        Ok(self.soft.wait(wait)?)
    }
}
