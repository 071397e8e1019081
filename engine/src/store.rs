//! The store on disk: an OCI image layout, and unpacked layers beside it.
//!
//! ```text
//! oci-layout  index.json  blobs/<algorithm>/<hex>   OCI image-spec, "Image Layout": skopeo and umoci read it
//! index.settled.json                                what power loss would leave of index.json, if not all
//! layers/<chain id, hex>/diff                       a layer unpacked in overlayfs's form
//! layers/<chain id, hex>/implied                    what of it waits for lower layers: [`sampan_layer::implied_dirs`]
//! partial/                                          blobs that are not whole yet: [`crate::partial`]
//! tmp/                                              private until verified; emptied at start
//! spare                                             a reserve, for when the disk is full: [`crate::spare`]
//! lock  boot                                        one engine at a time; the boot that last wrote here
//! ```
//! A blob or layer gets its final name only when its digests are right. What power loss may have cut is named by
//! nothing, or by an image that is not settled ([`crate::unsynced`]), and is removed at the first start after it.
//! `index.rs` reads and writes both indexes.

use crate::index;
use crate::spare;
use crate::unsynced::{Lost, Unsynced};
use nix::fcntl::Flock;
use sampan_job::cancel::Cancel;
use sampan_layer::implied_dirs;
use sampan_layer::userns::Namespace;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use sampan_os::{boot_id, file_lock, io_error, remove_tree, small_file, syscall, walk_tree};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another engine has it.
    #[error("the store {} is in use by another engine", .0.display())]
    Locked(PathBuf),
    /// The file system refuses.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Content is not what its name says.
    #[error("{what} has digest {found}, expected {expected}")]
    Digest {
        /// Which content.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A file of the store is broken.
    #[error("cannot read {} of the store", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// How it is broken.
        source: serde_json::Error,
    },
}

pub(crate) fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { doing, path, source }
}

/// The store, locked for this process.
pub struct Store {
    root: PathBuf,
    /// Its lock. Open for as long as it is: see [`Store::sync`].
    held: Flock<File>,
    /// Held while `index.json` changes and while garbage is sought; never during a transfer or an unpacking.
    pub(crate) commit: Mutex<()>,
    pub(crate) pins: Arc<Mutex<HashMap<Digest, usize>>>,
    /// A sweep has left something that only a pin held.
    pub(crate) withheld: AtomicBool,
    temps: AtomicU64,
    namespace: Option<Arc<Namespace>>,
    pub(crate) unsynced: Unsynced,
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

/// A file or directory under `tmp/`, removed when dropped unless it got its final name.
pub struct Temp {
    path: PathBuf,
    namespace: Option<Arc<Namespace>>,
    keep: bool,
}

impl Temp {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it was made, if not by this process itself.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_deref()
    }

    /// Gives it its final name.
    pub(crate) fn rename(self, target: &Path) -> Result<(), StoreError> {
        self.renamed(target, |path, target| fs::rename(path, target))
    }

    fn renamed(
        mut self,
        target: &Path,
        rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        rename(&self.path, target).map_err(file_error("rename a temporary file to", target))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.path, self.namespace.as_deref())
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

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
            unsynced: Unsynced::default(),
        };
        store.clear_temps()?;
        store.lay_out()?;
        match index::read_settled(&store) {
            Ok(settled) => store.unsynced.set_settled(settled),
            Err(error @ StoreError::Broken { .. }) => {
                log::error!("the index is taken as it is: {}", sampan_ipc::report::chain(&error));
                index::put_settled_aside(&store)?;
            }
            // It may be read at the next start: nothing is to change until then.
            Err(error) => return Err(error),
        }
        // What an engine that was killed left complete may not be on the disk.
        store.unsynced.named();
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
        let is_cut = self.unsynced.is_split() && matches!(index::read(self), Err(StoreError::Broken { .. }));
        if !is_cut && last.is_ok_and(|last| last == boot.as_bytes()) {
            return;
        }
        if let Err(error) = self.take_unsynced_back() {
            // Nothing is removed or settled, and the next start tries again.
            self.unsynced.stick();
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
    pub(crate) fn size_on_disk(&self, path: &Path) -> io::Result<u64> {
        size_on_disk(path, self.namespace())
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

    /// A new private file.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn temp_file(&self, kind: &str) -> Result<(Temp, File), StoreError> {
        let temp = self.temp_name(kind);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&temp.path);
        let file = file.map_err(file_error("make", &temp.path))?;
        Ok((temp, file))
    }

    /// A new private directory with an empty directory `diff` in it.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn temp_layer(&self) -> Result<Temp, StoreError> {
        let temp = self.temp_name("layer");
        let diff = temp.path.join("diff");
        // 0755 for the root directory of the layer: most tars do not name it.
        let outer = DirBuilder::new().mode(0o700).create(&temp.path);
        outer
            .and_then(|()| DirBuilder::new().mode(0o755).create(&diff))
            .map_err(file_error("make", &diff))?;
        Ok(temp)
    }

    pub(crate) fn temp_name(&self, kind: &str) -> Temp {
        let nth = self.temps.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(format!("{kind}-{nth}"));
        Temp { path, namespace: self.namespace.clone(), keep: false }
    }

    /// Gives a verified file its final name.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn name_blob(&self, temp: Temp, digest: &Digest) -> Result<(), StoreError> {
        temp.renamed(&self.blob_path(digest), name_blob)?;
        self.unsynced.named();
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
        self.unsynced.named();
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
    pub(crate) fn settle_layer(
        &self,
        layer: &Path,
        below: &[Digest],
        cancel: &Cancel,
    ) -> Result<(), StoreError> {
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
        self.unsynced.sync_first();
    }

    /// Makes what is about to be named durable, if that comes first here. To be called without the commit lock.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn before_commit(&self) -> Result<(), StoreError> {
        if self.unsynced.syncs_first() { self.sync() } else { Ok(()) }
    }

    /// True if there is something for [`Store::settle`] to do.
    pub fn is_unsettled(&self) -> bool {
        self.unsynced.is_unsettled()
    }

    /// What power loss took, once.
    pub fn take_lost(&self) -> Vec<Lost> {
        self.unsynced.take_lost()
    }

    /// Makes all that was written so far durable.
    ///
    /// # Errors
    /// [`StoreError::File`] if the disk failed to take something, now or ever since the store was opened.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = match self.unsynced.has_failed() {
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
        self.unsynced.fail();
        if let Err(error) = fs::remove_file(self.root.join("boot"))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::error!("nor can that be noted, but for a start after another boot: {error}");
        }
    }

    /// Replaces a small file of the store's root: write-temporary, fsync, rename. Power loss leaves the old one or the
    /// new one, until the next [`Store::sync`].
    pub(crate) fn swap_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.written(bytes)?.rename(&self.root.join(name))
    }

    /// Replaces one by write-temporary and rename, and leaves the rest to the next [`Store::sync`]: until then power loss
    /// may leave neither.
    pub(crate) fn put_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.filled("file", bytes)?.0.rename(&self.root.join(name))
    }

    /// A new private file that has `bytes`.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn filled(&self, kind: &str, bytes: &[u8]) -> Result<(Temp, File), StoreError> {
        let (temp, mut file) = self.temp_file(kind)?;
        file.write_all(bytes).map_err(file_error("write", temp.path()))?;
        Ok((temp, file))
    }

    /// A temporary that has `bytes`, and has them on the disk.
    pub(crate) fn written(&self, bytes: &[u8]) -> Result<Temp, StoreError> {
        let (temp, file) = self.filled("file", bytes)?;
        file.sync_all().map_err(file_error("write", temp.path()))?;
        Ok(temp)
    }

    /// The same, and it is the new one from now on: with an fsync of the directory.
    pub(crate) fn replace_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.swap_file(name, bytes)?;
        self.sync_root()
    }

    /// The same by one who makes room: on a full disk the reserve is his. He lays by again when there is room
    /// ([`Store::lay_by`]).
    pub(crate) fn replace_file_from_reserve(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.swap_file(name, bytes) {
            Err(error) if io_error::is_full(&error) && spare::give_up(&self.root) => {
                self.swap_file(name, bytes)?
            }
            other => other?,
        }
        self.sync_root()
    }

    /// Has the names of the store's root on the disk.
    pub(crate) fn sync_root(&self) -> Result<(), StoreError> {
        File::open(&self.root).and_then(|dir| dir.sync_all()).map_err(file_error("sync", &self.root))
    }

    /// Sees to it that there is a reserve for an index of `len` bytes, if there is room for one.
    pub(crate) fn lay_by(&self, len: u64) {
        spare::lay_by(&self.root, len);
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
    pub(crate) fn has_withheld(&self) -> bool {
        self.withheld.load(Ordering::Relaxed)
    }
}

/// Renames a file to `target` in a directory of blobs, which is made if this is the first of its algorithm.
pub(crate) fn name_blob(from: &Path, target: &Path) -> io::Result<()> {
    match fs::rename(from, target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::rename(from, target)
        }
        other => other,
    }
}

/// Bytes that a tree takes; directories of another user's id can only be read where that is one of ours.
pub(crate) fn size_on_disk(path: &Path, namespace: Option<&Namespace>) -> io::Result<u64> {
    match (walk_tree::size_on_disk(path), namespace) {
        (Err(error), Some(namespace)) if error.kind() == io::ErrorKind::PermissionDenied => {
            namespace.size_on_disk(path)
        }
        (size, _) => size,
    }
}

/// Removes a tree; files that another user's id owns can only go where that is one of ours.
fn remove(path: &Path, namespace: Option<&Namespace>) -> io::Result<()> {
    match (remove_tree::remove(path), namespace) {
        (Err(_), Some(namespace)) => namespace.remove(path),
        (removed, _) => removed,
    }
}

fn digest_of(bytes: &[u8], like: &Digest) -> Digest {
    let mut hasher = sampan_oci::digest::Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
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
