//! How a download has ended, and what it has done.

use std::path::PathBuf;
use std::time::Duration;

/// How a download has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The file is there.
    Complete,
    /// dfget would download from the origin itself, for this reason: 1 no registration, 3 no supernode is left.
    Source(u32, String),
    /// The origin wants credentials.
    NeedsCredentials,
    /// dfget would crash, hang, or lose the file.
    Broken(String),
    /// The client was killed.
    Killed,
    /// The download took too long.
    TimedOut,
}

/// What a download has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registrations that were accepted.
    pub registrations: u64,
    /// Pulls.
    pub pulls: u64,
    /// Pulls that were answered by "wait".
    pub waits: u64,
    /// Pieces on disk that were reported and accepted.
    pub successes: u64,
    /// Pieces from the supernode.
    pub from_supernode: u64,
    /// Pieces from peers.
    pub from_peers: u64,
    /// Pieces from the origin.
    pub from_source: u64,
    /// Pieces that failed.
    pub failures: u64,
    /// Offers of pieces that the client had already.
    pub repeated: u64,
}

impl Counts {
    /// Pieces that were downloaded.
    pub fn pieces(&self) -> u64 {
        self.from_supernode + self.from_peers + self.from_source
    }

    /// Requests to supernodes, but for those about errors and metrics.
    pub fn requests(&self) -> u64 {
        self.registrations + self.pulls + self.successes
    }
}

/// A download that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it has ended.
    pub end: End,
    /// The file, complete or not.
    pub file: PathBuf,
    /// What was done.
    pub counts: Counts,
    /// From the start to the end.
    pub time: Duration,
}

/// Panics unless all downloads are complete, with this content.
pub fn assert_complete(outcomes: &[Outcome], content: &[u8]) {
    for outcome in outcomes {
        assert_eq!(outcome.end, End::Complete, "{:?}", outcome.counts);
        let file = std::fs::read(&outcome.file).expect("the downloaded file");
        assert!(file == content, "{} bytes instead of {}, or other ones", file.len(), content.len());
    }
}
