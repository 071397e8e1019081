//! The memory for chunks of blobs: one budget for all executions of the engine, so that memory does not grow with the
//! number of blobs, tasks or executions.
//!
//! A thread takes its share before it reads a chunk, and gives it back when its blob is done. Threads get their shares
//! in the order of their requests, so that a large blob is not overtaken for ever by small ones.

use sampan_job::cancel::{Cancel, Cancelled};
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often a waiting thread checks whether it was cancelled.
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The budget.
pub struct Buffers {
    state: Mutex<State>,
    freed: Condvar,
    total: usize,
}

struct State {
    free: usize,
    next_ticket: u64,
    queue: VecDeque<u64>,
}

/// A share of the budget; dropping it gives it back.
pub struct Share<'a> {
    of: &'a Buffers,
    bytes: usize,
}

impl Buffers {
    /// Makes a budget of `total` bytes.
    pub fn new(total: usize) -> Self {
        let state = State { free: total, next_ticket: 0, queue: VecDeque::new() };
        Buffers { state: Mutex::new(state), freed: Condvar::new(), total }
    }

    /// Waits for a share of `bytes` bytes; a larger share than the whole budget is the whole budget.
    ///
    /// # Errors
    /// [`Cancelled`]: the wait was cancelled.
    pub fn take(&self, bytes: usize, cancel: &Cancel) -> Result<Share<'_>, Cancelled> {
        let bytes = bytes.min(self.total);
        let mut state = lock(&self.state);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let taken = loop {
            if state.queue.front() == Some(&ticket) && state.free >= bytes {
                state.free -= bytes;
                break Ok(Share { of: self, bytes });
            }
            if let Err(cancelled) = cancel.check() {
                break Err(cancelled);
            }
            state = mutex::wait_timeout(&self.freed, state, CANCEL_CHECK_INTERVAL);
        };
        state.queue.retain(|other| *other != ticket);
        drop(state);
        self.freed.notify_all();
        taken
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        lock(&self.of.state).free += self.bytes;
        self.of.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_waits_until_enough_is_free() {
        let (buffers, cancel) = (Buffers::new(10), Cancel::default());
        let first = buffers.take(7, &cancel).expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(buffers.take(100, &cancel).expect("free in the end")));
            while lock(&buffers.state).queue.is_empty() {
                std::thread::yield_now();
            }
            drop(first);
            second.join().expect("no panic");
        });
        assert_eq!(lock(&buffers.state).free, 10);
    }

    #[test]
    fn a_cancelled_wait_ends_and_blocks_no_other() {
        let (buffers, cancel, live) = (Buffers::new(10), Cancel::default(), Cancel::default());
        let held = buffers.take(10, &live).expect("free");
        cancel.cancel();
        assert!(buffers.take(1, &cancel).is_err());
        drop(held);
        drop(buffers.take(10, &live).expect("free"));
    }
}
