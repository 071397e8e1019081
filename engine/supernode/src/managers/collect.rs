//! What happens without a client: fetches go on, leases end, and what nobody uses is forgotten.

use super::Managers;
use crate::cdn::{CdnError, CdnEvent, CdnMessage, CdnStatus};
use crate::gc::{Action, Gc, PeerUse, TaskUse};
use crate::origin::{OriginError, Validators};
use crate::piece_error::{Kind, Repair, Report};
use crate::reply::Reply;
use crate::task::Task;
use crate::task_id::TaskId;
use crate::url::printable_url;
use crate::v1::code;
use sampan_ipc::report;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

impl Managers {
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
            CdnEvent::Length { task: id, length } => {
                let Some(task) = self.tasks.get_mut(&id) else { return };
                task.length = Some(length);
                let total = task.pieces.count(length);
                if let Some(swarm) = self.progress.swarm_mut(&id) {
                    swarm.set_total(total);
                }
            }
            CdnEvent::Piece { task: id, number, .. } => {
                if let Some(swarm) = self.progress.swarm_mut(&id) {
                    swarm.on_ready(number);
                    self.changed.insert(id);
                }
            }
            CdnEvent::Ended { task: id, result, lost } => {
                self.changed.insert(id);
                if let Some(swarm) = self.progress.swarm_mut(&id) {
                    lost.iter().for_each(|piece| swarm.on_lost(*piece));
                }
                let failure = result.as_ref().err().map(|error| report::chain(error));
                let is_denied = matches!(result, Err(CdnError::Origin(OriginError::Denied { .. })));
                let length = result.as_ref().ok().map(|finished| finished.length);
                let Some(task) = self.tasks.get_mut(&id) else { return };
                task.failure = failure.clone().unwrap_or_default();
                if let Err(error) = &result {
                    // The next registration asks the origin again.
                    task.validated = None;
                    if error.is_of_content() {
                        (task.length, task.validators) = (None, Validators::default());
                    }
                }
                if let Some(length) = length {
                    task.length = Some(length);
                    let total = task.pieces.count(length);
                    if let Some(swarm) = self.progress.swarm_mut(&id) {
                        swarm.set_total(total);
                    }
                }
                self.end_fetch(&id, failure, is_denied, clock);
            }
            CdnEvent::Checked { task: id, bad } => {
                if let Some(swarm) = self.progress.swarm_mut(&id) {
                    bad.iter().for_each(|piece| swarm.on_lost(*piece));
                }
                self.piece_errors.on_checked(&id, now);
                if !bad.is_empty() {
                    log::warn!("task {id}: {} pieces on the disk were bad and are fetched again", bad.len());
                }
            }
        }
    }

    fn end_fetch(&mut self, id: &TaskId, failure: Option<String>, is_denied: bool, clock: SystemTime) {
        let Some(task) = self.tasks.get(id) else { return };
        match &failure {
            None => self.announce_task("finish", task, &[]),
            Some(why) => {
                log::warn!("task {id}: cannot fetch {}: {why}", printable_url(&task.file.task_url));
                self.announce_task("fail", task, &[("reason", why)]);
                self.metrics.cdn_downloads_failed += 1;
            }
        }
        self.on_fetched(id, failure, is_denied, clock);
    }

    /// Ends the leases that are over.
    pub fn expire_leases(&mut self, now: Instant) {
        let ended = self.progress.expire(now);
        self.metrics.leases_expired += ended.len() as u64;
        self.changed.extend(ended);
    }

    /// When something is due that no message announces.
    pub fn deadline(&self) -> Option<Instant> {
        self.progress.deadline()
    }

    /// Whether there is something to do at once.
    pub fn has_work(&self) -> bool {
        !self.changed.is_empty() || !self.registrations_due.is_empty()
    }

    /// Records that a client got a bad piece from this supernode. `GET /peer/piece/error`.
    pub fn on_piece_error(
        &mut self,
        id: &TaskId,
        fields: &HashMap<String, String>,
        remote: IpAddr,
        now: Instant,
    ) {
        let field = |key: &str| fields.get(key).map(String::as_str).unwrap_or_default();
        if self.check_client(field("srcCid"), id, remote).is_err() || field("dstCid") != self.own_cid(id) {
            return;
        }
        let number = self.tasks.get(id).and_then(|task| task.pieces.parse_range(field("range")));
        let Some(kind) = Kind::parse(field("errorType")) else { return };
        let report = Report {
            kind,
            task: *id,
            number,
            real_md5: field("realMd5"),
            expected_md5: field("expectedMd5"),
        };
        let known = number.and_then(|number| self.cdn.piece(id, number));
        let follows = match self.piece_errors.report(&report, known, now) {
            None => return,
            Some(Repair::CheckFile) => !self.cdn.check_file(id) && self.cdn.check_pieces(id, None),
            Some(Repair::CheckPieces { first }) => self.cdn.check_pieces(id, Some(first)),
        };
        if !follows {
            self.piece_errors.on_checked(id, now);
        }
    }

    /// Forgets what nobody uses.
    pub fn collect(&mut self, gc: &mut Gc, waiting: &HashSet<TaskId>, now: Instant, clock: SystemTime) {
        self.parents.expire(now, gc.task_idle());
        let is_fetching =
            |id: &TaskId| matches!(self.cdn.status(id), Some(CdnStatus::Running | CdnStatus::Waiting));
        let with_swarm =
            self.tasks.list(|task| self.progress.swarm(&task.id).is_some() || self.is_bare(&task.id));
        let tasks: Vec<TaskUse> = with_swarm
            .into_iter()
            .map(|task| TaskUse {
                id: task.id,
                used: task.accessed,
                is_busy: is_fetching(&task.id)
                    || waiting.contains(&task.id)
                    || self.preheats.is_needed(&task.id),
            })
            .collect();
        let peers: Vec<PeerUse<String>> = self
            .peers
            .iter()
            .map(|peer| PeerUse {
                id: peer.id.clone(),
                heard: self.last_heard(&peer.id, peer.seen),
                down: peer.down,
            })
            .collect();
        let fetching = self.cdn.is_fetching();
        for action in gc.run(now, tasks, peers, self.cdn.has_files(), fetching) {
            match action {
                Action::ForgetTask(id) => {
                    self.metrics.gc_tasks += 1;
                    self.forget_task(&id, false, "nobody uses it");
                }
                Action::ForgetPeer(id) => {
                    self.metrics.gc_peers += 1;
                    self.announce_peer("expire", &id, &[]);
                    for (cid, task) in self.downloads.by_peer(&id) {
                        self.remove_download(&cid, &task);
                    }
                    self.peers.deregister(&id);
                }
                Action::FreeDisk => self.free_disk(waiting, clock),
            }
        }
    }

    /// Whether nothing of the task is left but its name.
    fn is_bare(&self, id: &TaskId) -> bool {
        self.cdn.status(id).is_none()
    }

    /// When the peer was last heard of, or a piece was fetched from it.
    fn last_heard(&self, peer: &str, seen: Instant) -> Instant {
        let downloads = self.downloads.by_peer(peer);
        let member = |(cid, task): (String, TaskId)| {
            let swarm = self.progress.swarm(&task)?;
            Some(swarm.member(swarm.slot(&cid)?)?.seen)
        };
        downloads.into_iter().filter_map(member).max().map_or(seen, |heard| heard.max(seen))
    }

    fn free_disk(&mut self, waiting: &HashSet<TaskId>, clock: SystemTime) {
        let progress = &self.progress;
        let busy =
            |id: &TaskId| waiting.contains(id) || progress.swarm(id).is_some_and(|swarm| !swarm.is_empty());
        let ids = self.cdn.gc_task_ids(&busy, clock).unwrap_or_else(|error| {
            log::warn!("cannot tell whether the disk is full: {}", report::chain(&error));
            Vec::new()
        });
        for id in ids {
            self.metrics.gc_disks += 1;
            self.metrics.last_gc_disks_seconds =
                clock.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            self.forget_task(&id, true, "the disk is nearly full");
            self.on_file_deleted(&id, clock);
        }
    }

    /// Forgets the downloads and the swarm of a task, and with `with_file` the file, too.
    pub fn forget_task(&mut self, id: &TaskId, with_file: bool, why: &str) {
        for cid in self.downloads.cids_by_task(id).into_iter().map(str::to_owned).collect::<Vec<_>>() {
            self.remove_download(&cid, id);
        }
        self.progress.remove(id);
        self.changed.insert(*id);
        if with_file {
            self.cdn.delete(id, true);
        }
        self.piece_errors.forget(id);
        self.parents.forget(id);
        if with_file || self.is_bare(id) {
            if let Some(task) = self.tasks.delete(id) {
                self.announce_task("delete", &task, &[("reason", why)]);
            }
        } else {
            self.cdn.delete(id, false);
        }
        self.grants.remove(id);
        self.owned.remove(id);
    }

    /// Brings back the tasks and the clients that the disk knows.
    pub fn restore(&mut self, now: Instant, clock: SystemTime) {
        for record in self.cdn.load() {
            self.tasks.insert(Task::restore(&record, now));
        }
        for entry in std::mem::take(&mut self.registered) {
            self.restore_registration(entry, now);
        }
        let waiting =
            self.tasks.list(|task| self.progress.swarm(&task.id).is_some() && !self.is_complete(&task.id));
        for (id, is_protected) in
            waiting.into_iter().map(|task| (task.id, task.is_protected)).collect::<Vec<_>>()
        {
            // The credentials of a protected file are gone: its clients must bring them again.
            if is_protected || self.fetch_file(&id, clock).is_err() {
                self.forget_task(&id, false, "the supernode has been restarted");
            }
        }
    }

    /// The answer to a client that is not known.
    pub fn unknown() -> Reply {
        Reply::code(code::TARGET_NOT_FOUND, "this client has not registered for the task")
    }
}
