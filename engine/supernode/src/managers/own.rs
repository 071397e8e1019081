//! Sampan's own wire: peers that hold the raw content, and other supernodes. docs/peers.md, "Wire 2".

use super::Managers;
use crate::cdn::{CdnStatus, hex};
use crate::own_wire::{PeerBody, TaskBody, Watch};
use crate::parents::OwnPeer;
use crate::piece_set::PieceSet;
use crate::reply::Reply;
use crate::task_id::TaskId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

/// Most digests in one answer; the peer asks again for the next ones.
const DIGESTS_MAX: usize = 4096;
/// Longest text of a peer, in bytes.
const TEXT_MAX: usize = 128;

impl Managers {
    /// Describes a task to a caller that was admitted.
    pub fn own_registered(
        &mut self,
        id: &TaskId,
        body: &TaskBody,
        remote: IpAddr,
        now: Instant,
        clock: SystemTime,
    ) -> Reply {
        if self.progress.swarm(id).is_none() {
            self.progress.swarm_or_new(*id);
            self.fill(id);
        }
        let Some(task) = self.tasks.get(id) else { return Reply::error(500, "the task is gone") };
        let count = task.length.map(|length| task.pieces.count(length));
        if let Some(peer) = &body.peer {
            let Some(peer) = own_peer(peer, &body.have, count, now) else {
                return Reply::error(400, "the peer's id, ip, zone, rack or have is not valid");
            };
            if !self.addresses.believe(peer.ip, remote) {
                return Reply::error(403, "a peer names the address that it connects from; see --allow-peer");
            }
            if !self.parents.announce(*id, peer) {
                return Reply::error(503, "the task has too many peers");
            }
        }
        let reply = json!({
            "task": id.to_string(),
            "length": task.length,
            "pieceSize": task.pieces.content(),
            "pieces": count,
            "etag": task.validators.etag,
            "lastModified": task.validators.last_modified,
            "downloadPort": self.settings.download_port,
            "ticket": self.tickets.issue(id, &remote.to_string(), clock),
            "parents": self.parents_of(id, body.peer.as_ref().map_or("", |peer| peer.id.as_str())),
        });
        Reply::ok(reply.to_string().into_bytes())
    }

    /// Which pieces there are now; `None` if the caller knows that already.
    pub fn own_pieces(&mut self, id: &TaskId, watch: &Watch, now: Instant) -> Option<Reply> {
        self.tasks.touch(id, now);
        if let Some(peer) = self.parents.get_mut(id, &watch.peer) {
            peer.seen = now;
        }
        let version = self.version(id);
        (version != watch.version).then(|| self.own_state(id, watch))
    }

    /// Which pieces there are now.
    pub fn own_state(&self, id: &TaskId, watch: &Watch) -> Reply {
        let Some(task) = self.tasks.get(id) else { return Reply::error(404, "no such task") };
        let status = self.cdn.status(id);
        if matches!(status, Some(CdnStatus::Failed | CdnStatus::SourceError)) {
            return Reply::error(502, &task.failure);
        }
        let ready = self.progress.swarm(id).map(|swarm| swarm.ready().to_bytes()).unwrap_or_default();
        let last = watch.from.saturating_add(u32::try_from(DIGESTS_MAX).unwrap_or(u32::MAX));
        let count = task.length.map_or(last, |length| task.pieces.count(length));
        let digests = (watch.from..last.min(count)).map(|piece| self.cdn.piece(id, piece));
        let digests: Vec<String> =
            digests.map(|digest| digest.map(|d| hex(&d.sha256)).unwrap_or_default()).collect();
        let reply = json!({
            "version": self.version(id),
            "length": task.length,
            "complete": status == Some(CdnStatus::Success),
            "have": STANDARD.encode(ready),
            "from": watch.from,
            "digests": digests,
            "parents": self.parents_of(id, &watch.peer),
        });
        Reply::ok(reply.to_string().into_bytes())
    }

    /// Records which pieces a peer has. A peer also sends this to a supernode that has been restarted.
    pub fn own_have(&mut self, id: &TaskId, peer: &str, have: &str, now: Instant) -> Reply {
        let Some(task) = self.tasks.get(id) else { return Reply::error(404, "no such task") };
        let count = task.length.map(|length| task.pieces.count(length));
        let Some(have) = decode(have, count) else { return Reply::error(400, "have is no bit set") };
        let Some(known) = self.parents.get_mut(id, peer) else {
            return Reply::error(404, "no such peer: register for the task again");
        };
        (known.have, known.seen) = (have, now);
        self.tasks.touch(id, now);
        Reply { status: 204, body: Vec::new() }
    }

    /// Changes whenever the answer to a watch may change.
    fn version(&self, id: &TaskId) -> u64 {
        let ready = self.progress.swarm(id).map_or(0, |swarm| u64::from(swarm.ready().len()));
        let status = match self.cdn.status(id) {
            None | Some(CdnStatus::Waiting | CdnStatus::Running) => 0,
            Some(CdnStatus::Success) => 1,
            Some(CdnStatus::Failed | CdnStatus::SourceError) => 2,
        };
        ready << 2 | status
    }

    fn parents_of(&self, id: &TaskId, peer: &str) -> Value {
        let parents = self.parents.choose(id, peer);
        parents.into_iter().map(|p| json!({ "id": p.id, "ip": p.ip.to_string(), "port": p.port })).collect()
    }
}

/// The pieces in a bit set; of a file of unknown length, any.
fn decode(text: &str, count: Option<u32>) -> Option<PieceSet> {
    let bytes = STANDARD.decode(text).ok()?;
    Some(PieceSet::from_bytes(&bytes, count.unwrap_or(1 << 22)))
}

fn own_peer(body: &PeerBody, have: &str, count: Option<u32>, now: Instant) -> Option<OwnPeer> {
    let is_short = |text: &str| text.len() <= TEXT_MAX && !text.contains(|c: char| c.is_control());
    if body.id.is_empty() || ![&body.id, &body.zone, &body.rack].into_iter().all(|text| is_short(text)) {
        return None;
    }
    Some(OwnPeer {
        id: body.id.clone(),
        ip: body.ip.parse().ok()?,
        port: body.port,
        zone: body.zone.clone(),
        rack: body.rack.clone(),
        have: decode(have, count)?,
        seen: now,
    })
}
