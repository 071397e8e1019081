//! Temporary files and directories under `tmp/`: renamed to their final name after verification, or removed.
//!
//! [`crate::Store`] makes them. A tree with files of subordinate user IDs is removed inside the user namespace.

use crate::error::{StoreError, file_error};
use sampan_layer::userns::Namespace;
use sampan_os::{remove_tree, walk_tree};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file or directory under `tmp/`. Dropping this value removes the file or directory, unless it got its final name.
pub struct Temp {
    pub(crate) path: PathBuf,
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) keep: bool,
}

impl Temp {
    /// The path under `tmp/`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user namespace in which the directory was unpacked; `None` if this process itself made the file or
    /// directory.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_deref()
    }

    /// Renames the file or directory to its final name.
    pub(crate) fn rename(self, target: &Path) -> Result<(), StoreError> {
        self.rename_with(target, |path, target| fs::rename(path, target))
    }

    /// Gives the file or directory its final name by calling `rename`.
    pub(crate) fn rename_with(
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

/// Renames a file to `target` in a directory of blobs; makes the directory if this is the first blob with its digest
/// algorithm.
pub(crate) fn rename_to_blob(from: &Path, target: &Path) -> io::Result<()> {
    match fs::rename(from, target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::rename(from, target)
        }
        other => other,
    }
}

/// Bytes that a tree takes on the disk. Directories of subordinate user IDs are read inside the user namespace.
pub(crate) fn size_on_disk(path: &Path, namespace: Option<&Namespace>) -> io::Result<u64> {
    match (walk_tree::size_on_disk(path), namespace) {
        (Err(error), Some(namespace)) if error.kind() == io::ErrorKind::PermissionDenied => {
            namespace.size_on_disk(path)
        }
        (size, _) => size,
    }
}

/// Removes a tree. Files of subordinate user IDs are removed inside the user namespace.
pub(crate) fn remove(path: &Path, namespace: Option<&Namespace>) -> io::Result<()> {
    match (remove_tree::remove(path), namespace) {
        (Err(_), Some(namespace)) => namespace.remove(path),
        (removed, _) => removed,
    }
}
