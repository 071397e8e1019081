//! Partial blobs: the first bytes of downloads that broke off, kept so that a later pull can continue.
//!
//! ```text
//! partial/<algorithm>-<hex> the blob's first bytes, without holes partial/<algorithm>-<hex>.note JSON: the ETag of
//! these bytes, and how many of them are safe from power loss ``` A partial blob survives the end of its job and of the
//! engine. A job appends bytes as they arrive; at intervals of [`SYNC_EVERY`] it syncs them and writes their number to
//! the note. After a boot of the host, the store cuts each partial blob to the bytes that were synced.
//!
//! The ETag is written when the [`Partial`] is dropped, or with the first append after `NOTE_AFTER`. Most downloads
//! finish sooner and need no note. If the engine is killed before that, the bytes have no ETag, and only the digest of
//! the whole blob shows whether they are right. No partial blob is trusted: it gets the final name of a blob only after
//! the caller has checked the digest of all bytes. Only the job that has claimed the digest may have the partial blob
//! open.

use crate::error::{StoreError, file_error};
use crate::store::Store;
use crate::temp::rename_to_blob;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Interval at which a download is synced. After power loss, at most the bytes of one interval are fetched again.
pub const SYNC_EVERY: Duration = Duration::from_secs(10);
/// Age of a download at which its ETag is written to the note.
const NOTE_AFTER: Duration = Duration::from_secs(1);
/// The end of a note's file name.
const NOTE: &str = ".note";
/// Longest note that is read, in bytes.
const NOTE_MAX: u64 = 4096;
/// Longest ETag that is kept, in bytes.
const ETAG_MAX: usize = 1024;

/// The content of a note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    etag: Option<String>,
    /// Number of bytes of the partial blob that were synced.
    #[serde(default)]
    synced: u64,
}

/// The progress of a download.
struct PartialState {
    len: u64,
    note: Note,
    /// Whether `note` differs from the note's file.
    is_note_unwritten: bool,
    synced_at: Instant,
}

/// A partial blob, open for appending.
pub struct Partial<'a> {
    store: &'a Store,
    digest: Digest,
    path: PathBuf,
    file: File,
    /// Number of bytes that the file had when this partial blob was opened.
    kept: u64,
    opened: Instant,
    state: Mutex<PartialState>,
}

impl Drop for Partial<'_> {
    /// Writes the note, so that the job that continues the download has the ETag.
    fn drop(&mut self) {
        let state = lock(&self.state);
        if state.is_note_unwritten
            && let Err(error) = write_note(self.store, &self.path, &state.note)
        {
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
    }
}

impl<'a> Partial<'a> {
    /// Opens the partial blob `digest`, or makes an empty one. If the file has more than `size` bytes, it cannot be
    /// right, so all its bytes are dropped.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be opened or changed.
    pub fn open(store: &'a Store, digest: &Digest, size: u64) -> Result<Self, StoreError> {
        let path = path(store, digest);
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644).custom_flags(nix::libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(file_error("open", &path))?;
        let kept = file.metadata().map_err(file_error("look at", &path))?.len();
        let mut partial = Partial {
            store,
            digest: digest.clone(),
            state: Mutex::new(PartialState {
                len: kept,
                note: read_note(&path),
                is_note_unwritten: false,
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

    /// Number of bytes that the partial blob had when it was opened.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Whether the partial blob has no byte.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).len == 0
    }

    /// The ETag of the partial blob's bytes.
    pub fn etag(&self) -> Option<String> {
        lock(&self.state).note.etag.clone()
    }

    /// A reader of the bytes that the partial blob had when it was opened.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be opened.
    pub fn reader(&self) -> Result<io::Take<File>, StoreError> {
        let file = File::open(&self.path).map_err(file_error("open", &self.path))?;
        Ok(file.take(self.kept))
    }

    /// Records the ETag of the bytes that will be appended.
    pub fn set_etag(&self, etag: Option<&str>) {
        let etag = etag.filter(|etag| is_etag(etag)).map(str::to_owned);
        let mut state = lock(&self.state);
        if state.note.etag != etag {
            state.note.etag = etag;
            state.is_note_unwritten = true;
        }
    }

    /// Appends `bytes`, and syncs the file if the last sync is longer ago than [`SYNC_EVERY`].
    ///
    /// # Errors
    /// [`StoreError::File`] if the disk is full or broken.
    pub fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        (&self.file).write_all(bytes).map_err(file_error("write to", &self.path))?;
        let mut state = lock(&self.state);
        state.len += bytes.len() as u64;
        let now = Instant::now();
        if now - state.synced_at >= SYNC_EVERY {
            self.file.sync_data().map_err(file_error("sync", &self.path))?;
            state.note.synced = state.len;
            state.is_note_unwritten = true;
            state.synced_at = now;
        }
        if state.is_note_unwritten && now - self.opened >= NOTE_AFTER {
            self.write_note(&state.note)?;
            state.is_note_unwritten = false;
        }
        Ok(())
    }

    /// Removes all bytes from the partial blob, because they are wrong.
    ///
    /// # Errors
    /// [`StoreError::File`] if the note cannot be written, or the file cannot be cut.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        self.write_note(&Note::default())?;
        self.file.set_len(0).map_err(file_error("cut", &self.path))?;
        self.kept = 0;
        *lock(&self.state) = PartialState {
            len: 0,
            note: Note::default(),
            is_note_unwritten: false,
            synced_at: Instant::now(),
        };
        Ok(())
    }

    /// Removes the partial blob and its note, because the bytes are wrong.
    pub fn discard(self) {
        lock(&self.state).is_note_unwritten = false;
        remove(&self.path);
    }

    /// Renames the partial blob to the final name of the blob. The caller has checked the digest of all bytes.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be renamed. After an error the partial blob stays.
    pub fn finish(self) -> Result<(), StoreError> {
        let target = self.store.blob_path(&self.digest);
        rename_to_blob(&self.path, &target).map_err(file_error("rename a partial blob to", &target))?;
        self.store.durability.record_commit();
        lock(&self.state).is_note_unwritten = false;
        remove_file(&note_path(&self.path));
        Ok(())
    }

    fn write_note(&self, note: &Note) -> Result<(), StoreError> {
        write_note(self.store, &self.path, note)
    }
}

fn write_note(store: &Store, path: &Path, note: &Note) -> Result<(), StoreError> {
    let target = note_path(path);
    let bytes = serde_json::to_vec(note).map_err(|error| file_error("write", &target)(error.into()))?;
    store.write_temp("note", &bytes)?.0.rename(&target)
}

impl Store {
    /// Cuts each partial blob to the bytes that were synced. Called at the first start after a boot of the host.
    pub(crate) fn cut_partials(&self) {
        for path in list(self) {
            let note = read_note(&path);
            match cut(&path, note.synced) {
                Ok(len) if len > note.synced => {
                    log::info!(
                        "{} is cut from {len} to {} bytes: the others were not synced before the reboot",
                        path.display(),
                        note.synced
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    log::warn!(
                        "removing {}, because it cannot be cut to its synced bytes: {error}",
                        path.display()
                    );
                    remove(&path);
                }
            }
        }
    }
}

/// Cuts a file to at most `most` bytes, and returns its previous length.
fn cut(path: &Path, most: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let len = file.metadata()?.len();
    if len > most {
        file.set_len(most)?;
    }
    Ok(len)
}

/// Removes the partial blobs that no job has written to for `age`, unless they are pinned.
pub fn collect(store: &Store, age: Duration) {
    let Some(oldest) = SystemTime::now().checked_sub(age) else {
        return;
    };
    for path in list(store) {
        let touched = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
        // Every pin is made while holding this lock, so no job can open the partial blob between the check and the
        // removal.
        let _commit = lock(&store.commit);
        let pinned = digest_of(&path).is_some_and(|digest| store.is_pinned(&digest));
        if !pinned && touched.is_ok_and(|touched| touched <= oldest) {
            log::info!("removing {}: no pull has continued it for {} s", path.display(), age.as_secs());
            remove(&path);
        }
    }
}

/// The digest of the blob that a partial blob, its note, or an upload at `path` belongs to.
pub(crate) fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    // No digest has a dot.
    Digest::parse(&name.split('.').next()?.replacen('-', ":", 1)).ok()
}

/// Whether `name` is the file name of a note.
pub(crate) fn is_note(name: &str) -> bool {
    name.ends_with(NOTE)
}

/// Number of bytes in the partial blob of a blob; 0 if there is no partial blob.
pub fn kept(store: &Store, digest: &Digest) -> u64 {
    fs::symlink_metadata(path(store, digest)).map_or(0, |meta| meta.len())
}

/// The directory of partial blobs. A caller may keep *uploads* there, blobs that several writers send at once, under the
/// names `<algorithm>-<hex>.<more>`: an upload is measured and collected like a partial blob, and cut to nothing after a
/// boot of the host, because it has no note.
pub fn directory(store: &Store) -> PathBuf {
    store.root().join("partial")
}

/// Renames the upload `name` to the final name of the blob. The caller has checked the digest of all bytes.
///
/// # Errors
/// [`StoreError::File`] if the file cannot be renamed. After an error the upload stays.
pub fn finish_upload(store: &Store, name: &str, digest: &Digest) -> Result<(), StoreError> {
    let target = store.blob_path(digest);
    rename_to_blob(&directory(store).join(name), &target)
        .map_err(file_error("rename an upload to", &target))?;
    store.durability.record_commit();
    Ok(())
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

/// Reads the note of a partial blob. If the note cannot be read, returns an empty note, so that no byte counts as
/// synced.
fn read_note(path: &Path) -> Note {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(note_path(path));
    let note = file.ok().and_then(|file| serde_json::from_reader(file.take(NOTE_MAX)).ok());
    let Note { etag, synced } = note.unwrap_or_default();
    Note { etag: etag.filter(|etag| is_etag(etag)), synced }
}

/// Whether a header can contain this ETag. RFC 9110, section 8.8.3; ETags that are not ASCII are refused.
fn is_etag(etag: &str) -> bool {
    etag.len() <= ETAG_MAX && etag.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// Removes a partial blob and its note. Removes the note last, so that bytes never exist without their note.
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
    fn an_upload_stays_while_its_digest_is_pinned_and_becomes_the_blob() {
        let (_dir, store) = store();
        let digest = Digest::of(b"abc");
        let name = format!("sha256-{}.upload-1", digest.hex());
        fs::write(directory(&store).join(&name), b"abc").expect("written");
        let pin = store.pin([digest.clone()]);
        collect(&store, Duration::ZERO);
        finish_upload(&store, &name, &digest).expect("named");
        assert_eq!(store.read_blob(&digest, 100).expect("right"), b"abc");
        drop(pin);
        fs::write(directory(&store).join(&name), b"abc").expect("written");
        collect(&store, Duration::ZERO);
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
        lock(&partial.state).synced_at = Instant::now() - SYNC_EVERY;
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
