//! Fetches of files from their origins, the files on the disk, and the digests of their pieces.
//!
//! [`Cdn`] is owned by the event loop. Fetches and checks run on threads, whose messages the loop passes to
//! [`Cdn::on_message`]; one thread works for a task at a time. A task is *active* while its digests are in memory.
//! The files of other tasks stay on the disk until [`Cdn::delete`]. Knows no peer and no client.
//!
//! | module | what it owns |
//! |---|---|
//! | `settings` | settings, states, results |
//! | `active`, `view` | a task in memory; questions to the manager |
//! | `workers` | which tasks have a thread, and which wait for one |
//! | `source` | the trait of what bytes come from |
//! | `fetch`, `check`, `job` | the work of the threads |
//! | `message`, `error` | the messages of threads to the loop |
//! | `digests` | MD5 and SHA-256 of pieces and files |
//! | `record`, `piece_file`, `task_dir` | the files of a task on the disk |
//! | `content_files` | open files for the download port |
//! | `eviction` | which files are deleted when the disk gets full |
//! | `disk_thread` | removals that nobody waits for |

mod active;
mod check;
mod content_files;
mod digests;
mod disk_thread;
mod error;
pub mod eviction;
mod fetch;
mod job;
mod message;
mod piece_file;
mod record;
mod settings;
mod source;
mod task_dir;
#[cfg(test)]
mod tests;
mod view;
mod workers;

pub use digests::{PieceDigest, expected_sha256};
pub use error::CdnError;
pub use message::{CdnEvent, CdnMessage, CompleteFile};
pub use record::{FileInfo, Record};
pub use settings::{CdnSettings, CdnStatus, Pattern, TriggerOutcome};
pub use source::{Fetch, Source};

use crate::origin::Request;
use crate::task_id::TaskId;
use crate::url;
use active::ActiveTask;
use content_files::ContentFiles;
use disk_thread::{DiskThread, Work};
use job::{Job, Shared};
use message::Content;
use nix::errno::Errno;
use nix::fcntl::Flock;
use record::{AccessTimes, seconds};
use sampan_job::cancel::Cancel;
use sampan_job::rate_limit::RateLimit;
use sampan_os::{boot_id, file_lock, thread};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};
use task_dir::TaskDir;
use workers::{ReadsFrom, Workers};

/// Stack of a thread that fetches or checks, in bytes. TLS and its certificates need most of it.
const STACK: usize = 512 << 10;
/// Most tasks that wait for a thread.
const QUEUE_MAX: usize = 10_000;
/// Least time between two writes of a task's access times, in seconds.
const ACCESS_INTERVAL: u64 = 60;

/// A task on the disk.
#[derive(Debug)]
struct StoredTask {
    access: AccessTimes,
    /// When the access times were last written, in seconds since 1970.
    written: u64,
    bytes: u64,
}

/// The CDN manager: all files, and the threads that fetch and check them.
pub struct Cdn {
    home: PathBuf,
    settings: CdnSettings,
    shared: Arc<Shared>,
    stored: HashMap<TaskId, StoredTask>,
    active: HashMap<TaskId, ActiveTask>,
    /// Tasks that have or want a thread; `active` says for what.
    workers: Workers,
    files: ContentFiles,
    disk: DiskThread,
    jobs: u64,
    /// Number of directories that have moved to the trash.
    trashed: u64,
    /// Held as long as the process uses the directory.
    _lock: Flock<File>,
}

impl Cdn {
    /// Opens the files below `home`, and makes the directory if need be. Reads the record of each task. `send`
    /// brings messages of threads to the event loop.
    ///
    /// # Errors
    /// [`CdnError::Disk`]: the directory cannot be used, or another process uses it. [`CdnError::Thread`]: the
    /// disk thread cannot be started.
    pub fn open(
        home: &Path,
        source: Arc<dyn Source>,
        send: impl Fn(CdnMessage) + Send + Sync + 'static,
        settings: CdnSettings,
    ) -> Result<Self, CdnError> {
        let shared = Shared {
            source,
            send: Box::new(send),
            rate: RateLimit::new(settings.bytes_per_second),
            origin_bytes: AtomicU64::new(0),
            pause: Cancel::wait,
            boot_id: boot_id::read(),
            #[cfg(test)]
            space: AtomicU64::new(u64::MAX),
        };
        Cdn::open_with(home, shared, settings)
    }

    fn open_with(home: &Path, shared: Shared, settings: CdnSettings) -> Result<Self, CdnError> {
        for dir in ["tasks", "trash"] {
            let dir = home.join(dir);
            task_dir::make_dir(&dir).map_err(CdnError::disk("make the directory", &dir))?;
        }
        let lock_path = home.join("lock");
        let lock = File::create(&lock_path).map_err(CdnError::disk("open", &lock_path))?;
        let lock = file_lock::take(lock).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => CdnError::InUse(home.to_owned()),
            errno => CdnError::disk("lock", &lock_path)(errno.into()),
        })?;
        let disk = DiskThread::start().map_err(CdnError::Thread)?;
        let mut cdn = Cdn {
            home: home.to_owned(),
            shared: Arc::new(shared),
            stored: HashMap::new(),
            active: HashMap::new(),
            workers: Workers::new(settings.fetches_max),
            settings,
            files: ContentFiles::default(),
            disk,
            jobs: 0,
            trashed: 0,
            _lock: lock,
        };
        cdn.empty_trash()?;
        cdn.scan()?;
        Ok(cdn)
    }

    /// Removes what an earlier process left in the trash.
    fn empty_trash(&mut self) -> Result<(), CdnError> {
        let trash = self.home.join("trash");
        let entries = fs::read_dir(&trash).map_err(CdnError::disk("read", &trash))?;
        for entry in entries.flatten() {
            self.send_to_disk_thread(Work::Remove(entry.path()));
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), CdnError> {
        let (mut stored, mut orphans) = (HashMap::new(), Vec::new());
        let on_found = |found: task_dir::ScannedTask| {
            let task = StoredTask { access: found.access, written: found.access.last, bytes: found.bytes };
            stored.insert(found.record.id, task);
        };
        task_dir::scan(&self.home, on_found, |path| orphans.push(path.to_owned()))
            .map_err(CdnError::disk("read", self.home.join("tasks")))?;
        self.stored = stored;
        for path in orphans {
            log::info!("removing {}, which has no usable record", path.display());
            self.move_to_trash(&path);
        }
        Ok(())
    }

    /// Makes a task of the disk active without fetching anything, and returns its status; `None` if the disk has
    /// no such task, or a part of a file of which no version is known. A complete file has the status `Success` at
    /// once.
    pub fn activate(&mut self, task: &TaskId) -> Option<CdnStatus> {
        if let Some(active) = self.active.get(task) {
            return Some(active.status);
        }
        if !self.stored.contains_key(task) {
            return None;
        }
        let Some(active) = ActiveTask::load(&self.dir(task), self.shared.boot_id.as_deref()) else {
            self.discard(task);
            return None;
        };
        if active.status != CdnStatus::Success && active.file.has_no_version() {
            // The rest of the file may be of another version than these pieces.
            self.discard(task);
            return None;
        }
        let status = active.status;
        self.active.insert(*task, active);
        Some(status)
    }

    /// Makes sure that the file of `task` is complete or being fetched. `file` is what the origin says now. A
    /// version on the disk that differs from it is removed first. If it cannot be known whether they differ, the
    /// version on the disk stays only if the task is active or a digest of the content is known.
    ///
    /// # Errors
    /// [`CdnError::NoRanges`]: clients cannot fetch the file (pattern `Source`). [`CdnError::Busy`]: too many
    /// fetches wait. The caller refuses the registration.
    pub fn trigger(
        &mut self,
        task: &TaskId,
        file: FileInfo,
        request: Request,
        now: SystemTime,
    ) -> Result<TriggerOutcome, CdnError> {
        if self.settings.pattern == Pattern::Source {
            return self.offer(task, file, now);
        }
        let was_active = self.active.contains_key(task);
        self.activate(task);
        self.touch(task, now);
        if let Some(active) = self.active.get_mut(task) {
            if active.is_at_work() {
                return Ok(TriggerOutcome::Runs);
            }
            let is_complete = active.status == CdnStatus::Success;
            if active.file.is_same(&file).unwrap_or(was_active || file.has_digest()) {
                active.request = Some(request.clone());
                if is_complete {
                    return Ok(TriggerOutcome::Complete);
                }
                // The new URL may have a newer signature.
                active.file.url = file.url;
                active.file.is_protected |= file.is_protected;
                return self.want_fetch(task).map(|()| TriggerOutcome::Begins);
            }
            log::info!("task {task}: the file has changed at its origin");
            self.discard(task);
        }
        self.add(task, file, CdnStatus::Waiting, Some(request), now);
        match self.want_fetch(task) {
            Ok(()) => Ok(TriggerOutcome::Begins),
            Err(error) => {
                self.active.remove(task);
                Err(error)
            }
        }
    }

    /// Offers all pieces of a file at once: the pattern `Source`.
    fn offer(&mut self, task: &TaskId, file: FileInfo, now: SystemTime) -> Result<TriggerOutcome, CdnError> {
        if file.length.is_none() || !file.takes_ranges {
            return Err(CdnError::NoRanges);
        }
        self.add(task, file, CdnStatus::Success, None, now);
        Ok(TriggerOutcome::Complete)
    }

    fn add(
        &mut self,
        task: &TaskId,
        file: FileInfo,
        status: CdnStatus,
        request: Option<Request>,
        now: SystemTime,
    ) {
        let boot_id = self.shared.boot_id.clone();
        let active = ActiveTask { request, ..ActiveTask::new(file, status, seconds(now), boot_id) };
        self.active.insert(*task, active);
    }

    fn want_fetch(&mut self, task: &TaskId) -> Result<(), CdnError> {
        let count = self.workers.waiting();
        if count >= QUEUE_MAX {
            return Err(CdnError::Busy { count });
        }
        if let Some(active) = self.active.get_mut(task) {
            active.status = CdnStatus::Waiting;
            active.wants_fetch = true;
            let from = match self.shared.source.is_near(task) {
                true => ReadsFrom::Supernode,
                false => ReadsFrom::Origin(url::authority(&active.file.url).to_owned()),
            };
            self.workers.push(task, from);
            self.start_threads();
        }
        Ok(())
    }

    /// Checks go before fetches: clients wait for the repair of a piece.
    fn enqueue_check(&mut self, task: &TaskId) {
        self.workers.push_front(task, ReadsFrom::Disk);
        self.start_threads();
    }

    /// Starts threads for tasks that wait, as far as the limit allows.
    fn start_threads(&mut self) {
        while let Some((task, from)) = self.workers.next() {
            self.start_thread(&task, from);
        }
    }

    fn start_thread(&mut self, task: &TaskId, from: ReadsFrom) {
        let dir = self.dir(task);
        let Some(active) = self.active.get_mut(task) else { return };
        let (wants_fetch, first) = (active.wants_fetch, active.check_first);
        if !wants_fetch && !active.wants_check {
            return;
        }
        active.wants_fetch = false;
        // A check that is wanted, too, follows the fetch.
        active.wants_check &= wants_fetch;
        self.jobs += 1;
        active.job = self.jobs;
        let record = active.record(task);
        let cancel = Arc::new(Cancel::default());
        let job = Job {
            task: *task,
            number: self.jobs,
            file: active.file.clone(),
            dir: dir.clone(),
            must_verify: active.must_verify,
            cancel: Arc::clone(&cancel),
            shared: Arc::clone(&self.shared),
        };
        let name = if wants_fetch { "fetch" } else { "check" };
        let request = active.request.clone().filter(|_| wants_fetch);
        if wants_fetch {
            active.status = CdnStatus::Running;
            let access = AccessTimes { last: active.created, interval: 0 };
            self.stored.entry(*task).or_insert(StoredTask { access, written: 0, bytes: 0 });
        }
        let made = dir.make().map_err(CdnError::disk("make the directory", dir.path()));
        let started = made.and_then(|()| {
            let run = move || run(&job, request.as_ref(), record, first);
            thread::spawn(name, STACK, run).map_err(CdnError::Thread)
        });
        match started {
            Ok(_) => self.workers.begin(task, self.jobs, from, cancel),
            // The caller gets this failure as a message, like a failure of a running thread.
            Err(error) => {
                let content = Content::Ended(Err(error));
                (self.shared.send)(CdnMessage { task: *task, job: self.jobs, content });
            }
        }
    }

    /// Records a message of a thread. Returns the event; `None` if the task was deleted meanwhile.
    pub fn on_message(&mut self, message: CdnMessage) -> Option<CdnEvent> {
        let CdnMessage { task, job, content } = message;
        let is_end = matches!(content, Content::Ended(_) | Content::Checked(_));
        if is_end {
            self.workers.end(&task, job);
        }
        let is_current = self.active.get(&task).is_some_and(|active| active.job == job);
        let event = is_current.then(|| self.apply(task, content)).flatten();
        if is_end {
            self.start_threads();
        }
        event
    }

    fn apply(&mut self, task: TaskId, content: Content) -> Option<CdnEvent> {
        let active = self.active.get_mut(&task)?;
        Some(match content {
            Content::Started { length } => {
                active.file.length = length;
                self.set_bytes(&task, length.unwrap_or(0));
                CdnEvent::Started { task, length }
            }
            Content::Length { length } => {
                active.file.length = Some(length);
                self.set_bytes(&task, length);
                CdnEvent::Length { task, length }
            }
            Content::Piece { number, digest } => {
                piece_file::insert(&mut active.digests, number, Some(digest));
                CdnEvent::Piece { task, number, digest }
            }
            Content::Ended(result) => {
                let lost = self.on_end(&task, result.as_ref());
                CdnEvent::Ended { task, result, lost }
            }
            Content::Checked(Ok(bad)) => {
                self.on_bad(&task, &bad);
                CdnEvent::Checked { task, bad }
            }
            Content::Checked(Err(error)) => {
                let lost = self.on_end(&task, Err(&error));
                CdnEvent::Ended { task, result: Err(error), lost }
            }
        })
    }

    /// Records the end of a fetch; returns the pieces that are lost by its error.
    fn on_end(&mut self, task: &TaskId, result: Result<&CompleteFile, &CdnError>) -> Vec<u32> {
        let Some(active) = self.active.get_mut(task) else { return Vec::new() };
        match result {
            Ok(finished) => {
                active.status = CdnStatus::Success;
                active.content_md5 = Some(finished.md5);
                active.file.length = Some(finished.length);
                active.must_verify = false;
                active.boot_id.clone_from(&self.shared.boot_id);
                let wants_check = active.wants_check;
                self.set_bytes(task, finished.length);
                if wants_check {
                    self.enqueue_check(task);
                }
            }
            Err(error) => {
                active.status = if error.is_of_source() { CdnStatus::SourceError } else { CdnStatus::Failed };
                active.wants_check = false;
                let is_empty = active.digests.iter().all(Option::is_none);
                // An origin that sends without end must not leave the disk full.
                let is_endless = error.is_full() && active.file.length.is_none();
                if error.is_of_content() || is_empty || is_endless {
                    let digests = std::mem::take(&mut active.digests);
                    active.must_verify = false;
                    self.remove_files(task);
                    return check::present(&digests).map(|(number, _)| number).collect();
                }
            }
        }
        Vec::new()
    }

    /// Records the bad pieces that a check has found, and has noted on the disk. They are fetched again if there
    /// is a request.
    fn on_bad(&mut self, task: &TaskId, bad: &[u32]) {
        let Some(active) = self.active.get_mut(task).filter(|_| !bad.is_empty()) else { return };
        for number in bad {
            piece_file::insert(&mut active.digests, *number, None);
        }
        active.status = CdnStatus::Waiting;
        active.content_md5 = None;
        log::warn!("task {task}: {} pieces are bad on the disk, and are fetched again", bad.len());
        let can_fetch = active.request.is_some();
        // If the content was missing, the next fetch makes another file than the one that is open.
        self.files.remove(task);
        if can_fetch && let Err(error) = self.want_fetch(task) {
            log::warn!("task {task}: cannot fetch bad pieces again before a client registers again: {error}");
        }
    }

    fn set_bytes(&mut self, task: &TaskId, bytes: u64) {
        if let Some(stored) = self.stored.get_mut(task) {
            stored.bytes = stored.bytes.max(bytes);
        }
    }

    /// Notes that a client uses the file.
    pub fn touch(&mut self, task: &TaskId, now: SystemTime) {
        let dir = self.dir(task);
        let Some(stored) = self.stored.get_mut(task) else { return };
        stored.access.touch(now);
        if seconds(now).saturating_sub(stored.written) >= ACCESS_INTERVAL {
            stored.written = seconds(now);
            let access = stored.access;
            self.send_to_disk_thread(Work::WriteAccessTimes(dir, access));
        }
    }

    /// Compares pieces of an active task with their digests, on a thread, after a fetch that runs: the piece
    /// `first`, and all others if that one is bad; without `first`, all. Bad pieces are fetched again with the
    /// latest request. Returns whether [`CdnEvent::Checked`], or [`CdnEvent::Ended`] with an error, follows.
    pub fn check_pieces(&mut self, task: &TaskId, first: Option<u32>) -> bool {
        let Some(active) = self.active.get_mut(task) else { return false };
        if self.settings.pattern == Pattern::Source {
            return false;
        }
        active.check_first = first.filter(|_| !active.wants_check || active.check_first == first);
        active.wants_check = true;
        if !active.is_at_work() {
            self.enqueue_check(task);
        }
        true
    }

    /// Forgets all pieces of a task and removes its files, because the file has changed at its origin. A running
    /// fetch ends; no event follows. The task is unknown until the next [`Cdn::trigger`].
    pub fn reset(&mut self, task: &TaskId) {
        self.discard(task);
    }

    /// Ends a fetch of the task without an event, and frees its memory. Removes the files, too, if `with_file`.
    pub fn delete(&mut self, task: &TaskId, with_file: bool) {
        if with_file {
            self.discard(task);
        } else {
            self.deactivate(task);
        }
    }

    fn deactivate(&mut self, task: &TaskId) {
        self.active.remove(task);
        self.files.remove(task);
        self.workers.cancel(task);
    }

    fn discard(&mut self, task: &TaskId) {
        self.deactivate(task);
        self.remove_files(task);
    }

    fn remove_files(&mut self, task: &TaskId) {
        self.files.remove(task);
        if self.stored.remove(task).is_some() {
            let dir = self.dir(task);
            self.move_to_trash(dir.path());
        }
    }

    /// Moves a directory to the trash, and lets the disk thread remove it.
    fn move_to_trash(&mut self, path: &Path) {
        self.trashed += 1;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let target = self.home.join("trash").join(format!("{nanos}-{}", self.trashed));
        match fs::rename(path, &target) {
            Ok(()) => self.send_to_disk_thread(Work::Remove(target)),
            Err(error) => log::warn!("cannot remove {}: {error}", path.display()),
        }
        if let Some(group) = path.parent().filter(|group| *group != self.home.join("tasks")) {
            // Fails unless the directory is empty.
            let _ = fs::remove_dir(group);
        }
    }

    fn send_to_disk_thread(&self, work: Work) {
        self.disk.send(work);
    }

    fn dir(&self, task: &TaskId) -> TaskDir {
        TaskDir::of(&self.home, task)
    }
}

impl Drop for Cdn {
    fn drop(&mut self) {
        self.workers.cancel_all();
    }
}

/// The work of a thread: a fetch if there is a request, otherwise a check.
fn run(job: &Job, request: Option<&Request>, record: Record, first: Option<u32>) {
    let content = match request {
        Some(request) => Content::Ended(fetch::run(job, request, record)),
        None => Content::Checked(check::run(job, record, first)),
    };
    job.send(content);
}
