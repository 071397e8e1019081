//! Tasks: the files that clients download, each with its origin, its size and the times of its accesses.
//!
//! Owned by the event loop. Never asks an origin, and knows no peer. The status of a task's file is the CDN
//! manager's. Headers are in memory only: they may contain credentials. docs/peers.md, "The model".

use crate::access::Credential;
use crate::cdn::{FileInfo, Record, expected_sha256};
use crate::hex;
use crate::origin::{Request, Validators};
use crate::piece::Pieces;
use crate::task_id::TaskId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most tasks that are remembered; a further one is refused.
pub const TASKS_MAX: usize = 100_000;
/// Most bytes of the URLs and headers of all tasks; a further task is refused.
const URL_BYTES_MAX: usize = 64 << 20;

/// A file that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedFile {
    /// The request to the origin.
    pub request: Request,
    /// The URL without the parameters that do not distinguish files.
    pub task_url: String,
    /// The MD5 or the identifier that distinguishes files of one URL.
    pub sign: String,
    /// Whether `sign` is an MD5 that the content must have.
    pub is_md5: bool,
}

impl WantedFile {
    /// The ID of the task for this file. Of the headers, only `Range` counts, as in Dragonfly.
    pub fn id(&self) -> TaskId {
        TaskId::new(&self.task_url, &self.sign, self.request.range().unwrap_or_default())
    }

    /// Bytes of the URLs, and of headers as far as they can be told: those of a later request replace them.
    fn bytes(&self) -> usize {
        self.task_url.len() * 2 + self.sign.len()
    }

    /// Whether `other` names the same file. A client's MD5 must never count as another client's identifier: only the MD5
    /// is compared with the content.
    fn is_same_as(&self, other: &WantedFile) -> bool {
        let is_same_sign = match (self.is_md5, other.is_md5) {
            (true, true) => self.sign.eq_ignore_ascii_case(&other.sign),
            (false, false) => self.sign == other.sign,
            _ => false,
        };
        self.task_url == other.task_url && is_same_sign
    }

    /// What grants access to the file: secrets in headers, and parameters of the URL that do not distinguish
    /// files, such as a signature. `None` if the file is asked for without any.
    pub fn credential(&self) -> Option<Credential> {
        self.request.credential_for(&self.task_url)
    }
}

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its ID.
    pub id: TaskId,
    /// The file, with the headers of a client that has shown access.
    pub file: WantedFile,
    /// The length in bytes, once it is known.
    pub length: Option<u64>,
    /// How the file is divided.
    pub pieces: Pieces,
    /// Whether the origin sends parts of the file.
    pub takes_ranges: bool,
    /// Whether the origin gives the file only for credentials.
    pub is_protected: bool,
    /// What identifies the version of the file at the origin.
    pub validators: Validators,
    /// The credential with which the content was fetched, since the start of this process.
    pub fetched_with: Option<Credential>,
    /// Whether the whole file is on the disk, also while nobody uses it.
    pub is_complete: bool,
    /// When the origin last confirmed that version; `None` if it has not since this process began.
    pub validated: Option<Instant>,
    /// When the task was made.
    pub created: SystemTime,
    /// When a client last registered or asked for pieces.
    pub accessed: Instant,
    /// Why the last fetch failed; empty if it did not.
    pub failure: String,
}

impl Task {
    /// The task of a file on the disk. Of its headers, only a `Range` is known: a client brings the others.
    pub fn restore(record: &Record, now: Instant) -> Self {
        let FileInfo { url, task_url, md5, identifier, range, pieces, length, validators, .. } =
            record.file.clone();
        Task {
            id: record.id,
            file: WantedFile {
                request: Request {
                    url,
                    headers: range.map(|range| ("Range".to_owned(), range)).into_iter().collect(),
                },
                task_url,
                is_md5: md5.is_some(),
                sign: md5.map(|md5| hex::encode(&md5)).or(identifier).unwrap_or_default(),
            },
            length,
            pieces,
            takes_ranges: record.file.takes_ranges,
            is_protected: record.file.is_protected,
            validators,
            fetched_with: None,
            is_complete: record.is_complete,
            validated: None,
            created: UNIX_EPOCH + Duration::from_secs(record.created),
            accessed: now,
            failure: String::new(),
        }
    }

    /// Whom a ticket is for: a client at `remote`, and this version of the file.
    pub fn ticket_holder(&self, remote: IpAddr) -> String {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{remote}\n{}\n{}", text(&self.validators.etag), text(&self.validators.last_modified))
    }

    /// What the CDN manager must know of the file.
    pub fn file_info(&self) -> FileInfo {
        let md5 = if self.file.is_md5 { hex::parse(&self.file.sign) } else { None };
        FileInfo {
            url: self.file.request.url.clone(),
            task_url: self.file.task_url.clone(),
            md5,
            identifier: Some(self.file.sign.clone()).filter(|sign| md5.is_none() && !sign.is_empty()),
            range: self.file.request.range().map(str::to_owned),
            pieces: self.pieces,
            length: self.length,
            validators: self.validators.clone(),
            takes_ranges: self.takes_ranges,
            is_protected: self.is_protected,
        }
    }

    /// Whether the client or the URL names the digest of the content, so that the content cannot change.
    pub fn is_immutable(&self) -> bool {
        self.file.is_md5 || expected_sha256(&self.file.request.url).is_some()
    }

    /// Whether the origin must be asked if the file has changed: it was last asked `after` or longer ago.
    pub fn is_stale(&self, now: Instant, after: Duration) -> bool {
        match self.validated {
            Some(at) => now.saturating_duration_since(at) >= after && !self.is_immutable(),
            // After a restart the client's headers must be known, too.
            None => true,
        }
    }
}

/// Why a task is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskError {
    /// The ID belongs to another file.
    Conflict,
    /// There are too many tasks.
    TooMany,
}

/// All tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: HashMap<TaskId, Task>,
    url_bytes: usize,
}

impl Tasks {
    /// Whether `file` can be a task: its ID belongs to no other file, and there is room.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn check(&self, file: &WantedFile) -> Result<(), TaskError> {
        match self.tasks.get(&file.id()) {
            Some(task) if !task.file.is_same_as(file) => Err(TaskError::Conflict),
            None if self.tasks.len() >= TASKS_MAX || self.url_bytes >= URL_BYTES_MAX => {
                Err(TaskError::TooMany)
            }
            _ => Ok(()),
        }
    }

    /// Adds a task.
    pub fn insert(&mut self, task: Task) {
        self.delete(&task.id);
        self.url_bytes += task.file.bytes();
        self.tasks.insert(task.id, task);
    }

    /// The task `id`.
    pub fn get(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// The task `id`, to update it.
    pub fn get_mut(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(id)
    }

    /// Records that a client registered or asked for pieces.
    pub fn touch(&mut self, id: &TaskId, now: Instant) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.accessed = now;
        }
    }

    /// All tasks that `filter` accepts.
    pub fn list(&self, filter: impl Fn(&Task) -> bool) -> Vec<&Task> {
        self.tasks.values().filter(|task| filter(task)).collect()
    }

    /// Removes a task.
    pub fn delete(&mut self, id: &TaskId) -> Option<Task> {
        let task = self.tasks.remove(id)?;
        self.url_bytes = self.url_bytes.saturating_sub(task.file.bytes());
        Some(task)
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_request_makes_another_task() {
        let file = |headers: &[(&str, &str)]| WantedFile {
            request: Request {
                url: "http://h/f?sig=1".to_owned(),
                headers: headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            },
            task_url: "http://h/f".to_owned(),
            sign: String::new(),
            is_md5: false,
        };
        let plain = file(&[]).id();
        assert_eq!(file(&[("Authorization", "Bearer x"), ("range", "bytes=0-1")]).id(), plain);
        assert_ne!(file(&[("Range", "bytes=0-1")]).id(), plain);
    }
}
