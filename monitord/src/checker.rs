//! The checker thread: owns the deadlines of subscribers and says when one is over.
//!
//! Owned by the event loop, which arms and disarms; a verdict rings a mio Waker. Sleeps in a timer that is set to the
//! earliest deadline, and without any it does not wake up at all. Never touches a subscriber: it knows tokens, and the
//! loop ignores those that it no longer knows. Both sets hold at most one entry a client.
//!
//! The timer follows the wall clock, also when somebody sets that: timerfd_create(2), "TFD_TIMER_CANCEL_ON_SET".

use mio::{Token, Waker};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

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
    timer: TimerFd,
    waker: Arc<Waker>,
    clock: fn() -> i64,
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
    /// The thread or its timer cannot be had.
    pub fn start(waker: Arc<Waker>) -> io::Result<Self> {
        Self::with_clock(waker, sampan_ipc::time::now)
    }

    fn with_clock(waker: Arc<Waker>, clock: fn() -> i64) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
        let shared = Arc::new(Shared { state: Mutex::default(), timer, waker, clock });
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
            self.shared.wake_at(deadline.0);
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
        self.shared.wake_at(0);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Sets the timer to the instant behind `at`, as a deadline itself still belongs to the time before it.
    fn wake_at(&self, at: i64) {
        // A time of zero would disarm the timer; the clock is past both.
        let at = TimeSpec::nanoseconds(at.saturating_add(1).max(1));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        if let Err(errno) = self.timer.set(Expiration::OneShot(at), flags) {
            log::error!("cannot set the timer of deadlines: {errno}");
        }
    }

    fn run(&self) {
        loop {
            // Returns as well when somebody sets the clock.
            if let Err(errno) = self.timer.wait() {
                log::error!("cannot wait for deadlines, no subscription ends by time any more: {errno}");
                return;
            }
            let mut state = self.lock();
            if state.stop {
                return;
            }
            if state.pass((self.clock)())
                && let Err(error) = self.waker.wake()
            {
                log::error!("cannot wake the loop: {error}");
            }
            if let Some((at, _)) = state.deadlines.first() {
                self.wake_at(*at);
            }
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
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::{Duration, Instant};

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

    #[test]
    fn a_deadline_ends_when_the_clock_steps_past_it() {
        static STEP: AtomicI64 = AtomicI64::new(0);
        fn clock() -> i64 {
            sampan_ipc::time::now() + STEP.load(Ordering::SeqCst)
        }
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let checker = Checker::with_clock(waker, clock).expect("a thread");
        let hour = 3_600_000_000_000;
        checker.arm((clock() + hour, Token(7)));
        STEP.store(2 * hour, Ordering::SeqCst);
        // What the kernel does to the sleeper when the clock is set: its read ends.
        checker.shared.wake_at(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while checker.shared.lock().passed.is_empty() && Instant::now() < deadline {
            let _ = poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(1)));
        }
        assert_eq!(checker.verdicts(), [Token(7)]);
    }
}
