//! The messages of the threads of fetches and checks, and the events that follow for the other managers.
//!
//! A thread sends a [`CdnMessage`]; the event loop passes it to [`super::Cdn::on_message`], which returns a
//! [`CdnEvent`].

use super::digests::PieceDigest;
use super::error::CdnError;
use crate::task_id::TaskId;

/// A message of a thread. Give it to [`super::Cdn::on_message`].
#[derive(Debug)]
pub struct CdnMessage {
    pub(super) task: TaskId,
    /// The job that sends the message. Messages of a job whose task was deleted meanwhile are ignored.
    pub(super) job: u64,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Started { length: Option<u64> },
    Length { length: u64 },
    Piece { number: u32, digest: PieceDigest },
    Ended(Result<CompleteFile, CdnError>),
    Checked(Result<Vec<u32>, CdnError>),
}

/// A complete file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompleteFile {
    /// Length of the content in bytes.
    pub length: u64,
    /// MD5 of the content.
    pub md5: [u8; 16],
}

/// A change of a task, for the other managers.
#[derive(Debug)]
pub enum CdnEvent {
    /// The fetch has begun to get bytes.
    Started {
        /// The task.
        task: TaskId,
        /// Length of the content, if it is known by now.
        length: Option<u64>,
    },
    /// The length, which was unknown, has become known. The last piece is announced only after this.
    Length {
        /// The task.
        task: TaskId,
        /// Length of the content in bytes.
        length: u64,
    },
    /// A piece is on the disk.
    Piece {
        /// The task.
        task: TaskId,
        /// Number of the piece.
        number: u32,
        /// Its digests.
        digest: PieceDigest,
    },
    /// The fetch has ended.
    Ended {
        /// The task.
        task: TaskId,
        /// The file, or why there is none.
        result: Result<CompleteFile, CdnError>,
        /// The pieces that are no longer on the disk, because of the error.
        lost: Vec<u32>,
    },
    /// A check has ended. The bad pieces are no longer offered, and are fetched again.
    Checked {
        /// The task.
        task: TaskId,
        /// Numbers of the bad pieces.
        bad: Vec<u32>,
    },
}
