//! Reports of clients apart from pulls: a piece is stored, an upload server ends, a piece was bad.
//!
//! Called by the routes of the control port. A report changes the swarm, and never chooses pieces.

use super::Managers;
use crate::piece_error::{Kind, Repair, Report};
use crate::reply::Reply;
use crate::task_id::TaskId;
use crate::v1::code;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

impl Managers {
    /// Records that a client has a piece on its disk. `GET /peer/piece/suc`.
    pub fn on_piece_stored(
        &mut self,
        id: &TaskId,
        cid: &str,
        range: &str,
        remote: IpAddr,
        now: Instant,
    ) -> Reply {
        let peer = match self.check_client(cid, id, remote) {
            Ok(download) => download.peer.clone(),
            Err(_) => return Reply::error(500, "this client has not registered for the task"),
        };
        let piece = self.tasks.get(id).and_then(|task| task.pieces.parse_range(range));
        self.tasks.touch(id, now);
        self.peers.touch(&peer, now);
        if let Some(swarm) = self.progress.swarm_mut(id)
            && let Some(slot) = swarm.slot(cid)
            && let Some(piece) = piece.filter(|piece| swarm.is_piece(*piece))
        {
            swarm.on_stored(slot, piece, now);
            self.changed.insert(*id);
            self.metrics.pieces_stored += 1;
        }
        Reply::code(code::PEER_PIECE_SUCCESS, "")
    }

    /// Records that a client's upload server ends. `GET /peer/service/down`.
    pub fn on_service_down(&mut self, id: &TaskId, cid: &str, remote: IpAddr, now: Instant) -> Reply {
        if let Ok(download) = self.check_client(cid, id, remote) {
            let peer = download.peer.clone();
            self.peers.set_down(&peer, now);
            if let Some(swarm) = self.progress.swarm_mut(id)
                && let Some(slot) = swarm.slot(cid)
            {
                swarm.set_uploads(slot, false);
            }
            self.announce_peer(
                "deregister",
                &peer,
                &[("task", &id.to_string()), ("reason", "the upload server ends")],
            );
        }
        Reply::code(code::PEER_DOWN, "")
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
}
