//! What of `index.json` is not safe from power loss yet.
//!
//! A pull is done when its image can be used; until all of it is on the disk takes a while longer, and nobody waits
//! for that. As long as there is such an image, `index.settled.json` beside `index.json` has the entries that are *settled*:
//! what that said when all of it was on the disk, the file included. Behind the next syncfs
//! ([`Store::settle`](crate::store::Store::settle)) it goes. At the first start after another boot it is the index again,
//! as if nothing else had ever come.
//! Who takes names or images away, or gives names, settles first: so nobody changes both. With `sync = "before"` in the
//! configuration, or where the boot cannot be told, syncfs comes first and there is never more than one list. Keeps the
//! list that stands in the file, and counts; writes nothing: `settling.rs` has that done.

use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// An image, or a name of one, that power loss took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its manifest.
    pub manifest: Digest,
    /// The reference, if it had one.
    pub reference: Option<String>,
}

/// What is known of a store. The lists change under the commit lock, with the file.
#[derive(Default)]
pub(crate) struct DurabilityState {
    /// The settled entries; `None` if all are.
    settled: Mutex<Option<Vec<Descriptor>>>,
    /// What power loss took, until somebody asks for it.
    lost: Mutex<Vec<Lost>>,
    settling: Mutex<()>,
    /// How many things got their final name, and how many of them had it when the last good syncfs began.
    named: AtomicU64,
    synced: AtomicU64,
    /// How often the index was replaced.
    revision: AtomicU64,
    syncs_first: AtomicBool,
    /// The settled entries could not be made the index after power loss: they are to stay until the next start.
    is_stuck: AtomicBool,
    /// The disk has lost something.
    has_failed: AtomicBool,
}

impl DurabilityState {
    /// Something got its final name.
    pub fn record_name(&self) {
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

    /// How many things have got their final name.
    pub fn named_so_far(&self) -> u64 {
        self.named.load(Ordering::SeqCst)
    }

    /// What had its name when `named` had is on the disk.
    pub fn record_sync(&self, named: u64) {
        self.synced.store(named, Ordering::SeqCst);
    }

    /// The index was replaced.
    pub fn record_replacement(&self) {
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    /// Another one whenever the index was replaced.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }

    /// True if what is named now is not on the disk yet.
    pub fn is_behind(&self) -> bool {
        let is_synced = self.named_so_far() == self.synced.load(Ordering::SeqCst);
        !is_synced && !self.syncs_first()
    }

    /// Held by the one who brings all to the disk.
    pub fn settling(&self) -> MutexGuard<'_, ()> {
        lock(&self.settling)
    }

    /// The settled entries stay until the next start.
    pub fn stick(&self) {
        self.is_stuck.store(true, Ordering::SeqCst);
    }

    /// The disk has lost something: the settled entries stay, too.
    pub fn fail(&self) {
        self.has_failed.store(true, Ordering::SeqCst);
        self.stick();
    }

    /// True if it has.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// True if there is something to be brought to the disk.
    pub fn is_unsettled(&self) -> bool {
        let is_wanted = self.is_split() || self.is_behind();
        is_wanted && !self.is_stuck.load(Ordering::SeqCst)
    }

    /// True if not all entries are settled.
    pub fn is_split(&self) -> bool {
        lock(&self.settled).is_some()
    }

    /// The settled entries, if they are not all.
    pub fn settled(&self) -> Option<Vec<Descriptor>> {
        lock(&self.settled).clone()
    }

    /// Others are settled from now on; the file says so.
    pub fn set_settled(&self, entries: Option<Vec<Descriptor>>) {
        *lock(&self.settled) = entries;
    }

    /// They are gone.
    pub fn record_loss(&self, lost: Vec<Lost>) {
        lock(&self.lost).extend(lost);
    }

    /// What power loss took, once.
    pub fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut lock(&self.lost))
    }
}
