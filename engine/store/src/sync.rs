//! Makes commits durable with syncfs(2), and restores the durable index after power loss.
//!
//! [`crate::durability`] explains the two indexes and draws their states. A pull adds images to `index.json` at once
//! ([`commit_image`]); a removal or a new name first makes everything durable ([`DurableCommit`]). Called by
//! [`crate::images`], and by the engine after each job ([`Store::make_durable`]).

use crate::durability::{Generation, Lost};
use crate::error::StoreError;
use crate::index::{self, name_of};
use crate::store::Store;
use sampan_oci::{Descriptor, Index};
use sampan_os::mutex::lock;
use std::sync::MutexGuard;

/// Number of failed attempts to make everything durable after which [`DurableCommit::lock`] goes on without success.
const ATTEMPTS: usize = 3;

/// Called when a pull finds its image already committed. Blobs that the pull's job committed after the generation
/// `since` may not be durable yet; waits until they are. Must not be called with the commit lock held.
pub(crate) fn wait_until_durable(store: &Store, since: Generation) {
    if store.durability.is_behind() && store.generation() != since {
        store.make_durable();
    }
}

/// Writes `index` after `add` has added a new image to it. Does not wait for the disk if the image is not durable yet.
/// The caller holds the commit lock.
///
/// # Errors
/// [`StoreError`] if a file cannot be written. After an error `index.json` is unchanged.
pub(crate) fn commit_image(
    store: &Store,
    mut index: Index,
    add: impl FnOnce(&mut Index),
) -> Result<(), StoreError> {
    if !store.durability.is_index_ahead() && !store.durability.is_behind() {
        add(&mut index);
        return index::write(store, index);
    }
    if !store.durability.is_index_ahead() {
        index::link_as_durable(store)?;
        store.durability.split_index(index.manifests.clone());
    } else if !index::has_durable(store)?
        && let Some(durable) = store.durability.durable_index()
    {
        // An earlier call removed the file of the durable index, but failed before it updated the state. Write the file
        // again.
        index::write_durable(store, durable)?;
    }
    add(&mut index);
    index::write_ahead(store, index)
}

/// Holds the commit lock after making `index.json` durable, so that a removal or a new name survives power loss.
///
/// If three attempts to make `index.json` durable fail (the disk has errors, or pulls commit all the time),
/// [`DurableCommit::lock`] takes the commit lock anyway, and [`DurableCommit::remove`] updates both index files.
pub(crate) struct DurableCommit<'a> {
    store: &'a Store,
    _commit: MutexGuard<'a, ()>,
    /// The lock of syncfs, held after failed attempts: a syncfs that started with the old index must not make the old
    /// index the durable index.
    _syncing: Option<MutexGuard<'a, ()>>,
}

impl<'a> DurableCommit<'a> {
    /// Takes the commit lock, after making `index.json` durable if it is not.
    pub(crate) fn lock(store: &'a Store) -> Self {
        for _ in 0..ATTEMPTS {
            let commit = lock(&store.commit);
            if !store.durability.is_index_ahead() {
                return DurableCommit { store, _commit: commit, _syncing: None };
            }
            drop(commit);
            store.make_durable();
        }
        let syncing = store.durability.lock_syncing();
        DurableCommit { store, _commit: lock(&store.commit), _syncing: Some(syncing) }
    }

    /// Writes `index`, in which an image of the store has one more name. If `index.json` could not be made durable, the
    /// durable index lacks the new name, so power loss takes the name away.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be written. After an error `index.json` is unchanged.
    pub(crate) fn add_name(&self, index: Index) -> Result<(), StoreError> {
        index::write(self.store, index)
    }

    /// Writes `index`, from which the caller has removed the entries that `is_removed` selects.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be written. After an error `index.json` is unchanged.
    pub(crate) fn remove(
        &self,
        index: Index,
        is_removed: impl Fn(&Descriptor) -> bool,
    ) -> Result<(), StoreError> {
        if let Some(mut durable) = self.store.durability.durable_index() {
            // Write the durable index first. If the second write fails, `index.json` still lists the image, and power
            // loss may take the image away. In the other order, power loss could bring back an image that was reported
            // as removed.
            durable.retain(|entry| !is_removed(entry));
            index::write_durable_after_removal(self.store, durable.clone())?;
            self.store.durability.advance_index(durable);
        }
        index::write_after_removal(self.store, index)
    }
}

/// The images and names that the index `current` has and the index `durable` lacks, newest first.
fn find_lost(current: &Index, durable: &[Descriptor]) -> Vec<Lost> {
    let lost = |entry: &Descriptor| Lost {
        manifest: entry.digest.clone(),
        reference: name_of(entry).map(str::to_owned),
    };
    let is_kept = |entry: &&Descriptor| {
        durable
            .iter()
            .any(|e| e.digest == entry.digest && (name_of(entry).is_none() || name_of(e) == name_of(entry)))
    };
    current.manifests.iter().rev().filter(|entry| !is_kept(entry)).map(lost).collect()
}

impl Store {
    /// Replaces `index.json` by the durable index. Called at the first start after a boot of the host.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be written; after an error both files may still exist, and the next start tries
    /// again.
    pub(crate) fn restore_durable_index(&self) -> Result<(), StoreError> {
        let _commit = lock(&self.commit);
        let Some(durable) = self.durability.durable_index() else {
            return index::add_missing_twins(self);
        };
        let lost = match index::read(self) {
            Ok(current) => find_lost(&current, &durable),
            Err(error) => {
                log::warn!(
                    "images may be lost after the power failure, and their names are not known: {}",
                    sampan_ipc::report::chain(&error)
                );
                Vec::new()
            }
        };
        for Lost { manifest, reference } in &lost {
            let name = reference.as_deref().unwrap_or("without a name");
            log::warn!(
                "image {manifest} ({name}) is removed: power failed before all of it was on the disk; pull it again"
            );
        }
        index::restore_durable(self)?;
        self.durability.join_index();
        self.durability.record_loss(lost);
        // The manifests of twins, the entries for other tools, may be lost although their images are restored. Writing
        // `index.json` stores these manifests again.
        if let Err(error) = index::read(self).and_then(|index| index::write_after_removal(self, index)) {
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
        Ok(())
    }

    /// The current generation. A job stores the generation when it begins, and passes it to [`crate::images::commit`].
    pub fn generation(&self) -> Generation {
        self.durability.committed()
    }

    /// Makes all commits durable, and returns whether that succeeded. Waits for the disk. If another thread is calling
    /// syncfs, first waits for that thread, and then calls syncfs only if a commit is not durable yet.
    pub fn make_durable(&self) -> bool {
        let _syncing = self.durability.lock_syncing();
        let make_durable = || {
            let (generation, revision, index) = {
                // While this thread holds the commit lock, no commit is half done, so the generation and the index
                // match.
                let _commit = lock(&self.commit);
                if !self.needs_sync() {
                    return Ok(());
                }
                let index = self.durability.is_index_ahead().then(|| index::read(self)).transpose()?;
                (self.generation(), self.durability.index_revision(), index)
            };
            self.sync()?;
            self.durability.record_sync(generation);
            index.map_or(Ok(()), |index| self.update_durable_index(revision, index.manifests))
        };
        let result: Result<(), StoreError> = make_durable();
        result.inspect_err(|error| log::error!("{}", sampan_ipc::report::chain(error))).is_ok()
    }

    /// Makes `entries` the durable index. The entries are the content of `index.json` at the revision `revision`, and
    /// all their blobs and layers are on the disk.
    fn update_durable_index(&self, revision: u64, entries: Vec<Descriptor>) -> Result<(), StoreError> {
        let is_current = || self.durability.index_revision() == revision;
        // Write the file before taking the commit lock, which must not be held while waiting for the disk. If
        // `index.json` has not changed, no file is needed.
        let staged = if is_current() { None } else { Some(index::stage_durable(self, entries.clone())?) };
        let commit = lock(&self.commit);
        match staged {
            // Meanwhile `index.json` became durable, so no separate durable index is left to update.
            _ if !self.durability.is_index_ahead() => return Ok(()),
            _ if is_current() => {
                index::remove_durable(self)?;
                self.durability.join_index();
            }
            Some(staged) => {
                index::rename_to_durable(self, staged)?;
                self.durability.advance_index(entries);
            }
            // `index.json` changed after the first check. The job that changed it will make it durable soon.
            None => return Ok(()),
        }
        drop(commit);
        // If this fails, count the changed directory as a commit, so that the next syncfs makes the change durable.
        self.sync_root().inspect_err(|_| self.durability.record_commit())?;
        self.refill_reserve(index::size(self));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tests::image;
    use crate::images::{ImageError, find, remove, remove_unused, tag};

    #[test]
    fn power_loss_takes_images_that_were_not_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
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
        assert!(store.durability.durable_index().is_none());
    }

    /// Opens the store again as if power had failed, that is, with another boot ID.
    fn after_power_loss(dir: &tempfile::TempDir, store: Store) -> Store {
        drop(store);
        std::fs::write(dir.path().join("boot"), "another").expect("written");
        Store::open(dir.path()).expect("opened")
    }

    #[test]
    fn power_loss_takes_no_durable_image_whatever_came_since() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
        // Pull the image again, under a second name, and move its first name to another image and back.
        image(&store, "other", "two");
        image(&store, "a", "one");
        image(&store, "alias", "one");
        image(&store, "a", "three");
        image(&store, "a", "one");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(matches!(find(&store, "alias"), Err(ImageError::NotFound(_))));
        assert!(matches!(find(&store, "other"), Err(ImageError::NotFound(_))));
        // The first pull after a start is of an image that the store already has.
        image(&store, "a", "one");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(store.take_lost().is_empty());
    }

    #[test]
    fn a_tag_or_removal_after_a_pull_survives_power_loss() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let old = image(&store, "x", "old");
        store.make_durable();
        image(&store, "x", "new");
        remove(&store, "x", false, &|_| Vec::new()).expect("removed");
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "x"), Err(ImageError::NotFound(_))));
        let new = image(&store, "y", "newer");
        tag(&store, "y", "x").expect("tagged");
        let store = after_power_loss(&dir, store);
        assert_eq!(find(&store, "x").expect("kept").entry.digest, new);
        // The image that the durable index names `x` is not removed as long as power loss could bring it back.
        image(&store, "x", "newest");
        remove_unused(&store, &old).expect("removed");
        let store = after_power_loss(&dir, store);
        assert!(find(&store, "x").is_ok());
    }

    #[test]
    fn an_image_committed_during_a_syncfs_is_not_made_durable_by_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        let (before, entries) =
            (store.durability.index_revision(), index::read(&store).expect("read").manifests);
        image(&store, "b", "two");
        store.update_durable_index(before, entries).expect("written");
        assert!(store.needs_sync());
        let store = after_power_loss(&dir, store);
        assert!(find(&store, "a").is_ok());
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn blobs_left_by_a_killed_engine_do_not_count_as_durable() {
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
        store.durability.join_index();
        image(&store, "b", "one");
        assert_eq!(store.durability.durable_index(), Some(Vec::new()));
    }

    #[test]
    fn an_index_that_was_cut_is_replaced_by_the_durable_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
        assert!(!index::has_durable(&store).expect("known"));
        let (file, another) = (dir.path().join("index.json"), dir.path().join("boot"));
        let boot = std::fs::read(&another).expect("read");
        for boot in [b"another".to_vec(), boot] {
            image(&store, "a", "two");
            assert!(index::has_durable(&store).expect("known"));
            drop(store);
            std::fs::write(&file, "").expect("written");
            std::fs::write(&another, boot).expect("written");
            store = Store::open(dir.path()).expect("opened");
            assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
            assert!(
                !index::has_durable(&store).expect("known") && store.durability.durable_index().is_none()
            );
        }
    }

    #[test]
    fn after_a_failed_syncfs_the_next_start_removes_what_is_not_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
        image(&store, "a", "two");
        store.record_sync_failure(&std::io::Error::other("from a test"));
        // A second syncfs would succeed, but must not be trusted.
        store.make_durable();
        assert!(index::has_durable(&store).expect("known"));
        assert!(store.sync().is_err());
        let three = image(&store, "b", "three");
        drop(store);
        let store = Store::open(dir.path()).expect("opened: the same boot");
        assert_eq!(store.take_lost().len(), 2);
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
        assert!(!store.blob_path(&three).exists());
        assert!(store.make_durable() && store.sync().is_ok());
    }

    #[test]
    fn an_unreadable_durable_index_is_kept_and_a_broken_one_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.settled.json");
        drop(Store::open(dir.path()).expect("opened"));
        std::fs::create_dir(&path).expect("made");
        assert!(matches!(Store::open(dir.path()), Err(StoreError::File { .. })));
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, "{").expect("written");
        let store = Store::open(dir.path()).expect("opened");
        assert!(!index::has_durable(&store).expect("known"));
        assert!(dir.path().join("index.settled.broken").exists());
    }

    #[test]
    fn a_missing_index_is_replaced_by_the_durable_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
        image(&store, "a", "two");
        drop(store);
        std::fs::remove_file(dir.path().join("index.json")).expect("removed");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
    }

    #[test]
    fn a_durable_index_equal_to_the_index_goes_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        store.make_durable();
        index::link_as_durable(&store).expect("linked");
        let store = after_power_loss(&dir, store);
        assert!(!index::has_durable(&store).expect("known"));
        assert_eq!(find(&store, "a").expect("kept").entry.digest, one);
    }

    #[test]
    fn a_commit_writes_a_durable_index_that_is_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        // The file is removed, but the state still has the durable index, as after a failed fsync of the directory.
        index::remove_durable(&store).expect("removed");
        image(&store, "b", "two");
        assert!(index::has_durable(&store).expect("known"));
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "b"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn a_removal_without_syncfs_changes_both_indexes() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let old = image(&store, "x", "old");
        store.make_durable();
        image(&store, "y", "new");
        // This is the value that DurableCommit::lock returns after its last failed attempt.
        let durable = DurableCommit {
            store: &store,
            _syncing: Some(store.durability.lock_syncing()),
            _commit: lock(&store.commit),
        };
        let goes = |e: &Descriptor| e.digest == old;
        let mut index = index::read(&store).expect("read");
        index.manifests.retain(|e| !goes(e));
        durable.remove(index, goes).expect("written");
        drop(durable);
        assert_eq!(
            store.durability.durable_index(),
            Some(Vec::new()),
            "the new image is not made durable by that"
        );
        let store = after_power_loss(&dir, store);
        assert!(matches!(find(&store, "x"), Err(ImageError::NotFound(_))));
        assert!(matches!(find(&store, "y"), Err(ImageError::NotFound(_))));
    }
}
