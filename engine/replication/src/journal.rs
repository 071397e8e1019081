//! The executions on the disk: those that run, those that can be resumed, and the history.
//!
//! Called by the engine, which opens one [`Journals`], and by the threads of each execution, which write its
//! [`Journal`]. An engine that was killed finds all unfinished executions here, with the state that they had. Nothing
//! here contacts a registry.
//!
//! | path | what it is |
//! |---|---|
//! | `lock` | locked by the engine that uses the directory |
//! | `ID.journal` | the records of execution ID, which has not ended |
//! | `ID.kept` | the records of an execution that was stopped or has failed, for one that resumes it |
//! | `ID.damaged` | a journal that could not be read, for a person to look at |
//! | `history/N` | a segment of the history |

mod error;
mod file;
mod history;
mod past;
mod replay;
mod snapshot;
mod writer;

pub use self::error::JournalError;
use self::file::{JournalFile, MODE};
use self::history::History;
pub use self::past::Described;
use self::past::Past;
use self::replay::Replayed;
pub use self::snapshot::snapshot;
pub use self::writer::Journal;
use crate::model::Model;
use crate::record::{Order, Record};
use nix::fcntl::Flock;
use sampan_ipc::replication::{ErrorClass, Execution, LastError, Listing, State, Trigger};
use sampan_ipc::trust;
use sampan_ipc::{frame, time};
use sampan_os::file_lock;
use sampan_os::mutex::lock;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Most journals that are kept for executions that resume, and most damaged ones.
const KEPT_MAX: usize = 100;
/// How long such a journal is kept.
const KEPT_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Executions that a listing reads beyond its limit: the history has the order in which executions ended.
const OVERTAKEN_MAX: usize = 64;

/// The journals of all executions.
#[derive(Debug)]
pub struct Journals {
    dir: PathBuf,
    _lock: Flock<File>,
    /// Executions that are not in the history.
    live: Mutex<BTreeMap<u64, Arc<Journal>>>,
    /// Executions that have ended, but that the history could not take yet.
    ended: Mutex<BTreeSet<u64>>,
    history: Mutex<History>,
}

impl Journals {
    /// Opens the directory `dir`, and makes it if it is missing. Returns the executions that have not ended, the oldest
    /// first.
    ///
    /// A journal that cannot be read is moved aside, and its execution ends in state error.
    ///
    /// # Errors
    /// [`JournalError::Locked`]: another engine uses the directory. [`JournalError::Directory`],
    /// [`JournalError::Open`]: it cannot be made, trusted or read.
    pub fn open(dir: &Path) -> Result<(Journals, Vec<Arc<Journal>>), JournalError> {
        trust::make_own(dir, trust::PRIVATE)?;
        let history = dir.join("history");
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(MODE).open(&path);
        let file = file.map_err(failed("open", &path))?;
        let lock = file_lock::take(file).map_err(|errno| match errno {
            nix::errno::Errno::EWOULDBLOCK => JournalError::Locked(dir.to_owned()),
            errno => failed("lock", &path)(errno.into()),
        })?;
        trust::make_own(&history, trust::PRIVATE)?;
        let journals = Journals {
            dir: dir.to_owned(),
            _lock: lock,
            live: Mutex::default(),
            ended: Mutex::default(),
            history: Mutex::new(History::new(history)),
        };
        let unfinished = journals.replay_all()?;
        journals.remove_old();
        Ok((journals, unfinished))
    }

    fn replay_all(&self) -> Result<Vec<Arc<Journal>>, JournalError> {
        self.files("new")
            .map_err(failed("read", &self.dir))?
            .iter()
            .for_each(|id| remove(&self.path(*id, "new")));
        let mut unfinished = Vec::new();
        for id in self.files("journal").map_err(failed("read", &self.dir))? {
            let path = self.path(id, "journal");
            match replay::replay(&path, id) {
                Ok(Replayed::Whole(model, file)) => {
                    let has_ended = model.execution.state.is_final();
                    let journal = Arc::new(Journal::new(*model, file));
                    lock(&self.live).insert(id, Arc::clone(&journal));
                    // The engine was killed before it could finish the journal.
                    if has_ended { self.finish(id) } else { unfinished.push(journal) }
                }
                Ok(Replayed::Empty) => remove(&path),
                Ok(Replayed::Damaged(model, why)) => self.move_aside(id, model, &why),
                Err(error) => {
                    log::error!("cannot read {}; execution {id} does not go on: {error}", path.display());
                }
            }
        }
        Ok(unfinished)
    }

    /// Moves a damaged journal aside. What could be read of it is kept, as that of an execution that has failed.
    fn move_aside(&self, id: u64, model: Option<Box<Model>>, why: &str) {
        let (path, aside) = (self.path(id, "journal"), self.path(id, "damaged"));
        let named = aside.display();
        log::error!("the journal of replication {id} is damaged, it is kept as {named}: {why}");
        if let Some(mut model) = model {
            let message =
                format!("the engine could not read the whole journal, which is kept as {named}: {why}");
            let error = LastError { class: ErrorClass::Host, message };
            model.apply(&Record::Execution { state: State::Error, at: time::now(), error });
            if let Err(error) = self.keep(&model).and_then(|()| self.remember(&model)) {
                log::error!("cannot keep what is left of replication {id}: {error}");
            }
        }
        if let Err(error) = fs::rename(&path, &aside) {
            log::error!("cannot rename {} to {named}: {error}", path.display());
        }
        // Its time on the disk begins now, also if the engine was off for long.
        let now = |file: File| file.set_modified(SystemTime::now());
        let _ = OpenOptions::new().write(true).open(&aside).and_then(now);
    }

    /// Begins an execution. Its first record is on the disk when this function returns.
    ///
    /// # Errors
    /// [`JournalError::Write`]: the disk is full or fails, or there is a journal with this number.
    /// [`JournalError::TooLong`]: the order does not fit into a record.
    pub fn begin(&self, id: u64, order: Order) -> Result<Arc<Journal>, JournalError> {
        self.finish_ended();
        let path = self.path(id, "journal");
        let begun = Record::Begun { id, at: time::now(), order: Box::new(order) };
        writer::encode(&begun, id)?;
        let write_failed = |source| JournalError::Write { id, source };
        if path.symlink_metadata().is_ok() {
            return Err(write_failed(io::ErrorKind::AlreadyExists.into()));
        }
        let begun = [begun];
        let file = JournalFile::write(&path, &begun).map_err(write_failed)?;
        let mut model = Model::default();
        begun.iter().for_each(|record| model.apply(record));
        let journal = Arc::new(Journal::new(model, file));
        lock(&self.live).insert(id, Arc::clone(&journal));
        Ok(journal)
    }

    /// Removes an execution that has just begun, because what it needs could not be recorded.
    pub fn abandon(&self, id: u64) {
        lock(&self.live).remove(&id);
        remove(&self.path(id, "journal"));
    }

    /// The execution that continues or repeats the execution `id`, and has not ended.
    pub fn continuation_of(&self, id: u64) -> Option<u64> {
        let continues =
            |model: &Model| model.order.trigger == Trigger::Again(id) && !model.execution.state.is_final();
        lock(&self.live).values().find(|journal| journal.read(continues)).map(|journal| journal.id())
    }

    /// The journal of an execution that is not in the history.
    pub fn get(&self, id: u64) -> Option<Arc<Journal>> {
        lock(&self.live).get(&id).cloned()
    }

    /// The largest number among the executions that are not in the history or can be resumed; 0 without any. Numbers of
    /// new executions must be larger.
    pub fn newest_id(&self) -> u64 {
        let of = |kind| self.files(kind).ok().and_then(|ids| ids.last().copied());
        ["journal", "kept", "damaged"].into_iter().filter_map(of).max().unwrap_or(0)
    }

    /// Moves an execution, whose final state was recorded, to the history. Keeps the journal of one that was stopped or
    /// has failed, so that it can be resumed.
    ///
    /// If the disk is full or fails, the execution stays as it is, and the next call of this function or of
    /// [`Journals::begin`] tries again.
    pub fn finish(&self, id: u64) {
        lock(&self.ended).insert(id);
        self.finish_ended();
        self.remove_old();
    }

    fn finish_ended(&self) {
        // Locked throughout, so that no two threads move the same execution.
        let mut ended = lock(&self.ended);
        ended.retain(|id| {
            let Some(journal) = self.get(*id) else { return false };
            let model = journal.read(Model::clone);
            if !model.execution.state.is_final() {
                log::error!("replication {id} has no final state; it goes on when the engine starts again");
                return false;
            }
            if let Err(error) = self.retire(&journal, &model) {
                log::warn!("replication {id} has ended, but cannot be written to the history yet: {error}");
                return true;
            }
            lock(&self.live).remove(id);
            false
        });
    }

    /// A kill between two steps leaves the journal, and the next start of the engine finishes it.
    fn retire(&self, journal: &Journal, model: &Model) -> io::Result<()> {
        self.remember(model)?;
        journal.close();
        let path = self.path(journal.id(), "journal");
        if matches!(model.execution.state, State::Stopped | State::Error)
            && let Err(error) = self.keep(model)
        {
            // It is longer than it needs to be, but it is there.
            log::debug!("cannot rewrite {}: {error}", path.display());
            return fs::rename(&path, self.path(journal.id(), "kept"));
        }
        fs::remove_file(&path)
    }

    /// Writes an execution to the history.
    fn remember(&self, model: &Model) -> io::Result<()> {
        lock(&self.history).append(&past::past(model), true)
    }

    /// Keeps the journal of an execution for one that resumes it.
    fn keep(&self, model: &Model) -> io::Result<()> {
        let kept = JournalFile::write(&self.path(model.execution.id, "kept"), &snapshot(model))?;
        drop(kept);
        Ok(())
    }

    /// Lists executions, the newest first: those that run, and those of the history. Reads the disk.
    ///
    /// With a limit, an execution during which more than 64 later ones ended is listed only among those that ended at
    /// the same time.
    pub fn list(&self, listing: &Listing) -> Vec<Execution> {
        let limit = if listing.limit == 0 { usize::MAX } else { listing.limit as usize };
        let is_wanted = |execution: &Execution| {
            (listing.policy.is_empty() || execution.policy == listing.policy)
                && listing.since.is_none_or(|since| execution.started >= since)
        };
        // The history is opened first: an execution that moves there meanwhile is found twice rather than never.
        let live: Vec<Arc<Journal>> = lock(&self.live).values().cloned().collect();
        let history = lock(&self.history).backwards();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut add = |execution: Execution| {
            if seen.insert((execution.id, execution.started)) && is_wanted(&execution) {
                found.push(execution);
            }
            found.len() < limit.saturating_add(OVERTAKEN_MAX)
        };
        for journal in live {
            add(journal.read(Model::describe));
        }
        if history.filter_map(|body| history::execution(&body)).all(&mut add) {
            // The history may have dropped an execution that can still be resumed.
            for kept in self.files("kept").unwrap_or_default().into_iter().filter_map(|id| self.kept(id)) {
                add(kept.describe());
            }
        }
        found.sort_by_key(|execution| std::cmp::Reverse(execution.id));
        found.truncate(limit);
        found
    }

    /// Describes an execution that runs, can be resumed, or is in the history. Reads the disk.
    pub fn find(&self, id: u64) -> Option<Described> {
        if let Some(journal) = self.get(id) {
            return Some(journal.read(past::describe));
        }
        match self.past(id) {
            Some(past) => Some(past.described),
            None => self.kept(id).map(|model| past::describe(&model)),
        }
    }

    /// What an execution was asked to do, and its state, for one that resumes or repeats it. Reads the disk.
    ///
    /// Credentials and upload sessions are there only if the execution runs or can be resumed. A model from the history
    /// lacks what [`Journals::find`] leaves out.
    pub fn order_of(&self, id: u64) -> Option<(Order, Model)> {
        let with_order = |model: Model| (model.order.clone(), model);
        if let Some(journal) = self.get(id) {
            return Some(with_order(journal.read(Model::clone)));
        }
        match self.kept(id) {
            Some(model) => Some(with_order(model)),
            None => self.past(id).and_then(past::model),
        }
    }

    /// Removes the kept journal of an execution, after another has taken over its upload sessions: a second one must
    /// not send to them.
    pub fn drop_kept(&self, id: u64) {
        let path = self.path(id, "kept");
        if path.symlink_metadata().is_ok() {
            remove(&path);
        }
    }

    fn past(&self, id: u64) -> Option<Past> {
        let history = lock(&self.history).backwards();
        let mut bodies = history.filter(|body| history::execution(body).is_some_and(|e| e.id == id));
        bodies.find_map(|body| frame::parse(&body).ok())
    }

    fn kept(&self, id: u64) -> Option<Model> {
        let path = self.path(id, "kept");
        match replay::replay(&path, id) {
            Ok(Replayed::Whole(model, _) | Replayed::Damaged(Some(model), _)) => Some(*model),
            Ok(Replayed::Empty | Replayed::Damaged(None, _)) => None,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("cannot read {}: {error}", path.display());
                }
                None
            }
        }
    }

    /// Removes kept and damaged journals that are too old or too many.
    fn remove_old(&self) {
        for kind in ["kept", "damaged"] {
            let ids = self.files(kind).unwrap_or_default();
            let excess = ids.len().saturating_sub(KEPT_MAX);
            for (id, nth) in ids.into_iter().zip(0..) {
                let path = self.path(id, kind);
                let written = fs::metadata(&path).and_then(|meta| meta.modified());
                let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                if nth < excess || age.is_some_and(|age| age > KEPT_AGE) {
                    remove(&path);
                }
            }
        }
    }

    /// The numbers of the executions that have a file of this kind, in order.
    fn files(&self, kind: &str) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(kind)?.strip_suffix('.'));
            ids.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn path(&self, id: u64, kind: &str) -> PathBuf {
        self.dir.join(format!("{id}.{kind}"))
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Open { doing, path, source }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests;
