//! Bytes per second: who moves bytes asks first, and waits until they are due.
//!
//! One clock for all who share it: each reserves the time that its bytes take, in the order they ask, so that
//! none starves. Knows nothing of sockets.

use crate::cancel::{Cancel, Cancelled};
use crate::cpu;
use sampan_os::mutex::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes of so much time may be moved at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// Fewest bytes that are worth a system call.
const PART_MIN: u64 = 1024;

/// A limit that may be shared.
pub struct RateLimit {
    bytes_per_second: u64,
    /// When the bytes that were reserved so far are through.
    due: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most so many; 0 is no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second, due: Mutex::default() }
    }

    /// Most bytes that should be moved at a time, so that they do not come in jerks.
    pub fn part(&self) -> usize {
        match self.bytes_per_second {
            0 => usize::MAX,
            rate => usize::try_from((rate / 10).max(PART_MIN)).unwrap_or(usize::MAX),
        }
    }

    /// Waits until `bytes` more may be moved.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn take(&self, bytes: usize, cancel: &Cancel) -> Result<(), Cancelled> {
        if self.bytes_per_second == 0 {
            return Ok(());
        }
        match self.reserve(bytes, Instant::now()) {
            Duration::ZERO => Ok(()),
            wait => cpu::idle(|| cancel.wait(wait)),
        }
    }

    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut due = lock(&self.due);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let through = due.map_or(earliest, |due| due.max(earliest)) + takes;
        *due = Some(through);
        through.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_pause_saves_up_little() {
        let rate = RateLimit::new(1000);
        let start = Instant::now();
        assert_eq!(rate.reserve(100, start), Duration::ZERO, "the burst");
        assert_eq!(rate.reserve(500, start), Duration::from_millis(500));
        assert_eq!(rate.reserve(500, start), Duration::from_millis(1000));
        let later = start + Duration::from_secs(60);
        assert_eq!(rate.reserve(1100, later), Duration::from_millis(1000));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let rate = RateLimit::new(0);
        assert_eq!(rate.take(usize::MAX, &Cancel::default()), Ok(()));
        assert_eq!(rate.part(), usize::MAX);
    }
}
