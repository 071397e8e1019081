//! Decides whether a container that has ended starts again, and after which delay. docs/run.md, "Restart policies".
//!
//! Called when a run has ended; does no I/O. [`sampan_ipc::restart_policy`] has the rule of each policy, since the
//! engine uses the same rule for a container whose shim was killed.

use sampan_ipc::restart_policy::Restart;
use sampan_ipc::shim::State;
use std::time::Duration;

/// Whether the policy starts the container again, after a run that has ended with `state.exit_code`.
///
/// `is_stopping`: a stop, a restart or a removal has ended the run. That request decides what follows, and the policy
/// is not applied.
pub(crate) fn starts_again(policy: Restart, state: &State, is_stopping: bool) -> bool {
    !is_stopping && policy.starts_again(state.exit_code, state.restarts, state.stopped_by_hand)
}

/// The first delay; each further delay is twice as long.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest delay.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// After a run of at least this length the next delay is [`DELAY_MIN`] again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// The delay before the next start by policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { next: DELAY_MIN }
    }

    /// Returns the delay after a run of length `lasted`, and doubles the next delay.
    pub(crate) fn next_delay(&mut self, lasted: Duration) -> Duration {
        if lasted >= GOOD_RUN {
            self.next = DELAY_MIN;
        }
        let delay = self.next;
        self.next = (delay * 2).min(DELAY_MAX);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_policy_is_applied_to_a_run_that_a_request_has_ended() {
        let mut state = State { exit_code: 1, ..State::default() };
        assert!(starts_again(Restart::Always, &state, false));
        assert!(!starts_again(Restart::Always, &state, true));
        state.stopped_by_hand = true;
        assert!(!starts_again(Restart::Always, &state, false));
    }

    #[test]
    fn delays_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..12).map(|_| backoff.next_delay(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        assert_eq!(backoff.next_delay(GOOD_RUN), DELAY_MIN);
        assert_eq!(backoff.next_delay(Duration::from_secs(9)), DELAY_MIN * 2);
    }
}
