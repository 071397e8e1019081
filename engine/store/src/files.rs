//! Makes temporary files, and replaces small files in the store's root as a whole.
//!
//! Called by every module of this crate that writes. The functions differ in durability; the doc of each function says
//! which file power loss leaves.

use crate::error::{StoreError, file_error};
use crate::reserve;
use crate::store::Store;
use crate::temp::Temp;
use sampan_os::io_error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::atomic::Ordering;

impl Store {
    /// Makes a new file under `tmp/`. `kind` is the beginning of the file's name.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file or directory cannot be made.
    pub fn temp_file(&self, kind: &str) -> Result<(Temp, File), StoreError> {
        let temp = self.temp_name(kind);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&temp.path);
        let file = file.map_err(file_error("make", &temp.path))?;
        Ok((temp, file))
    }

    /// Makes a new directory under `tmp/`, with an empty directory `diff` in it, for a layer to be unpacked.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file or directory cannot be made.
    pub fn temp_layer(&self) -> Result<Temp, StoreError> {
        let temp = self.temp_name("layer");
        let diff = temp.path.join("diff");
        // `diff` is the root directory of the layer. Most tars have no entry for `diff`, so `diff` keeps this mode,
        // 0755.
        let outer = DirBuilder::new().mode(0o700).create(&temp.path);
        outer
            .and_then(|()| DirBuilder::new().mode(0o755).create(&diff))
            .map_err(file_error("make", &diff))?;
        Ok(temp)
    }

    pub(crate) fn temp_name(&self, kind: &str) -> Temp {
        let nth = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(format!("{kind}-{nth}"));
        Temp { path, namespace: self.namespace.clone(), keep: false }
    }

    /// Replaces a file in the store's root: writes a temporary file, calls fsync on it, and renames it. Power loss
    /// before the next [`Store::sync`] leaves either the old file or the new one.
    pub(crate) fn swap_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_synced(bytes)?.rename(&self.root().join(name))
    }

    /// Replaces a file in the store's root without fsync. Power loss before the next [`Store::sync`] may leave neither
    /// the old file nor the new one.
    pub(crate) fn put_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_temp("file", bytes)?.0.rename(&self.root().join(name))
    }

    /// Writes `bytes` to a new temporary file.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be made or written.
    pub(crate) fn write_temp(&self, kind: &str, bytes: &[u8]) -> Result<(Temp, File), StoreError> {
        let (temp, mut file) = self.temp_file(kind)?;
        file.write_all(bytes).map_err(file_error("write", temp.path()))?;
        Ok((temp, file))
    }

    /// Writes `bytes` to a new temporary file, and waits until they are on the disk.
    pub(crate) fn write_synced(&self, bytes: &[u8]) -> Result<Temp, StoreError> {
        let (temp, file) = self.write_temp("file", bytes)?;
        file.sync_all().map_err(file_error("write", temp.path()))?;
        Ok(temp)
    }

    /// Replaces a file in the store's root, and waits until the new file and its name are on the disk.
    pub(crate) fn replace_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.swap_file(name, bytes)?;
        self.sync_root()
    }

    /// Replaces a file like [`Store::replace_file`], for removals: if the disk is full, deletes the reserve file and
    /// tries again. The caller restores the reserve ([`Store::refill_reserve`]) when the disk has room.
    pub(crate) fn replace_file_from_reserve(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.swap_file(name, bytes) {
            Err(error) if io_error::is_full(&error) && reserve::release(self.root()) => {
                self.swap_file(name, bytes)?
            }
            other => other?,
        }
        self.sync_root()
    }

    /// Waits until renames and removals in the store's root are on the disk.
    pub(crate) fn sync_root(&self) -> Result<(), StoreError> {
        File::open(self.root()).and_then(|dir| dir.sync_all()).map_err(file_error("sync", self.root()))
    }

    /// Makes sure that the reserve is large enough for an index of `len` bytes, if the disk has room.
    pub(crate) fn refill_reserve(&self, len: u64) {
        reserve::refill(self.root(), len);
    }
}
