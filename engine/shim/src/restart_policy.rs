//! How long a container that has ended waits before its policy starts it again. Pure; docs/run.md, "Restart policies".
//!
//! Whether it starts again is [`sampan_ipc::restart_policy`].

use std::time::Duration;

/// First wait; doubles each time.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A run that lasts so long begins the waits anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// The waits between runs.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Begins with the shortest wait.
    pub fn new() -> Self {
        Backoff { next: WAIT_MIN }
    }

    /// How long to wait after a run that lasted so long.
    pub fn wait(&mut self, lasted: Duration) -> Duration {
        if lasted >= GOOD_RUN {
            self.next = WAIT_MIN;
        }
        let wait = self.next;
        self.next = (wait * 2).min(WAIT_MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..12).map(|_| backoff.wait(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        assert_eq!(backoff.wait(GOOD_RUN), WAIT_MIN);
        assert_eq!(backoff.wait(Duration::from_secs(9)), WAIT_MIN * 2);
    }
}
