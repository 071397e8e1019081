//! Opens the store: removes what a killed engine left unfinished, and what power loss may have cut.
//!
//! Called once, by the engine's start. Everything else of this crate lies below.

use crate::durability::state::DurabilityState;
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
    /// Opens the store in `root`, made if it is not there; removes what a killed engine left unfinished.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another engine has it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_in(root, None, &Vec::new)
    }

    /// The same as an ordinary user whose layers are unpacked in `namespace`. After another boot, what no image needs
    /// goes, but for what `needed` says then.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in(
        root: &Path,
        namespace: Option<Namespace>,
        needed: &dyn Fn() -> Vec<Digest>,
    ) -> Result<Self, StoreError> {
        // 0700: layers hold setuid programs and files of all owners, and images are nobody else's to read.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(file_error("make", root))?;
        for dir in ["blobs/sha256", "layers", "partial", "tmp"] {
            let dir = root.join(dir);
            let mode = if dir.ends_with("sha256") { 0o755 } else { 0o700 };
            DirBuilder::new().recursive(true).mode(mode).create(&dir).map_err(file_error("make", &dir))?;
        }
        let path = root.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(file_error("open", &path))?;
        let held = file_lock::take(file).map_err(|_| StoreError::Locked(root.to_owned()))?;
        let store = Store {
            root: root.to_owned(),
            held,
            commit: Mutex::new(()),
            pins: Arc::default(),
            // An engine before this one may have.
            withheld: AtomicBool::new(true),
            temps: AtomicU64::new(0),
            namespace: namespace.map(Arc::new),
            durability: DurabilityState::default(),
            layer_sizes: Mutex::default(),
        };
        store.clear_temps()?;
        store.lay_out()?;
        match index::read_settled(&store) {
            Ok(settled) => store.durability.set_settled(settled),
            Err(error @ StoreError::Broken { .. }) => {
                log::error!("the index is taken as it is: {}", sampan_ipc::report::chain(&error));
                index::put_settled_aside(&store)?;
            }
            // It may be read at the next start: nothing is to change until then.
            Err(error) => return Err(error),
        }
        // What an engine that was killed left complete may not be on the disk.
        store.durability.record_name();
        store.lay_by(index::size(&store));
        store.forget_what_power_loss_cut(needed);
        Ok(store)
    }

    fn clear_temps(&self) -> Result<(), StoreError> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(file_error("list", &tmp))? {
            let path = entry.map_err(file_error("list", &tmp))?.path();
            log::info!("removing {}, left by an engine that was killed", path.display());
            if let Err(error) = remove(&path, self.namespace()) {
                log::warn!("cannot remove {}: {error}", path.display());
                // It stays and takes room; its name is given to nothing new.
                let nth = path.to_str().and_then(|path| path.rsplit('-').next()?.parse::<u64>().ok());
                self.temps.fetch_max(nth.map_or(0, |nth| nth.saturating_add(1)), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn lay_out(&self) -> Result<(), StoreError> {
        let layout = self.root.join("oci-layout");
        if !layout.exists() {
            self.replace_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        index::lay_out(self)
    }

    /// After another boot, blobs and layers that no image names may be cut short; all others were synced.
    fn forget_what_power_loss_cut(&self, needed: &dyn Fn() -> Vec<Digest>) {
        let Some(boot) = boot_id::read().map(|id| id + "\n") else {
            return self.sync_first();
        };
        let path = self.root.join("boot");
        let last = small_file::open(&path).and_then(|file| small_file::read(file, boot.len() as u64));
        // An index that was not on the disk may be broken by more than power loss.
        let is_cut =
            self.durability.is_split() && matches!(index::read(self), Err(StoreError::Broken { .. }));
        if !is_cut && last.is_ok_and(|last| last == boot.as_bytes()) {
            return;
        }
        if let Err(error) = self.take_unsynced_back() {
            // Nothing is removed or settled, and the next start tries again.
            self.durability.stick();
            return log::error!("{}", sampan_ipc::report::chain(&error));
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
