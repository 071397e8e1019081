//! Temporary files of the store, and small files of its root that are replaced as a whole.
//!
//! Called by everything in this crate that writes. What is durable when is said at each function.

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

    /// Replaces a small file of the store's root: write-temporary, fsync, rename. Power loss leaves the old one or the
    /// new one, until the next [`Store::sync`].
    pub(crate) fn swap_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.written(bytes)?.rename(&self.root().join(name))
    }

    /// Replaces one by write-temporary and rename, and leaves the rest to the next [`Store::sync`]: until then power loss
    /// may leave neither.
    pub(crate) fn put_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.filled("file", bytes)?.0.rename(&self.root().join(name))
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
            Err(error) if io_error::is_full(&error) && reserve::give_up(self.root()) => {
                self.swap_file(name, bytes)?
            }
            other => other?,
        }
        self.sync_root()
    }

    /// Has the names of the store's root on the disk.
    pub(crate) fn sync_root(&self) -> Result<(), StoreError> {
        File::open(self.root()).and_then(|dir| dir.sync_all()).map_err(file_error("sync", self.root()))
    }

    /// Sees to it that there is a reserve for an index of `len` bytes, if there is room for one.
    pub(crate) fn lay_by(&self, len: u64) {
        reserve::lay_by(self.root(), len);
    }
}
