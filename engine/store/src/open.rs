//! Opens the store: removes temporary files of a killed engine, and all content that power loss may have damaged.
//!
//! The engine calls [`Store::open_in`] when it starts.

use crate::durability::Durability;
use crate::error::{StoreError, file_error};
use crate::index;
use crate::store::Store;
use crate::temp::remove;
use sampan_layer::userns::Namespace;
use sampan_oci::digest::Digest;
use sampan_os::{boot_id, file_lock, small_file};
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

impl Store {
    /// Opens the store in `root`, and makes the directory `root` if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another engine uses the store.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_in(root, None, &Vec::new)
    }

    /// Opens the store of a user whose layers are unpacked in the user namespace `namespace`; `None` for root.
    ///
    /// The first start after a boot of the host removes all blobs and layers that no image uses, except the blobs and
    /// layers that `needed` returns.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another engine uses the store.
    pub fn open_in(
        root: &Path,
        namespace: Option<Namespace>,
        needed: &dyn Fn() -> Vec<Digest>,
    ) -> Result<Self, StoreError> {
        // Mode 0700, because layers contain setuid programs and files of all owners, and images may be private.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(file_error("make", root))?;
        for dir in ["blobs/sha256", "layers", "partial", "tmp"] {
            let dir = root.join(dir);
            let mode = if dir.ends_with("sha256") { 0o755 } else { 0o700 };
            DirBuilder::new().recursive(true).mode(mode).create(&dir).map_err(file_error("make", &dir))?;
        }
        let path = root.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(file_error("open", &path))?;
        let lock_file = file_lock::take(file).map_err(|_| StoreError::Locked(root.to_owned()))?;
        let store = Store {
            root: root.to_owned(),
            lock_file,
            commit: Mutex::new(()),
            pins: Arc::default(),
            // A sweep by an earlier process of the engine may have skipped pinned garbage.
            has_pinned_garbage: AtomicBool::new(true),
            next_temp: AtomicU64::new(0),
            namespace: namespace.map(Arc::new),
            durability: Durability::default(),
            layer_sizes: Mutex::default(),
        };
        store.remove_temps()?;
        store.create_layout()?;
        match index::read_durable(&store) {
            Ok(None) => {}
            Ok(Some(durable)) => store.durability.split_index(durable),
            Err(error @ StoreError::Broken { .. }) => {
                log::error!(
                    "the durable index is broken and is set aside, so images that were pulled shortly before a power \
                     failure may be incomplete (check with 'sampan image verify'): {}",
                    sampan_ipc::report::chain(&error)
                );
                index::set_broken_durable_aside(&store)?;
            }
            // The file may be readable at the next start, so this start fails without changing anything.
            Err(error) => return Err(error),
        }
        // A killed engine may have left blobs with final names that are not on the disk yet.
        store.durability.record_commit();
        store.refill_reserve(index::size(&store));
        store.recover_from_power_loss(needed);
        Ok(store)
    }

    fn remove_temps(&self) -> Result<(), StoreError> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(file_error("list", &tmp))? {
            let path = entry.map_err(file_error("list", &tmp))?.path();
            log::info!("removing {}, left by an engine that was killed", path.display());
            if let Err(error) = remove(&path, self.namespace()) {
                log::warn!("cannot remove {}, which goes on using disk space: {error}", path.display());
                // The temporary file cannot be removed, so no new file may get its number.
                let nth = path.to_str().and_then(|path| path.rsplit('-').next()?.parse::<u64>().ok());
                self.next_temp.fetch_max(nth.map_or(0, |nth| nth.saturating_add(1)), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn create_layout(&self) -> Result<(), StoreError> {
        let layout = self.root.join("oci-layout");
        if !layout.exists() {
            self.replace_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        index::create_missing(self)
    }

    /// At the first start after a boot of the host: restores the durable index and removes blobs and layers that no
    /// image uses, because power loss may have cut them.
    fn recover_from_power_loss(&self, needed: &dyn Fn() -> Vec<Digest>) {
        let Some(boot) = boot_id::read().map(|id| id + "\n") else {
            return self.set_sync_before_commit();
        };
        let path = self.root.join("boot");
        let last = small_file::open(&path).and_then(|file| small_file::read(file, boot.len() as u64));
        // While `index.json` is ahead of the durable index, it has not been synced, so it may be broken even if the
        // power did not fail. Restore the durable index in this case, too.
        let is_broken =
            self.durability.is_index_ahead() && matches!(index::read(self), Err(StoreError::Broken { .. }));
        if !is_broken && last.is_ok_and(|last| last == boot.as_bytes()) {
            return;
        }
        if let Err(error) = self.restore_durable_index() {
            // Until the next start, which tries again, nothing is removed or made durable.
            self.durability.record_restore_failure();
            return log::error!(
                "cannot restore the index after a power failure, the next start tries again: {}",
                sampan_ipc::report::chain(&error)
            );
        }
        let pin = self.pin(needed());
        self.collect_garbage();
        self.cut_partials();
        drop(pin);
        if let Err(error) = self.replace_file_from_reserve("boot", boot.as_bytes()) {
            log::warn!("{}", sampan_ipc::report::chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_belongs_to_one_engine_and_forgets_temporaries() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked(_))));
        let mut temp = store.temp_layer().expect("made");
        temp.keep = true;
        let left = temp.path.clone();
        drop((temp, store));
        assert!(left.exists());
        Store::open(dir.path()).expect("opened again");
        assert!(!left.exists());
    }

    #[test]
    fn a_blob_with_another_digest_gets_no_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let digest = Digest::of(b"right");
        assert!(matches!(store.write_blob(&digest, b"wrong"), Err(StoreError::Digest { .. })));
        assert!(!store.blob_path(&digest).exists());
        store.write_blob(&digest, b"right").expect("written");
        assert_eq!(store.read_blob(&digest, 100).expect("read"), b"right");
        assert!(store.read_blob(&digest, 2).is_err());
    }
}
