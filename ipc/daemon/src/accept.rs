//! When to call accept(2): when the poll reported the listener, or some time after a failure that may pass.
//!
//! While no descriptor is left, connections stay in the backlog, and an edge-triggered poll does not report them again:
//! without a later attempt they would wait until another client connects. Owned by the loop that owns the listener;
//! never accepts itself.

use std::io;
use std::time::{Duration, Instant};

/// Time between a failed accept(2) and the next attempt.
const AGAIN: Duration = Duration::from_millis(200);

/// Whether a listener is to be asked for connections.
#[derive(Debug)]
pub struct Accept {
    is_ready: bool,
    again: Option<Instant>,
    is_failing: bool,
}

impl Default for Accept {
    fn default() -> Self {
        Self::new()
    }
}

impl Accept {
    /// For a listener that was not asked yet.
    pub fn new() -> Self {
        Accept { is_ready: true, again: None, is_failing: false }
    }

    /// The poll reported the listener.
    pub fn mark_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether connections may be left of the last report: the loop must not sleep.
    pub fn is_marked(&self) -> bool {
        self.is_ready
    }

    /// Whether to call accept(2) now.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.is_ready |= self.again.take_if(|at| *at <= now).is_some();
        self.is_ready
    }

    /// When to call accept(2) again after a failure.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.again
    }

    /// Records that a connection was accepted.
    pub fn record_success(&mut self) {
        self.is_failing = false;
    }

    /// Records that accept(2) failed. True if `error` should be logged: it is a failure (EMFILE, and others of its kind), and
    /// the first in a row.
    pub fn record_failure(&mut self, error: &io::Error, now: Instant) -> bool {
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
    fn a_failure_is_logged_once_and_tried_again_until_it_has_passed() {
        let (mut accepting, start) = (Accept::new(), Instant::now());
        let full = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(accepting.is_ready(start) && accepting.record_failure(&full, start));
        assert!(!accepting.is_ready(start), "not at once");
        let later = accepting.next_attempt().expect("another try");
        assert!(
            accepting.is_ready(later) && accepting.next_attempt().is_none(),
            "once, whether or not it is made"
        );
        assert!(!accepting.record_failure(&full, later), "logged already");
        accepting.mark_ready();
        accepting.record_success();
        assert!(
            !accepting.record_failure(&io::ErrorKind::WouldBlock.into(), later)
                && accepting.next_attempt().is_none()
        );
        assert!(!accepting.is_ready(later + AGAIN) && accepting.record_failure(&full, later), "another one");
    }
}
