//! Where a layer's entry is made, and what can go wrong there.
//!
//! Below [`crate::unpack`] and [`crate::unpack::attributes`], which share it, and all that walks through layers later.

use crate::tar::TarError;
use nix::errno::Errno;
use sampan_ipc::text;
use std::io;
use std::os::fd::OwnedFd;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name leads out of the layer, or cannot stand in a file system.
    #[error("layer entry {path:?} is refused: {why}")]
    Refused {
        /// The name.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The file system refuses.
    #[error("cannot {doing} layer entry {path:?}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The name.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The process that unpacks in a user namespace says so.
    #[error("{0}")]
    Elsewhere(String),
}

/// Where an entry is made.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The directory.
    pub parent: &'a OwnedFd,
    /// Its name there.
    pub name: &'a [u8],
    /// For messages.
    pub path: &'a [u8],
}

pub(crate) fn refused(path: &[u8], why: &'static str) -> UnpackError {
    UnpackError::Refused { path: text::path(path), why }
}

pub(crate) fn file(doing: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    UnpackError::File { doing, path: text::path(path), source: errno.into() }
}
