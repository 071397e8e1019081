//! The errors of the tar reader, and a bound on sparse files that the tar format does not define.
//!
//! Shared by [`super::TarReader`] and [`super::pax`].

use std::io;

/// Most accepted data segments of a sparse file.
pub(super) const SPARSE_MAX: usize = 65_536;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The underlying stream failed.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The stream ends within an entry.
    #[error("the tar ends within an entry")]
    Truncated,
    /// The bytes are not a valid tar; the text says why.
    #[error("the tar is malformed: {0}")]
    Malformed(String),
}

pub(super) fn malformed(what: impl Into<String>) -> TarError {
    TarError::Malformed(what.into())
}
