//! Fetches: begins them, and records in the other managers what their threads report.
//!
//! Called by `register` and `restore`, which want a file, and by the event loop for each message of a thread of
//! the CDN manager. Runs no thread: [`crate::cdn`] does.

use super::Managers;
use crate::cdn::{CdnError, CdnEvent, CdnMessage, CompleteFile, TriggerOutcome};
use crate::origin::{OriginError, Validators};
use crate::reply::Reply;
use crate::task_id::TaskId;
use crate::url::printable_url;
use sampan_ipc::report;
use std::time::{Instant, SystemTime};

impl Managers {
    /// Fetches the file of a task, unless it is complete or being fetched. `Err` is the answer to the caller.
    pub(super) fn fetch_file(&mut self, id: &TaskId, clock: SystemTime) -> Result<(), Reply> {
        let Some(task) = self.tasks.get_mut(id) else { return Ok(()) };
        task.failure.clear();
        match self.cdn.trigger(id, task.file_info(), task.file.request.clone(), clock) {
            Ok(TriggerOutcome::Complete) => self.metrics.cdn_cache_hits += 1,
            Ok(TriggerOutcome::Begins) => self.metrics.cdn_triggers += 1,
            Ok(TriggerOutcome::Runs) => {}
            Err(error) => {
                self.metrics.cdn_triggers_failed += 1;
                return Err(Reply::error(500, &report::chain(&error)));
            }
        }
        Ok(())
    }

    /// Forgets the content of a task: its origin has another one. Clients in the middle of the old content are
    /// told.
    pub(super) fn reset_task(&mut self, id: &TaskId, why: &str) {
        log::info!("task {id}: {why}, so it is fetched again and its clients register again");
        self.cdn.reset(id);
        self.progress.remove(id);
        for cid in self.downloads.cids_by_task(id).into_iter().map(str::to_owned).collect::<Vec<_>>() {
            self.remove_download(&cid, id);
        }
        self.parents.forget(id);
        self.changed.insert(*id);
        if let Some(task) = self.tasks.get_mut(id) {
            (task.length, task.validators, task.is_complete) = (None, Validators::default(), false);
        }
        if let Some(task) = self.tasks.get(id) {
            self.announce_task("change", task, &[("reason", why)]);
        }
    }

    /// Records a message of a thread of the CDN manager.
    pub fn on_cdn(&mut self, message: CdnMessage, now: Instant, clock: SystemTime) {
        let Some(event) = self.cdn.on_message(message) else { return };
        match event {
            CdnEvent::Started { task: id, .. } => {
                self.metrics.cdn_downloads += 1;
                if let Some(task) = self.tasks.get(&id) {
                    self.announce_task("start", task, &[]);
                }
            }
            CdnEvent::Length { task: id, length } => self.set_length(&id, length),
            CdnEvent::Piece { task: id, number, .. } => {
                if let Some(swarm) = self.progress.swarm_mut(&id) {
                    swarm.on_ready(number);
                    self.changed.insert(id);
                }
            }
            CdnEvent::Ended { task: id, result, lost } => {
                self.changed.insert(id);
                self.withdraw_pieces(&id, &lost);
                self.end_fetch(&id, &result, clock);
            }
            CdnEvent::Checked { task: id, bad } => {
                self.withdraw_pieces(&id, &bad);
                self.piece_errors.on_checked(&id, now);
            }
        }
    }

    /// Records the length of the file, in bytes, which has become known.
    fn set_length(&mut self, id: &TaskId, length: u64) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.length = Some(length);
        if let Some(swarm) = self.progress.swarm_mut(id) {
            swarm.set_total(task.pieces.count(length));
        }
    }

    /// Offers no client the pieces that this supernode has lost.
    fn withdraw_pieces(&mut self, id: &TaskId, pieces: &[u32]) {
        if let Some(swarm) = self.progress.swarm_mut(id) {
            pieces.iter().for_each(|piece| swarm.on_lost(*piece));
        }
    }

    fn end_fetch(&mut self, id: &TaskId, result: &Result<CompleteFile, CdnError>, clock: SystemTime) {
        let failure = result.as_ref().err().map(|error| report::chain(error));
        let Some(task) = self.tasks.get_mut(id) else { return };
        (task.failure, task.is_complete) = (failure.clone().unwrap_or_default(), failure.is_none());
        match result {
            Ok(file) => self.set_length(id, file.length),
            Err(error) => {
                // The next registration asks the origin again.
                task.validated = None;
                if error.is_of_content() {
                    (task.length, task.validators) = (None, Validators::default());
                }
            }
        }
        let Some(task) = self.tasks.get(id) else { return };
        match &failure {
            None => self.announce_task("finish", task, &[]),
            Some(why) => {
                log::warn!("task {id}: cannot fetch {}: {why}", printable_url(&task.file.task_url));
                self.announce_task("fail", task, &[("reason", why)]);
                self.metrics.cdn_downloads_failed += 1;
            }
        }
        let is_denied = matches!(result, Err(CdnError::Origin(OriginError::Denied { .. })));
        self.on_fetched(id, failure, is_denied, clock);
    }
}
