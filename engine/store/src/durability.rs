//! Brings to the disk what `index.json` names, and takes back what power loss may have cut.
//!
//! What the lists are is [`crate::durability`]'s to say. A pull only adds to the one that is not settled; who takes names or
//! images away, or gives names, wants all of it settled first ([`Settled`]). Called by [`crate::images`] and behind jobs.

pub(crate) mod state;

use self::state::Lost;
use crate::error::StoreError;
use crate::index::{self, name_of};
use crate::store::Store;
use sampan_oci::{Descriptor, Index};
use sampan_os::mutex::lock;
use std::sync::MutexGuard;

/// How often an index is tried to be settled before it is changed.
const TRIES: usize = 3;

/// An image was there, and maybe not all of it: what came of it since its job began, when so many things had their name,
/// is to be as safe as it is. Without the commit lock, please.
pub(crate) fn settle_what_came(store: &Store, since: u64) {
    if store.durability.is_behind() && store.named_so_far() != since {
        store.settle();
    }
}

/// Writes an index that has what `add` adds to `index`: an image that is new. The caller holds the commit lock.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn name_new(
    store: &Store,
    mut index: Index,
    add: impl FnOnce(&mut Index),
) -> Result<(), StoreError> {
    if !store.durability.is_split() && !store.durability.is_behind() {
        add(&mut index);
        return index::write(store, index);
    }
    if !store.durability.is_split() {
        index::settle_as_it_is(store)?;
        store.durability.set_settled(Some(index.manifests.clone()));
    } else if !index::has_settled(store)?
        && let Some(settled) = store.durability.settled()
    {
        // The disk took the one half of a change, and not the other.
        index::write_settled(store, settled)?;
    }
    add(&mut index);
    index::write_unsettled(store, index)
}

/// The commit lock, when all that `index.json` names is on the disk: what is taken away then, or named, power loss neither
/// brings back nor needs. Where the disk takes nothing, or pulls never end, it is had all the same; then both lists change.
pub(crate) struct Settled<'a> {
    store: &'a Store,
    _commit: MutexGuard<'a, ()>,
    /// Nobody settles meanwhile what he looked at before.
    _settling: Option<MutexGuard<'a, ()>>,
}

impl<'a> Settled<'a> {
    /// Settles if it must, and locks.
    pub fn lock(store: &'a Store) -> Self {
        for _ in 0..TRIES {
            let commit = lock(&store.commit);
            if !store.durability.is_split() {
                return Settled { store, _commit: commit, _settling: None };
            }
            drop(commit);
            store.settle();
        }
        let settling = store.durability.settling();
        Settled { store, _commit: lock(&store.commit), _settling: Some(settling) }
    }

    /// Writes an index in which an image that was there has one more name. Where not all is settled, the name is as safe
    /// as the rest: power loss takes it back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn name(&self, index: Index) -> Result<(), StoreError> {
        index::write(self.store, index)
    }

    /// Writes an index without the entries that `go`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&self, index: Index, go: impl Fn(&Descriptor) -> bool) -> Result<(), StoreError> {
        if let Some(mut settled) = self.store.durability.settled() {
            // First: what is told to be there still, power loss may take; not the other way round.
            settled.retain(|entry| !go(entry));
            index::write_settled_shrunk(self.store, settled.clone())?;
            self.store.durability.set_settled(Some(settled));
        }
        index::write_shrunk(self.store, index)
    }
}

/// What is in `now` and not in `then`, newest first.
fn gone(now: &Index, then: &[Descriptor]) -> Vec<Lost> {
    let of = |entry: &Descriptor| Lost {
        manifest: entry.digest.clone(),
        reference: name_of(entry).map(str::to_owned),
    };
    let is_kept = |entry: &&Descriptor| {
        then.iter()
            .any(|e| e.digest == entry.digest && (name_of(entry).is_none() || name_of(e) == name_of(entry)))
    };
    now.manifests.iter().rev().filter(|entry| !is_kept(entry)).map(of).collect()
}

impl Store {
    /// After another boot: what was named and not on the disk yet is taken back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn take_unsynced_back(&self) -> Result<(), StoreError> {
        let _commit = lock(&self.commit);
        let Some(settled) = self.durability.settled() else {
            return index::add_missing_twins(self);
        };
        let lost = match index::read(self) {
            Ok(now) => gone(&now, &settled),
            Err(error) => {
                log::warn!("what power loss took is not known: {}", sampan_ipc::report::chain(&error));
                Vec::new()
            }
        };
        for Lost { manifest, reference } in &lost {
            let name = reference.as_deref().unwrap_or("without a name");
            log::warn!("power failed before image {manifest} ({name}) was on the disk: it is taken back");
        }
        index::take_back(self)?;
        self.durability.set_settled(None);
        self.durability.record_loss(lost);
        // What is there for other tools may have gone with a name that has come back.
        if let Err(error) = index::read(self).and_then(|index| index::write_shrunk(self, index)) {
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
        Ok(())
    }

    /// How many things have got their final name since the store was opened.
    pub fn named_so_far(&self) -> u64 {
        self.durability.named_so_far()
    }

    /// Makes all that is named durable. Takes as long as the disk takes; several at a time do it once. False if the disk
    /// did not take it.
    pub fn settle(&self) -> bool {
        let _one = self.durability.settling();
        let settle = || {
            let (named, revision, index) = {
                // Or what is only about to be named might count.
                let _commit = lock(&self.commit);
                if !self.is_unsettled() {
                    return Ok(());
                }
                let index = self.durability.is_split().then(|| index::read(self)).transpose()?;
                (self.named_so_far(), self.durability.revision(), index)
            };
            self.sync()?;
            self.durability.record_sync(named);
            index.map_or(Ok(()), |index| self.set_settled(revision, index.manifests))
        };
        let settled: Result<(), StoreError> = settle();
        settled.inspect_err(|error| log::error!("{}", sampan_ipc::report::chain(error))).is_ok()
    }

    /// All of `entries` are on the disk, and so is the index that said so, which was of this revision.
    fn set_settled(&self, revision: u64, entries: Vec<Descriptor>) -> Result<(), StoreError> {
        // Nobody with the commit lock waits for the disk. If all is settled this is for nothing.
        let is_latest = || self.durability.revision() == revision;
        let staged = if is_latest() { None } else { Some(index::stage_settled(self, entries.clone())?) };
        let commit = lock(&self.commit);
        match staged {
            // Somebody changed the index although it was not settled, and it is what he made of it.
            _ if !self.durability.is_split() => return Ok(()),
            _ if is_latest() => {
                index::settle_all(self)?;
                self.durability.set_settled(None);
            }
            Some(staged) => {
                index::put_settled(self, staged)?;
                self.durability.set_settled(Some(entries));
            }
            // It came just now; the next settling is soon.
            None => return Ok(()),
        }
        drop(commit);
        // Or else the next syncfs has it.
        self.sync_root().inspect_err(|_| self.durability.record_name())?;
        self.lay_by(index::size(self));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tests::image;
    use crate::images::{ImageError, find, remove, remove_unused, tag};

    #[test]
    fn power_loss_takes_back_what_was_named_and_not_on_the_disk_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        let two = image(&store, "a", "two");
        image(&store, "b", "three");
        drop(store);
        let store = Store::open(dir.path()).expect("opened: the same boot");
        assert_eq!(find(&store, "a").expect("found").entry.digest, two);
        drop(store);
        std::fs::write(dir.path().join("boot"), "another").expect("written");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(find(&store, "a").expect("found").entry.digest, one);
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
        assert!(!store.blob_path(&two).exists());
        let lost: Vec<_> = store.take_lost().into_iter().filter_map(|note| note.reference).collect();
        assert_eq!(lost, ["docker.io/library/b:latest", "docker.io/library/a:latest"]);
        assert!(store.durability.settled().is_none());
    }

    /// A store as another boot finds it.
    fn after_power_loss(dir: &tempfile::TempDir, store: Store) -> Store {
        drop(store);
        std::fs::write(dir.path().join("boot"), "another").expect("written");
        Store::open(dir.path()).expect("opened")
    }

    #[test]
    fn power_loss_takes_nothing_that_was_on_the_disk_whatever_came_since() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        // Again, under one more name, and there and back.
        image(&store, "other", "two");
        image(&store, "a", "one");
        image(&store, "alias", "one");
        image(&store, "a", "three");
        image(&store, "a", "one");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(matches!(find(&store, "alias"), Err(ImageError::NotFound(_))));
        assert!(matches!(find(&store, "other"), Err(ImageError::NotFound(_))));
        // The first pull behind a start, of what is there.
        image(&store, "a", "one");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(store.take_lost().is_empty());
    }

    #[test]
    fn what_is_tagged_or_removed_behind_a_pull_stays_so_after_power_loss() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let old = image(&store, "x", "old");
        store.settle();
        image(&store, "x", "new");
        remove(&store, "x", false, &|_| Vec::new()).expect("removed");
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "x"), Err(ImageError::NotFound(_))));
        let new = image(&store, "y", "newer");
        tag(&store, "y", "x").expect("tagged");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "x").expect("kept").entry.digest, new);
        // What a name stood for is not removed while power loss would need it.
        image(&store, "x", "newest");
        remove_unused(&store, &old).expect("removed");
        let store = after_power_loss(&dir, store);
        assert!(find(&store, "x").is_ok());
    }

    #[test]
    fn an_image_that_was_named_while_the_disk_took_the_others_is_not_settled_with_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        let (before, entries) = (store.durability.revision(), index::read(&store).expect("read").manifests);
        image(&store, "b", "two");
        store.set_settled(before, entries).expect("written");
        assert!(store.is_unsettled());
        let store = after_power_loss(&dir, store);
        assert!(find(&store, "a").is_ok());
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn what_an_engine_before_left_whole_is_not_settled_when_it_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = {
            let store = Store::open(dir.path()).expect("opened");
            let one = image(&store, "a", "one");
            index::write(&store, Index { manifests: Vec::new(), ..index::read(&store).expect("read") })
                .expect("written");
            one
        };
        let store = Store::open(dir.path()).expect("opened again");
        assert!(store.blob_path(&one).exists());
        store.durability.set_settled(None);
        image(&store, "b", "one");
        assert_eq!(store.durability.settled(), Some(Vec::new()));
    }

    #[test]
    fn an_index_that_the_disk_did_not_take_whole_is_the_settled_one_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        assert!(!index::has_settled(&store).expect("known"));
        let (file, another) = (dir.path().join("index.json"), dir.path().join("boot"));
        let boot = std::fs::read(&another).expect("read");
        for boot in [b"another".to_vec(), boot] {
            image(&store, "a", "two");
            assert!(index::has_settled(&store).expect("known"));
            drop(store);
            std::fs::write(&file, "").expect("written");
            std::fs::write(&another, boot).expect("written");
            store = Store::open(dir.path()).expect("opened");
            assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
            assert!(!index::has_settled(&store).expect("known") && store.durability.settled().is_none());
        }
    }

    #[test]
    fn what_came_before_the_disk_lost_something_is_never_settled_and_goes_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        image(&store, "a", "two");
        store.distrust();
        // It would succeed now.
        store.settle();
        assert!(index::has_settled(&store).expect("known"));
        assert!(store.sync().is_err());
        let three = image(&store, "b", "three");
        drop(store);
        let store = Store::open(dir.path()).expect("opened: the same boot");
        assert_eq!(store.take_lost().len(), 2);
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(!store.blob_path(&three).exists());
        assert!(store.settle() && store.sync().is_ok());
    }

    #[test]
    fn settled_entries_that_cannot_be_read_are_not_forgotten_and_broken_ones_are_put_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.settled.json");
        drop(Store::open(dir.path()).expect("opened"));
        std::fs::create_dir(&path).expect("made");
        assert!(matches!(Store::open(dir.path()), Err(StoreError::File { .. })));
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, "{").expect("written");
        let store = Store::open(dir.path()).expect("opened");
        assert!(!index::has_settled(&store).expect("known"));
        assert!(dir.path().join("index.settled.broken").exists());
    }

    #[test]
    fn an_index_that_is_gone_is_the_settled_one_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        image(&store, "a", "two");
        drop(store);
        std::fs::remove_file(dir.path().join("index.json")).expect("removed");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
    }

    #[test]
    fn an_engine_that_was_killed_before_anything_new_had_its_name_leaves_no_settled_entries_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.settle();
        index::settle_as_it_is(&store).expect("linked");
        let store = after_power_loss(&dir, store);
        assert!(!index::has_settled(&store).expect("known"));
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
    }

    #[test]
    fn what_is_named_behind_a_settling_that_came_half_way_finds_the_settled_entries_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        // As if the file were gone, and the directory not on the disk.
        index::settle_all(&store).expect("removed");
        image(&store, "b", "two");
        assert!(index::has_settled(&store).expect("known"));
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn where_the_disk_takes_nothing_what_is_removed_is_in_neither_list() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let old = image(&store, "x", "old");
        store.settle();
        image(&store, "y", "new");
        // As if no settling had come to an end.
        let settled = Settled {
            store: &store,
            _settling: Some(store.durability.settling()),
            _commit: lock(&store.commit),
        };
        let goes = |e: &Descriptor| e.digest == old;
        let mut index = index::read(&store).expect("read");
        index.manifests.retain(|e| !goes(e));
        settled.remove(index, goes).expect("written");
        drop(settled);
        assert_eq!(store.durability.settled(), Some(Vec::new()), "the new one is not settled by that");
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "x"), Err(ImageError::NotFound(_))));
        assert!(matches!(find(&store, "y"), Err(ImageError::NotFound(_))));
    }
}
