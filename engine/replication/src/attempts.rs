//! How often, and after which wait, a failed request to a side is tried again.
//!
//! Decides only; the caller waits. The waits are those of `sampan-registry`.

use crate::side::{FailureKind, SideError};
use sampan_registry::retry::Waits;
use std::time::Duration;

/// The waits of a task between its attempts; after the last one, the task fails.
const TASK_WAITS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

/// Counts the failed attempts of one request, or of one blob since its last progress.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    waits: Waits,
    /// Whether a refusal of the credentials was tried again already.
    was_denied: bool,
}

impl Attempts {
    /// Forgets all failures, because there was progress.
    pub(crate) fn reset(&mut self) {
        *self = Attempts::default();
    }

    /// The wait before the next attempt after `error`; `None` to give up.
    pub(crate) fn after(&mut self, error: &SideError) -> Option<Duration> {
        match error.kind {
            // A side that demands a wait is busy: 503 stands for that.
            FailureKind::Temporary(Some(demanded)) => self.waits.next(503, demanded),
            FailureKind::Temporary(None) | FailureKind::Host | FailureKind::LostSession => {
                self.waits.next(0, Duration::ZERO)
            }
            // A token may have expired just now; the next request gets a new one.
            FailureKind::Denied if !self.was_denied => {
                self.was_denied = true;
                self.waits.next(0, Duration::ZERO)
            }
            _ => None,
        }
    }
}

/// The wait of a task after its failed attempt number `failed`, counted from 1; `None` to give up.
pub(crate) fn task_wait(failed: usize) -> Option<Duration> {
    TASK_WAITS.get(failed.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_after_five_attempts() {
        let mut attempts = Attempts::default();
        let error = SideError::new(FailureKind::Temporary(None), "reset");
        for whole in [500, 1000, 2000, 4000] {
            let wait = attempts.after(&error).expect("one more").as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        assert_eq!(attempts.after(&error), None);
    }

    #[test]
    fn what_no_attempt_can_cure_is_not_tried_again() {
        for kind in [FailureKind::NotFound, FailureKind::Corrupt, FailureKind::Refused] {
            assert_eq!(Attempts::default().after(&SideError::new(kind, "x")), None);
        }
        let (mut attempts, denied) = (Attempts::default(), SideError::new(FailureKind::Denied, "401"));
        assert!(attempts.after(&denied).is_some(), "a token may have expired");
        assert_eq!(attempts.after(&denied), None);
        let demand = SideError::new(FailureKind::Temporary(Some(Duration::from_secs(9))), "429");
        assert_eq!(Attempts::default().after(&demand), Some(Duration::from_secs(9)));
    }
}
