//! The directory of the store: an OCI image layout, and unpacked layers next to it.
//!
//! ```text
//! oci-layout index.json blobs/<algorithm>/<hex> OCI image-spec, "Image Layout": skopeo and umoci read it
//! index.settled.json the durable index, if index.json is ahead: `durability` layers/<chain id, hex>/diff a layer
//! unpacked in overlayfs's form layers/<chain id, hex>/implied its directories that need lower layers:
//! sampan_layer::implied_dirs partial/ blobs that are not complete: [`crate::partial_blob`] tmp/ files that are not
//! verified yet; emptied at start spare space for an index on a full disk: `reserve` lock boot one engine at a time;
//! the ID of the boot that last wrote here ``` A blob or layer gets its final name only after its digests were checked.
//! No image of the durable index uses a blob or layer that power loss may have cut, and the first start after the power
//! failure removes such blobs and layers.

use crate::durability::{Durability, Lost};
use crate::error::{StoreError, file_error};
use crate::temp::{Temp, rename_to_blob, size_on_disk};
use nix::fcntl::Flock;
use sampan_job::cancel::Cancel;
use sampan_layer::implied_dirs;
use sampan_layer::userns::Namespace;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use sampan_os::{small_file, syscall};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The store, locked for this process.
pub struct Store {
    pub(crate) root: PathBuf,
    /// The lock file, which stays open as long as the store: [`Store::sync`] learns of all write errors since this file
    /// was opened.
    pub(crate) lock_file: Flock<File>,
    /// Held while `index.json` changes and while garbage is collected; never during a download or while unpacking.
    pub(crate) commit: Mutex<()>,
    /// Number of pins on each blob and layer.
    pub(crate) pins: Arc<Mutex<HashMap<Digest, usize>>>,
    /// Whether the last sweep skipped garbage because it was pinned.
    pub(crate) has_pinned_garbage: AtomicBool,
    /// Number of the next temporary file.
    pub(crate) next_temp: AtomicU64,
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) durability: Durability,
    /// Bytes that unpacked layers take on the disk. Each layer is measured only once, because a layer does not change.
    /// The map has at most one entry for each layer in the store.
    pub(crate) layer_sizes: Mutex<HashMap<Digest, u64>>,
}

/// Keeps blobs and layers from being removed as garbage while a job needs them.
pub struct Pin {
    pins: Arc<Mutex<HashMap<Digest, usize>>>,
    held: Vec<Digest>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins);
        for digest in &self.held {
            if let Some(count) = pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(digest);
                }
            }
        }
    }
}

impl Store {
    /// The user namespace in which layers are unpacked and removed; `None` if this process itself unpacks and removes
    /// layers.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_deref()
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that `path` in the store, and everything below it, take on the disk.
    ///
    /// # Errors
    /// [`io::Error`] if a directory cannot be read.
    pub fn size_on_disk(&self, path: &Path) -> io::Result<u64> {
        size_on_disk(path, self.namespace())
    }

    /// The bytes that an unpacked layer takes on the disk. The first call walks all files of the layer, which may take
    /// long.
    ///
    /// # Errors
    /// [`io::Error`] if the layer does not exist or cannot be read.
    pub fn layer_size(&self, chain_id: &Digest) -> io::Result<u64> {
        let path = self.layer_path(chain_id);
        let known = lock(&self.layer_sizes).get(chain_id).copied();
        // A layer that somebody removed has no size, whatever was measured before.
        if let Some(size) = known.filter(|_| path.is_dir()) {
            return Ok(size);
        }
        let size = self.size_on_disk(&path)?;
        lock(&self.layer_sizes).insert(chain_id.clone(), size);
        Ok(size)
    }

    /// The path of a blob, which may not exist.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().word()).join(digest.hex())
    }

    /// Whether the blob exists and has `size` bytes.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// The path of an unpacked layer, which may not exist.
    pub fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    /// Whether the store has the unpacked layer.
    pub fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_path(chain_id).join("diff").is_dir()
    }

    /// Reads a small blob and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if the blob is damaged; [`StoreError::File`] if the blob does not exist or has more than
    /// `max` bytes.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let file = small_file::open(&path).map_err(file_error("open", &path))?;
        let bytes = small_file::read(file, max).map_err(file_error("read", &path))?;
        let found = digest.algorithm().digest(&bytes);
        if found != *digest {
            return Err(StoreError::Digest {
                what: path.display().to_string(),
                expected: digest.clone(),
                found,
            });
        }
        Ok(bytes)
    }

    /// Stores a small blob under its digest.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if `bytes` have another digest; [`StoreError::File`] if the blob cannot be written.
    pub fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let found = digest.algorithm().digest(bytes);
        if found != *digest {
            return Err(StoreError::Digest {
                what: "a document".to_owned(),
                expected: digest.clone(),
                found,
            });
        }
        if self.has_blob(digest, bytes.len() as u64) {
            return Ok(());
        }
        self.name_blob(self.write_temp("blob", bytes)?.0, digest)
    }

    /// Renames a verified temporary file to the final name of the blob `digest`.
    ///
    /// # Errors
    /// [`StoreError::File`] if the temporary cannot be renamed. After an error the temporary is removed.
    pub fn name_blob(&self, temp: Temp, digest: &Digest) -> Result<(), StoreError> {
        temp.rename_with(&self.blob_path(digest), rename_to_blob)?;
        self.durability.record_commit();
        Ok(())
    }

    /// Renames a verified layer to its final name. If another job has already stored the layer, keeps that job's layer.
    ///
    /// # Errors
    /// [`StoreError::File`] if the temporary cannot be renamed. After an error the temporary is removed.
    pub fn name_layer(&self, temp: Temp, chain_id: &Digest) -> Result<(), StoreError> {
        match temp.rename(&self.layer_path(chain_id)) {
            Err(StoreError::File { .. }) if self.has_layer(chain_id) => {}
            other => other?,
        }
        self.durability.record_commit();
        Ok(())
    }

    /// Sets the attributes of the implied directories in all layers of an image. All layers must be unpacked; in
    /// `chain_ids`, the lowest layer comes first.
    ///
    /// An implied directory is a directory for which a layer's tar has no entry; its attributes come from the layers
    /// below. The caller calls this before it commits the image. If no layer has an implied directory left to set, this
    /// function costs one stat(2) for each layer.
    ///
    /// # Errors
    /// [`StoreError::File`] if a layer cannot be read or written, or `cancel` was called. A later call continues the
    /// work.
    pub fn complete_layers(&self, chain_ids: &[Digest], cancel: &Cancel) -> Result<(), StoreError> {
        for (nth, chain_id) in chain_ids.iter().enumerate() {
            let below = chain_ids.get(..nth).unwrap_or_default();
            self.complete_layer(&self.layer_path(chain_id), below, cancel)?;
        }
        Ok(())
    }

    /// Sets the attributes of the implied directories in one layer, which may still have a temporary name. The layers
    /// in `below` must be complete.
    ///
    /// # Errors
    /// [`StoreError::File`] if a layer cannot be read or written, or `cancel` was called. A later call continues the
    /// work.
    pub fn complete_layer(&self, layer: &Path, below: &[Digest], cancel: &Cancel) -> Result<(), StoreError> {
        if !layer.join(implied_dirs::LIST).exists() {
            return Ok(());
        }
        let below: Vec<PathBuf> = below.iter().rev().map(|chain_id| self.layer_path(chain_id)).collect();
        let completed = match self.namespace() {
            Some(namespace) => namespace.settle(layer, &below),
            None => implied_dirs::settle(layer, &below, cancel),
        };
        completed.map_err(file_error("take attributes from lower layers for directories of", layer))
    }

    /// Makes syncfs run before each commit from now on, as with `sync = "before"` in the configuration.
    pub fn set_sync_before_commit(&self) {
        self.durability.sync_before_commit();
    }

    /// Makes the blobs and layers of the next commit durable, if syncfs runs before each commit. The caller must not
    /// hold the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`] if syncfs fails.
    pub(crate) fn prepare_commit(&self) -> Result<(), StoreError> {
        if self.durability.syncs_before_commit() { self.sync() } else { Ok(()) }
    }

    /// Whether the store has content that [`Store::make_durable`] would make durable.
    pub fn needs_sync(&self) -> bool {
        self.durability.needs_sync()
    }

    /// Returns the images that power loss took, and forgets them.
    pub fn take_lost(&self) -> Vec<Lost> {
        self.durability.take_lost()
    }

    /// Waits until everything that was written so far is on the disk. syncfs(2).
    ///
    /// # Errors
    /// [`StoreError::File`] if syncfs fails, or if an earlier syncfs has failed since the store was opened.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = match self.durability.has_sync_failed() {
            true => Err(io::Error::other("an earlier syncfs failed: restart the engine")),
            false => syscall::sync_file_system(self.lock_file.as_fd())
                .inspect_err(|error| self.record_sync_failure(error)),
        };
        synced.map_err(file_error("sync", &self.root))
    }

    /// Makes the next start remove all images that are not durable, like after power loss.
    ///
    /// After a failed syncfs, the kernel regards the pages that it could not write as clean, so that a second syncfs
    /// succeeds although the data of these pages is lost. Images that are not durable now can never become durable.
    pub(crate) fn record_sync_failure(&self, error: &io::Error) {
        log::error!(
            "syncfs of {} failed ({error}): images pulled since the last successful sync are not trusted and will be \
             removed at the next start; check the disk and restart the engine",
            self.root.display()
        );
        self.durability.record_sync_failure();
        if let Err(error) = fs::remove_file(self.root.join("boot"))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::error!(
                "cannot remove {}, so these images will only be removed at the first start after a reboot: {error}",
                self.root.join("boot").display()
            );
        }
    }

    /// Keeps blobs and layers (given by chain ID) from garbage collection until the pin is dropped.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        // A sweep holds the commit lock. Take the lock here, so that no sweep is running when this function returns,
        // and the caller sees which blobs the sweep has left.
        let commit = lock(&self.commit);
        self.pin_locked(&commit, digests)
    }

    /// Pins blobs and layers like [`Store::pin`], for a caller that holds the commit lock. A blob or layer that the
    /// caller has found cannot be removed before it is pinned.
    pub(crate) fn pin_locked(
        &self,
        _commit: &MutexGuard<'_, ()>,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Pin {
        let held: Vec<Digest> = digests.into_iter().collect();
        let mut pins = lock(&self.pins);
        for digest in &held {
            *pins.entry(digest.clone()).or_default() += 1;
        }
        Pin { pins: Arc::clone(&self.pins), held }
    }

    /// Whether a job or a container has pinned the blob or layer.
    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        lock(&self.pins).contains_key(digest)
    }

    /// Whether the last sweep skipped a blob or layer only because it was pinned. A caller should first drop its own
    /// pins, because the sweep may have skipped the blobs and layers that they hold.
    pub fn has_pinned_garbage(&self) -> bool {
        self.has_pinned_garbage.load(Ordering::Relaxed)
    }
}
