//! The table of jobs: running and ended ones, with their watchers and results.
//!
//! Owned by the event loop. A job's threads only update its [`Progress`] and send one message at the end; the event
//! loop makes all other changes, through this table. Starts no thread and does no I/O.

use crate::cancel::Cancel;
use crate::progress::Progress;
use sampan_ipc::engine::{Code, Done, Failure, Job, JobState};
use sampan_ipc::paging;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most jobs that run at a time; the engine refuses more.
pub const RUNNING_MAX: usize = 64;
/// Most ended jobs that the table keeps; it drops the oldest first.
pub const ENDED_MAX: usize = 64;

/// One job.
pub struct JobEntry {
    /// The kind of job, such as `pull`, `import` or `serve`.
    pub kind: &'static str,
    /// The canonical reference or the address that the job is about.
    pub subject: String,
    /// Identifies equal pulls: a second request with an equal key watches the running job.
    pub key: Option<String>,
    /// The rows and notes.
    pub progress: Arc<Progress>,
    /// Cancels the job.
    pub cancel: Arc<Cancel>,
    /// The result; `None` while the job runs.
    pub outcome: Option<Result<Done, Failure>>,
    /// The number of clients that watch.
    pub watchers: u32,
    /// Whether the job goes on when no client watches.
    pub detached: bool,
    /// Start time, in nanoseconds since the epoch.
    started: i64,
    /// End time, in nanoseconds since the epoch; 0 while the job runs.
    ended: i64,
}

impl JobEntry {
    /// Makes a job that starts now.
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

    /// The description for clients, and the version of its rows.
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

/// All jobs, by number.
#[derive(Default)]
pub struct JobTable {
    entries: BTreeMap<u64, JobEntry>,
    last: u64,
}

impl JobTable {
    /// Makes an empty table whose first job gets the number `first`, which is at least 1.
    pub fn starting_at(first: u64) -> Self {
        JobTable { entries: BTreeMap::new(), last: first.saturating_sub(1) }
    }

    /// The number of the next job.
    pub fn next_id(&self) -> u64 {
        self.last + 1
    }

    /// Reserves the number of a job that is added later.
    pub fn reserve_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Adds a job under a number that was reserved, by this engine or by an earlier one.
    pub fn insert_with_id(&mut self, id: u64, entry: JobEntry) {
        self.last = self.last.max(id);
        self.entries.insert(id, entry);
    }

    /// Adds a job under the next number, and returns the number.
    pub fn insert(&mut self, entry: JobEntry) -> u64 {
        let id = self.reserve_id();
        self.insert_with_id(id, entry);
        id
    }

    /// The job with number `id`.
    pub fn get(&self, id: u64) -> Option<&JobEntry> {
        self.entries.get(&id)
    }

    /// The number of the running job with this key that was not cancelled.
    pub fn running_with(&self, key: &str) -> Option<u64> {
        let found = self
            .entries
            .iter()
            .find(|(_, e)| e.outcome.is_none() && !e.cancel.is_cancelled() && e.key.as_deref() == Some(key));
        found.map(|(id, _)| *id)
    }

    /// The number of running jobs.
    pub fn running(&self) -> usize {
        self.entries.values().filter(|e| e.outcome.is_none()).count()
    }

    /// Records that one more client watches job `id`.
    pub fn watch(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.watchers += 1;
        }
    }

    /// Lets job `id` go on when no client watches.
    pub fn detach(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.detached = true;
        }
    }

    /// Records that a client no longer watches job `id`. Cancels the job with its last watcher, unless it is detached.
    pub fn unwatch(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.watchers = entry.watchers.saturating_sub(1);
        if entry.watchers == 0 && !entry.detached && entry.outcome.is_none() {
            log::info!("job {id}: cancelled {} of {}: its last client has gone", entry.kind, entry.subject);
            entry.cancel.cancel();
        }
    }

    /// Records that a client no longer watches job `id`, and lets the job go on: the client has ended unexpectedly.
    pub fn unwatch_and_keep(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.watchers = entry.watchers.saturating_sub(1);
        }
    }

    /// Records the result of job `id`. Drops the oldest ended jobs beyond [`ENDED_MAX`].
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

    /// Descriptions of all jobs: running jobs before ended ones, and newer ones before older ones.
    pub fn list(&self) -> Vec<Job> {
        let describe = |(id, e): (&u64, &JobEntry)| e.describe(*id).0;
        let (running, ended): (Vec<_>, Vec<_>) =
            self.entries.iter().rev().partition(|(_, e)| e.outcome.is_none());
        running.into_iter().chain(ended).map(describe).collect()
    }

    /// Cancels all running jobs.
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
        assert_eq!(jobs.running_with("a"), None, "no client can join a cancelled job");
        let detached = jobs.insert(entry("b"));
        jobs.watch(detached);
        jobs.detach(detached);
        jobs.unwatch(detached);
        assert_eq!(jobs.running_with("b"), Some(detached));
    }

    #[test]
    fn a_job_goes_on_without_a_client_that_has_ended_until_the_next_one_leaves_it() {
        let mut jobs = JobTable::default();
        let id = jobs.insert(entry("a"));
        jobs.watch(id);
        jobs.unwatch_and_keep(id);
        assert_eq!(jobs.running_with("a"), Some(id));
        jobs.watch(id);
        jobs.unwatch(id);
        assert_eq!(jobs.running_with("a"), None);
    }

    #[test]
    fn a_recovered_job_keeps_its_number_and_later_jobs_get_larger_ones() {
        let mut jobs = JobTable::starting_at(65);
        jobs.insert_with_id(7, entry("a"));
        assert_eq!(jobs.insert(entry("b")), 65);
        jobs.insert_with_id(90, entry("c"));
        assert_eq!(jobs.insert(entry("d")), 91);
        assert_eq!(jobs.list().iter().map(|job| job.id).collect::<Vec<_>>(), [91, 90, 65, 7]);
        assert_eq!(jobs.running_with("a"), Some(7));
    }

    #[test]
    fn ended_jobs_are_dropped_oldest_first() {
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
