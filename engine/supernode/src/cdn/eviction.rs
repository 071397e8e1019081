//! Which files are deleted when the disk gets full.
//!
//! The choice is pure. Nothing is deleted while more than the *young* mark is free. Between the marks *young* and *full*,
//! and below *full*, each round chooses a tenth of the files that nobody uses: first those that have been idle for much
//! longer than usual, the longest idle first; then the others, the largest first.

use crate::task_id::TaskId;
use nix::sys::statvfs::statvfs;
use std::cmp::Reverse;
use std::io;
use std::path::Path;
use std::time::Duration;

const GIB: u64 = 1 << 30;
/// A file is idle for much longer than usual after this time more than its last interval.
const IDLE_MORE: Duration = Duration::from_secs(2 * 3600);
/// A round deletes one of so many files.
const FRACTION: usize = 10;

/// How much free space makes a round delete files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// With more free space than this, nothing is deleted. `None`: 100 GiB, but at most a fifth of the disk.
    pub young: Option<u64>,
    /// With at most this free space, each file that nobody uses may be deleted. `None`: 5 GiB, but at most a twentieth
    /// of the disk.
    pub full: Option<u64>,
}

/// The space of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user can still write.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

impl Space {
    /// The space of the disk that has `path`. statvfs(3).
    ///
    /// # Errors
    /// The system call fails.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = statvfs(path)?;
        let unit = stat.fragment_size() as u64;
        let bytes = |blocks: u64| blocks.saturating_mul(unit);
        Ok(Space { free: bytes(stat.blocks_available() as u64), total: bytes(stat.blocks() as u64) })
    }
}

/// How urgent it is to delete files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// There is enough space.
    None,
    /// Files that have been idle for long may go, and large ones.
    Young,
    /// The disk is almost full.
    Full,
}

impl Marks {
    /// How urgent it is to delete files with this free space.
    pub fn pressure(&self, space: Space) -> Pressure {
        let full = self.full.unwrap_or((5 * GIB).min(space.total / 20));
        let young = self.young.unwrap_or((100 * GIB).min(space.total / 5)).max(full);
        match space.free {
            free if free <= full => Pressure::Full,
            free if free <= young => Pressure::Young,
            _ => Pressure::None,
        }
    }
}

/// A file that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The task.
    pub task: TaskId,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Time since the last use.
    pub idle: Duration,
    /// Time between the last two uses.
    pub interval: Duration,
}

/// The tasks whose files this round deletes, in order.
pub fn choose(pressure: Pressure, mut candidates: Vec<Candidate>) -> Vec<TaskId> {
    let count = match pressure {
        Pressure::None => return Vec::new(),
        Pressure::Young | Pressure::Full => candidates.len().div_ceil(FRACTION),
    };
    candidates.sort_by_cached_key(|candidate| {
        let is_stale = candidate.idle > candidate.interval.saturating_add(IDLE_MORE);
        let idle = if is_stale { candidate.idle } else { Duration::ZERO };
        // The ID makes the order the same for each run.
        (Reverse(is_stale), Reverse(idle), Reverse(candidate.bytes), candidate.task)
    });
    candidates.into_iter().take(count).map(|candidate| candidate.task).collect()
}
