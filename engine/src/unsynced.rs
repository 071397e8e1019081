//! Images that are named, and not yet safe from power loss.
//!
//! A pull is done when its image can be used; until all of it is on the disk takes a while longer, and nobody waits
//! for that. Before `index.json` names such an image it is noted in the file `unsynced`, durably; behind the next
//! syncfs ([`Store::settle`]) the note goes. At the first start after another boot what is noted may be cut short:
//! it is taken back as if it had never come, and who had its name before has it again. With `sync = "before"` in the
//! configuration, or where the boot cannot be told, syncfs comes first and there are no notes.

use crate::digest::Digest;
use crate::store::{Store, StoreError, lock};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The file's name in the store.
const FILE: &str = "unsynced";
/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// One image that was named since the last syncfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its manifest.
    pub manifest: Digest,
    /// The reference that it got, if it got one.
    pub reference: Option<String>,
    /// The manifest of the image that had the reference before.
    pub previous: Option<Digest>,
}

/// What is noted of a store.
#[derive(Default)]
pub(crate) struct Unsynced {
    notes: Mutex<Vec<Note>>,
    /// Notes that were taken back after power loss, until somebody asks for them.
    lost: Mutex<Vec<Note>>,
    settling: Mutex<()>,
    /// How many things got their final name, and how many of them had it when the last good syncfs began.
    named: AtomicU64,
    synced: AtomicU64,
    syncs_first: AtomicBool,
}

impl Unsynced {
    /// What the file holds; one that cannot be read says nothing, and is replaced with the next note.
    pub fn load(root: &Path) -> Self {
        let file = std::fs::File::open(root.join(FILE));
        let reader = file.ok().map(|file| std::io::Read::take(file, FILE_MAX));
        let notes = reader.and_then(|reader| serde_json::from_reader(reader).ok()).unwrap_or_default();
        Unsynced { notes: Mutex::new(notes), ..Unsynced::default() }
    }

    /// Something got its final name.
    pub fn named(&self) {
        self.named.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store {
    /// From now on an image is on the disk before it is named.
    pub fn sync_first(&self) {
        self.unsynced.syncs_first.store(true, Ordering::SeqCst);
    }

    /// Makes what is about to be named durable, if that comes first here. To be called without the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn before_commit(&self) -> Result<(), StoreError> {
        match self.unsynced.syncs_first.load(Ordering::SeqCst) {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// True if what is named now is not on the disk yet, and has to be noted first.
    pub(crate) fn is_unsynced(&self) -> bool {
        let unsynced = &self.unsynced;
        let is_synced = unsynced.named.load(Ordering::SeqCst) == unsynced.synced.load(Ordering::SeqCst);
        !is_synced && !unsynced.syncs_first.load(Ordering::SeqCst)
    }

    /// Notes an image that is about to be named, durably. The caller holds the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`]; it must not be named then.
    pub(crate) fn note_unsynced(&self, note: Note) -> Result<(), StoreError> {
        let mut notes = lock(&self.unsynced.notes);
        notes.push(note);
        self.write_notes(&notes).inspect_err(|_| drop(notes.pop()))
    }

    fn write_notes(&self, notes: &[Note]) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(notes).expect("notes have no shape that JSON cannot hold");
        self.replace_file(FILE, &bytes)
    }

    /// True if there is something for [`Store::settle`] to do.
    pub fn is_unsettled(&self) -> bool {
        !lock(&self.unsynced.notes).is_empty()
    }

    /// Makes all images that are named durable, and takes their notes away. Takes as long as the disk takes; several
    /// at a time do it once.
    pub fn settle(&self) {
        let _one = lock(&self.unsynced.settling);
        let count = lock(&self.unsynced.notes).len();
        if count == 0 {
            return;
        }
        let named = self.unsynced.named.load(Ordering::SeqCst);
        if let Err(error) = self.sync() {
            return log::error!("{}", sampan_ipc::report::chain(&error));
        }
        self.unsynced.synced.store(named, Ordering::SeqCst);
        let _commit = lock(&self.commit);
        let mut notes = lock(&self.unsynced.notes);
        let done = count.min(notes.len());
        let left = notes.split_off(done);
        if let Err(error) = self.write_notes(&left) {
            // The notes stay in the file: after power loss these images would go, though they need not.
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
        *notes = left;
    }

    /// After another boot: what is noted, newest first, to be taken back. The caller holds the commit lock.
    pub(crate) fn notes_to_take_back(&self) -> Vec<Note> {
        lock(&self.unsynced.notes).iter().rev().cloned().collect()
    }

    /// They were taken back. The caller holds the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn notes_taken_back(&self, lost: Vec<Note>) -> Result<(), StoreError> {
        self.write_notes(&[])?;
        lock(&self.unsynced.notes).clear();
        lock(&self.unsynced.lost).extend(lost);
        Ok(())
    }

    /// The images that power loss took, once.
    pub fn take_lost(&self) -> Vec<Note> {
        std::mem::take(&mut lock(&self.unsynced.lost))
    }
}
