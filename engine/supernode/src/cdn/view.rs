//! Questions to the manager: states, pieces, records, and the files that must go when the disk gets full.
//!
//! Called by the event loop. Changes nothing but the cache of open files.

use super::check;
use super::digests::PieceDigest;
use super::error::CdnError;
use super::eviction::{self, Candidate, Pressure, Space};
use super::record::{FileInfo, Record};
use super::settings::{CdnStatus, Pattern};
use super::{Cdn, StoredTask};
use crate::task_id::TaskId;
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

impl Cdn {
    /// The records of all tasks on the disk. Reads a file for each.
    pub fn load(&self) -> Vec<Record> {
        self.stored.keys().filter_map(|task| self.record(task)).collect()
    }

    /// The record of `task`: from memory if the task is active, otherwise from the disk.
    pub fn record(&self, task: &TaskId) -> Option<Record> {
        match self.active.get(task) {
            Some(active) => Some(active.record(task)),
            None if self.stored.contains_key(task) => Record::read(&self.dir(task).record()),
            None => None,
        }
    }

    /// The status of an active task.
    pub fn status(&self, task: &TaskId) -> Option<CdnStatus> {
        Some(self.active.get(task)?.status)
    }

    /// The URL, the length and the version of the file of an active task.
    pub fn file(&self, task: &TaskId) -> Option<&FileInfo> {
        Some(&self.active.get(task)?.file)
    }

    /// MD5 of the content of an active task whose file is complete. The pattern `Source` has none.
    pub fn content_md5(&self, task: &TaskId) -> Option<[u8; 16]> {
        self.active.get(task)?.content_md5
    }

    /// The path of the content on the download port.
    pub fn http_path(task: &TaskId) -> String {
        format!("/download/{}/{task}", task.prefix())
    }

    /// The digests of a piece that is on the disk. The pattern `Source` has none.
    pub fn piece(&self, task: &TaskId, number: u32) -> Option<&PieceDigest> {
        self.active.get(task)?.digests.get(number as usize)?.as_ref()
    }

    /// Whether a piece can be offered to clients.
    pub fn is_ready(&self, task: &TaskId, number: u32) -> bool {
        match self.settings.pattern {
            Pattern::Local => self.piece(task, number).is_some(),
            Pattern::Source => self.offered_count(task).is_some_and(|count| number < count),
        }
    }

    /// The pieces that can be offered to clients, in order.
    pub fn ready_pieces(&self, task: &TaskId) -> impl Iterator<Item = u32> + '_ {
        let digests = self.active.get(task).map(|active| &active.digests);
        let offered = self.offered_count(task).unwrap_or(0);
        let on_disk =
            digests.into_iter().flat_map(|digests| check::present(digests).map(|(number, _)| number));
        on_disk.chain(0..offered)
    }

    /// The number of pieces of a task of the pattern `Source`; `None` for the other pattern.
    fn offered_count(&self, task: &TaskId) -> Option<u32> {
        let file = &self.active.get(task).filter(|_| self.settings.pattern == Pattern::Source)?.file;
        Some(file.pieces.count(file.length?))
    }

    /// The open content of an active task. Only the bytes of finished pieces may be read.
    pub fn content(&mut self, task: &TaskId) -> Option<Arc<File>> {
        if !self.active.contains_key(task) || self.settings.pattern == Pattern::Source {
            return None;
        }
        let path = self.dir(task).content();
        self.files.get(task, || {
            let opened = File::open(&path);
            opened.inspect_err(|error| log::debug!("cannot open {}: {error}", path.display())).ok()
        })
    }

    /// Whether the content of an active task is on the disk, with the length that it must have.
    pub fn check_file(&self, task: &TaskId) -> bool {
        let Some(active) = self.active.get(task) else { return false };
        let Ok(meta) = fs::metadata(self.dir(task).content()) else { return false };
        active.file.length.is_none_or(|length| length == meta.len())
    }

    /// The tasks whose files must go, because the disk gets full. The caller deletes them. `busy` says which are
    /// in use.
    ///
    /// # Errors
    /// [`CdnError::Disk`]: statvfs(3) fails.
    pub fn gc_task_ids(
        &self,
        busy: &dyn Fn(&TaskId) -> bool,
        now: SystemTime,
    ) -> Result<Vec<TaskId>, CdnError> {
        let space = Space::of(&self.home).map_err(CdnError::disk("get the free space of", &self.home))?;
        let pressure = self.settings.marks.pressure(space);
        if pressure == Pressure::None {
            return Ok(Vec::new());
        }
        let idle = self.stored.iter().filter(|(task, _)| !self.workers.has_thread(task) && !busy(task));
        let candidate = |(task, stored): (&TaskId, &StoredTask)| Candidate {
            task: *task,
            bytes: stored.bytes,
            idle: stored.access.idle(now),
            interval: stored.access.interval(),
        };
        Ok(eviction::choose(pressure, idle.map(candidate).collect()))
    }

    /// Whether the disk has any task.
    pub fn has_files(&self) -> bool {
        !self.stored.is_empty()
    }

    /// Whether a thread fetches or checks.
    pub fn is_fetching(&self) -> bool {
        !self.workers.is_idle()
    }

    /// Bytes that have come from origins since the process started.
    pub fn origin_bytes(&self) -> u64 {
        self.shared.origin_bytes.load(Ordering::Relaxed)
    }
}
