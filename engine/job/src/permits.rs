//! A counting semaphore that serves waiting threads in the order of their requests.
//!
//! Called by [`crate::limits`] for transfers and by [`crate::cpu`] for threads that compute. Never takes a permit back
//! from its holder.

use crate::cancel::{Cancel, Cancelled};
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often a waiting thread checks whether its job was cancelled.
pub(crate) const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The semaphore.
pub(crate) struct Permits {
    state: Mutex<State>,
    /// Wakes the threads in the queue.
    freed: Condvar,
    /// Wakes the threads that wait for a spare permit.
    spare: Condvar,
}

struct State {
    free: usize,
    next_ticket: u64,
    queue: VecDeque<u64>,
    /// The number of threads that wait for a spare permit, which no thread in the queue wants.
    spare_waiters: usize,
}

impl State {
    fn has_spare(&self, count: usize) -> bool {
        self.free >= count && self.queue.is_empty()
    }
}

impl Permits {
    pub(crate) fn new(free: usize) -> Self {
        let state = State { free: free.max(1), next_ticket: 0, queue: VecDeque::new(), spare_waiters: 0 };
        Permits { state: Mutex::new(state), freed: Condvar::new(), spare: Condvar::new() }
    }

    pub(crate) fn take(&self, cancel: Option<&Cancel>) -> Result<(), Cancelled> {
        self.take_many(1, cancel)
    }

    /// Takes `count` permits at once; no more than there are in all.
    pub(crate) fn take_many(&self, count: usize, cancel: Option<&Cancel>) -> Result<(), Cancelled> {
        let mut state = lock(&self.state);
        if state.has_spare(count) {
            state.free -= count;
            return Ok(());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let result = loop {
            if state.free >= count && state.queue.front() == Some(&ticket) {
                state.free -= count;
                break Ok(());
            }
            if let Err(cancelled) = cancel.map_or(Ok(()), Cancel::check) {
                break Err(cancelled);
            }
            state = mutex::wait_timeout(&self.freed, state, CANCEL_CHECK_INTERVAL);
        };
        state.queue.retain(|other| *other != ticket);
        // This thread may have blocked the queue: if it was cancelled at the front, the next thread must look now.
        if state.free > 0 {
            self.wake_waiters(&state);
        }
        result
    }

    pub(crate) fn release(&self) {
        self.release_many(1);
    }

    pub(crate) fn release_many(&self, count: usize) {
        let mut state = lock(&self.state);
        state.free += count;
        self.wake_waiters(&state);
    }

    /// Wakes the threads that may take a free permit: those in the queue first. A notification is a system call, so
    /// none is sent without a waiting thread.
    fn wake_waiters(&self, state: &State) {
        match (state.queue.is_empty(), state.spare_waiters) {
            (false, _) => self.freed.notify_all(),
            (true, 1..) => self.spare.notify_all(),
            (true, 0) => {}
        }
    }

    /// Waits for a permit that no thread in the queue wants and takes it. Returns false once `done` is set; the thread
    /// that sets `done` must call [`Permits::recheck`].
    pub(crate) fn take_spare(&self, done: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        while !done.load(Ordering::SeqCst) {
            if state.has_spare(1) {
                state.free -= 1;
                return true;
            }
            state.spare_waiters += 1;
            state = mutex::wait(&self.spare, state);
            state.spare_waiters -= 1;
        }
        false
    }

    /// Wakes the threads in [`Permits::take_spare`], so that they check `done` again.
    pub(crate) fn recheck(&self) {
        let state = lock(&self.state);
        if state.spare_waiters > 0 {
            self.spare.notify_all();
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !lock(&self.state).queue.is_empty()
    }
}

#[cfg(test)]
impl Permits {
    /// The number of threads in the queue, and of threads that wait for a spare permit.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.queue.len(), state.spare_waiters)
    }
}
