//! The store on disk: an OCI image layout, and unpacked layers beside it.
//!
//! ```text
//! oci-layout  index.json  blobs/<algorithm>/<hex>   OCI image-spec, "Image Layout": skopeo and umoci read it
//! index.settled.json                                what power loss would leave of index.json, if not all
//! layers/<chain id, hex>/diff                       a layer unpacked in overlayfs's form
//! layers/<chain id, hex>/implied                    what of it waits for lower layers: [`sampan_layer::implied_dirs`]
//! partial/                                          blobs that are not whole yet: [`crate::partial_blob`]
//! tmp/                                              private until verified; emptied at start
//! spare                                             a reserve, for when the disk is full: [`crate::reserve`]
//! lock  boot                                        one engine at a time; the boot that last wrote here
//! ```
//! A blob or layer gets its final name only when its digests are right. What power loss may have cut is named by
//! nothing, or by an image that is not settled ([`crate::durability`]), and is removed at the first start after it.
//! `index.rs` reads and writes both indexes.

use crate::durability::state::{DurabilityState, Lost};
use crate::error::{StoreError, file_error};
use crate::temp::{Temp, name_blob, size_on_disk};
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
    /// Its lock. Open for as long as it is: see [`Store::sync`].
    pub(crate) held: Flock<File>,
    /// Held while `index.json` changes and while garbage is sought; never during a transfer or an unpacking.
    pub(crate) commit: Mutex<()>,
    pub(crate) pins: Arc<Mutex<HashMap<Digest, usize>>>,
    /// A sweep has left something that only a pin held.
    pub(crate) withheld: AtomicBool,
    pub(crate) temps: AtomicU64,
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) durability: DurabilityState,
    /// Bytes that unpacked layers take on the disk, as measured once: a layer does not change. At most one entry for each
    /// layer in the store.
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
    /// Where layers are unpacked and removed, if not by this process itself.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_deref()
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that `path` in the store, and all below it, take on the disk.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn size_on_disk(&self, path: &Path) -> io::Result<u64> {
        size_on_disk(path, self.namespace())
    }

    /// The bytes that an unpacked layer takes on the disk. Walks its files at the first call, which may take long.
    ///
    /// # Errors
    /// The layer is not there, or cannot be read.
    pub fn layer_size(&self, chain_id: &Digest) -> io::Result<u64> {
        if let Some(size) = lock(&self.layer_sizes).get(chain_id) {
            return Ok(*size);
        }
        let size = self.size_on_disk(&self.layer_path(chain_id))?;
        lock(&self.layer_sizes).insert(chain_id.clone(), size);
        Ok(size)
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().word()).join(digest.hex())
    }

    /// True if the blob is there in its full size.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// Where a layer's unpacked files are, or would be.
    pub fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    /// True if the layer is unpacked.
    pub fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_path(chain_id).join("diff").is_dir()
    }

    /// Reads a small blob and compares its digest.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if it is damaged; [`StoreError::File`] if it is not there or larger than `max`.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let file = small_file::open(&path).map_err(file_error("open", &path))?;
        let bytes = small_file::read(file, max).map_err(file_error("read", &path))?;
        let found = digest_of(&bytes, digest);
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
    /// [`StoreError::Digest`] if `bytes` are not what `digest` says.
    pub fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let found = digest_of(bytes, digest);
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
        self.name_blob(self.filled("blob", bytes)?.0, digest)
    }

    /// Gives a verified file its final name.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn name_blob(&self, temp: Temp, digest: &Digest) -> Result<(), StoreError> {
        temp.renamed(&self.blob_path(digest), name_blob)?;
        self.durability.record_name();
        Ok(())
    }

    /// Gives a verified layer its final name; if it is there by now, that one stays.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn name_layer(&self, temp: Temp, chain_id: &Digest) -> Result<(), StoreError> {
        match temp.rename(&self.layer_path(chain_id)) {
            Err(StoreError::File { .. }) if self.has_layer(chain_id) => {}
            other => other?,
        }
        self.durability.record_name();
        Ok(())
    }

    /// Gives directories that layers do not name what the layers below say of them; the lowest comes first. All are
    /// there. To be called before an image of them is named; costs a look at each layer where all is done.
    ///
    /// # Errors
    /// [`StoreError::File`], also if `cancel` was called; the next call goes on.
    pub fn settle_layers(&self, chain_ids: &[Digest], cancel: &Cancel) -> Result<(), StoreError> {
        for (nth, chain_id) in chain_ids.iter().enumerate() {
            let below = chain_ids.get(..nth).unwrap_or_default();
            self.settle_layer(&self.layer_path(chain_id), below, cancel)?;
        }
        Ok(())
    }

    /// The same for one layer, which has no name yet, maybe; those in `below` are settled.
    ///
    /// # Errors
    /// As [`Store::settle_layers`].
    pub fn settle_layer(&self, layer: &Path, below: &[Digest], cancel: &Cancel) -> Result<(), StoreError> {
        if !layer.join(implied_dirs::LIST).exists() {
            return Ok(());
        }
        let below: Vec<PathBuf> = below.iter().rev().map(|chain_id| self.layer_path(chain_id)).collect();
        let settled = match self.namespace() {
            Some(namespace) => namespace.settle(layer, &below),
            None => implied_dirs::settle(layer, &below, cancel),
        };
        settled.map_err(file_error("find out from lower layers about directories of", layer))
    }

    /// From now on an image is on the disk before it is named.
    pub fn sync_first(&self) {
        self.durability.sync_first();
    }

    /// Makes what is about to be named durable, if that comes first here. To be called without the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn before_commit(&self) -> Result<(), StoreError> {
        if self.durability.syncs_first() { self.sync() } else { Ok(()) }
    }

    /// True if there is something for [`Store::settle`] to do.
    pub fn is_unsettled(&self) -> bool {
        self.durability.is_unsettled()
    }

    /// What power loss took, once.
    pub fn take_lost(&self) -> Vec<Lost> {
        self.durability.take_lost()
    }

    /// Makes all that was written so far durable.
    ///
    /// # Errors
    /// [`StoreError::File`] if the disk failed to take something, now or ever since the store was opened.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = match self.durability.has_failed() {
            true => Err(io::Error::other("the disk has lost something before: start the engine again")),
            false => syscall::sync_file_system(self.held.as_fd()).inspect_err(|_| self.distrust()),
        };
        synced.map_err(file_error("sync", &self.root))
    }

    /// What the kernel could not write it takes for written from then on, and says so when it is asked again: what is not
    /// settled never will be. The next start takes it back, as after power loss.
    pub(crate) fn distrust(&self) {
        log::error!(
            "the disk has lost something: images that came since it last took all go at the next start"
        );
        self.durability.fail();
        if let Err(error) = fs::remove_file(self.root.join("boot"))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::error!("nor can that be noted, but for a start after another boot: {error}");
        }
    }

    /// Keeps `digests` (of blobs and chain ids) from garbage collection until the pin is dropped.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        // The commit lock: garbage that is being sought now is gone before we look what is there.
        let commit = lock(&self.commit);
        self.pin_within(&commit, digests)
    }

    /// The same for one who holds the commit lock: nothing goes between his look and the pin.
    pub(crate) fn pin_within(
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

    /// True if a job needs the blob or layer.
    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        lock(&self.pins).contains_key(digest)
    }

    /// True if something may be garbage that was pinned when garbage was last sought. Who asks has dropped his pin,
    /// which waits for a sweep that saw it.
    pub fn has_withheld(&self) -> bool {
        self.withheld.load(Ordering::Relaxed)
    }
}

fn digest_of(bytes: &[u8], like: &Digest) -> Digest {
    let mut hasher = sampan_oci::digest::Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
}
