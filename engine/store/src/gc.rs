//! Removes blobs and layers that no image needs or that are damaged.
//!
//! Called by [`crate::images`], which knows the blobs that images use, and by the engine's verification. Pinned blobs
//! and layers are never removed. While holding the commit lock, a sweep only moves layers to `tmp/`; the layers are
//! removed after the lock was released.

use crate::error::{StoreError, file_error};
use crate::store::Store;
use crate::temp::{Temp, size_on_disk};
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use sampan_os::walk_tree;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

impl Store {
    /// Removes blobs and layers that are neither in `used` nor pinned. The caller holds the commit lock.
    ///
    /// Layers are only moved to `tmp/` here. [`Swept::remove`] removes them later without the lock, because that may
    /// take long. A blob or layer that cannot be removed is logged and stays; the sweep goes on with the others.
    pub(crate) fn sweep(&self, used: &HashSet<Digest>) -> Result<Swept, StoreError> {
        let pins = lock(&self.pins);
        self.has_pinned_garbage.store(pins.keys().any(|digest| !used.contains(digest)), Ordering::Relaxed);
        let keep: HashSet<&str> = used.iter().chain(pins.keys()).map(Digest::hex).collect();
        let mut swept = Swept::default();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.root().join("blobs").join(algorithm);
            for name in names(&dir)? {
                if !keep.contains(name.as_str()) {
                    let removed = self.sweep_blob(&dir.join(&name), &mut swept);
                    swept.record(removed, algorithm, &name);
                }
            }
        }
        let layers = self.root().join("layers");
        for name in names(&layers)? {
            if !keep.contains(name.as_str()) {
                let moved = self.move_to_trash(&layers.join(&name));
                let moved = moved.map(|trash| swept.trash.push(trash));
                swept.record(moved, "sha256", &name);
                if let Ok(layer) = Digest::parse(&format!("sha256:{name}")) {
                    lock(&self.layer_sizes).remove(&layer);
                }
            }
        }
        Ok(swept)
    }

    /// Removes a blob, or any other file or directory in a directory of blobs.
    fn sweep_blob(&self, path: &Path, swept: &mut Swept) -> Result<(), StoreError> {
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            swept.trash.push(self.move_to_trash(path)?);
            return Ok(());
        }
        let size = walk_tree::size_on_disk(path).unwrap_or(0);
        fs::remove_file(path).map_err(file_error("remove", path))?;
        swept.bytes += size;
        Ok(())
    }

    fn move_to_trash(&self, path: &Path) -> Result<Temp, StoreError> {
        let trash = self.temp_name("trash");
        fs::rename(path, trash.path()).map_err(file_error("remove", path))?;
        Ok(trash)
    }

    /// Removes a blob whose bytes are wrong. Returns false, and keeps the blob, if it is pinned.
    ///
    /// # Errors
    /// [`StoreError::File`] if the blob or layer cannot be moved to `tmp/`.
    pub fn discard_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.discard(digest, &self.blob_path(digest))
    }

    /// Removes an unpacked layer whose files are wrong. Returns false, and keeps the layer, if it is pinned.
    ///
    /// # Errors
    /// [`StoreError::File`] if the blob or layer cannot be moved to `tmp/`.
    pub fn discard_layer(&self, chain_id: &Digest) -> Result<bool, StoreError> {
        self.discard(chain_id, &self.layer_path(chain_id))
    }

    fn discard(&self, digest: &Digest, path: &Path) -> Result<bool, StoreError> {
        let _trash = {
            // Every pin is made while holding this lock, so the blob or layer cannot become pinned between the check
            // and the removal.
            let _commit = lock(&self.commit);
            if self.is_pinned(digest) {
                return Ok(false);
            }
            self.move_to_trash(path)?
        };
        lock(&self.layer_sizes).remove(digest);
        Ok(true)
    }
}

/// The result of a sweep.
#[derive(Default)]
pub(crate) struct Swept {
    /// Digests of the removed blobs, and chain IDs of the removed layers.
    pub(crate) names: Vec<String>,
    /// Total size of the removed blobs, in bytes.
    bytes: u64,
    /// Layers that the sweep has moved to `tmp/`; dropping these values removes them.
    trash: Vec<Temp>,
}

impl Swept {
    fn record(&mut self, removed: Result<(), StoreError>, algorithm: &str, name: &str) {
        match removed {
            Ok(()) => self.names.push(format!("{algorithm}:{name}")),
            Err(error) => log::warn!("{}", sampan_ipc::report::chain(&error)),
        }
    }

    /// Removes the trees that the sweep has moved to `tmp/`, and returns how many bytes the whole sweep freed. The
    /// caller must not hold the commit lock, because the removal may take long.
    pub(crate) fn remove(self) -> u64 {
        let size = |temp: &Temp| size_on_disk(temp.path(), temp.namespace()).unwrap_or(0);
        self.trash.iter().map(size).fold(self.bytes, u64::saturating_add)
    }
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error("list", dir)(error)),
    };
    entries
        .map(|entry| {
            entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(file_error("list", dir))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_only_blobs_that_are_neither_used_nor_pinned() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let (used, pinned, loose) = (Digest::of(b"u"), Digest::of(b"p"), Digest::of(b"l"));
        for (digest, bytes) in [(&used, b"u"), (&pinned, b"p"), (&loose, b"l")] {
            store.write_blob(digest, bytes).expect("written");
        }
        let pin = store.pin([pinned.clone()]);
        drop(store.sweep(&HashSet::from([used.clone()])).expect("swept"));
        assert!(store.has_blob(&used, 1) && store.has_blob(&pinned, 1) && !store.has_blob(&loose, 1));
        drop(pin);
        drop(store.sweep(&HashSet::new()).expect("swept"));
        assert!(!store.has_blob(&used, 1) && !store.has_blob(&pinned, 1));
    }

    #[test]
    fn foreign_files_among_the_blobs_do_not_stop_a_sweep() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let loose: Vec<Digest> = (0..8u8).map(|nth| Digest::of(&[nth])).collect();
        for (digest, nth) in loose.iter().zip(0..8u8) {
            store.write_blob(digest, &[nth]).expect("written");
        }
        let blobs = dir.path().join("blobs/sha256");
        for name in ["0-somebody", "7f-else"] {
            fs::create_dir_all(blobs.join(name).join("in")).expect("made");
        }
        store.name_layer(store.temp_layer().expect("made"), &loose[0]).expect("named");
        store.sweep(&HashSet::new()).expect("swept").remove();
        for place in [blobs, dir.path().join("layers"), dir.path().join("tmp")] {
            assert_eq!(fs::read_dir(&place).expect("listed").count(), 0, "{}", place.display());
        }
    }
}
