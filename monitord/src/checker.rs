//! The checker thread: owns the deadlines of subscribers and says when one is over.
//!
//! Owned by the event loop, which arms and disarms; a verdict rings a mio Waker. Sleeps until the earliest
//! deadline, and without any it does not wake up at all. Never touches a subscriber: it knows tokens, and the
//! loop ignores those that it no longer knows. Both sets hold at most one entry a client.

use mio::{Token, Waker};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest sleep while a deadline is armed: the most by which a step of the clock can delay it.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// A deadline: the time in nanoseconds since the epoch, of whom.
pub type Deadline = (i64, Token);

/// The handle of the thread.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    waker: Arc<Waker>,
}

#[derive(Debug, Default)]
struct State {
    deadlines: BTreeSet<Deadline>,
    passed: Vec<Token>,
    stop: bool,
}

impl Checker {
    /// Starts the thread; `waker` is rung when a deadline has passed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(waker: Arc<Waker>) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), waker });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("checker".into()).stack_size(64 << 10);
        let thread = thread.spawn(move || theirs.run())?;
        Ok(Checker { shared, thread: Some(thread) })
    }

    /// Asks for a verdict on `deadline`.
    pub fn arm(&self, deadline: Deadline) {
        let mut state = self.shared.lock();
        state.deadlines.insert(deadline);
        if state.deadlines.first() == Some(&deadline) {
            self.shared.changed.notify_one();
        }
    }

    /// Takes a deadline back.
    pub fn disarm(&self, deadline: Deadline) {
        self.shared.lock().deadlines.remove(&deadline);
    }

    /// Those whose deadline has passed since the last call.
    pub fn verdicts(&self) -> Vec<Token> {
        std::mem::take(&mut self.shared.lock().passed)
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stop {
            let now = sampan_ipc::time::now();
            if state.pass(now)
                && let Err(error) = self.waker.wake()
            {
                log::error!("cannot wake the loop: {error}");
            }
            state = match state.deadlines.first() {
                None => self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some((at, _)) => {
                    // One nanosecond behind, as a deadline itself still belongs to the time before it.
                    let left = u64::try_from(at.saturating_sub(now)).unwrap_or(0).saturating_add(1);
                    let left = Duration::from_nanos(left).min(SLEEP_MAX);
                    self.changed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
    }
}

impl State {
    /// Moves deadlines that are over at `now` to the verdicts; true if there was one.
    fn pass(&mut self, now: i64) -> bool {
        let before = self.passed.len();
        while let Some((at, token)) = self.deadlines.first().copied()
            && at < now
        {
            self.deadlines.pop_first();
            self.passed.push(token);
        }
        self.passed.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::time::Instant;

    #[test]
    fn deadlines_come_in_their_order_and_disarmed_ones_do_not() {
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let checker = Checker::start(waker).expect("a thread");
        let now = sampan_ipc::time::now();
        let later = |ms: i64| now + ms * 1_000_000;
        checker.arm((later(60), Token(3)));
        checker.arm((later(40), Token(2)));
        checker.arm((later(50), Token(9)));
        checker.arm((now - 1, Token(1)));
        checker.disarm((later(50), Token(9)));
        let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        while got.len() < 3 && Instant::now() < deadline {
            let _ = poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(1)));
            got.extend(checker.verdicts());
        }
        assert_eq!(got, [Token(1), Token(2), Token(3)]);
        assert!(sampan_ipc::time::now() > later(60));
    }
}
