//! A limit on bytes per second: a thread that transfers bytes asks first and waits for its turn.
//!
//! Called by the threads of transfers, before they read or write. All threads that share a limit share one schedule:
//! each reserves the time that its bytes take, in the order of requests, so none starves. Never touches a socket.

use crate::cancel::{Cancel, Cancelled};
use crate::cpu;
use sampan_os::mutex::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// After a pause, the bytes of this much time may be transferred at once.
const BURST: Duration = Duration::from_millis(100);
/// Fewest bytes to transfer at a time: fewer are not worth a system call.
const PART_MIN: u64 = 1024;

/// A limit that several threads may share.
pub struct RateLimit {
    bytes_per_second: u64,
    /// The end of the time reserved so far.
    due: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Makes a limit of `bytes_per_second`; 0 means no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second, due: Mutex::default() }
    }

    /// The most bytes to transfer at a time: those of a tenth of a second, so that the flow is even.
    pub fn part(&self) -> usize {
        match self.bytes_per_second {
            0 => usize::MAX,
            rate => usize::try_from((rate / 10).max(PART_MIN)).unwrap_or(usize::MAX),
        }
    }

    /// Waits until `bytes` more bytes may be transferred.
    ///
    /// # Errors
    /// [`Cancelled`]: the job was cancelled during the wait. The time stays reserved.
    pub fn take(&self, bytes: usize, cancel: &Cancel) -> Result<(), Cancelled> {
        if self.bytes_per_second == 0 {
            return Ok(());
        }
        match self.reserve(bytes, Instant::now()) {
            Duration::ZERO => Ok(()),
            wait => cpu::idle(|| cancel.wait(wait)),
        }
    }

    /// Reserves the time for `bytes` bytes; returns how long to wait for its end.
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
