//! Computes the transfer rate, for bars and JSON lines.
//!
//! The rate is a mean over the last seconds: steady enough to read, and quick enough to show a stall. Has no clock.

use std::collections::VecDeque;
use std::time::Duration;

/// Length of the time over which the mean is computed.
const WINDOW: Duration = Duration::from_secs(5);
/// Most samples in the time of [`WINDOW`].
pub(crate) const SAMPLES_MAX: usize = 64;

/// Samples of a count of bytes that never falls.
#[derive(Debug, Default)]
pub(crate) struct TransferRate {
    samples: VecDeque<(Duration, u64)>,
}

impl TransferRate {
    /// Adds a sample. `now` is the time since any fixed moment.
    pub(crate) fn sample(&mut self, now: Duration, bytes: u64) {
        let spacing = WINDOW / SAMPLES_MAX as u32;
        match self.samples.back() {
            Some(last) if self.samples.len() > 1 && now.saturating_sub(last.0) < spacing => {}
            _ => self.samples.push_back((now, bytes)),
        }
        // Keep one sample from before the window, so that a count that rises rarely has a rate, too.
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(at, _)| is_old(now, *at)) {
            self.samples.pop_front();
        }
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; `None` until there are two samples.
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        self.rate().map(|rate| rate as u64)
    }

    fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        let seconds = to.saturating_sub(*from).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*first) as f64 / seconds)
    }

    /// The time that `bytes` take at this rate; `None` if the rate is unknown, or if the time is a day or more.
    pub(crate) fn time_for(&self, bytes: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate >= 1.0 && bytes > 0)?;
        let seconds = bytes as f64 / rate;
        // A time of a day or more would not help a person.
        (seconds < 86_400.0).then(|| Duration::from_secs_f64(seconds.ceil()))
    }
}

fn is_old(now: Duration, at: Duration) -> bool {
    now.saturating_sub(at) > WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stalled_download_loses_its_rate() {
        let mut meter = TransferRate::default();
        assert_eq!((meter.bytes_per_second(), meter.time_for(5)), (None, None));
        for second in 0..4 {
            meter.sample(SECOND * second, 1000 * u64::from(second));
        }
        assert_eq!((meter.bytes_per_second(), meter.time_for(2500)), (Some(1000), Some(3 * SECOND)));
        for second in 4..20 {
            meter.sample(SECOND * second, 3000);
        }
        assert_eq!((meter.bytes_per_second(), meter.time_for(6000)), (Some(0), None));
    }

    #[test]
    fn many_samples_take_bounded_memory_and_keep_their_rate() {
        let mut meter = TransferRate::default();
        for milli in 0..60_000u32 {
            meter.sample(Duration::from_millis(milli.into()), u64::from(milli) * 2);
        }
        assert!(meter.samples.len() <= SAMPLES_MAX);
        assert!(
            meter.bytes_per_second().is_some_and(|rate| (1990..=2010).contains(&rate)),
            "{:?}",
            meter.rate()
        );
    }
}
