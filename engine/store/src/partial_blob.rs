//! Blobs that are not whole yet: what came of a download so far, kept until somebody goes on with it.
//!
//! ```text
//! partial/<algorithm>-<hex>        the blob's first bytes, in order, no holes
//! partial/<algorithm>-<hex>.note   JSON: the ETag they came with, and how many of them are safe from power loss
//! ```
//! A partial outlives its job, its engine and, up to the last fsync, its host: bytes are appended as they come, and
//! every [`SYNC_EVERY`] they are fsynced and their number is noted. The ETag is noted when the partial is left, or with
//! the first bytes behind `NOTE_AFTER`: most blobs come in one go and need no note. Who is killed before leaves bytes
//! that the digest alone vouches for. After another boot each partial is cut to what was fsynced. Nothing here is
//! trusted: a blob gets its name only after the digest of all its bytes
//! was computed, those of a partial included. One job at a time has a partial open: it has claimed the digest.

use crate::error::{StoreError, file_error};
use crate::store::Store;
use crate::temp::name_blob;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How often a download is made safe from power loss: so much of it is fetched again at worst.
pub const SYNC_EVERY: Duration = Duration::from_secs(10);
/// How old a download is when its ETag is noted.
const NOTE_AFTER: Duration = Duration::from_secs(1);
/// How the name of a note ends.
const NOTE: &str = ".note";
/// Longest note that is read, in bytes.
const NOTE_MAX: u64 = 4096;
/// Longest ETag that is kept, in bytes.
const ETAG_MAX: usize = 1024;

/// What is known of a partial beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    etag: Option<String>,
    /// Bytes that were fsynced.
    #[serde(default)]
    synced: u64,
}

/// How far it has come.
struct Way {
    len: u64,
    note: Note,
    /// The file does not say what the note does.
    is_ahead: bool,
    synced_at: Instant,
}

/// A blob on its way, open for appending.
pub struct Partial<'a> {
    store: &'a Store,
    digest: Digest,
    path: PathBuf,
    file: File,
    kept: u64,
    opened: Instant,
    way: Mutex<Way>,
}

impl Drop for Partial<'_> {
    /// Whoever goes on is to know what these bytes came with.
    fn drop(&mut self) {
        let way = lock(&self.way);
        if way.is_ahead
            && let Err(error) = write_note(self.store, &self.path, &way.note)
        {
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
    }
}

impl<'a> Partial<'a> {
    /// Opens what there is of the blob of `size` bytes; more than that cannot be right and is dropped.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open(store: &'a Store, digest: &Digest, size: u64) -> Result<Self, StoreError> {
        let path = path(store, digest);
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644).custom_flags(nix::libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(file_error("open", &path))?;
        let kept = file.metadata().map_err(file_error("look at", &path))?.len();
        let mut partial = Partial {
            store,
            digest: digest.clone(),
            way: Mutex::new(Way {
                len: kept,
                note: read_note(&path),
                is_ahead: false,
                synced_at: Instant::now(),
            }),
            path,
            file,
            kept,
            opened: Instant::now(),
        };
        if kept > size {
            partial.clear()?;
        }
        Ok(partial)
    }

    /// Bytes that were there when it was opened.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// True if it has no byte.
    pub fn is_empty(&self) -> bool {
        lock(&self.way).len == 0
    }

    /// The ETag that they came with.
    pub fn etag(&self) -> Option<String> {
        lock(&self.way).note.etag.clone()
    }

    /// Reads the bytes that were there when it was opened.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn reader(&self) -> Result<io::Take<File>, StoreError> {
        let file = File::open(&self.path).map_err(file_error("open", &self.path))?;
        Ok(file.take(self.kept))
    }

    /// What the registry vouches with for the bytes that come.
    pub fn set_etag(&self, etag: Option<&str>) {
        let etag = etag.filter(|etag| is_etag(etag)).map(str::to_owned);
        let mut way = lock(&self.way);
        if way.note.etag != etag {
            way.note.etag = etag;
            way.is_ahead = true;
        }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`StoreError::File`]: the disk is full or broken.
    pub fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        (&self.file).write_all(bytes).map_err(file_error("write to", &self.path))?;
        let mut way = lock(&self.way);
        way.len += bytes.len() as u64;
        let now = Instant::now();
        if now - way.synced_at >= SYNC_EVERY {
            self.file.sync_data().map_err(file_error("sync", &self.path))?;
            way.note.synced = way.len;
            way.is_ahead = true;
            way.synced_at = now;
        }
        if way.is_ahead && now - self.opened >= NOTE_AFTER {
            self.write_note(&way.note)?;
            way.is_ahead = false;
        }
        Ok(())
    }

    /// Drops all bytes: they were wrong.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn clear(&mut self) -> Result<(), StoreError> {
        self.write_note(&Note::default())?;
        self.file.set_len(0).map_err(file_error("cut", &self.path))?;
        self.kept = 0;
        *lock(&self.way) = Way { len: 0, note: Note::default(), is_ahead: false, synced_at: Instant::now() };
        Ok(())
    }

    /// Removes it: its bytes are wrong, and nobody will go on with them.
    pub fn discard(self) {
        lock(&self.way).is_ahead = false;
        remove(&self.path);
    }

    /// Makes it the blob; the caller has compared the digest of all its bytes.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn finish(self) -> Result<(), StoreError> {
        let target = self.store.blob_path(&self.digest);
        name_blob(&self.path, &target).map_err(file_error("rename a partial blob to", &target))?;
        self.store.durability.record_name();
        lock(&self.way).is_ahead = false;
        remove_file(&note_path(&self.path));
        Ok(())
    }

    fn write_note(&self, note: &Note) -> Result<(), StoreError> {
        write_note(self.store, &self.path, note)
    }
}

fn write_note(store: &Store, path: &Path, note: &Note) -> Result<(), StoreError> {
    let target = note_path(path);
    let bytes = serde_json::to_vec(note).expect("a note has no shape that JSON cannot hold");
    store.filled("note", &bytes)?.0.rename(&target)
}

impl Store {
    /// After another boot: cuts each partial to the bytes that were fsynced.
    pub(crate) fn cut_partials(&self) {
        for path in list(self) {
            let note = read_note(&path);
            match cut(&path, note.synced) {
                Ok(len) if len > note.synced => {
                    log::info!("{}: {} bytes of {len} are kept after a restart", path.display(), note.synced);
                }
                Ok(_) => {}
                Err(error) => {
                    log::warn!("cannot cut {} to what is safe, removing it: {error}", path.display());
                    remove(&path);
                }
            }
        }
    }
}

/// Cuts a file to `most` bytes; how long it was.
fn cut(path: &Path, most: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let len = file.metadata()?.len();
    if len > most {
        file.set_len(most)?;
    }
    Ok(len)
}

/// Removes the partials that nobody has gone on with for `age`, and that no job has pinned.
pub fn collect(store: &Store, age: Duration) {
    let Some(oldest) = SystemTime::now().checked_sub(age) else {
        return;
    };
    for path in list(store) {
        let touched = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
        // The lock that pins are made under: no job opens it between the look and the removal.
        let _commit = lock(&store.commit);
        let pinned = digest_of(&path).is_some_and(|digest| store.is_pinned(&digest));
        if !pinned && touched.is_ok_and(|touched| touched <= oldest) {
            log::info!("removing {}, which nobody went on with", path.display());
            remove(&path);
        }
    }
}

/// The digest that a partial is to have; `path` may be that of its note.
pub(crate) fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    Digest::parse(&name.strip_suffix(NOTE).unwrap_or(name).replacen('-', ":", 1)).ok()
}

/// True if a file of this name stands beside a partial.
pub(crate) fn is_note(name: &str) -> bool {
    name.ends_with(NOTE)
}

/// Bytes that are kept of the blob.
pub fn kept(store: &Store, digest: &Digest) -> u64 {
    fs::symlink_metadata(path(store, digest)).map_or(0, |meta| meta.len())
}

fn directory(store: &Store) -> PathBuf {
    store.root().join("partial")
}

fn path(store: &Store, digest: &Digest) -> PathBuf {
    directory(store).join(format!("{}-{}", digest.algorithm().word(), digest.hex()))
}

fn note_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NOTE);
    name.into()
}

fn list(store: &Store) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(store)).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| !path.as_os_str().as_encoded_bytes().ends_with(NOTE.as_bytes()))
        .collect()
}

/// What is noted; nothing if that cannot be read, and then nothing is safe.
fn read_note(path: &Path) -> Note {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(note_path(path));
    let note = file.ok().and_then(|file| serde_json::from_reader(file.take(NOTE_MAX)).ok());
    let Note { etag, synced } = note.unwrap_or_default();
    Note { etag: etag.filter(|etag| is_etag(etag)), synced }
}

/// True if it can stand in a header. RFC 9110, section 8.8.3, but for bytes beyond ASCII.
fn is_etag(etag: &str) -> bool {
    etag.len() <= ETAG_MAX && etag.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// Removes a partial and its note; the note last, so that no bytes are ever without one that came with one.
fn remove(path: &Path) {
    remove_file(path);
    remove_file(&note_path(path));
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        (dir, store)
    }

    #[test]
    fn what_was_appended_is_there_when_it_is_opened_again() {
        let (dir, store) = store();
        let digest = Digest::of(b"abcdef");
        let partial = Partial::open(&store, &digest, 6).expect("opened");
        partial.set_etag(Some("\"1\""));
        partial.append(b"abc").expect("written");
        drop(partial);
        drop(store);
        let store = Store::open(dir.path()).expect("opened again: the same boot");
        let partial = Partial::open(&store, &digest, 6).expect("opened");
        assert_eq!((partial.kept(), partial.etag()), (3, Some("\"1\"".to_owned())));
        let mut kept = Vec::new();
        partial.reader().expect("opened").read_to_end(&mut kept).expect("read");
        partial.append(b"def").expect("written");
        partial.finish().expect("named");
        assert_eq!(kept, b"abc");
        assert_eq!(store.read_blob(&digest, 100).expect("right"), b"abcdef");
        assert_eq!(fs::read_dir(directory(&store)).expect("there").count(), 0);
    }

    #[test]
    fn more_than_the_blob_has_is_dropped() {
        let (_dir, store) = store();
        let digest = Digest::of(b"abc");
        Partial::open(&store, &digest, 3).expect("opened").append(b"abcdef").expect("written");
        assert_eq!(Partial::open(&store, &digest, 3).expect("opened").kept(), 0);
    }

    #[test]
    fn a_download_that_lasts_is_noted_while_it_does_and_one_that_does_not_is_not() {
        let (_dir, store) = store();
        let digest = Digest::of(b"abcdef");
        let mut partial = Partial::open(&store, &digest, 6).expect("opened");
        partial.set_etag(Some("\"1\""));
        partial.append(b"abc").expect("written");
        assert!(!note_path(&partial.path).exists());
        partial.opened = Instant::now() - NOTE_AFTER;
        partial.append(b"d").expect("written");
        assert_eq!(read_note(&partial.path).etag.as_deref(), Some("\"1\""));
    }

    #[test]
    fn after_another_boot_only_what_was_fsynced_is_kept() {
        let (dir, store) = store();
        let digest = Digest::of(b"abcdef");
        let mut partial = Partial::open(&store, &digest, 6).expect("opened");
        partial.opened = Instant::now() - SYNC_EVERY;
        lock(&partial.way).synced_at = Instant::now() - SYNC_EVERY;
        partial.append(b"abc").expect("written");
        partial.append(b"de").expect("written");
        assert_eq!(read_note(&partial.path).synced, 3, "before it is left");
        drop(partial);
        drop(store);
        fs::write(dir.path().join("boot"), "another").expect("written");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(Partial::open(&store, &digest, 6).expect("opened").kept(), 3);
    }

    #[test]
    fn old_partials_are_collected_unless_a_job_needs_them() {
        let (_dir, store) = store();
        let (needed, old, new) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3"));
        for digest in [&needed, &old, &new] {
            Partial::open(&store, digest, 9).expect("opened").append(b"x").expect("written");
        }
        let _pin = store.pin([needed.clone()]);
        let before = SystemTime::now() - Duration::from_secs(3600);
        for digest in [&needed, &old] {
            let file = OpenOptions::new().write(true).open(path(&store, digest)).expect("there");
            file.set_modified(before).expect("set");
        }
        collect(&store, Duration::from_secs(1800));
        let there = [&needed, &old, &new].map(|digest| path(&store, digest).exists());
        assert_eq!(there, [true, false, true]);
    }
}
