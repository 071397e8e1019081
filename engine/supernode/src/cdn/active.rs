//! A task in memory: its file, the digests of its pieces, and the work that it waits for.
//!
//! Owned by the manager. Loads a task from the disk, and decides which of its pieces can be trusted.

use super::digests::PieceDigest;
use super::piece_file::{self, Digests};
use super::record::{FileInfo, Record};
use super::settings::CdnStatus;
use super::task_dir::TaskDir;
use crate::origin::Request;
use crate::task_id::TaskId;
use std::fs;

/// A task in memory.
pub(super) struct ActiveTask {
    pub(super) file: FileInfo,
    pub(super) digests: Digests,
    pub(super) status: CdnStatus,
    pub(super) content_md5: Option<[u8; 16]>,
    pub(super) created: u64,
    pub(super) boot_id: Option<String>,
    /// The latest request for the file, with a client's credentials.
    pub(super) request: Option<Request>,
    pub(super) wants_fetch: bool,
    pub(super) wants_check: bool,
    /// The piece with which the check begins.
    pub(super) check_first: Option<u32>,
    pub(super) must_verify: bool,
    /// The latest job. Messages of others are ignored.
    pub(super) job: u64,
}

impl ActiveTask {
    /// A task of which nothing is on the disk.
    pub(super) fn new(file: FileInfo, status: CdnStatus, created: u64, boot_id: Option<String>) -> Self {
        ActiveTask {
            file,
            digests: Digests::new(),
            status,
            content_md5: None,
            created,
            boot_id,
            request: None,
            wants_fetch: false,
            wants_check: false,
            check_first: None,
            must_verify: false,
            job: 0,
        }
    }

    /// Loads a task from the disk; `None` if it has no usable record. Nothing of the content is read: a complete
    /// file is durable, and what a killed process wrote is there. Pieces that may have been lost in a power
    /// failure are left out, and the next fetch verifies them.
    pub(super) fn load(dir: &TaskDir, boot_id: Option<&str>) -> Option<Self> {
        let record = Record::read(&dir.record())?;
        let is_of_boot = record.is_of_boot(boot_id);
        let file = record.file;
        let count = file.length.map(|length| file.pieces.count(length));
        let digests = piece_file::read(&dir.pieces(), count.unwrap_or(u32::MAX)).unwrap_or_else(|error| {
            log::warn!("cannot read {}; its pieces are fetched again: {error}", dir.pieces().display());
            Digests::new()
        });
        let len = fs::metadata(dir.content()).map_or(0, |meta| meta.len());
        let has_all = count == u32::try_from(digests.len()).ok() && digests.iter().all(Option::is_some);
        let is_complete = record.is_complete && has_all && file.length == Some(len);
        // Without a length, the content ends behind its last piece. With one, all of its space is allocated.
        let has_content = match file.length {
            Some(length) => length == len,
            None => end(&file, &digests) <= len,
        };
        let is_trusted = is_complete || has_content && is_of_boot;
        let status = if is_complete { CdnStatus::Success } else { CdnStatus::Waiting };
        Some(ActiveTask {
            digests: if is_trusted { digests } else { Digests::new() },
            content_md5: record.content_md5.filter(|_| is_complete),
            must_verify: !is_trusted,
            ..ActiveTask::new(file, status, record.created, record.boot_id)
        })
    }

    pub(super) fn record(&self, task: &TaskId) -> Record {
        Record {
            id: *task,
            file: self.file.clone(),
            is_complete: self.status == CdnStatus::Success,
            content_md5: self.content_md5,
            created: self.created,
            boot_id: self.boot_id.clone(),
        }
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.wants_fetch || self.status == CdnStatus::Running
    }
}

/// End of the last piece in bytes.
fn end(file: &FileInfo, digests: &[Option<PieceDigest>]) -> u64 {
    let last = (0..).zip(digests).filter_map(|(number, digest)| Some((number, digest.as_ref()?))).last();
    last.map_or(0, |(number, digest)| {
        file.pieces.offset(number).saturating_add(u64::from(digest.content_len))
    })
}
