//! One client of a task, and its upload server: what it has, fetches, uploads and skips.
//!
//! Owned by a [`Swarm`](super::Swarm), which keeps its counts in step with those of the other members.

use crate::piece_set::PieceSet;
use std::time::{Duration, Instant};

/// The number of a member of a swarm. Numbers of members that have left are used again.
pub type Slot = u32;

/// Most pieces that a client fetches at a time.
pub const DOWNLOADS_MAX: usize = 4;
/// How long a client skips a holder that failed, and how long all skip a holder that has failed too often.
pub const SKIP_TIME: Duration = Duration::from_secs(60);
/// How long a client skips a holder from which a piece has not come within its lease. Dragonfly's clients wait for a piece
/// of 15 MiB up to 250 s, and what they report after that must not be offered from that holder once more.
pub const STALLED_SKIP_TIME: Duration = Duration::from_secs(300);
/// Most holders that a client skips at a time; the oldest is forgotten.
const SKIPPED_MAX: usize = 64;
/// The lease of a client that has not finished a piece yet.
const LEASE_FIRST: Duration = Duration::from_secs(10);
const LEASE_MIN: Duration = Duration::from_secs(5);
const LEASE_MAX: Duration = Duration::from_secs(80);

/// Where a client fetches a piece from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The supernode, or the origin in the `source` pattern.
    Supernode,
    /// A member of the swarm.
    Member(Slot),
    /// A member that has left since.
    Gone,
}

/// A piece that a client fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The piece.
    pub piece: u32,
    /// Where the client fetches the piece from.
    pub holder: Holder,
    /// When the piece was scheduled.
    pub began: Instant,
    /// When the lease ends: the piece is wanted again then.
    pub until: Instant,
}

/// One client of a task, and its upload server.
#[derive(Debug)]
pub struct Member {
    /// The client's ID.
    pub cid: String,
    /// The number of the member among all that the swarm has had. Slots are given again, this number is not.
    pub number: u64,
    /// Whether other clients may fetch from this one.
    pub uploads: bool,
    /// Pieces that the client has, perhaps not on its disk yet.
    pub have: PieceSet,
    /// Pieces that the client can upload: they are on its disk.
    pub stored: PieceSet,
    /// Pieces that the client lacks, does not fetch, and that somebody has.
    pub wanted: PieceSet,
    /// Pieces that the client fetches.
    pub running: Vec<Running>,
    /// Pieces that other clients fetch from this one.
    pub load: usize,
    /// Failed downloads since the last good one.
    pub client_failures: u32,
    /// Failed uploads to different clients since the last good one.
    pub holder_failures: u32,
    /// The number of the client that reported the last failed upload.
    pub(super) failed_for: Option<u64>,
    /// Until when all clients skip this one.
    pub skipped_until: Option<Instant>,
    /// The numbers of holders that this client skips, each with the time until which it does.
    pub(super) skips: Vec<(u64, Instant)>,
    /// The usual time for a piece; zero before the first.
    pub(super) usual: Duration,
    /// Pieces of which a lease has ended and nothing was reported since.
    pub(super) overdue: PieceSet,
    /// Leases that ended since the last finished piece.
    pub(super) expired: u32,
    /// Whether the client may have pieces that the swarm does not know: it comes from another supernode, or this
    /// one has been restarted. A client that has several of the pieces in an answer reports one of them only. So
    /// it is offered one piece at a time, until it stores one.
    pub is_cautious: bool,
    /// When the client was last heard of, or a piece was fetched from it.
    pub seen: Instant,
}

impl Member {
    pub(super) fn new(cid: &str, number: u64, uploads: bool, now: Instant) -> Self {
        Member {
            cid: cid.to_owned(),
            number,
            uploads,
            have: PieceSet::default(),
            stored: PieceSet::default(),
            wanted: PieceSet::default(),
            running: Vec::new(),
            load: 0,
            client_failures: 0,
            holder_failures: 0,
            failed_for: None,
            skipped_until: None,
            skips: Vec::new(),
            usual: Duration::ZERO,
            overdue: PieceSet::default(),
            expired: 0,
            is_cautious: false,
            seen: now,
        }
    }

    /// Most pieces that the client fetches at a time now.
    pub fn places(&self) -> usize {
        if self.is_cautious { 1 } else { DOWNLOADS_MAX }
    }

    pub(super) fn lease(&self) -> Duration {
        let usual = match self.usual {
            Duration::ZERO => LEASE_FIRST,
            usual => (usual * 4).clamp(LEASE_MIN, LEASE_MAX),
        };
        (usual * (1 << self.expired.min(4))).min(LEASE_MAX)
    }

    /// Whether the client skips `holder` at `now`.
    pub fn is_skipping(&self, holder: &Member, now: Instant) -> bool {
        self.skips.iter().any(|(skipped, until)| *skipped == holder.number && now < *until)
    }

    /// Skips the holder with this number until `until`.
    pub(super) fn skip(&mut self, number: u64, now: Instant, until: Instant) {
        self.skips.retain(|(skipped, until)| *skipped != number && now < *until);
        if self.skips.len() >= SKIPPED_MAX {
            self.skips.remove(0);
        }
        self.skips.push((number, until));
    }
}
