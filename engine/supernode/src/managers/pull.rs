//! Pulls: which pieces a client gets next. `GET /peer/task`.
//!
//! A client of Dragonfly that gets an answer without a piece, and runs no piece, never asks again. So an answer
//! that says "go on" always has a piece.

use super::Managers;
use crate::cdn::{Cdn, CdnStatus};
use crate::dfget_task::{DfgetStatus, DfgetTask};
use crate::piece::Pieces;
use crate::progress::Holder;
use crate::reply::Reply;
use crate::scheduler::{Choice, schedule};
use crate::task::Task;
use crate::task_id::TaskId;
use crate::v1::{self, FinishedTask, PieceResult, PieceTask, code};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

/// A pull, from the query of its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// The task.
    pub task: TaskId,
    /// The client.
    pub cid: String,
    /// The range of the piece that is reported; empty if none is.
    pub range: String,
    /// The report about that piece.
    pub result: PieceResult,
    /// The client ID of the holder of the reported piece.
    pub holder: String,
    /// Whether the client asks for the first time (status 700).
    pub begins: bool,
    /// Whether the client ends its download (status 702).
    pub ends: bool,
}

/// The outcome of a pull.
#[derive(Debug, PartialEq, Eq)]
pub enum PullOutcome {
    /// The answer.
    Reply(Reply),
    /// There is nothing to fetch now. The client waits, for a shorter time if it has running pieces.
    Wait {
        /// Whether the client has running pieces.
        has_running: bool,
    },
}

impl Managers {
    /// Records the report of a pull, and chooses the next pieces.
    pub fn pull(
        &mut self,
        request: &PullRequest,
        remote: IpAddr,
        now: Instant,
        clock: SystemTime,
    ) -> PullOutcome {
        if let Err(reply) = self.check_client(&request.cid, &request.task, remote) {
            return PullOutcome::Reply(reply);
        }
        self.tasks.touch(&request.task, now);
        self.report(request, now);
        if request.ends {
            let status = match request.result {
                PieceResult::Failed => DfgetStatus::Failed,
                _ => DfgetStatus::Success,
            };
            self.set_status(&request.cid, &request.task, status);
            return PullOutcome::Reply(Reply::code(code::SUCCESS, "success"));
        }
        self.pull_again(&request.cid, &request.task, now, clock)
    }

    /// Checks that the client has registered, from this address.
    pub(super) fn check_client(&self, cid: &str, task: &TaskId, remote: IpAddr) -> Result<&DfgetTask, Reply> {
        let download = self.downloads.get(cid, task);
        // A client of another address learns no more than a client that never registered.
        download
            .filter(|download| download.remote == remote)
            .ok_or_else(|| Reply::code(code::TARGET_NOT_FOUND, "this client has not registered for the task"))
    }

    fn report(&mut self, request: &PullRequest, now: Instant) {
        let Some(pieces) = self.tasks.get(&request.task).map(|task| task.pieces) else { return };
        let own = (request.result == PieceResult::Failed).then(|| self.own_cid(&request.task));
        let Some(swarm) = self.progress.swarm_mut(&request.task) else { return };
        let Some(slot) = swarm.slot(&request.cid) else { return };
        swarm.touch(slot, now);
        if request.result == PieceResult::None {
            return;
        }
        let Some(piece) = pieces.parse_range(&request.range).filter(|piece| swarm.is_piece(*piece)) else {
            return;
        };
        let is_first = swarm.member(slot).is_some_and(|m| m.have.is_empty() && m.running.is_empty());
        if request.begins || is_first {
            // The client has begun at another supernode, or at this one before a restart.
            swarm.set_cautious(slot);
        }
        match request.result {
            PieceResult::Received => {
                swarm.on_received(slot, piece, now);
            }
            PieceResult::Failed => {
                let holder = match swarm.slot(&request.holder) {
                    Some(of) => Holder::Member(of),
                    None if own.as_ref() == Some(&request.holder) => Holder::Supernode,
                    None => Holder::Gone,
                };
                if swarm.on_failed(slot, piece, holder, now) {
                    self.metrics.pieces_failed += 1;
                }
            }
            PieceResult::None => return,
        }
        self.changed.insert(request.task);
    }

    /// Chooses the next pieces of a client that is known.
    pub fn pull_again(&mut self, cid: &str, id: &TaskId, now: Instant, clock: SystemTime) -> PullOutcome {
        let not_found = || PullOutcome::Reply(Reply::code(code::TARGET_NOT_FOUND, "the task is not known"));
        let Some(task) = self.tasks.get(id) else { return not_found() };
        let is_complete = self.is_complete(id);
        match self.cdn.status(id) {
            Some(CdnStatus::Failed) => return failure(code::CDN_FAIL, &task.failure),
            Some(CdnStatus::SourceError) => return failure(code::SOURCE_ERROR, &task.failure),
            _ => {}
        }
        let (pieces, length) = (task.pieces, task.length);
        let Some(swarm) = self.progress.swarm_mut(id) else { return not_found() };
        let Some(slot) = swarm.slot(cid) else { return not_found() };
        let Some(member) = swarm.member(slot) else { return not_found() };
        if let Some(length) = length
            && is_complete
            && member.have.len() >= pieces.count(length)
        {
            let md5 = if task.file.is_md5 { task.file.sign.clone() } else { String::new() };
            let data = FinishedTask { md5, file_length: pieces.file_len(length) };
            self.set_status(cid, id, DfgetStatus::Success);
            return PullOutcome::Reply(Reply::ok(v1::envelope(code::FINISH, "success", Some(data))));
        }
        let has_running = !member.running.is_empty();
        let started = Instant::now();
        let choices = schedule(swarm, slot, now, &mut self.random);
        self.metrics.schedule_millis.record(started.elapsed().as_secs_f64() * 1000.0);
        self.set_status(cid, id, DfgetStatus::Running);
        self.progress.on_scheduled(id);
        if choices.is_empty() {
            return PullOutcome::Wait { has_running };
        }
        let tasks = self.describe(&choices, cid, id, pieces, length, clock);
        self.metrics.pieces_scheduled += tasks.len() as u64;
        PullOutcome::Reply(Reply::ok(v1::envelope(code::CONTINUE, "success", Some(tasks))))
    }

    fn describe(
        &self,
        choices: &[Choice],
        cid: &str,
        id: &TaskId,
        pieces: Pieces,
        length: Option<u64>,
        clock: SystemTime,
    ) -> Vec<PieceTask> {
        let (Some(task), Some(client)) = (self.tasks.get(id), self.downloads.get(cid, id)) else {
            return Vec::new();
        };
        let describe = |choice: &Choice| {
            let md5 = self.cdn.piece(id, choice.piece).map(|digest| {
                let len = pieces.wrapped_len(choice.piece, length.unwrap_or(u64::MAX));
                format!("{}:{len}", digest.md5_hex())
            });
            let (holder, peer_ip, peer_port, path) = self.address(choice.holder, client, task, clock)?;
            Some(PieceTask {
                range: pieces.range(choice.piece),
                piece_num: choice.piece,
                piece_size: pieces.size,
                piece_md5: md5.unwrap_or_default(),
                cid: holder,
                peer_ip,
                peer_port,
                path,
                down_link: 0,
            })
        };
        choices.iter().filter_map(describe).collect()
    }

    /// Where a client fetches a piece: the holder's client ID, address, port and path.
    fn address(
        &self,
        holder: Holder,
        client: &DfgetTask,
        task: &Task,
        clock: SystemTime,
    ) -> Option<(String, String, u16, String)> {
        match holder {
            Holder::Supernode => {
                let mut path = Cdn::http_path(&task.id);
                if self.settings.is_source_pattern {
                    path = task.file.request.url.clone();
                } else if task.is_protected || self.settings.demands_tickets {
                    path = format!("{path}/{}", self.issue_ticket(task, client.remote, clock));
                }
                let ip = match client.supernode_ip.as_str() {
                    "" => self.settings.advertise_ip.to_string(),
                    ip => ip.to_owned(),
                };
                Some((self.own_cid(&task.id), ip, self.settings.download_port, path))
            }
            Holder::Member(slot) => {
                let member = self.progress.swarm(&task.id)?.member(slot)?;
                let holder = self.downloads.get(&member.cid, &task.id)?;
                let peer = &self.peers.get(&holder.peer)?.request;
                Some((member.cid.clone(), peer.ip.to_string(), peer.port, holder.path.clone()))
            }
            Holder::Gone => None,
        }
    }

    pub(super) fn set_status(&mut self, cid: &str, task: &TaskId, status: DfgetStatus) {
        if self.downloads.update_status(cid, task, status) && status == DfgetStatus::Failed {
            self.metrics.dfget_tasks_failed += 1;
        }
    }
}

fn failure(code: u16, why: &str) -> PullOutcome {
    PullOutcome::Reply(Reply::code(code, why))
}
