//! The preheats: which exist, which wait, and what follows when one of their tasks ends.
//!
//! Owned by the event loop. Pure: each call returns [`Action`]s, which the loop carries out. A bounded number of
//! tasks and of requests to registries runs at a time, so that a large image leaves room for the clients' own
//! downloads; the others wait here. Preheats do not survive a restart, but the files that they have fetched do.
//!
//! ```text
//!  file:   queued ──▶ fetching ──▶ success | failed
//!                        └ denied ─▶ held ─▶ queued      only blobs, once, while their image gets a new token
//!  image:  queued ──▶ resolving ──▶ children ──▶ success | failed
//!             ▲                        │ a blob was denied, and the token was the supernode's own
//!             └────────────────────────┘
//! ```

use super::action::{Action, ImageBlobs, TaskFailure, TaskRequest};
use super::entry::{Entry, Phase};
use super::report::{PreheatInfo, PreheatTask, millis, rfc3339};
use super::request::{Headers, Kind, PreheatError, PreheatRequest};
use crate::metrics::ByStatus;
use crate::task_id::TaskId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

/// Most preheats that operators have asked for. When a further one comes, the one that ended first is forgotten.
pub const PREHEATS_MAX: usize = 1000;
/// Most preheats, with those of the blobs of images.
pub const ENTRIES_MAX: usize = 10_000;
/// Most tasks that run for preheats at a time. `cdn` fetches 8 files at a time, and clients come first.
const FETCHES_MAX: usize = 6;
/// Most images that registries are asked for at a time.
const RESOLVES_MAX: usize = 4;
/// How long an ended preheat is remembered.
const EXPIRY: Duration = Duration::from_secs(7 * 86_400);
/// Longest message of an error, in characters.
const ERROR_MAX: usize = 1000;

/// All preheats.
#[derive(Debug, Default)]
pub struct Preheats {
    entries: HashMap<TaskId, Entry>,
    /// The images and the files that wait for their turn.
    images: VecDeque<TaskId>,
    files: VecDeque<TaskId>,
    /// The requests to registries that have not been answered, also those of preheats that are deleted.
    resolving: HashSet<u64>,
    /// The files whose tasks run.
    fetching: HashSet<TaskId>,
    last_run: u64,
}

impl Preheats {
    /// Begins a preheat and returns its ID. One that has failed begins again; one that has not ended goes on.
    ///
    /// # Errors
    /// [`PreheatError::Done`]: it has succeeded before. [`PreheatError::Full`]: there are too many that have not
    /// ended. [`PreheatError::Bad`]: the URL is being downloaded as a file, and now shall be an image, or the
    /// reverse.
    pub fn create(
        &mut self,
        request: PreheatRequest,
        now: SystemTime,
    ) -> Result<(TaskId, Vec<Action>), PreheatError> {
        self.expire(now);
        let id = request.id();
        self.forget_other_kind(&id, request.kind, now)?;
        match self.entries.get_mut(&id) {
            Some(entry) if entry.phase == Phase::Success => return Err(PreheatError::Done(id)),
            Some(entry) if entry.phase.is_ended() => {
                entry.is_asked = true;
                entry.restart(request, now);
            }
            Some(entry) => {
                entry.is_asked = true;
                return Ok((id, Vec::new()));
            }
            None => {
                self.make_room()?;
                self.entries.insert(id, Entry::new(request, true, now));
            }
        }
        self.enqueue(&id);
        Ok((id, self.next_actions()))
    }

    /// Records the answer of the registry to the request `run`: the blobs, or why there are none.
    pub fn on_resolved(
        &mut self,
        run: u64,
        result: Result<ImageBlobs, String>,
        now: SystemTime,
    ) -> Vec<Action> {
        self.resolving.remove(&run);
        let found = self.entries.iter().find(|(_, entry)| entry.phase == Phase::Resolving(run));
        let mut cancelled = Vec::new();
        // An image that was deleted meanwhile is not found.
        if let Some(id) = found.map(|(id, _)| *id) {
            match result {
                Ok(resolved) => self.attach(&id, resolved, now, &mut cancelled),
                Err(why) => self.end(&id, Err(why), now, &mut cancelled),
            }
        }
        cancelled.extend(self.next_actions());
        cancelled
    }

    /// Records the end of a task. A task that runs for no preheat is ignored.
    pub fn on_task_ended(
        &mut self,
        id: &TaskId,
        result: Result<(), TaskFailure>,
        now: SystemTime,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.fetching.remove(id) {
            match result {
                Err(failure) if failure.is_denied && self.hold(id, &failure.why) => {}
                other => self.end(id, other.map_err(|failure| failure.why), now, &mut actions),
            }
        }
        actions.extend(self.next_actions());
        actions
    }

    /// Records that the file of a task was deleted. A preheat of the file, or of an image that contains it, begins
    /// again at the next request for it.
    pub fn on_file_deleted(&mut self, id: &TaskId, now: SystemTime) -> Vec<Action> {
        let Some(entry) = self.entries.get(id).filter(|entry| entry.phase == Phase::Success) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        for parent in entry.parents.clone() {
            match self.entries.get(&parent).map(|parent| parent.phase) {
                Some(Phase::Success) => self.remove(&parent, now, &mut actions),
                Some(phase) if !phase.is_ended() => {
                    let why = "a blob was deleted to free space before all were fetched".to_owned();
                    self.end(&parent, Err(why), now, &mut actions);
                }
                _ => {}
            }
        }
        self.remove(id, now, &mut actions);
        actions.extend(self.next_actions());
        actions
    }

    /// Forgets a preheat. Its files stay, and tasks that run go on. The blobs of an image are forgotten with it.
    ///
    /// # Errors
    /// [`PreheatError::NotFound`], or [`PreheatError::Busy`] if the preheat belongs to one that has not ended.
    pub fn delete(&mut self, id: &str, now: SystemTime) -> Result<Vec<Action>, PreheatError> {
        self.expire(now);
        let (id, entry) = self.find(id)?;
        if let Some(parent) = entry.parents.iter().find(|parent| self.is_running(parent)) {
            return Err(PreheatError::Busy(id, *parent));
        }
        let mut actions = Vec::new();
        self.remove(&id, now, &mut actions);
        actions.extend(self.next_actions());
        Ok(actions)
    }

    /// One preheat.
    ///
    /// # Errors
    /// [`PreheatError::NotFound`].
    pub fn get(&mut self, id: &str, now: SystemTime) -> Result<PreheatInfo, PreheatError> {
        self.expire(now);
        let (id, entry) = self.find(id)?;
        Ok(PreheatInfo {
            id: id.to_string(),
            start_time: rfc3339(millis(Some(entry.started))),
            finish_time: rfc3339(millis(entry.finished)),
            status: entry.status(),
            error_msg: entry.error.clone(),
        })
    }

    /// All preheats, those of blobs too, in the order in which they began.
    pub fn list(&mut self, now: SystemTime) -> Vec<PreheatTask> {
        self.expire(now);
        let mut all: Vec<(&TaskId, &Entry)> = self.entries.iter().collect();
        all.sort_by_key(|(id, entry)| (entry.started, *id));
        let task = |(id, entry): (&TaskId, &Entry)| PreheatTask {
            id: id.to_string(),
            url: entry.request.printable_url(),
            r#type: entry.request.kind.word(),
            filter: entry.request.filter.clone(),
            identifier: entry.request.identifier.clone(),
            headers: None,
            parent_id: entry.parents.first().map(TaskId::to_string).unwrap_or_default(),
            children: entry.children.iter().map(TaskId::to_string).collect(),
            status: entry.status(),
            start_time: millis(Some(entry.started)),
            finish_time: millis(entry.finished),
            error_msg: entry.error.clone(),
        };
        all.into_iter().map(task).collect()
    }

    /// Whether a preheat that has not ended needs the task or its file, so that neither is removed.
    pub fn is_needed(&self, id: &TaskId) -> bool {
        let is_needed =
            |entry: &Entry| !entry.phase.is_ended() || entry.parents.iter().any(|of| self.is_running(of));
        self.entries.get(id).is_some_and(is_needed)
    }

    /// The number of preheats in each state.
    pub fn by_status(&self) -> ByStatus {
        let mut counts = ByStatus::default();
        for entry in self.entries.values() {
            match entry.status() {
                "WAITING" => counts.waiting += 1,
                "SUCCESS" => counts.success += 1,
                "FAILED" => counts.failed += 1,
                _ => counts.running += 1,
            }
        }
        counts
    }

    fn find(&self, text: &str) -> Result<(TaskId, &Entry), PreheatError> {
        let found = TaskId::parse(text).and_then(|id| Some((id, self.entries.get(&id)?)));
        found.ok_or_else(|| PreheatError::NotFound(text.chars().take(64).collect()))
    }

    fn is_running(&self, id: &TaskId) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.phase.is_ended())
    }

    /// Whether the image is about to get a new token for its blobs.
    fn is_renewing(&self, id: &TaskId) -> bool {
        let phase = self.entries.get(id).map(|entry| entry.phase);
        matches!(phase, Some(Phase::Queued | Phase::Resolving(_)))
    }

    /// Appends an entry that has just become [`Phase::Queued`] to its queue.
    fn enqueue(&mut self, id: &TaskId) {
        match self.entries.get(id).map(|entry| entry.request.kind) {
            Some(Kind::Image) => self.images.push_back(*id),
            Some(Kind::File) => self.files.push_back(*id),
            None => {}
        }
    }

    /// Begins what waits, as far as the limits allow.
    fn next_actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.resolving.len() < RESOLVES_MAX
            && let Some(id) = self.images.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.phase == Phase::Queued) {
                self.last_run += 1;
                entry.phase = Phase::Resolving(self.last_run);
                self.resolving.insert(self.last_run);
                actions.push(Action::Resolve { run: self.last_run, request: entry.request.clone() });
            }
        }
        while self.fetching.len() < FETCHES_MAX
            && let Some(id) = self.files.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.phase == Phase::Queued) {
                entry.phase = Phase::Fetching;
                self.fetching.insert(id);
                actions.push(Action::StartTask(TaskRequest { id, request: entry.request.clone() }));
            }
        }
        actions
    }

    /// Makes the blobs children of the image `parent`, and begins those that have not succeeded.
    fn attach(&mut self, parent: &TaskId, resolved: ImageBlobs, now: SystemTime, actions: &mut Vec<Action>) {
        let ImageBlobs { urls, headers, is_own_token } = resolved;
        let mut children = Vec::new();
        let mut is_full = false;
        for url in urls {
            let request = PreheatRequest::file(url, headers.clone());
            let id = request.id();
            is_full = !self.entries.contains_key(&id) && self.entries.len() >= ENTRIES_MAX;
            if is_full {
                break;
            }
            if self.attach_blob(parent, &id, request, now) && !children.contains(&id) {
                children.push(id);
            }
        }
        if let Some(entry) = self.entries.get_mut(parent) {
            (entry.phase, entry.is_own_token) = (Phase::Children, is_own_token);
        }
        self.replace_children(parent, children, now, actions);
        if is_full {
            let why = format!("all images together have more than {ENTRIES_MAX} blobs");
            self.end(parent, Err(why), now, actions);
        }
        self.end_if_complete(parent, now, actions);
    }

    /// Makes one blob a child, and queues it unless it has succeeded or runs. Returns false if its ID belongs to
    /// an image.
    fn attach_blob(
        &mut self,
        parent: &TaskId,
        id: &TaskId,
        request: PreheatRequest,
        now: SystemTime,
    ) -> bool {
        let is_new = !self.entries.contains_key(id);
        let entry = self.entries.entry(*id).or_insert_with(|| Entry::new(request.clone(), false, now));
        if entry.request.kind == Kind::Image {
            return false;
        }
        if !entry.parents.contains(parent) {
            entry.parents.push(*parent);
        }
        let begins = match entry.phase {
            Phase::Failed => {
                entry.restart(request, now);
                true
            }
            Phase::Held => {
                (entry.request, entry.phase) = (request, Phase::Queued);
                entry.error.clear();
                true
            }
            // A newer token lives longer.
            Phase::Queued => {
                entry.request = request;
                is_new
            }
            _ => false,
        };
        if begins {
            self.enqueue(id);
        }
        true
    }

    /// Replaces the children of an image. Those that it no longer has are forgotten, unless something else needs
    /// them.
    fn replace_children(
        &mut self,
        parent: &TaskId,
        children: Vec<TaskId>,
        now: SystemTime,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(parent) else { return };
        let now_there: HashSet<TaskId> = children.iter().copied().collect();
        let former = std::mem::replace(&mut entry.children, children);
        for child in former.into_iter().filter(|child| !now_there.contains(child)) {
            self.detach(&child, parent, now, actions);
        }
    }

    fn detach(&mut self, child: &TaskId, parent: &TaskId, now: SystemTime, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(child) else { return };
        entry.parents.retain(|of| of != parent);
        if entry.parents.is_empty() && !entry.is_asked {
            self.entries.remove(child);
            self.fetching.remove(child);
        } else {
            self.release(child, now, actions);
        }
    }

    /// Ends a blob that waits for a new token if no image is about to get one.
    fn release(&mut self, child: &TaskId, now: SystemTime, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get(child).filter(|entry| entry.phase == Phase::Held) else { return };
        if !entry.parents.iter().any(|parent| self.is_renewing(parent)) {
            let why = entry.error.clone();
            self.end(child, Err(why), now, actions);
        }
    }

    /// Keeps a blob that was denied until its image has a new token. Returns false if the denial is final.
    fn hold(&mut self, id: &TaskId, why: &str) -> bool {
        let Some(entry) = self.entries.get(id).filter(|entry| !entry.is_renewed) else { return false };
        let can_renew = |parent: &&TaskId| {
            let parent = self.entries.get(parent);
            parent.is_some_and(|parent| !parent.phase.is_ended() && parent.is_own_token)
        };
        let Some(parent) = entry.parents.iter().find(can_renew).copied() else { return false };
        if let Some(entry) = self.entries.get_mut(id) {
            (entry.phase, entry.is_renewed, entry.error) = (Phase::Held, true, crop(why));
        }
        if let Some(entry) = self.entries.get_mut(&parent)
            && entry.phase == Phase::Children
        {
            entry.phase = Phase::Queued;
            self.images.push_back(parent);
        }
        true
    }

    /// Ends an image whose blobs have all succeeded.
    fn end_if_complete(&mut self, id: &TaskId, now: SystemTime, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get(id).filter(|entry| entry.phase == Phase::Children) else { return };
        let is_success =
            |child: &TaskId| self.entries.get(child).is_some_and(|child| child.phase == Phase::Success);
        if entry.children.iter().all(is_success) {
            self.end(id, Ok(()), now, actions);
        }
    }

    /// Ends a preheat, and then the images whose result follows from it.
    fn end(&mut self, id: &TaskId, result: Result<(), String>, now: SystemTime, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| !entry.phase.is_ended()) else { return };
        if let Phase::Resolving(run) = entry.phase
            && self.resolving.contains(&run)
        {
            actions.push(Action::CancelResolve { run });
        }
        entry.phase = if result.is_ok() { Phase::Success } else { Phase::Failed };
        entry.finished = Some(now);
        entry.error = result.as_ref().err().map(|why| crop(why)).unwrap_or_default();
        // No credential is kept longer than it is needed.
        entry.request.headers = Headers::default();
        let (parents, children) = (entry.parents.clone(), entry.children.clone());
        let why = result.err().map(|why| format!("{} {why}", entry.request.printable_url()));
        for parent in parents {
            match &why {
                None => self.end_if_complete(&parent, now, actions),
                // The other blobs go on: the image fails with the first of them.
                Some(why) => self.end(&parent, Err(why.clone()), now, actions),
            }
        }
        for child in children {
            self.release(&child, now, actions);
        }
    }

    /// Removes a preheat, and those of its blobs that nothing else needs.
    fn remove(&mut self, id: &TaskId, now: SystemTime, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.fetching.remove(id);
        if let Phase::Resolving(run) = entry.phase {
            actions.push(Action::CancelResolve { run });
        }
        for parent in &entry.parents {
            if let Some(parent) = self.entries.get_mut(parent) {
                parent.children.retain(|child| child != id);
            }
        }
        for child in &entry.children {
            self.detach(child, id, now, actions);
        }
        // Without this, a preheat that is made and deleted again and again would grow the queue.
        let Preheats { images, files, entries, .. } = self;
        images.retain(|id| entries.contains_key(id));
        files.retain(|id| entries.contains_key(id));
    }

    /// Forgets the preheats that ended a week ago.
    fn expire(&mut self, now: SystemTime) {
        let is_over = |finished: SystemTime| now.duration_since(finished).is_ok_and(|age| age >= EXPIRY);
        let over = self.entries.iter().filter(|(_, entry)| entry.finished.is_some_and(is_over));
        let over: Vec<TaskId> = over.map(|(id, _)| *id).collect();
        self.forget(over, now);
    }

    /// Removes ended preheats, but not those of blobs whose image has not ended.
    fn forget(&mut self, ids: Vec<TaskId>, now: SystemTime) {
        for id in ids {
            let is_free = |entry: &Entry| {
                entry.phase.is_ended() && !entry.parents.iter().any(|parent| self.is_running(parent))
            };
            if self.entries.get(&id).is_some_and(is_free) {
                // An ended preheat asks no registry and holds no blob, so nothing follows.
                self.remove(&id, now, &mut Vec::new());
            }
        }
    }

    /// Forgets a preheat with this ID that is of another kind. Few URLs can be of both.
    fn forget_other_kind(&mut self, id: &TaskId, kind: Kind, now: SystemTime) -> Result<(), PreheatError> {
        let Some(entry) = self.entries.get(id).filter(|entry| entry.request.kind != kind) else {
            return Ok(());
        };
        let word = entry.request.kind.word();
        self.forget(vec![*id], now);
        match self.entries.contains_key(id) {
            true => Err(PreheatError::Bad(format!("the URL is being downloaded as {word}"))),
            false => Ok(()),
        }
    }

    /// Makes room for one more preheat of an operator.
    fn make_room(&mut self) -> Result<(), PreheatError> {
        let is_full = |of: &Preheats| {
            let asked = of.entries.values().filter(|entry| entry.is_asked).count();
            asked >= PREHEATS_MAX || of.entries.len() >= ENTRIES_MAX
        };
        while is_full(self) {
            let asked = self.entries.iter().filter(|(_, entry)| entry.is_asked);
            let free = asked.filter(|(_, entry)| !entry.parents.iter().any(|of| self.is_running(of)));
            let ended = free.filter_map(|(id, entry)| Some((entry.finished?, *id)));
            let (finished, oldest) = ended.min().ok_or(PreheatError::Full)?;
            self.forget(vec![oldest], finished);
        }
        Ok(())
    }
}

fn crop(text: &str) -> String {
    text.chars().take(ERROR_MAX).collect()
}

#[cfg(test)]
mod tests;
