//! Jobs in the event loop: their numbers, their threads, and the clients that follow them.
//!
//! Methods of [`Server`], called by the requests that start, list or follow a job. They never block.

use super::client::{Client, State};
use super::event_loop::{STACK, Server};
use crate::error;
use crate::tasks::{self, Task};
use sampan_ipc::engine::{self, Answer, Code, Done, Failure};
use sampan_job::cancel::Cancel;
use sampan_job::table::{JobEntry, RUNNING_MAX};
use sampan_os::mutex::lock;
use std::sync::Arc;

impl Server {
    /// Starts a job on its own thread; returns its number.
    pub(super) fn start(
        &mut self,
        kind: &'static str,
        subject: String,
        key: Option<String>,
        run: impl FnOnce(Task) + Send + 'static,
    ) -> Result<u64, Failure> {
        if self.stop {
            return Err(error::new(Code::Failed, "the engine is stopping", "try again when it is back"));
        }
        // Executions that wait for their turn have no thread.
        if self.jobs.running() >= RUNNING_MAX + self.replications.waiting.len() {
            let message = format!("{RUNNING_MAX} jobs are running, the maximum");
            return Err(error::new(Code::Conflict, message, "'sampan jobs' lists them"));
        }
        let job = self.reserve_job_id();
        self.add_job(job, kind, subject, key);
        match self.start_thread(job, run) {
            Ok(_) => Ok(job),
            Err(failure) => {
                self.jobs.end(job, Err(failure.clone()));
                Err(failure)
            }
        }
    }

    /// Reserves the number of a job, also beyond a restart of the engine.
    pub(super) fn reserve_job_id(&mut self) -> u64 {
        let id = self.jobs.reserve_id();
        self.job_ids.claim(id);
        id
    }

    /// Adds a job to the table, whose thread starts later.
    pub(super) fn add_job(&mut self, job: u64, kind: &'static str, subject: String, key: Option<String>) {
        let progress = tasks::progress(&self.shared.announcer, job, kind, &subject);
        if matches!(kind, "pull" | "import" | "load")
            && let Some(advice) = lock(&self.shared.advice).take()
        {
            progress.note(&advice);
        }
        let mut entry = JobEntry::new(kind, subject, progress);
        entry.key = key;
        self.jobs.insert_with_id(job, entry);
    }

    /// Starts the thread of a job that is in the table; returns what cancels it.
    pub(super) fn start_thread(
        &mut self,
        job: u64,
        run: impl FnOnce(Task) + Send + 'static,
    ) -> Result<Arc<Cancel>, Failure> {
        let entry = self.jobs.get(job).ok_or_else(|| error::no_job(job))?;
        let (progress, cancel) = (Arc::clone(&entry.progress), Arc::clone(&entry.cancel));
        let task = Task { shared: Arc::clone(&self.shared), job, progress, cancel: Arc::clone(&cancel) };
        let started = sampan_os::thread::spawn(format!("job-{job}"), STACK, move || run(task));
        started.map(|_| cancel).map_err(|error| {
            error::new(Code::Failed, format!("cannot start a thread for the job: {error}"), "")
        })
    }

    pub(super) fn send_jobs(&self, client: &mut Client) {
        let mut jobs = self.jobs.list();
        let fits = |jobs: &Vec<engine::Job>| sampan_ipc::frame::encode(&Answer::Jobs(jobs.clone())).is_ok();
        if !fits(&jobs) {
            jobs.iter_mut().for_each(|job| job.rows.clear());
        }
        client.send(&Answer::Jobs(jobs));
        client.send(&Answer::Done(Done::default()));
    }

    /// Makes the client follow the job's progress; with `detach`, answers once and lets it go.
    pub(super) fn follow(&mut self, client: &mut Client, id: u64, detach: bool) {
        self.follow_as(client, id, detach, false);
    }

    /// Makes the client follow a job that goes on when the connection breaks. The client also gets the images.
    pub(super) fn follow_kept(&mut self, client: &mut Client, id: u64) {
        self.follow_as(client, id, false, true);
    }

    fn follow_as(&mut self, client: &mut Client, id: u64, detach: bool, is_kept: bool) {
        let Some(entry) = self.jobs.get(id) else { return };
        let reference = entry.subject.clone();
        if detach {
            client.send(&Answer::Job(entry.describe(id).0));
            client.send(&Answer::Done(Done { reference, ..Done::default() }));
            return;
        }
        self.jobs.watch(id);
        if let Some((job, version)) = self.jobs.get(id).map(|entry| entry.describe(id)) {
            client.send(&Answer::Job(job));
            let images = |entry: &JobEntry| entry.progress.images(0, version);
            for image in self.jobs.get(id).filter(|_| is_kept).map(images).unwrap_or_default() {
                client.send(&Answer::PulledImage(image));
            }
            // The job may have added notes before this client followed it.
            for note in self.jobs.get(id).map(|entry| entry.progress.notes(0, version)).unwrap_or_default() {
                client.send(&Answer::Note(note));
            }
            client.state = State::Watching { job: id, version, is_kept };
        }
    }
}
