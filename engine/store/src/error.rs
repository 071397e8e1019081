//! Why the store cannot do what it was asked.

use sampan_oci::digest::Digest;
use std::io;
use std::path::{Path, PathBuf};

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

/// Wraps what the file system said of `path`.
pub fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { doing, path, source }
}
