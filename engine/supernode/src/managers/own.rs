//! Sampan's own wire: peers that hold the raw content, and other supernodes. docs/peers.md, "Wire 2".
//!
//! Called by the routes `/sampan/v1/tasks`, by `register` for a caller that was admitted, and for waiters. Names
//! parents, and never chooses a piece.

use super::Managers;
use crate::cdn::CdnStatus;
use crate::hex;
use crate::own_wire::{PeerBody, TaskBody, Watch};
use crate::parents::{OwnPeer, ParentsError};
use crate::piece_set::PieceSet;
use crate::reply::Reply;
use crate::task::Task;
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
/// Most pieces that a peer can have of a file of unknown length.
const PIECES_UNKNOWN_MAX: u32 = 1 << 16;

impl Managers {
    /// Adds the peer of a caller that was admitted, if it has one, and describes the task to the caller.
    pub fn admit_own(
        &mut self,
        id: &TaskId,
        body: &TaskBody,
        remote: IpAddr,
        now: Instant,
        clock: SystemTime,
    ) -> Reply {
        self.ensure_swarm(id);
        let Some(task) = self.tasks.get(id) else { return Reply::error(500, "the task is gone") };
        let count = task.length.map(|length| task.pieces.count(length));
        if let Some(peer) = &body.peer {
            let Some(peer) = own_peer(peer, &body.have, pieces_max(task), remote, now) else {
                return Reply::error(400, "the peer's id, ip, zone, rack or have is not valid");
            };
            if !self.addresses.is_allowed(peer.ip, remote) {
                return Reply::error(403, "a peer names the address that it connects from; see --allow-peer");
            }
            if let Err(error) = self.parents.announce(*id, peer) {
                return refusal(error);
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
            "ticket": self.issue_ticket(task, remote, clock),
            "parents": self.parents_of(id, body.peer.as_ref().map_or("", |peer| peer.id.as_str())),
        });
        Reply::ok(reply.to_string().into_bytes())
    }

    /// Records that a peer at `remote` has asked for pieces: the task and the peer are in use.
    pub fn touch_own(&mut self, id: &TaskId, peer: &str, remote: IpAddr, now: Instant) {
        self.tasks.touch(id, now);
        self.parents.touch(id, peer, remote, now);
    }

    /// The answer to a watch; `None` if the peer knows this version already.
    pub fn own_pieces(&mut self, id: &TaskId, watch: &Watch) -> Option<Reply> {
        self.activate_complete(id);
        if self.cdn.status(id).is_some() {
            self.ensure_swarm(id);
            if self.version(id) == watch.version {
                return None;
            }
        }
        Some(self.own_state(id, watch))
    }

    /// Activates the task if its file is complete, so that pieces can be sent without a registration. The rest of
    /// an incomplete file is fetched only after a registration, which brings the headers for the origin.
    fn activate_complete(&mut self, id: &TaskId) {
        let is_idle = self.cdn.status(id).is_none();
        if is_idle && self.cdn.activate(id).is_some_and(|status| status != CdnStatus::Success) {
            self.cdn.delete(id, false);
        }
    }

    /// Makes the swarm, which knows the pieces that are ready. It was forgotten if nobody has used the task for a
    /// while.
    fn ensure_swarm(&mut self, id: &TaskId) {
        if self.progress.swarm(id).is_none() {
            self.progress.swarm_or_new(*id);
            self.fill_swarm(id);
        }
    }

    /// The pieces that are ready now, their digests, and parents for the peer.
    pub fn own_state(&self, id: &TaskId, watch: &Watch) -> Reply {
        let Some(task) = self.tasks.get(id) else { return Reply::error(404, "no such task") };
        let Some(status) = self.cdn.status(id) else {
            return Reply::error(404, "nobody fetches the file: register for the task again");
        };
        if matches!(status, CdnStatus::Failed | CdnStatus::SourceError) {
            return Reply::error(502, &task.failure);
        }
        let ready = self.progress.swarm(id).map(|swarm| swarm.ready().to_bytes()).unwrap_or_default();
        let last = watch.from.saturating_add(u32::try_from(DIGESTS_MAX).unwrap_or(u32::MAX));
        let count = task.length.map_or(last, |length| task.pieces.count(length));
        let digests = (watch.from..last.min(count)).map(|piece| self.cdn.piece(id, piece));
        let digests: Vec<String> =
            digests.map(|digest| digest.map(|d| hex::encode(&d.sha256)).unwrap_or_default()).collect();
        let reply = json!({
            "version": self.version(id),
            "length": task.length,
            "complete": status == CdnStatus::Success,
            "etag": task.validators.etag,
            "lastModified": task.validators.last_modified,
            "have": STANDARD.encode(ready),
            "from": watch.from,
            "digests": digests,
            "parents": self.parents_of(id, &watch.peer),
        });
        Reply::ok(reply.to_string().into_bytes())
    }

    /// Records which pieces a peer has. A peer also sends this to a supernode that has been restarted.
    pub fn set_own_have(
        &mut self,
        id: &TaskId,
        peer: &str,
        have: &str,
        remote: IpAddr,
        now: Instant,
    ) -> Reply {
        let Some(task) = self.tasks.get(id) else { return Reply::error(404, "no such task") };
        let Some(have) = decode(have, pieces_max(task)) else {
            return Reply::error(400, "have is no bit set");
        };
        if let Err(error) = self.parents.set_have(id, peer, have, remote, now) {
            return refusal(error);
        }
        self.tasks.touch(id, now);
        Reply { status: 204, body: Vec::new() }
    }

    /// Forgets a peer of the task.
    pub fn remove_own_peer(&mut self, id: &TaskId, peer: &str, remote: IpAddr) -> Reply {
        match self.parents.remove(id, peer, remote) {
            Ok(_) => Reply { status: 204, body: Vec::new() },
            Err(error) => refusal(error),
        }
    }

    /// The version of a task: another number whenever the answer to a watch may have changed.
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

fn refusal(error: ParentsError) -> Reply {
    match error {
        ParentsError::Taken => Reply::error(403, "a peer at another address has this id"),
        ParentsError::Unknown => Reply::error(404, "no such peer: register for the task again"),
        ParentsError::Full => Reply::error(503, "there are too many peers, or they have too many pieces"),
    }
}

/// The most pieces that a peer of `task` can have.
fn pieces_max(task: &Task) -> u32 {
    task.length.map_or(PIECES_UNKNOWN_MAX, |length| task.pieces.count(length))
}

/// The pieces in a bit set, without those from `count` on.
fn decode(text: &str, count: u32) -> Option<PieceSet> {
    Some(PieceSet::from_bytes(&STANDARD.decode(text).ok()?, count))
}

fn own_peer(body: &PeerBody, have: &str, count: u32, remote: IpAddr, now: Instant) -> Option<OwnPeer> {
    let is_short = |text: &str| text.len() <= TEXT_MAX && !text.contains(|c: char| c.is_control());
    // An ID is a part of a path.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    if body.id.is_empty() || !body.id.bytes().all(is_plain) {
        return None;
    }
    if ![&body.id, &body.zone, &body.rack].into_iter().all(|text| is_short(text)) {
        return None;
    }
    Some(OwnPeer {
        id: body.id.clone(),
        ip: body.ip.parse().ok()?,
        port: body.port,
        zone: body.zone.clone(),
        rack: body.rack.clone(),
        have: decode(have, count)?,
        remote,
        seen: now,
    })
}
