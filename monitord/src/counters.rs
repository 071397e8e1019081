//! Counters since the start of this process, for its status and its log.
//!
//! The intake owns the counters; the event loop adds the numbers about clients.

use std::time::Instant;

/// Seconds over which the rate of events is averaged.
const WINDOW_S: u64 = 60;

/// Totals since the start, and the number of events in each second of the last minute.
#[derive(Debug)]
pub(crate) struct Counters {
    started: Instant,
    /// Number of events that this process has stored.
    pub(crate) events: u64,
    /// Bytes from the FIFOs that belonged to no valid record.
    pub(crate) skipped_bytes: u64,
    /// Number of records that were skipped because an earlier process had put them into the journal.
    pub(crate) repeated: u64,
    /// Number of records from the emit FIFO that had a type of facts.
    pub(crate) emit_refused: u64,
    /// Number of events that writers have dropped because a FIFO was full, according to later records.
    pub(crate) writers_lost: u64,
    /// Number of events that were reported to subscribers as lost.
    pub(crate) subscribers_lost: u64,
    /// Number of subscribers that were refused because of a limit.
    pub(crate) refused: u64,
    /// Number of events in each of the last [`WINDOW_S`] seconds; the index is the second modulo [`WINDOW_S`].
    seconds: [u32; WINDOW_S as usize],
    /// The second of the latest entry in `seconds`, counted from the start.
    latest_s: u64,
}

impl Counters {
    /// Sets all counters to zero, and starts the clock for the rate.
    pub(crate) fn new() -> Self {
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

    /// Counts `count` events that were stored just now.
    pub(crate) fn add_events(&mut self, count: u64) {
        self.events += count;
        self.clear_old_seconds();
        if let Some(second) = self.seconds.get_mut((self.latest_s % WINDOW_S) as usize) {
            *second = second.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Events per second in thousandths, over the last minute, or since the start if that was less than a minute ago.
    pub(crate) fn events_per_1000s(&mut self) -> u64 {
        self.clear_old_seconds();
        let events: u64 = self.seconds.iter().map(|count| u64::from(*count)).sum();
        events * 1000 / (self.latest_s + 1).min(WINDOW_S)
    }

    /// Milliseconds since the start.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Clears the entries of seconds that are more than [`WINDOW_S`] old.
    fn clear_old_seconds(&mut self) {
        let now = self.started.elapsed().as_secs();
        for second in (self.latest_s + 1..=now).take(WINDOW_S as usize) {
            if let Some(count) = self.seconds.get_mut((second % WINDOW_S) as usize) {
                *count = 0;
            }
        }
        self.latest_s = now;
    }
}
