//! Views of the managers for people and programs: tasks, peers, figures, events.
//!
//! Called by the routes of the control port, and by the other modules of `managers`, which announce events.
//! Changes nothing.

use super::Managers;
use crate::cdn::CdnStatus;
use crate::dfget_task::DfgetStatus;
use crate::metrics::{ByStatus, Gauges};
use crate::peer::Peer;
use crate::progress::{Member, Slot, Swarm};
use crate::task::Task;
use crate::task_id::TaskId;
use crate::url::printable_url;
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

/// Most members of a swarm that are shown.
const SWARM_MAX: usize = 1000;

impl Managers {
    /// The task `id` in JSON. `GET /api/v1/tasks/ID`.
    pub fn task_view(&self, id: &TaskId) -> Option<Value> {
        let task = self.tasks.get(id)?;
        let length = task.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1);
        let total = task.length.map_or(0, |length| task.pieces.count(length));
        Some(json!({
            "ID": id.to_string(),
            "cdnStatus": self.status_word(id),
            "taskURL": printable_url(&task.file.task_url),
            "rawURL": printable_url(&task.file.task_url),
            "md5": if task.file.is_md5 { task.file.sign.as_str() } else { "" },
            "identifier": if task.file.is_md5 { "" } else { task.file.sign.as_str() },
            "httpFileLength": length,
            "fileLength": task.length.map_or(-1, |length| i64::try_from(task.pieces.file_len(length)).unwrap_or(-1)),
            "pieceSize": task.pieces.size,
            "pieceTotal": total,
            "peers": self.swarm_view(id),
            "errorMsg": task.failure,
        }))
    }

    /// The members of a task's swarm, at most 1,000. Without their client IDs: whoever names one speaks for the client.
    fn swarm_view(&self, id: &TaskId) -> Value {
        let members = self.progress.swarm(id).into_iter().flat_map(Swarm::members).take(SWARM_MAX);
        let view = |(_, member): (Slot, &Member)| json!({ "pieces": member.have.len(), "uploads": member.uploads, "load": member.load });
        members.map(view).collect()
    }

    /// Dragonfly's word for the status of a task.
    pub fn status_word(&self, id: &TaskId) -> &'static str {
        match self.cdn.status(id) {
            _ if self.settings.is_source_pattern => "SUCCESS",
            None if self.tasks.get(id).is_some_and(|task| task.is_complete) => "SUCCESS",
            None | Some(CdnStatus::Waiting) => "WAITING",
            Some(CdnStatus::Running) => "RUNNING",
            Some(CdnStatus::Success) => "SUCCESS",
            Some(CdnStatus::Failed) => "FAILED",
            Some(CdnStatus::SourceError) => "SOURCE_ERROR",
        }
    }

    /// The peer `id` in JSON. `GET /api/v1/peers/ID`.
    pub fn peer_view(&self, id: &str) -> Option<Value> {
        self.peers.get(id).map(view)
    }

    /// A page of the peers in JSON. `GET /api/v1/peers`.
    pub fn peer_list(&self, page: usize, size: usize, descending: bool) -> Value {
        self.peers.list(page, size, descending).into_iter().map(view).collect()
    }

    /// Figures for Prometheus.
    pub fn gauges(&self, waiting_pulls: usize, connections: usize) -> Gauges {
        let mut gauges = Gauges {
            peers: self.peers.len() as u64,
            waiting_pulls: waiting_pulls as u64,
            connections: connections as u64,
            preheats: self.preheats.by_status(),
            origin_bytes: self.cdn.origin_bytes(),
            ..Gauges::default()
        };
        for task in self.tasks.list(|_| true) {
            let ByStatus { waiting, running, success, failed, source_error } = &mut gauges.tasks;
            *match self.status_word(&task.id) {
                "WAITING" => waiting,
                "RUNNING" => running,
                "SUCCESS" => success,
                "FAILED" => failed,
                _ => source_error,
            } += 1;
        }
        for download in self.downloads.list(|_| true) {
            let ByStatus { waiting, running, success, failed, .. } = &mut gauges.dfget_tasks;
            *match download.status {
                DfgetStatus::Waiting => waiting,
                DfgetStatus::Running => running,
                DfgetStatus::Success => success,
                DfgetStatus::Failed => failed,
            } += 1;
        }
        gauges
    }

    /// Announces an event of a task.
    pub(super) fn announce_task(&self, action: &str, task: &Task, facts: &[(&str, &str)]) {
        let url = printable_url(&task.file.task_url);
        let size = task.length.map(|length| length.to_string()).unwrap_or_default();
        let all = [[("url", url.as_str()), ("size", &size)].as_slice(), facts].concat();
        self.announcer.task(action, &task.id.to_string(), &all);
    }

    /// Announces an event of a peer that is registered.
    pub(super) fn announce_peer(&self, action: &str, id: &str, facts: &[(&str, &str)]) {
        let Some(peer) = self.peers.get(id) else { return };
        let ip = peer.request.ip.to_string();
        let all = [[("name", peer.request.host_name.as_str()), ("ip", &ip)].as_slice(), facts].concat();
        self.announcer.peer(action, id, &all);
    }
}

fn view(peer: &Peer) -> Value {
    let created = peer.created.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    json!({
        "ID": peer.id,
        "IP": peer.request.ip.to_string(),
        "hostName": peer.request.host_name,
        "port": peer.request.port,
        "version": peer.request.version,
        "created": created,
    })
}
