//! The journal of registrations, so that a restarted supernode still knows its clients.
//!
//! Owned by the event loop. A file of lines: a checksum and a record in JSON. A torn or damaged line, and what
//! follows it, is cut off. Nothing is synced: the page cache survives the end of this process, and after a power
//! failure the clients are gone, too. Written anew when most of it is about clients that have left.

use crate::dfget_task::DfgetTask;
use crate::origin::{Request, Validators};
use crate::peer::{Peer, PeerRequest};
use crate::piece::Pieces;
use crate::task::{Task, WantedFile};
use crate::task_id::TaskId;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Longest journal that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;
/// Time between two attempts to write a file that could not be written.
const RETRY_TIME: Duration = Duration::from_secs(30);
/// Fewest records of clients that have left for which the file is written anew.
const GARBAGE_MIN: usize = 4096;

/// A line of the journal.
#[derive(Serialize, Deserialize)]
enum Line {
    /// A client has registered.
    Add(Box<JournalEntry>),
    /// A client's download has ended.
    Remove { cid: String, task: TaskId },
}

/// A registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The download.
    pub download: DfgetTask,
    /// Its peer.
    pub peer: PeerRecord,
    /// Whether others may fetch from the peer.
    pub uploads: bool,
    /// The file, if it is public. The credentials for a protected file are never written.
    pub file: Option<StoredFile>,
}

/// The fields of a public [`Task`] that survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    url: String,
    task_url: String,
    sign: String,
    is_md5: bool,
    range: Option<String>,
    length: Option<u64>,
    piece_size: u64,
    is_wrapped: bool,
    takes_ranges: bool,
    validators: Validators,
    created: SystemTime,
}

impl StoredFile {
    /// The fields of `task`; `None` if the task is protected.
    pub fn of(task: &Task) -> Option<Self> {
        (!task.is_protected).then(|| StoredFile {
            url: task.file.request.url.clone(),
            task_url: task.file.task_url.clone(),
            sign: task.file.sign.clone(),
            is_md5: task.file.is_md5,
            range: task.file.request.range().map(str::to_owned),
            length: task.length,
            piece_size: task.pieces.size,
            is_wrapped: task.pieces.is_wrapped,
            takes_ranges: task.takes_ranges,
            validators: task.validators.clone(),
            created: task.created,
        })
    }

    /// The task with these fields.
    pub fn into_task(self, id: TaskId, now: Instant) -> Task {
        let range = self.range.map(|range| ("Range".to_owned(), range));
        let request = Request { url: self.url, headers: range.into_iter().collect() };
        Task {
            id,
            file: WantedFile { request, task_url: self.task_url, sign: self.sign, is_md5: self.is_md5 },
            length: self.length,
            pieces: Pieces { size: self.piece_size, is_wrapped: self.is_wrapped },
            takes_ranges: self.takes_ranges,
            is_protected: false,
            validators: self.validators,
            fetched_with: None,
            is_complete: false,
            validated: None,
            created: self.created,
            accessed: now,
            failure: String::new(),
        }
    }
}

/// The fields of a [`Peer`] that survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its ID.
    pub id: String,
    /// What it registered.
    pub request: PeerRequest,
    /// When it registered.
    pub created: SystemTime,
}

impl PeerRecord {
    /// The fields of `peer`.
    pub fn of(peer: &Peer) -> Self {
        PeerRecord { id: peer.id.clone(), request: peer.request.clone(), created: peer.created }
    }
}

/// The journal.
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// When to try again to write a file that could not be written.
    retry_at: Option<Instant>,
    garbage: usize,
    live: usize,
}

impl Journal {
    /// Opens the journal in the directory `home`, and returns the clients that it knows.
    pub fn open(home: &Path) -> (Self, Vec<JournalEntry>) {
        let path = home.join("registrations");
        let entries = read(&path).unwrap_or_else(|error| {
            log::warn!(
                "cannot read {}: {error}: clients that are downloading must register again",
                path.display()
            );
            Vec::new()
        });
        let mut journal = Journal { path, file: None, retry_at: None, garbage: 0, live: 0 };
        journal.rewrite(entries.iter());
        (journal, entries)
    }

    /// Records a registration. `is_new` says that the client had not registered for the task before.
    pub fn add(&mut self, entry: &JournalEntry, is_new: bool) {
        match is_new {
            true => self.live += 1,
            false => self.garbage += 1,
        }
        self.write(&Line::Add(Box::new(entry.clone())));
    }

    /// Records the end of a download.
    pub fn remove(&mut self, cid: &str, task: &TaskId) {
        self.live = self.live.saturating_sub(1);
        self.garbage += 2;
        self.write(&Line::Remove { cid: cid.to_owned(), task: *task });
    }

    /// Whether to call [`Journal::rewrite`]: most of the file is about clients that have left, or the file could not be
    /// written a while ago.
    pub fn needs_rewrite(&self) -> bool {
        let is_broken = self.file.is_none() && self.retry_at.is_none_or(|at| at <= Instant::now());
        is_broken || self.garbage >= GARBAGE_MIN.max(self.live)
    }

    /// Replaces the file by one with `entries` alone.
    pub fn rewrite<'a>(&mut self, entries: impl Iterator<Item = &'a JournalEntry>) {
        let replaced = self.try_rewrite(entries);
        if let Err(error) = replaced {
            let path = self.path.display();
            log::warn!("cannot write {path}: {error}: after a restart, clients must register again");
            self.mark_broken();
        }
    }

    fn mark_broken(&mut self) {
        self.file = None;
        self.retry_at = Some(Instant::now() + RETRY_TIME);
    }

    fn try_rewrite<'a>(&mut self, entries: impl Iterator<Item = &'a JournalEntry>) -> io::Result<()> {
        let next = self.path.with_extension("new");
        let mut text = Vec::new();
        (self.live, self.garbage) = (0, 0);
        for entry in entries {
            self.live += 1;
            text.extend(line(&Line::Add(Box::new(entry.clone()))));
        }
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        file.write_all(&text)?;
        std::fs::rename(&next, &self.path)?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, record: &Line) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(&line(record)) {
            let path = self.path.display();
            log::warn!("cannot write {path}: {error}: after a restart, clients must register again");
            // A torn line would hide the lines after it.
            self.mark_broken();
        }
    }
}

fn line(record: &Line) -> Vec<u8> {
    let text = serde_json::to_string(record).unwrap_or_default();
    format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes())).into_bytes()
}

fn read(path: &Path) -> io::Result<Vec<JournalEntry>> {
    let text = match sampan_ipc::named_file::read_text(path, FILE_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries: Vec<Option<JournalEntry>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for line in text.split_inclusive('\n') {
        let parsed = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
        let Some((sum, record)) = parsed else { break };
        if u32::from_str_radix(sum, 16).ok() != Some(crc32c::crc32c(record.as_bytes())) {
            break;
        }
        match serde_json::from_str(record) {
            Ok(Line::Add(entry)) => {
                let key = (entry.download.cid.clone(), entry.download.task);
                if let Some(old) = places.insert(key, entries.len()).and_then(|at: usize| entries.get_mut(at))
                {
                    *old = None;
                }
                entries.push(Some(*entry));
            }
            Ok(Line::Remove { cid, task }) => {
                if let Some(old) = places.remove(&(cid, task)).and_then(|at| entries.get_mut(at)) {
                    *old = None;
                }
            }
            Err(_) => break,
        }
    }
    Ok(entries.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dfget_task::DfgetStatus;
    use std::net::Ipv4Addr;

    fn entry(cid: &str, url: &str) -> JournalEntry {
        let ip = Ipv4Addr::LOCALHOST.into();
        let request = PeerRequest { ip, port: 15001, host_name: "h".to_owned(), version: String::new() };
        let download = DfgetTask {
            cid: cid.to_owned(),
            task: TaskId::new(url, "", ""),
            peer: format!("peer-{cid}"),
            path: "/peer/file/x".to_owned(),
            supernode_ip: String::new(),
            call_system: String::new(),
            is_dfdaemon: false,
            remote: ip,
            status: DfgetStatus::Running,
        };
        let peer = PeerRecord { id: format!("peer-{cid}"), request, created: std::time::UNIX_EPOCH };
        JournalEntry { download, peer, uploads: true, file: None }
    }

    fn cids(entries: &[JournalEntry]) -> String {
        entries.iter().map(|entry| entry.download.cid.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_registered_is_known_again_and_what_left_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, known) = Journal::open(dir.path());
        assert!(known.is_empty());
        for (cid, url) in [("a", "u"), ("b", "u"), ("a", "v"), ("a", "u")] {
            journal.add(&entry(cid, url), true);
        }
        journal.remove("b", &TaskId::new("u", "", ""));
        drop(journal);
        let (_, known) = Journal::open(dir.path());
        assert_eq!(cids(&known), "a a");
        assert_eq!(known[0].download, entry("a", "v").download);
        assert_eq!(known[0].peer.request, entry("a", "v").peer.request);
    }

    #[test]
    fn a_torn_or_damaged_tail_is_cut_at_every_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, _) = Journal::open(dir.path());
        ["a", "b", "c"].iter().for_each(|cid| journal.add(&entry(cid, "u"), true));
        let path = dir.path().join("registrations");
        let whole = std::fs::read(&path).expect("written");
        let len = whole.len() / 3;
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            assert_eq!(Journal::open(dir.path()).1.len(), cut / len, "cut at {cut}");
            let mut damaged = whole.clone();
            damaged[cut] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            let known = Journal::open(dir.path()).1.len();
            assert!(known <= cut / len, "damaged at {cut}: {known}");
        }
    }
}
