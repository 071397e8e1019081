//! Which blobs this engine has put into which repositories of a destination.
//!
//! Called by the copier, to ask a destination to take a blob from another of its repositories. Only a hint: the
//! destination may have deleted the blob since. So nothing here is made durable, and no failure reaches the caller.
//!
//! One file for each destination, named by the digest of its key. Each change is one frame of [`sampan_ipc::frame`] at
//! the end of the file. The file is read at the first call, and rewritten when it has grown too long.

use sampan_ipc::frame;
use sampan_ipc::trust;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use sampan_os::small_file;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Most entries, each a blob in a repository. With more, the older half is dropped.
const ENTRIES_MAX: usize = 200_000;
/// Most bytes of a file that are read.
const FILE_MAX: u64 = 64 << 20;
/// Most bytes of one frame: a repository's name.
const FRAME_MAX: usize = 64 << 10;

/// The front of the SHA-256 of a blob's digest. If two blobs have the same, a destination is asked for a blob that it
/// does not have, and refuses.
type Key = [u8; 16];

/// The blobs of one destination.
#[derive(Debug)]
pub struct KnownBlobs {
    path: PathBuf,
    most: usize,
    table: Mutex<Option<Table>>,
}

/// One change, a frame in the file. Variants are numbered by position: append, never reorder.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// A repository; its number is the number of repositories before it.
    Repository(String),
    /// The repository has the blob.
    Added { blob: Key, repository: u32 },
    /// The repository does not have the blob.
    Forgotten { blob: Key, repository: u32 },
}

#[derive(Debug, Default)]
struct Table {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// When an entry was added last, counted in changes.
    entries: BTreeMap<(Key, u32), u32>,
    /// Number of changes.
    changes: u32,
    /// The file at its end; `None` if it cannot be written.
    file: Option<File>,
}

impl KnownBlobs {
    /// Names the file for the destination `place_key` in `dir`. Reads nothing yet.
    pub fn open(dir: &Path, place_key: &str) -> Self {
        Self::bounded(dir, place_key, ENTRIES_MAX)
    }

    fn bounded(dir: &Path, place_key: &str, most: usize) -> Self {
        let path = dir.join(Digest::of(place_key.as_bytes()).hex());
        KnownBlobs { path, most, table: Mutex::default() }
    }

    /// Notes that `repository` has the blob.
    pub fn add(&self, digest: &str, repository: &str) {
        let mut guard = lock(&self.table);
        let table = guard.get_or_insert_with(|| self.load());
        let mut lines = Vec::new();
        let number = match table.numbers.get(repository) {
            Some(number) => *number,
            None => {
                lines.push(Line::Repository(repository.to_owned()));
                u32::try_from(table.names.len()).unwrap_or(u32::MAX)
            }
        };
        let blob = key(digest);
        if table.entries.contains_key(&(blob, number)) {
            return;
        }
        lines.push(Line::Added { blob, repository: number });
        self.change(table, lines);
    }

    /// Repositories that had the blob, at most `most` of them, the last noted first.
    pub fn repositories_with(&self, digest: &str, most: usize) -> Vec<String> {
        let mut guard = lock(&self.table);
        let table = guard.get_or_insert_with(|| self.load());
        let blob = key(digest);
        let all = table.entries.range((blob, 0)..=(blob, u32::MAX));
        let mut found: Vec<(u32, u32)> = all.map(|((_, number), age)| (*age, *number)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(most);
        found.iter().filter_map(|(_, number)| table.names.get(*number as usize).cloned()).collect()
    }

    /// Notes that `repository` does not have the blob.
    pub fn forget(&self, digest: &str, repository: &str) {
        let mut guard = lock(&self.table);
        let table = guard.get_or_insert_with(|| self.load());
        let blob = key(digest);
        let Some(repository) = table.numbers.get(repository).copied() else { return };
        if table.entries.contains_key(&(blob, repository)) {
            self.change(table, vec![Line::Forgotten { blob, repository }]);
        }
    }

    fn change(&self, table: &mut Table, lines: Vec<Line>) {
        let bytes = encode(&lines);
        if let Some(Err(error)) = table.file.as_mut().map(|file| file.write_all(&bytes)) {
            log::debug!("cannot write {}: {error}", self.path.display());
            // What comes behind an incomplete frame would not be read.
            table.file = None;
        }
        lines.iter().for_each(|line| table.apply(line));
        let is_over = table.entries.len() > self.most;
        if is_over || table.changes as usize > 4 * self.most {
            table.shrink(if is_over { self.most.div_ceil(2) } else { self.most });
            table.file = self.rewrite(table).inspect_err(|error| self.complain(error)).ok();
        }
    }

    fn load(&self) -> Table {
        let mut table = Table::default();
        let bytes = match small_file::open(&self.path).and_then(|file| small_file::read(file, FILE_MAX)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.complain(&error);
                Vec::new()
            }
        };
        let mut rest = bytes.as_slice();
        while let Ok(Some((body, len))) = frame::split(rest, FRAME_MAX) {
            let Ok(line) = frame::parse(body) else { break };
            table.apply(&line);
            rest = rest.get(len..).unwrap_or_default();
        }
        let is_clean = rest.is_empty() && table.entries.len() <= self.most;
        table.shrink(self.most);
        let file = if is_clean { self.append() } else { self.rewrite(&mut table) };
        table.file = file.inspect_err(|error| self.complain(error)).ok();
        table
    }

    fn append(&self) -> io::Result<File> {
        trust::make_own(trust::parent(&self.path), trust::PRIVATE).map_err(io::Error::other)?;
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }

    /// Replaces the file by one with the entries of `table` only.
    fn rewrite(&self, table: &mut Table) -> io::Result<File> {
        // The table shrinks also if the disk is full.
        let lines = encode(&table.compact());
        let draft = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&lines)?;
        fs::rename(&draft, &self.path)?;
        self.append()
    }

    fn complain(&self, error: &io::Error) {
        log::warn!(
            "cannot keep the list {} of blobs at a destination; fewer blobs are mounted there: {error}",
            self.path.display()
        );
    }
}

impl Table {
    fn apply(&mut self, line: &Line) {
        self.changes = self.changes.saturating_add(1);
        match line {
            Line::Repository(name) => {
                let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
                self.numbers.insert(name.clone(), number);
                self.names.push(name.clone());
            }
            Line::Added { blob, repository } => {
                self.entries.insert((*blob, *repository), self.changes);
            }
            Line::Forgotten { blob, repository } => {
                self.entries.remove(&(*blob, *repository));
            }
        }
    }

    /// Drops the oldest entries beyond `most`.
    fn shrink(&mut self, most: usize) {
        let mut ages: Vec<u32> = self.entries.values().copied().collect();
        if let Some(excess) = ages.len().checked_sub(most).filter(|excess| *excess > 0) {
            ages.sort_unstable();
            let oldest = ages.get(excess).copied().unwrap_or(u32::MAX);
            self.entries.retain(|_, age| *age >= oldest);
        }
    }

    /// Numbers repositories and changes anew. Returns the lines that give this table.
    fn compact(&mut self) -> Vec<Line> {
        let old = std::mem::take(self);
        let mut entries: Vec<(u32, Key, u32)> =
            old.entries.iter().map(|((blob, number), age)| (*age, *blob, *number)).collect();
        entries.sort_unstable();
        let mut lines = Vec::new();
        for (_, blob, number) in entries {
            let Some(name) = old.names.get(number as usize) else { continue };
            let added = match self.numbers.get(name) {
                Some(repository) => vec![Line::Added { blob, repository: *repository }],
                None => {
                    let repository = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
                    vec![Line::Repository(name.clone()), Line::Added { blob, repository }]
                }
            };
            for line in added {
                self.apply(&line);
                lines.push(line);
            }
        }
        lines
    }
}

fn key(digest: &str) -> Key {
    // A registry may name blobs by other algorithms than SHA-256, of any length.
    let hash = Digest::of(digest.as_bytes());
    let mut key = Key::default();
    for (byte, pair) in key.iter_mut().zip(hash.hex().as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default();
    }
    key
}

fn encode(lines: &[Line]) -> Vec<u8> {
    lines.iter().filter_map(|line| frame::encode(line).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_engine_knows_where_blobs_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || KnownBlobs::open(&dir.path().join("known"), "registry.example:5000");
        let blobs = open();
        assert!(blobs.repositories_with("sha256:1", 9).is_empty());
        blobs.add("sha256:1", "a");
        blobs.add("sha256:1", "b");
        blobs.add("sha256:1", "c");
        blobs.add("sha256:2", "a");
        blobs.add("sha256:1", "b");
        blobs.forget("sha256:1", "c");
        for blobs in [blobs, open()] {
            assert_eq!(blobs.repositories_with("sha256:1", 9), ["b", "a"], "the last first");
            assert_eq!(blobs.repositories_with("sha256:1", 1), ["b"]);
            assert_eq!(blobs.repositories_with("sha256:2", 9), ["a"]);
        }
        let other = KnownBlobs::open(&dir.path().join("known"), "other.example");
        assert!(other.repositories_with("sha256:1", 9).is_empty());
    }

    #[test]
    fn beyond_the_bound_the_older_half_is_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || KnownBlobs::bounded(dir.path(), "x", 10);
        let blobs = open();
        for nth in 0..11 {
            blobs.add(&format!("sha256:{nth}"), &format!("r{nth}"));
        }
        for blobs in [blobs, open()] {
            let known =
                (0..11).filter(|nth| !blobs.repositories_with(&format!("sha256:{nth}"), 1).is_empty());
            assert_eq!(known.collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
            let table = lock(&blobs.table);
            assert_eq!(table.as_ref().expect("loaded").names.len(), 5, "unused names go as well");
        }
    }

    #[test]
    fn changes_back_and_forth_do_not_make_the_file_grow() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = KnownBlobs::bounded(dir.path(), "x", 10);
        blobs.add("sha256:0", "r");
        for _ in 0..1000 {
            blobs.add("sha256:1", "r");
            blobs.forget("sha256:1", "r");
        }
        assert!(fs::metadata(&blobs.path).expect("a file").len() < 2000);
        assert_eq!(blobs.repositories_with("sha256:0", 1), ["r"]);
    }

    #[test]
    fn a_damaged_file_costs_what_follows_the_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || KnownBlobs::open(dir.path(), "x");
        let blobs = open();
        blobs.add("sha256:1", "r");
        let good = fs::read(&blobs.path).expect("read");
        blobs.add("sha256:2", "r");
        let bytes = fs::read(&blobs.path).expect("read");
        for len in good.len()..bytes.len() {
            fs::write(&blobs.path, &bytes[..len]).expect("cut");
            let blobs = open();
            assert_eq!(blobs.repositories_with("sha256:1", 1), ["r"]);
            blobs.add("sha256:3", "r");
            assert_eq!(open().repositories_with("sha256:3", 1), ["r"], "cut at {len}");
        }
        fs::write(&blobs.path, b"nonsense").expect("written");
        assert!(open().repositories_with("sha256:1", 1).is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("file"), b"").expect("written");
        let blobs = KnownBlobs::bounded(&dir.path().join("file"), "x", 10);
        for nth in 0..30 {
            blobs.add(&format!("sha256:{nth}"), "r");
        }
        assert_eq!(blobs.repositories_with("sha256:29", 1), ["r"]);
        assert!(lock(&blobs.table).as_ref().expect("loaded").entries.len() <= 10);
    }
}
