//! The error of a fetch or a check, and whether the origin, the content or the disk is its reason.

use crate::hex;
use crate::origin::OriginError;
use sampan_os::io_error;
use std::io;
use std::path::PathBuf;

/// Why a task's file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdnError {
    /// The origin does not send the file.
    #[error("cannot fetch the file from its origin")]
    Origin(#[source] OriginError),
    /// A connection to the origin broke again and again.
    #[error("the connection to the origin broke at byte {at}")]
    Cut {
        /// Offset of the byte that was to come next.
        at: u64,
        /// The last failure.
        source: io::Error,
    },
    /// The origin sends more or fewer bytes than it has said.
    #[error("the file has {expected} bytes, but the origin sends {found}")]
    Length {
        /// Length that the origin said.
        expected: u64,
        /// Length that it sends.
        found: u64,
    },
    /// The file is longer than any file that can be a task.
    #[error("the file is longer than {max} bytes")]
    TooLong {
        /// The longest length.
        max: u64,
    },
    /// The bytes are not those that the digest in the URL names.
    #[error(
        "the content has the digest sha256:{}, but its URL says sha256:{}",
        hex::encode(found),
        hex::encode(expected)
    )]
    Digest {
        /// The digest in the URL.
        expected: [u8; 32],
        /// The digest of the content.
        found: [u8; 32],
    },
    /// The bytes do not have the MD5 that the client gave.
    #[error(
        "the content has the MD5 {}, but the client expects {}",
        hex::encode(found),
        hex::encode(expected)
    )]
    Md5 {
        /// The MD5 that the client gave.
        expected: [u8; 16],
        /// The MD5 of the content.
        found: [u8; 16],
    },
    /// The clients of a task of the `source` pattern fetch from the origin. That needs a length and ranges.
    #[error("the origin tells no length or takes no ranges, so its clients cannot fetch in pieces")]
    NoRanges,
    /// Pieces on the disk do not stay as they were written.
    #[error("the content at {} changes on the disk", path.display())]
    Unstable {
        /// The file.
        path: PathBuf,
    },
    /// The disk fails or is full.
    #[error("cannot {attempt} {}", path.display())]
    Disk {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// Another supernode has locked the directory of files.
    #[error("another supernode uses {}", .0.display())]
    InUse(PathBuf),
    /// Too many fetches wait.
    #[error("{count} fetches wait already")]
    Busy {
        /// The number of fetches that wait.
        count: usize,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The task was deleted, or the process ends.
    #[error("cancelled")]
    Cancelled,
}

impl CdnError {
    /// Makes the error of a system call.
    pub(super) fn disk(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> CdnError {
        move |source| CdnError::Disk { attempt, path: path.into(), source }
    }

    /// Whether the origin is at fault. Clients that fetch from it themselves may fail, too.
    pub fn is_of_source(&self) -> bool {
        use CdnError::{Cut, Digest, Length, NoRanges, Origin, TooLong};
        matches!(self, Origin(_) | Cut { .. } | Length { .. } | TooLong { .. } | Digest { .. } | NoRanges)
    }

    /// Whether the pieces that were fetched before belong to another content, and must be fetched again.
    pub fn is_of_content(&self) -> bool {
        use CdnError::{Digest, Length, Md5, TooLong, Unstable};
        matches!(
            self,
            CdnError::Origin(OriginError::Changed { .. })
                | Length { .. }
                | TooLong { .. }
                | Digest { .. }
                | Md5 { .. }
                | Unstable { .. }
        )
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, CdnError::Disk { source, .. } if io_error::is_full(source))
    }
}
