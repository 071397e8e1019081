//! Garbage collection: leases end, and idle tasks, silent peers and files are forgotten or deleted.
//!
//! Called by the event loop when [`Managers::deadline`] or the deadline of [`Gc`] has come, and by an
//! administrator's request. [`Gc`] decides; this module carries out.

use super::Managers;
use crate::cdn::CdnStatus;
use crate::gc::{Action, Gc, PeerUse, TaskUse};
use crate::task_id::TaskId;
use sampan_ipc::report;
use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

impl Managers {
    /// Ends the leases that are over.
    pub fn expire_leases(&mut self, now: Instant) {
        let ended = self.progress.expire(now);
        self.metrics.leases_expired += ended.len() as u64;
        self.changed.extend(ended);
    }

    /// When the next lease may be over; `None` if there is no lease.
    pub fn deadline(&self) -> Option<Instant> {
        self.progress.deadline()
    }

    /// Whether waiting pulls must be tried, or preheats registered, at once.
    pub fn has_work(&self) -> bool {
        !self.changed.is_empty() || !self.registrations_due.is_empty()
    }

    /// Carries out the actions of `gc` that are due. `waiting` are the tasks that a pull waits for.
    pub fn collect(&mut self, gc: &mut Gc, waiting: &HashSet<TaskId>, now: Instant, clock: SystemTime) {
        self.parents.expire(now, gc.task_idle());
        self.grants.expire(clock);
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
                    self.remove_peer(&id);
                }
                Action::FreeDisk => self.free_disk(waiting, clock),
            }
        }
    }

    /// Whether the CDN manager has forgotten the task: its file, if there is one, is on the disk alone.
    fn is_bare(&self, id: &TaskId) -> bool {
        self.cdn.status(id).is_none()
    }

    /// When the peer was last heard of, or a piece was last fetched from it.
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
            self.forget_task(&id, true, "free space is below a mark: gc-free-young, gc-free-full");
            self.on_file_deleted(&id, clock);
        }
    }

    /// Forgets the downloads and the swarm of a task, and with `with_file` the file, too.
    pub fn forget_task(&mut self, id: &TaskId, with_file: bool, why: &str) {
        // The swarm first: otherwise each member would leave it, with a look at all others.
        self.progress.remove(id);
        for cid in self.downloads.cids_by_task(id).into_iter().map(str::to_owned).collect::<Vec<_>>() {
            self.remove_download(&cid, id);
        }
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
}
