//! Which files are deleted when the disk gets full.
//!
//! The choice is pure. Nothing is deleted while more than the *young* mark is free. Between the marks *young* and
//! *full*, and below *full*, each round chooses a tenth of the files that nobody uses: first those that have been
//! idle for much longer than usual, the longest idle first; then the others, the largest first.

use crate::task_id::TaskId;
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

const GIB: u64 = 1 << 30;
/// A file is idle for much longer than usual when it has been idle for its last interval and this time.
const IDLE_MORE: Duration = Duration::from_secs(2 * 3600);
/// While the disk is not almost full, a file stays for this time after its last use: somebody preheated it for
/// later.
const GRACE: Duration = Duration::from_secs(3600);
/// A round deletes one file in this many.
const FRACTION: usize = 10;

/// How much free space makes a round delete files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// With more free space than this, nothing is deleted. `None`: 100 GiB, but at most a fifth of the disk.
    pub young: Option<u64>,
    /// With at most this free space, each file that nobody uses may be deleted. `None`: 5 GiB, but at most a
    /// twentieth of the disk.
    pub full: Option<u64>,
}

/// The space of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The space that this user can still write.
    pub free: u64,
    /// The size of the disk.
    pub total: u64,
}

impl Space {
    /// The space of the disk that has `path`. statvfs(3).
    ///
    /// # Errors
    /// The system call fails.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Space::of_stat(&statvfs(path)?))
    }

    /// The space of the disk that has the open `file`. fstatvfs(3).
    ///
    /// # Errors
    /// The system call fails.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Ok(Space::of_stat(&fstatvfs(file)?))
    }

    fn of_stat(stat: &Statvfs) -> Self {
        let unit = stat.fragment_size();
        let bytes = |blocks: u64| blocks.saturating_mul(unit);
        Space { free: bytes(stat.blocks_available()), total: bytes(stat.blocks()) }
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
    match pressure {
        Pressure::None => return Vec::new(),
        Pressure::Young => candidates.retain(|candidate| candidate.idle >= GRACE),
        Pressure::Full => {}
    }
    let count = candidates.len().div_ceil(FRACTION);
    candidates.sort_by_cached_key(|candidate| {
        let is_stale = candidate.idle > candidate.interval.saturating_add(IDLE_MORE);
        let idle = if is_stale { candidate.idle } else { Duration::ZERO };
        // The ID decides between equal files, so that the order does not depend on chance.
        (Reverse(is_stale), Reverse(idle), Reverse(candidate.bytes), candidate.task)
    });
    candidates.into_iter().take(count).map(|candidate| candidate.task).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn task(number: u32) -> TaskId {
        TaskId::new(&format!("http://origin/{number}"), "", "")
    }

    fn candidate(number: u32, bytes: u64, idle: u64, interval: u64) -> Candidate {
        let (idle, interval) = (Duration::from_secs(idle * HOUR), Duration::from_secs(interval * HOUR));
        Candidate { task: task(number), bytes, idle, interval }
    }

    #[test]
    fn the_longest_idle_goes_first_and_then_the_largest() {
        let mut candidates = vec![
            candidate(1, 1, 1, 0),
            candidate(2, 2, 1, 0),
            candidate(3, 1, 50, 10),
            candidate(4, 9, 12, 10),
            candidate(5, 1, 80, 10),
        ];
        let mut order = Vec::new();
        while !candidates.is_empty() {
            let chosen = choose(Pressure::Young, candidates.clone());
            assert_eq!(chosen.len(), 1);
            candidates.retain(|candidate| !chosen.contains(&candidate.task));
            order.extend(chosen);
        }
        // Task 4 was idle for 12 hours, but that is usual for it.
        assert_eq!(order, [5, 3, 4, 2, 1].map(task));
    }

    #[test]
    fn a_round_takes_a_tenth_and_at_least_one() {
        let many: Vec<Candidate> = (0..95).map(|number| candidate(number, 1, 1, 0)).collect();
        assert_eq!(choose(Pressure::Full, many.clone()).len(), 10);
        assert_eq!(choose(Pressure::Young, many[..1].to_vec()).len(), 1);
        let fresh = Candidate { idle: GRACE - Duration::from_secs(1), ..many[0] };
        assert_eq!(choose(Pressure::Young, vec![fresh]), []);
        assert_eq!(choose(Pressure::Full, vec![fresh]).len(), 1);
        assert_eq!(choose(Pressure::Young, Vec::new()), []);
        assert_eq!(choose(Pressure::None, many), []);
    }

    #[test]
    fn the_marks_are_those_of_dragonfly_and_less_on_a_small_disk() {
        let marks = Marks::default();
        let of = |free, total| marks.pressure(Space { free: free * GIB, total: total * GIB });
        assert_eq!([of(101, 2000), of(100, 2000), of(6, 2000), of(5, 2000)], {
            use Pressure::{Full, None, Young};
            [None, Young, Young, Full]
        });
        assert_eq!([of(9, 40), of(8, 40), of(3, 40), of(2, 40)], {
            use Pressure::{Full, None, Young};
            [None, Young, Young, Full]
        });
        let own = Marks { young: Some(1), full: Some(5) };
        assert_eq!(own.pressure(Space { free: 5, total: 9 }), Pressure::Full, "full is never above young");
        assert_eq!(own.pressure(Space { free: 6, total: 9 }), Pressure::None);
        assert!(Space::of(Path::new("/")).is_ok_and(|space| space.total >= space.free));
    }
}
