//! Images that are named, and not yet safe from power loss.
//!
//! A pull is done when its image can be used; until all of it is on the disk takes a while longer, and nobody waits
//! for that. The write of `index.json` that names such an image has a note of it; behind the next syncfs
//! ([`Store::settle`](crate::store::Store::settle)) the note goes. At the first start after another boot what is noted
//! may be cut short: it is taken back as if it had never come, and who had its name before has it again. With
//! `sync = "before"` in the configuration, or where the boot cannot be told, syncfs comes first and there are no notes.
//! Keeps the notes that stand in the file, and counts; writes nothing: [`crate::index`] does.

use crate::digest::Digest;
use crate::mutex::lock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

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

/// What is noted of a store. Notes change under the commit lock, with the file.
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
    /// What is noted could not be taken back after power loss: it is to stay noted until the next start.
    is_stuck: AtomicBool,
}

impl Unsynced {
    /// Something got its final name.
    pub fn named(&self) {
        self.named.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on nothing is behind.
    pub fn sync_first(&self) {
        self.syncs_first.store(true, Ordering::SeqCst);
    }

    /// True if nothing is named before it is on the disk.
    pub fn syncs_first(&self) -> bool {
        self.syncs_first.load(Ordering::SeqCst)
    }

    /// How many things have got theirs.
    pub fn named_so_far(&self) -> u64 {
        self.named.load(Ordering::SeqCst)
    }

    /// What had its name when `named` had is on the disk.
    pub fn synced(&self, named: u64) {
        self.synced.store(named, Ordering::SeqCst);
    }

    /// True if what is named now is not on the disk yet, and has to be noted.
    pub fn is_behind(&self) -> bool {
        let is_synced = self.named_so_far() == self.synced.load(Ordering::SeqCst);
        !is_synced && !self.syncs_first()
    }

    /// Held by the one who brings all to the disk.
    pub fn settling(&self) -> MutexGuard<'_, ()> {
        lock(&self.settling)
    }

    /// The notes stay until the next start.
    pub fn stick(&self) {
        self.is_stuck.store(true, Ordering::SeqCst);
    }

    /// True if there is something to be brought to the disk.
    pub fn is_unsettled(&self) -> bool {
        let is_wanted = !lock(&self.notes).is_empty() || self.is_behind();
        is_wanted && !self.is_stuck.load(Ordering::SeqCst)
    }

    /// The notes, oldest first.
    pub fn notes(&self) -> Vec<Note> {
        lock(&self.notes).clone()
    }

    /// One more, which the next index has.
    pub fn note(&self, note: Note) {
        lock(&self.notes).push(note);
    }

    /// That index could not be written.
    pub fn forget_last(&self) {
        lock(&self.notes).pop();
    }

    /// Takes the oldest `count` away; the next index has them no more.
    pub fn forget(&self, count: usize) -> Vec<Note> {
        let mut notes = lock(&self.notes);
        let count = count.min(notes.len());
        notes.drain(..count).collect()
    }

    /// That index could not be written.
    pub fn recall(&self, oldest: &[Note]) {
        lock(&self.notes).splice(..0, oldest.iter().cloned());
    }

    /// They were taken back.
    pub fn lost(&self, notes: Vec<Note>) {
        lock(&self.lost).extend(notes.into_iter().rev());
    }

    /// The images that power loss took, once; newest first.
    pub fn take_lost(&self) -> Vec<Note> {
        std::mem::take(&mut lock(&self.lost))
    }
}
