//! The error of the store.

use sampan_oci::digest::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another engine uses the store.
    #[error("the store {} is in use by another engine", .0.display())]
    Locked(PathBuf),
    /// A system call on a file failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// The attempted operation, such as `open`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The digest of some content differs from the digest in its name.
    #[error("{what} has digest {found}, expected {expected}")]
    Digest {
        /// A file's path, or a name for the content.
        what: String,
        /// The digest in the name of the file.
        expected: Digest,
        /// The digest of the file's bytes.
        found: Digest,
    },
    /// An index file does not contain valid JSON.
    #[error("cannot read {} of the store", path.display())]
    Broken {
        /// The index file.
        path: PathBuf,
        /// The error of the JSON parser.
        source: serde_json::Error,
    },
}

/// Makes a [`StoreError::File`] from the error of a system call on `path`.
pub fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { doing, path, source }
}
