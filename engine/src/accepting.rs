//! When a listener may have somebody for us: it was said to be ready, or the last try failed for a reason that may pass.
//!
//! Whoever waits in the backlog while no descriptor is left says nothing more: an edge-triggered poll would leave them
//! there until somebody else comes. Owned by [`crate::server`] and [`crate::serve`]; accepts nobody itself.

use std::io;
use std::time::{Duration, Instant};

/// Wait before another try, after one that failed.
const AGAIN: Duration = Duration::from_millis(200);

/// What is known of a listener.
#[derive(Debug)]
pub(crate) struct Accepting {
    is_ready: bool,
    again: Option<Instant>,
    is_failing: bool,
}

impl Accepting {
    /// Of one that was not asked yet.
    pub fn new() -> Self {
        Accepting { is_ready: true, again: None, is_failing: false }
    }

    /// Somebody has come.
    pub fn wake(&mut self) {
        self.is_ready = true;
    }

    /// True if it is to be asked now.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.is_ready |= self.again.take_if(|at| *at <= now).is_some();
        self.is_ready
    }

    /// When it is to be asked again, come who may.
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Somebody was accepted.
    pub fn accepted(&mut self) {
        self.is_failing = false;
    }

    /// Nobody was. True if `error` should be told: it is one (EMFILE, and the like), and the first in a row.
    pub fn failed(&mut self, error: &io::Error, now: Instant) -> bool {
        self.is_ready = false;
        let was_failing = self.is_failing;
        self.is_failing = error.kind() != io::ErrorKind::WouldBlock;
        self.again = self.is_failing.then(|| now + AGAIN);
        self.is_failing && !was_failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tried_again_until_it_has_passed() {
        let (mut accepting, start) = (Accepting::new(), Instant::now());
        let full = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(accepting.is_ready(start) && accepting.failed(&full, start));
        assert!(!accepting.is_ready(start), "not at once");
        let later = accepting.again().expect("another try");
        assert!(accepting.is_ready(later) && accepting.again().is_none(), "once, whether or not it is made");
        assert!(!accepting.failed(&full, later), "told already");
        accepting.wake();
        accepting.accepted();
        assert!(!accepting.failed(&io::ErrorKind::WouldBlock.into(), later) && accepting.again().is_none());
        assert!(!accepting.is_ready(later + AGAIN) && accepting.failed(&full, later), "another one");
    }
}
