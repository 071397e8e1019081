//! Errors of the journals.

use sampan_ipc::trust::TrustError;
use std::io;
use std::path::PathBuf;

/// Why executions cannot be kept on the disk.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another engine uses the directory.
    #[error("the replication journals in {} are in use by another engine", .0.display())]
    Locked(PathBuf),
    /// The directory cannot be made, or other users may change it.
    #[error(transparent)]
    Directory(#[from] TrustError),
    /// The directory cannot be opened or read.
    #[error("cannot {doing} {}", path.display())]
    Open {
        /// The attempted operation, such as `read`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The record is not on the disk, and the model has not changed. Wait, and try again: the disk may be full.
    #[error("cannot write to the journal of execution {id}")]
    Write {
        /// The execution's number.
        id: u64,
        /// Why it failed.
        source: io::Error,
    },
    /// The record is longer than a frame may be: it can never be written.
    #[error("a record of execution {0} is too long for its journal")]
    TooLong(u64),
}
