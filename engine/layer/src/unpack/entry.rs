//! The location of an entry that is to be created, and the errors of unpacking.
//!
//! Shared by [`crate::unpack`] and its modules; makes no system call.

use crate::tar::TarError;
use nix::errno::Errno;
use sampan_ipc::text;
use std::io;
use std::os::fd::OwnedFd;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry is dangerous or impossible: its name leads out of the layer, for example.
    #[error("layer entry {path:?} is refused: {why}")]
    Refused {
        /// The name of the entry.
        path: String,
        /// The rule that the entry breaks.
        why: &'static str,
    },
    /// A system call failed.
    #[error("cannot {doing} layer entry {path:?}")]
    File {
        /// The attempted operation.
        doing: &'static str,
        /// The name of the entry.
        path: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// Another error of unpacking in a process of the user namespace; the text describes it.
    #[error("{0}")]
    InNamespace(String),
}

/// The location of an entry that is to be created.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The entry's parent directory.
    pub parent: &'a OwnedFd,
    /// The entry's name in the parent directory.
    pub name: &'a [u8],
    /// The entry's path in the tar, for messages.
    pub path: &'a [u8],
}

pub(crate) fn refused(path: &[u8], why: &'static str) -> UnpackError {
    UnpackError::Refused { path: text::path(path), why }
}

pub(crate) fn file(doing: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    UnpackError::File { doing, path: text::path(path), source: errno.into() }
}
