//! The deadline thread: wakes the event loop when a client's deadline passes.
//!
//! The event loop owns the deadlines: it arms and disarms them. A deadline is the `until` of a subscription, or the
//! time by which a client must have sent its request. The thread waits for a timer that is set to the earliest
//! deadline; without deadlines it never wakes up. The thread knows clients only by token and never uses them: the
//! event loop ignores tokens of closed clients. Each client has at most one deadline, which limits both collections.
//!
//! The timer follows the wall clock, and expires early when the clock is set: timerfd_create(2),
//! "TFD_TIMER_CANCEL_ON_SET".

use mio::{Token, Waker};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use sampan_os::thread;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A time in nanoseconds since the epoch, and the token of its client.
pub(crate) type Deadline = (i64, Token);

/// The deadlines of all clients, and the thread that waits for them.
#[derive(Debug)]
pub(crate) struct Deadlines {
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
    pending: BTreeSet<Deadline>,
    passed: Vec<Token>,
    stop: bool,
}

impl Deadlines {
    /// Starts the thread, which calls `waker` when a deadline has passed.
    ///
    /// # Errors
    /// The thread or its timer cannot be created.
    pub(crate) fn start(waker: Arc<Waker>) -> io::Result<Self> {
        Self::with_clock(waker, sampan_ipc::time::now)
    }

    fn with_clock(waker: Arc<Waker>, clock: fn() -> i64) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
        let shared = Arc::new(Shared { state: Mutex::default(), timer, waker, clock });
        let for_thread = Arc::clone(&shared);
        let thread = thread::spawn("deadlines", 64 << 10, move || for_thread.run())?;
        Ok(Deadlines { shared, thread: Some(thread) })
    }

    /// Adds `deadline`. After the clock has passed it, [`Deadlines::take_passed`] returns its token.
    pub(crate) fn arm(&self, deadline: Deadline) {
        let mut state = self.shared.lock();
        state.pending.insert(deadline);
        if state.pending.first() == Some(&deadline) {
            self.shared.wake_at(deadline.0);
        }
    }

    /// Removes `deadline`, unless the clock has passed it already.
    pub(crate) fn disarm(&self, deadline: Deadline) {
        let mut state = self.shared.lock();
        let was_first = state.pending.first() == Some(&deadline);
        state.pending.remove(&deadline);
        // Each subscriber disarms the deadline of its request. If the timer stayed set, the thread of an idle process
        // would wake up for nothing, and bring back code pages that the process has released.
        if was_first {
            self.shared.wake_at_first(&state);
        }
    }

    /// Returns the tokens whose deadlines have passed since the last call.
    pub(crate) fn take_passed(&self) -> Vec<Token> {
        std::mem::take(&mut self.shared.lock().passed)
    }
}

impl Drop for Deadlines {
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

    /// Sets the timer to one nanosecond after `deadline`, because a deadline includes its own nanosecond.
    fn wake_at(&self, deadline: i64) {
        // Zero would disarm the timer. One nanosecond after the epoch is in the past, so the timer expires at once.
        let at = TimeSpec::nanoseconds(deadline.saturating_add(1).max(1));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        if let Err(errno) = self.timer.set(Expiration::OneShot(at), flags) {
            log::error!("cannot set the deadline timer, subscriptions may end late: {errno}");
        }
    }

    /// Sets the timer to the first pending deadline; without one, the timer does not expire.
    fn wake_at_first(&self, state: &State) {
        if let Some((at, _)) = state.pending.first() {
            self.wake_at(*at);
        } else if let Err(errno) = self.timer.unset() {
            log::debug!("cannot stop the deadline timer, it will expire once without a deadline: {errno}");
        }
    }

    fn run(&self) {
        loop {
            // Returns also after the clock was set: nix returns success for ECANCELED of read(2).
            if let Err(errno) = self.timer.wait() {
                log::error!(
                    "cannot wait for deadlines, subscriptions no longer end at their 'until': {errno}"
                );
                return;
            }
            let mut state = self.lock();
            if state.stop {
                return;
            }
            if state.move_passed((self.clock)())
                && let Err(error) = self.waker.wake()
            {
                log::error!("cannot wake the event loop for a passed deadline: {error}");
            }
            self.wake_at_first(&state);
        }
    }
}

impl State {
    /// Moves the deadlines before `now` from `pending` to `passed`. Returns whether there was such a deadline.
    fn move_passed(&mut self, now: i64) -> bool {
        let before = self.passed.len();
        while let Some((at, token)) = self.pending.first().copied()
            && at < now
        {
            self.pending.pop_first();
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
        let deadlines = Deadlines::start(waker).expect("a thread");
        let now = sampan_ipc::time::now();
        let later = |ms: i64| now + ms * 1_000_000;
        deadlines.arm((later(60), Token(3)));
        deadlines.arm((later(40), Token(2)));
        deadlines.arm((later(50), Token(9)));
        deadlines.arm((now - 1, Token(1)));
        deadlines.disarm((later(50), Token(9)));
        let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        while got.len() < 3 && Instant::now() < deadline {
            let _ = poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(1)));
            got.extend(deadlines.take_passed());
        }
        assert_eq!(got, [Token(1), Token(2), Token(3)]);
        assert!(sampan_ipc::time::now() > later(60));
    }

    #[test]
    fn a_disarmed_deadline_does_not_wake_the_thread() {
        let poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let deadlines = Deadlines::start(waker).expect("a thread");
        let is_set = || deadlines.shared.timer.get().expect("a timer").is_some();
        let later = |hours: i64| sampan_ipc::time::now() + hours * 3_600_000_000_000;
        let (first, second) = ((later(1), Token(1)), (later(2), Token(2)));
        deadlines.arm(first);
        deadlines.arm(second);
        deadlines.disarm(first);
        assert!(is_set(), "the second deadline is pending");
        deadlines.disarm(second);
        assert!(!is_set());
    }

    #[test]
    fn a_deadline_ends_when_the_clock_steps_past_it() {
        static STEP: AtomicI64 = AtomicI64::new(0);
        fn clock() -> i64 {
            sampan_ipc::time::now() + STEP.load(Ordering::SeqCst)
        }
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let deadlines = Deadlines::with_clock(waker, clock).expect("a thread");
        let hour = 3_600_000_000_000;
        deadlines.arm((clock() + hour, Token(7)));
        STEP.store(2 * hour, Ordering::SeqCst);
        // After the clock is set, the kernel ends the thread's read of the timer. In this test the timer itself
        // expires.
        deadlines.shared.wake_at(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while deadlines.shared.lock().passed.is_empty() && Instant::now() < deadline {
            let _ = poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(1)));
        }
        assert_eq!(deadlines.take_passed(), [Token(7)]);
    }
}
