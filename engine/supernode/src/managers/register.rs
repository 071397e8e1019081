//! Registrations: a client, another supernode or a preheat wants a file.
//!
//! The origin is probed if the task is new, if the last probe is too old, or if the caller has not shown access
//! yet. Callers with equal credentials wait for one probe. docs/peers.md, "Who may what".

use super::Managers;
use crate::access::Credential;
use crate::cdn::CdnStatus;
use crate::dfget_task::{DfgetStatus, DfgetTask};
use crate::origin::{OriginError, OriginFile, ProbeResult};
use crate::peer::PeerRequest;
use crate::piece::{LENGTH_MAX, Pieces};
use crate::registration::{BeginOutcome, Caller, PendingRegistration, Probe, ProbeKey, RegistrationOutcome};
use crate::reply::Reply;
use crate::task::{Task, TaskError};
use crate::task_id::TaskId;
use crate::v1::{self, Registration, RegistrationData, code};
use sampan_ipc::report;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Instant, SystemTime};

/// Most callers that wait for one probe. A further one is refused.
const WAITERS_MAX: usize = 10_000;
/// Longest MD5 or identifier, in bytes.
const SIGN_MAX: usize = 1024;
/// Shortest client ID of a holder. A client of Dragonfly that prints a shorter one crashes.
const HOLDER_CID_MIN: usize = 25;

impl Managers {
    /// Begins a registration.
    pub fn begin_registration(
        &mut self,
        pending: PendingRegistration,
        now: Instant,
        clock: SystemTime,
    ) -> BeginOutcome {
        let id = pending.file.id();
        let ended =
            |result| BeginOutcome::Ended(RegistrationOutcome { token: pending.token, task: id, result });
        if let Caller::Client(registration, _) = &pending.caller
            && let Some(problem) = registration.problem()
        {
            return ended(Err(Reply { status: 400, body: v1::error(400, &problem) }));
        }
        if pending.file.task_url.len() > v1::TEXT_MAX || pending.file.sign.len() > SIGN_MAX {
            return ended(Err(Reply::error(400, "the URL, the MD5 or the identifier is too long")));
        }
        match self.tasks.check(&pending.file) {
            Ok(()) => {}
            Err(TaskError::Conflict) => {
                let why = "another file has this task ID";
                return ended(Err(Reply::code(code::TASK_CONFLICT, why)));
            }
            Err(TaskError::TooMany) => return ended(Err(Reply::error(503, "there are too many tasks"))),
        }
        let credential = pending.file.credential();
        let task = self.tasks.get(&id);
        let is_fresh = task.is_some_and(|task| !task.is_stale(now, self.settings.revalidate_after));
        let has_access = task.is_some_and(|task| !task.is_protected)
            || credential.is_some_and(|credential| self.grants.contains(credential, id, clock));
        if is_fresh && has_access {
            let result = self.admit(&pending, now, clock);
            return BeginOutcome::Ended(RegistrationOutcome { token: pending.token, task: id, result });
        }
        // An origin that answers "unchanged" may not have looked at the credential.
        let known = task.filter(|task| task.length.is_some() && credential.is_none() && !task.is_protected);
        let known = known.map(|task| task.validators.clone());
        let (key, request) = ((id, credential), pending.file.request.clone());
        match self.pending.get_mut(&key) {
            Some(waiters) if waiters.len() >= WAITERS_MAX => {
                ended(Err(Reply::error(503, "too many clients wait for the origin")))
            }
            Some(waiters) => {
                waiters.push(pending);
                BeginOutcome::Waits
            }
            None => {
                let remote = pending.caller.remote();
                self.pending.insert(key, vec![pending]);
                BeginOutcome::Probe(Probe { key, request, remote, known })
            }
        }
    }

    /// Ends the registrations that waited for the probe `key`. `is_alive` says whether a connection is still open.
    pub fn end_registrations(
        &mut self,
        key: &ProbeKey,
        answer: Result<ProbeResult, OriginError>,
        is_alive: &dyn Fn(usize) -> bool,
        now: Instant,
        clock: SystemTime,
    ) -> Vec<RegistrationOutcome> {
        let waiters = self.pending.remove(key).unwrap_or_default();
        let waiters: Vec<PendingRegistration> =
            waiters.into_iter().filter(|w| w.token.is_none_or(is_alive)).collect();
        if let (Err(OriginError::Denied { .. }), None) = (&answer, key.1)
            && let Some(task) = self.tasks.get_mut(&key.0)
        {
            // A file that was public has become private.
            task.is_protected = true;
        }
        let refused = match &answer {
            Ok(probed) => self.update_task(key, waiters.first(), probed, now, clock).err(),
            // A complete public file is given although the origin does not answer.
            Err(error) if error.is_temporary() && self.is_public_and_complete(&key.0) => None,
            Err(error) => Some(refusal(error)),
        };
        let end = |waiter: PendingRegistration| {
            let result = match &refused {
                Some(reply) => Err(reply.clone()),
                None => self.admit(&waiter, now, clock),
            };
            RegistrationOutcome { token: waiter.token, task: key.0, result }
        };
        waiters.into_iter().map(end).collect()
    }

    /// Forgets the registration of the connection `token`, because its probe takes too long or the connection has
    /// ended.
    /// Returns the probes for which nobody waits any more.
    pub fn abandon_registration(&mut self, token: usize) -> Vec<ProbeKey> {
        let mut unwanted = Vec::new();
        for (key, waiters) in &mut self.pending {
            let before = waiters.len();
            waiters.retain(|waiter| waiter.token != Some(token));
            if waiters.is_empty() && before > 0 {
                unwanted.push(*key);
            }
        }
        unwanted
    }

    /// Whether a registration waits for the probe `key`.
    pub fn has_waiting_registrations(&self, key: &ProbeKey) -> bool {
        self.pending.get(key).is_some_and(|waiters| !waiters.is_empty())
    }

    fn is_public_and_complete(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| !task.is_protected) && self.is_complete(id)
    }

    /// Makes the task, or updates it, from the answer of its origin.
    fn update_task(
        &mut self,
        key: &ProbeKey,
        first: Option<&PendingRegistration>,
        probed: &ProbeResult,
        now: Instant,
        clock: SystemTime,
    ) -> Result<(), Reply> {
        let (id, credential) = key;
        let Some(first) = first else { return Ok(()) };
        let found = match probed {
            ProbeResult::Unchanged => None,
            ProbeResult::Found(found) => Some(found),
        };
        if let Some(found) = found {
            check_length(found, self.settings.is_source_pattern)?;
        }
        if self.tasks.get(id).is_none() {
            let Some(found) = found else {
                return Err(Reply::error(500, "the origin answers without the file"));
            };
            self.make_task(*id, first, found, now, clock);
            self.add_grant(id, *credential, clock);
            return Ok(());
        }
        let has_failed = matches!(self.cdn.status(id), Some(CdnStatus::Failed | CdnStatus::SourceError));
        let is_unknown = self.tasks.get(id).is_some_and(|task| task.length.is_none());
        if found.is_some_and(|found| self.has_changed(id, found)) || has_failed && is_unknown {
            self.replace_content(id, *credential, "the file has changed at its origin");
        } else if found.is_some_and(|found| !self.is_known_version(id, found)) {
            // Nobody knows whether the origin gives this caller the content that another credential was given.
            let task =
                self.tasks.get(id).filter(|task| task.is_protected && task.fetched_with != *credential);
            match (task.is_some(), credential) {
                (false, _) => {}
                (true, None) => self.replace_content(id, None, "the file has become public"),
                (true, Some(_)) => {
                    let why = "the origin tells no version of this protected file, so it is not shared";
                    return Err(Reply::code(code::SOURCE_ERROR, why));
                }
            }
        }
        self.add_grant(id, *credential, clock);
        let is_unused = self.cdn.status(id).is_none() && self.progress.swarm(id).is_none();
        let Some(task) = self.tasks.get_mut(id) else { return Ok(()) };
        task.validated = Some(now);
        // Without credentials the origin gives the file to anybody.
        task.is_protected &= credential.is_some();
        task.file.request.clone_from(&first.file.request);
        if let Some(found) = found {
            task.validators = found.validators.clone();
            task.takes_ranges = found.takes_ranges;
            if task.length.is_none() && found.length.is_some() && is_unused {
                task.length = found.length;
                task.pieces = Pieces::of(found.length, !self.settings.is_source_pattern);
            }
        }
        Ok(())
    }

    /// Remembers that a caller with this credential has shown access.
    fn add_grant(&mut self, id: &TaskId, credential: Option<Credential>, clock: SystemTime) {
        if let Some(credential) = credential {
            self.grants.add(credential, *id, clock);
        }
    }

    /// Forgets the content of a task. What is fetched next comes with `credential`, and is protected if there is one.
    fn replace_content(&mut self, id: &TaskId, credential: Option<Credential>, why: &str) {
        self.reset_task(id, why);
        self.grants.remove(id);
        if let Some(task) = self.tasks.get_mut(id) {
            (task.is_protected, task.fetched_with) = (credential.is_some(), credential);
        }
    }

    /// Whether the origin says, or the URL, that its file is the version that the task has.
    fn is_known_version(&self, id: &TaskId, found: &OriginFile) -> bool {
        self.tasks.get(id).is_some_and(|task| {
            task.is_immutable() || task.validators.is_same(&found.validators) == Some(true)
        })
    }

    fn make_task(
        &mut self,
        id: TaskId,
        first: &PendingRegistration,
        found: &OriginFile,
        now: Instant,
        clock: SystemTime,
    ) {
        let task = Task {
            id,
            file: first.file.clone(),
            length: found.length,
            pieces: Pieces::of(found.length, !self.settings.is_source_pattern),
            takes_ranges: found.takes_ranges,
            is_protected: first.file.credential().is_some(),
            validators: found.validators.clone(),
            fetched_with: first.file.credential(),
            is_complete: false,
            validated: Some(now),
            created: clock,
            accessed: now,
            failure: String::new(),
        };
        self.metrics.tasks_registered += 1;
        self.announce_task("create", &task, &[]);
        self.tasks.insert(task);
    }

    fn has_changed(&self, id: &TaskId, found: &OriginFile) -> bool {
        let Some(task) = self.tasks.get(id) else { return false };
        let lengths = task.length.zip(found.length);
        lengths.is_some_and(|(old, new)| old != new)
            || task.validators.is_same(&found.validators) == Some(false)
    }

    /// Admits a caller that has shown access, and begins the fetch of the file unless it is complete or runs. `Ok`
    /// is the answer of an admission, `Err` that of a refusal.
    fn admit(
        &mut self,
        pending: &PendingRegistration,
        now: Instant,
        clock: SystemTime,
    ) -> Result<Reply, Reply> {
        let id = pending.file.id();
        self.tasks.touch(&id, now);
        if let Caller::Own(body, _) = &pending.caller
            && body.as_owner
        {
            self.owned.insert(id);
        }
        self.fetch_file(&id, clock)?;
        match &pending.caller {
            Caller::Client(registration, remote) => self.admit_client(id, registration, *remote, now, clock),
            Caller::Own(body, remote) => Ok(self.admit_own(&id, body, *remote, now, clock)),
            Caller::Preheat => Ok(Reply::code(code::SUCCESS, "success")),
        }
    }

    /// Registers the peer of a client of Dragonfly, and adds the client to the swarm of its task.
    fn admit_client(
        &mut self,
        id: TaskId,
        registration: &Registration,
        remote: IpAddr,
        now: Instant,
        clock: SystemTime,
    ) -> Result<Reply, Reply> {
        let Some(task) = self.tasks.get(&id) else { return Err(Reply::error(500, "the task is gone")) };
        if self.downloads.get(&registration.cid, &id).is_some_and(|download| download.remote != remote) {
            return Err(Reply::error(403, "another address has registered this client ID"));
        }
        let reply = RegistrationData {
            task_id: id.to_string(),
            file_length: task.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
            piece_size: task.pieces.size,
            cdn_source: if self.settings.is_source_pattern { "source" } else { "supernode" },
            as_seed: false,
            seed_task_id: "",
        };
        let (pieces, length) = (task.pieces, task.length);
        let uploads = self.can_upload(registration, remote);
        let ip = registration.ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let request = PeerRequest {
            ip,
            port: if uploads { u16::try_from(registration.port).unwrap_or(0) } else { 0 },
            host_name: registration.host_name.clone(),
            version: registration.version.clone(),
        };
        let Some(peer) = self.peers.register(request, clock, now) else {
            return Err(Reply::error(503, "there are too many peers"));
        };
        let download = DfgetTask {
            cid: registration.cid.clone(),
            task: id,
            peer: peer.clone(),
            path: registration.path.clone(),
            supernode_ip: registration.supernode_ip.clone(),
            call_system: registration.call_system.clone(),
            is_dfdaemon: registration.dfdaemon,
            remote,
            status: DfgetStatus::Waiting,
        };
        self.announce_peer(
            "register",
            &peer,
            &[("task", &id.to_string()), ("port", &registration.port.to_string())],
        );
        let is_new = self.downloads.get(&download.cid, &id).is_none();
        self.record_registration(&download, uploads, is_new);
        self.add_download(download, uploads, now);
        if let Some(swarm) = self.progress.swarm_mut(&id)
            && let Some(length) = length
        {
            swarm.set_total(pieces.count(length));
        }
        self.metrics.dfget_tasks_registered += 1;
        Ok(Reply::ok(v1::envelope(code::SUCCESS, "success", Some(reply))))
    }

    /// Adds a client to the swarm of its task.
    pub(super) fn add_download(&mut self, download: DfgetTask, uploads: bool, now: Instant) {
        let (id, cid) = (download.task, download.cid.clone());
        if let Some(replaced) = self.downloads.add(download) {
            self.peers.deregister(&replaced.peer);
        }
        let is_new = self.progress.swarm(&id).is_none();
        let swarm = self.progress.swarm_or_new(id);
        swarm.join(&cid, uploads, now);
        if is_new {
            self.fill_swarm(&id);
        }
    }

    /// Records in a new swarm which pieces the supernode has.
    pub(super) fn fill_swarm(&mut self, id: &TaskId) {
        let ready: Vec<u32> = self.cdn.ready_pieces(id).collect();
        if let Some(swarm) = self.progress.swarm_mut(id) {
            ready.into_iter().for_each(|piece| swarm.on_ready(piece));
        }
    }

    /// Whether others may be sent to the client's upload server.
    fn can_upload(&self, registration: &Registration, remote: IpAddr) -> bool {
        let address = registration.ip.parse::<Ipv4Addr>().ok();
        let is_path = registration.path.starts_with('/') && !registration.path.contains("://");
        registration.port != 0
            && registration.cid.len() >= HOLDER_CID_MIN
            && is_path
            && address.is_some_and(|address| self.addresses.is_allowed(address.into(), remote))
    }

    /// Removes a download and its peer.
    pub(super) fn remove_download(&mut self, cid: &str, id: &TaskId) -> bool {
        let Some(download) = self.downloads.delete(cid, id) else { return false };
        self.journal.remove(cid, id);
        if let Some(swarm) = self.progress.swarm_mut(id)
            && let Some(slot) = swarm.slot(cid)
        {
            swarm.leave(slot);
            self.changed.insert(*id);
        }
        if self.downloads.by_peer(&download.peer).is_empty() {
            self.peers.deregister(&download.peer);
        }
        true
    }
}

fn check_length(found: &OriginFile, is_source_pattern: bool) -> Result<(), Reply> {
    match found.length {
        Some(length) if length > LENGTH_MAX => {
            Err(Reply::error(500, &format!("the file has {length} bytes, expected at most {LENGTH_MAX}")))
        }
        None if is_source_pattern => {
            Err(Reply::error(500, "the origin does not tell the length of the file"))
        }
        _ if is_source_pattern && !found.takes_ranges => {
            Err(Reply::error(500, "the origin does not support ranges"))
        }
        _ => Ok(()),
    }
}

/// The answer to a caller whose origin has answered with an error.
fn refusal(error: &OriginError) -> Reply {
    let why = report::chain(error);
    match error {
        OriginError::NotFound { .. } => Reply::code(code::URL_NOT_REACHABLE, &why),
        OriginError::Denied { .. } => Reply::code(code::NEED_AUTH, &why),
        OriginError::Forbidden { .. } => Reply::error(403, &why),
        OriginError::Url { .. } | OriginError::Header { .. } => Reply::error(400, &why),
        _ => Reply::error(500, &why),
    }
}
