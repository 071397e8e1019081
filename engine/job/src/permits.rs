//! A number of permits, and the threads that wait for one, in the order they came.
//!
//! Called by [`crate::limits`] for transfers and by [`crate::cpu`] for processors.

use crate::cancel::{Cancel, Cancelled};
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often a waiting job looks whether it was cancelled.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// A number of permits, and those who wait for one, in the order they came.
pub(crate) struct Permits {
    state: Mutex<State>,
    /// For those in the queue.
    freed: Condvar,
    /// For those who take what nobody else wants.
    spare: Condvar,
}

struct State {
    free: usize,
    next_ticket: u64,
    queue: VecDeque<u64>,
    /// How many wait for a spare one.
    hopeful: usize,
}

impl State {
    fn has_spare(&self) -> bool {
        self.free > 0 && self.queue.is_empty()
    }
}

impl Permits {
    pub(crate) fn new(free: usize) -> Self {
        let state = State { free: free.max(1), next_ticket: 0, queue: VecDeque::new(), hopeful: 0 };
        Permits { state: Mutex::new(state), freed: Condvar::new(), spare: Condvar::new() }
    }

    pub(crate) fn take(&self, cancel: Option<&Cancel>) -> Result<(), Cancelled> {
        let mut state = lock(&self.state);
        if state.has_spare() {
            state.free -= 1;
            return Ok(());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let result = loop {
            if state.free > 0 && state.queue.front() == Some(&ticket) {
                state.free -= 1;
                break Ok(());
            }
            if let Err(cancelled) = cancel.map_or(Ok(()), Cancel::check) {
                break Err(cancelled);
            }
            state = mutex::wait_timeout(&self.freed, state, LOOK);
        };
        state.queue.retain(|other| *other != ticket);
        if state.free > 0 {
            self.tell(&state);
        }
        result
    }

    pub(crate) fn give(&self) {
        let mut state = lock(&self.state);
        state.free += 1;
        self.tell(&state);
    }

    /// Wakes who may have the free one. A call into the kernel each, so none without need.
    fn tell(&self, state: &State) {
        match (state.queue.is_empty(), state.hopeful) {
            (false, _) => self.freed.notify_all(),
            (true, 1..) => self.spare.notify_all(),
            (true, 0) => {}
        }
    }

    /// Takes one that nobody is queueing for; false once `done` is set, see [`Permits::recheck`].
    pub(crate) fn take_spare(&self, done: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        while !done.load(Ordering::SeqCst) {
            if state.has_spare() {
                state.free -= 1;
                return true;
            }
            state.hopeful += 1;
            state = mutex::wait(&self.spare, state);
            state.hopeful -= 1;
        }
        false
    }

    /// Has those who wait for a spare one look whether they still want it.
    pub(crate) fn recheck(&self) {
        let state = lock(&self.state);
        if state.hopeful > 0 {
            self.spare.notify_all();
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !lock(&self.state).queue.is_empty()
    }
}

#[cfg(test)]
impl Permits {
    /// How many wait in the queue, and how many for a spare one.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.queue.len(), state.hopeful)
    }
}
