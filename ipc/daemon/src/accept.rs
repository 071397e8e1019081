//! Decides when to call accept(2): after the poll reported the listener, or some time after a temporary failure.
//!
//! While this process has no free descriptor, connections stay in the backlog, and an edge-triggered poll does not
//! report them again. Without a later attempt they would wait until another client connects. Owned by the event loop
//! that owns the listener; never accepts itself.

use std::io;
use std::time::{Duration, Instant};

/// Time between a failed accept(2) and the next attempt.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Whether to call accept(2) on a listener, now or later.
#[derive(Debug)]
pub struct Accept {
    is_ready: bool,
    retry_at: Option<Instant>,
    is_failing: bool,
}

impl Default for Accept {
    fn default() -> Self {
        Self::new()
    }
}

impl Accept {
    /// The state for a new listener, which may have connections already.
    pub fn new() -> Self {
        Accept { is_ready: true, retry_at: None, is_failing: false }
    }

    /// Records that the poll reported the listener.
    pub fn mark_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether connections may be left since the last report. If so, the event loop must not sleep.
    pub fn is_marked(&self) -> bool {
        self.is_ready
    }

    /// Whether to call accept(2) now.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.is_ready |= self.retry_at.take_if(|at| *at <= now).is_some();
        self.is_ready
    }

    /// The time of the next attempt after a failure.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Records that a connection was accepted.
    pub fn record_success(&mut self) {
        self.is_failing = false;
    }

    /// Records that accept(2) failed. Returns true if the caller should log `error`: it is not `WouldBlock`, and the
    /// previous call did not fail.
    pub fn record_failure(&mut self, error: &io::Error, now: Instant) -> bool {
        self.is_ready = false;
        let was_failing = self.is_failing;
        self.is_failing = error.kind() != io::ErrorKind::WouldBlock;
        self.retry_at = self.is_failing.then(|| now + RETRY_DELAY);
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
            "one attempt for each failure"
        );
        assert!(!accepting.record_failure(&full, later), "logged already");
        accepting.mark_ready();
        accepting.record_success();
        assert!(
            !accepting.record_failure(&io::ErrorKind::WouldBlock.into(), later)
                && accepting.next_attempt().is_none()
        );
        assert!(
            !accepting.is_ready(later + RETRY_DELAY) && accepting.record_failure(&full, later),
            "another one"
        );
    }
}
