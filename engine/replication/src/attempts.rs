//! How often, and after which wait, a failed request to a side is tried again.
//!
//! Decides only; the caller waits. A registry that demands a pause gets it before the next request by the host gate of
//! `sampan-registry`, so the demand counts here only for sides without a gate.

use crate::side::{FailureKind, SideError};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Most attempts of one request, including the first.
const TRIES: u32 = 5;
/// Wait before the second attempt; each later wait is twice as long. A random part, up to a half, is left out, so that
/// tasks that failed together do not retry together.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait that no registry has demanded.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest wait that a registry can demand; a longer demand is cut to this.
const DEMAND_MAX: Duration = Duration::from_secs(120);
/// The waits of a task between its attempts; after the last one, the task fails.
const TASK_WAITS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

/// Counts the failed attempts of one request, or of one blob since its last progress.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    failed: u32,
    /// Whether a refusal of the credentials was tried again already.
    was_denied: bool,
}

impl Attempts {
    /// Forgets all failures, because there was progress.
    pub(crate) fn reset(&mut self) {
        self.failed = 0;
    }

    /// The wait before the next attempt after `error`; `None` to give up.
    pub(crate) fn after(&mut self, error: &SideError) -> Option<Duration> {
        self.failed += 1;
        let demanded = match error.kind {
            FailureKind::Temporary(demanded) => demanded.unwrap_or_default(),
            FailureKind::Host | FailureKind::LostSession => Duration::ZERO,
            // A token may have expired just now; the next request gets a new one.
            FailureKind::Denied if !self.was_denied => {
                self.was_denied = true;
                Duration::ZERO
            }
            _ => return None,
        };
        if self.failed >= TRIES {
            return None;
        }
        let whole = FIRST.saturating_mul(1 << (self.failed - 1).min(16)).min(LONGEST);
        Some(whole.mul_f64(0.5 + 0.5 * random_fraction()).max(demanded.min(DEMAND_MAX)))
    }
}

/// The wait of a task after its failed attempt number `failed`, counted from 1; `None` to give up.
pub(crate) fn task_wait(failed: usize) -> Option<Duration> {
    TASK_WAITS.get(failed.checked_sub(1)?).copied()
}

/// A number between 0 and 1. The random keys of the standard library's hash maps are good enough for a random wait.
fn random_fraction() -> f64 {
    f64::from((RandomState::new().build_hasher().finish() >> 32) as u32) / f64::from(u32::MAX)
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
