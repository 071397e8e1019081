//! Why bytes are no tar, and the bound that the format itself does not have.

use std::io;

/// Most stretches of one sparse file.
pub(super) const SPARSE_MAX: usize = 65_536;

/// Bytes that are no tar, or a stream that failed.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream under the tar failed.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The stream ends within an entry.
    #[error("the tar ends within an entry")]
    Truncated,
    /// It is no tar.
    #[error("the tar is malformed: {0}")]
    Malformed(String),
}

pub(super) fn malformed(what: impl Into<String>) -> TarError {
    TarError::Malformed(what.into())
}
