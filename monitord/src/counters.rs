//! What this process has counted since it started.

use std::time::Instant;

/// Seconds over which the rate is told.
const WINDOW_S: u64 = 60;

/// The counters.
#[derive(Debug)]
pub struct Counters {
    started: Instant,
    /// Events taken.
    pub events: u64,
    /// Bytes of the FIFOs that were no record.
    pub skipped_bytes: u64,
    /// Records that were in the journal already.
    pub repeated: u64,
    /// Records of the emit FIFO that claimed to be facts.
    pub emit_refused: u64,
    /// Events that writers dropped.
    pub writers_lost: u64,
    /// Events that subscribers were told are gone.
    pub subscribers_lost: u64,
    /// Subscribers turned away.
    pub refused: u64,
    /// Events of each of the last seconds, by second modulo their number.
    seconds: [u32; WINDOW_S as usize],
    latest_s: u64,
}

impl Counters {
    /// All zero, from now.
    pub fn new() -> Self {
        Counters {
            started: Instant::now(),
            events: 0,
            skipped_bytes: 0,
            repeated: 0,
            emit_refused: 0,
            writers_lost: 0,
            subscribers_lost: 0,
            refused: 0,
            seconds: [0; WINDOW_S as usize],
            latest_s: 0,
        }
    }

    /// Counts events that were just taken.
    pub fn add_events(&mut self, count: u64) {
        self.events += count;
        self.forget();
        let second = &mut self.seconds[(self.latest_s % WINDOW_S) as usize];
        *second = second.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Events per second over the last minute, or since the start if that is less, in thousandths.
    pub fn events_per_1000s(&mut self) -> u64 {
        self.forget();
        let events: u64 = self.seconds.iter().map(|count| u64::from(*count)).sum();
        events * 1000 / (self.latest_s + 1).min(WINDOW_S)
    }

    /// Milliseconds since the start.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Clears the seconds that have left the window.
    fn forget(&mut self) {
        let now = self.started.elapsed().as_secs();
        for second in (self.latest_s + 1..=now).take(WINDOW_S as usize) {
            self.seconds[(second % WINDOW_S) as usize] = 0;
        }
        self.latest_s = now;
    }
}
