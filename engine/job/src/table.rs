//! The table of jobs: what runs, who watches, what came of it.
//!
//! Owned by the event loop. A job's thread changes its [`Progress`] and sends one message when it ends; all
//! else happens here. Does no I/O.

use crate::cancel::Cancel;
use crate::progress::Progress;
use sampan_ipc::engine::{Code, Done, Failure, Job, JobState};
use sampan_ipc::paging;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most jobs that run at a time; more are refused.
pub const RUNNING_MAX: usize = 64;
/// Most ended jobs that are remembered; older ones are forgotten.
pub const ENDED_MAX: usize = 64;

/// One piece of work.
pub struct JobEntry {
    /// `pull`, `import`, `serve`.
    pub kind: &'static str,
    /// The canonical reference or address.
    pub subject: String,
    /// Pulls with the same key are one job.
    pub key: Option<String>,
    /// Its rows.
    pub progress: Arc<Progress>,
    /// Ends it.
    pub cancel: Arc<Cancel>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Result<Done, Failure>>,
    /// Clients that watch it.
    pub watchers: u32,
    /// True if it goes on without any.
    pub detached: bool,
    started: i64,
    ended: i64,
}

impl JobEntry {
    /// A job that begins now.
    pub fn new(kind: &'static str, subject: String, progress: Arc<Progress>) -> Self {
        JobEntry {
            kind,
            subject,
            key: None,
            progress,
            cancel: Arc::default(),
            outcome: None,
            watchers: 0,
            detached: false,
            started: sampan_ipc::time::now(),
            ended: 0,
        }
    }

    fn state(&self) -> JobState {
        match &self.outcome {
            None => JobState::Running,
            Some(Ok(_)) => JobState::Done,
            Some(Err(failure)) if failure.code == Code::Cancelled => JobState::Cancelled,
            Some(Err(_)) => JobState::Failed,
        }
    }

    /// As clients are told, with the version of its rows.
    pub fn describe(&self, id: u64) -> (Job, u64) {
        let (rows, version) = self.progress.all();
        let error = match &self.outcome {
            Some(Err(failure)) => failure.message.clone(),
            _ => String::new(),
        };
        let job = Job {
            id,
            kind: self.kind.to_owned(),
            subject: self.subject.clone(),
            state: self.state(),
            rows,
            started: self.started,
            ended: self.ended,
            error,
            watchers: self.watchers,
            detached: self.detached,
        };
        (job, version)
    }
}

/// All jobs by number.
#[derive(Default)]
pub struct JobTable {
    entries: BTreeMap<u64, JobEntry>,
    last: u64,
}

impl JobTable {
    /// The number that the next job gets.
    pub fn next_id(&self) -> u64 {
        self.last + 1
    }

    /// Takes a job in, under [`JobTable::next_id`].
    pub fn insert(&mut self, entry: JobEntry) -> u64 {
        self.last += 1;
        self.entries.insert(self.last, entry);
        self.last
    }

    /// The job with number `id`.
    pub fn get(&self, id: u64) -> Option<&JobEntry> {
        self.entries.get(&id)
    }

    /// The running job that has `key`.
    pub fn running_with(&self, key: &str) -> Option<u64> {
        let found = self
            .entries
            .iter()
            .find(|(_, e)| e.outcome.is_none() && !e.cancel.is_cancelled() && e.key.as_deref() == Some(key));
        found.map(|(id, _)| *id)
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.entries.values().filter(|e| e.outcome.is_none()).count()
    }

    /// One more client watches.
    pub fn watch(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.watchers += 1;
        }
    }

    /// The job goes on without watchers from now on.
    pub fn detach(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.detached = true;
        }
    }

    /// A client that watched is gone; the job ends with its last one, unless it is detached.
    pub fn unwatch(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.watchers = entry.watchers.saturating_sub(1);
        if entry.watchers == 0 && !entry.detached && entry.outcome.is_none() {
            log::info!("job {id}: nobody watches {} any more, cancelling", entry.subject);
            entry.cancel.cancel();
        }
    }

    /// A job has ended; forgets the oldest of those that ended before, if they are many.
    pub fn end(&mut self, id: u64, outcome: Result<Done, Failure>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.outcome = Some(outcome.map(|done| Done { references: paging::names(done.references), ..done }));
        entry.ended = sampan_ipc::time::now();
        let ended: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, e)| e.outcome.is_some() && e.watchers == 0)
            .map(|(id, _)| *id)
            .collect();
        let excess = ended.len().saturating_sub(ENDED_MAX);
        for old in ended.into_iter().take(excess) {
            self.entries.remove(&old);
        }
    }

    /// All jobs, running ones first, newest first among them; without rows.
    pub fn list(&self) -> Vec<Job> {
        let describe = |(id, e): (&u64, &JobEntry)| e.describe(*id).0;
        let (running, ended): (Vec<_>, Vec<_>) =
            self.entries.iter().rev().partition(|(_, e)| e.outcome.is_none());
        running.into_iter().chain(ended).map(describe).collect()
    }

    /// Cancels all that run.
    pub fn cancel_all(&self) {
        self.entries.values().filter(|e| e.outcome.is_none()).for_each(|e| e.cancel.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> JobEntry {
        let progress = Arc::new(Progress::new(Box::new(|_| {})));
        JobEntry { key: Some(key.to_owned()), ..JobEntry::new("pull", key.to_owned(), progress) }
    }

    #[test]
    fn a_job_ends_with_its_last_watcher_unless_it_is_detached() {
        let mut jobs = JobTable::default();
        let id = jobs.insert(entry("a"));
        jobs.watch(id);
        jobs.watch(id);
        jobs.unwatch(id);
        assert_eq!(jobs.running_with("a"), Some(id));
        jobs.unwatch(id);
        assert_eq!(jobs.running_with("a"), None, "cancelled: nobody joins it any more");
        let detached = jobs.insert(entry("b"));
        jobs.watch(detached);
        jobs.detach(detached);
        jobs.unwatch(detached);
        assert_eq!(jobs.running_with("b"), Some(detached));
    }

    #[test]
    fn ended_jobs_are_forgotten_oldest_first() {
        let mut jobs = JobTable::default();
        let running = jobs.insert(entry("r"));
        for nth in 0..ENDED_MAX + 10 {
            let id = jobs.insert(entry(&nth.to_string()));
            jobs.end(id, Ok(Done::default()));
        }
        let list = jobs.list();
        assert_eq!(list.len(), ENDED_MAX + 1);
        assert_eq!(list[0].id, running);
        assert!(jobs.get(2).is_none() && jobs.get(running).is_some());
    }
}
