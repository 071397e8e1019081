//! The state between a commit and the moment when power loss can no longer take it away.
//!
//! A pull is finished when its image can be used. The kernel writes the image's bytes to the disk later, and no client
//! waits for that. Until then, `index.settled.json` holds the *durable index*: the entries of the last `index.json` of
//! which all blobs and layers are known to be on the disk. At the first start after a power failure, the durable index
//! replaces `index.json`, as if the later images had never been pulled.
//!
//! ```text
//!              record_commit                   split_index
//!   DURABLE ───────────────────▶ BLOBS AHEAD ───────────────────▶ INDEX AHEAD ───┐ syncfs, but index.json
//!      ▲                             │                              │  │   ▲      │ changed meanwhile:
//!      │                             │                              │  │   └──────┘ advance_index
//!      ├──── syncfs: record_sync ────┘                              │  │
//!      ├──── syncfs: record_sync, join_index ───────────────────────┘  │
//!      └──── first start after power loss: join_index, record_loss ────┘
//! ```
//! `committed` equals `durable` only in DURABLE; `durable_index` is `Some` only in INDEX AHEAD.
//!
//! Before an image is removed or tagged, everything is made durable, so that the change affects only one index. If the
//! configuration has `sync = "before"`, or if the boot cannot be identified, syncfs runs before each commit and the
//! index is never ahead.
//!
//! [`Durability`] belongs to a [`crate::Store`]. [`Durability`] only keeps the state; the module `sync` writes the
//! files and calls syncfs.

use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::sync::{Mutex, MutexGuard};

/// A point in the sequence of commits: the number of blobs and layers that got their final names since the store was
/// opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

/// An image, or one name of an image, that was lost in a power failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// The reference that was lost; `None` if the image had none.
    pub reference: Option<String>,
}

/// The durability of one store. The index changes only under the store's commit lock, together with its files.
#[derive(Default)]
pub(crate) struct Durability {
    state: Mutex<DurabilityState>,
    /// Held by the thread that calls syncfs, so that only one thread at a time does.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct DurabilityState {
    /// The generation of the latest commit.
    committed: Generation,
    /// The generation of the latest commit that is certainly on the disk: the latest commit at the start of the last
    /// successful syncfs.
    durable: Generation,
    /// How often `index.json` was replaced since the store was opened.
    index_revision: u64,
    /// The entries of `index.settled.json`; `None` if everything that `index.json` names is durable.
    durable_index: Option<Vec<Descriptor>>,
    /// The images that power loss took, until the engine announces them.
    lost: Vec<Lost>,
    syncs_before_commit: bool,
    fault: Option<Fault>,
}

/// The reason why the durable index must not change until the next start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `index.json` could not be replaced by the durable index after power loss.
    RestoreFailed,
    /// syncfs failed, so it is unknown which content is on the disk.
    SyncFailed,
}

impl Durability {
    /// Transition: a blob or layer has its final name, and may not be on the disk yet.
    pub(crate) fn record_commit(&self) {
        lock(&self.state).committed.0 += 1;
    }

    /// Transition: everything that was committed up to `generation` is on the disk.
    pub(crate) fn record_sync(&self, generation: Generation) {
        lock(&self.state).durable = generation;
    }

    /// Transition: `index.json` is about to name an image that is not durable; `entries` are the durable index.
    pub(crate) fn split_index(&self, entries: Vec<Descriptor>) {
        lock(&self.state).durable_index = Some(entries);
    }

    /// Transition: the durable index now has `entries`, but `index.json` has further entries.
    pub(crate) fn advance_index(&self, entries: Vec<Descriptor>) {
        lock(&self.state).durable_index = Some(entries);
    }

    /// Transition: everything that `index.json` names is durable.
    pub(crate) fn join_index(&self) {
        lock(&self.state).durable_index = None;
    }

    /// Stops all transitions of the durable index until the next start, because it could not be restored.
    pub(crate) fn record_restore_failure(&self) {
        lock(&self.state).fault.get_or_insert(Fault::RestoreFailed);
    }

    /// Stops all transitions of the durable index until the next start, because syncfs failed.
    pub(crate) fn record_sync_failure(&self) {
        lock(&self.state).fault = Some(Fault::SyncFailed);
    }

    /// Makes syncfs run before each commit from now on.
    pub(crate) fn sync_before_commit(&self) {
        lock(&self.state).syncs_before_commit = true;
    }

    /// Records that `index.json` was replaced.
    pub(crate) fn record_index_change(&self) {
        lock(&self.state).index_revision += 1;
    }

    /// Adds to the images that power loss took.
    pub(crate) fn record_loss(&self, lost: Vec<Lost>) {
        lock(&self.state).lost.extend(lost);
    }

    /// Returns the images that power loss took, and forgets them.
    pub(crate) fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut lock(&self.state).lost)
    }

    /// Locks out other threads that want to call syncfs.
    pub(crate) fn lock_syncing(&self) -> MutexGuard<'_, ()> {
        lock(&self.syncing)
    }

    pub(crate) fn committed(&self) -> Generation {
        lock(&self.state).committed
    }

    /// A number that changes whenever `index.json` is replaced.
    pub(crate) fn index_revision(&self) -> u64 {
        lock(&self.state).index_revision
    }

    pub(crate) fn durable_index(&self) -> Option<Vec<Descriptor>> {
        lock(&self.state).durable_index.clone()
    }

    /// Whether `index.json` names images that are not durable.
    pub(crate) fn is_index_ahead(&self) -> bool {
        lock(&self.state).durable_index.is_some()
    }

    /// Whether there are commits that are not durable. Never true if syncfs runs before each commit.
    pub(crate) fn is_behind(&self) -> bool {
        lock(&self.state).is_behind()
    }

    pub(crate) fn syncs_before_commit(&self) -> bool {
        lock(&self.state).syncs_before_commit
    }

    pub(crate) fn has_sync_failed(&self) -> bool {
        lock(&self.state).fault == Some(Fault::SyncFailed)
    }

    /// Whether a syncfs would make something durable.
    pub(crate) fn needs_sync(&self) -> bool {
        let state = lock(&self.state);
        let is_ahead = state.durable_index.is_some() || state.is_behind();
        is_ahead && state.fault.is_none()
    }
}

impl DurabilityState {
    fn is_behind(&self) -> bool {
        self.committed != self.durable && !self.syncs_before_commit
    }
}
