//! A queue between threads, whose length can be asked.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A queue without a bound.
pub struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    pushed: Condvar,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { items: Mutex::new(VecDeque::new()), pushed: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().expect("no thread panics with the lock")
    }

    /// Adds `item` at the end.
    pub fn push(&self, item: T) {
        self.lock().push_back(item);
        self.pushed.notify_one();
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Removes the first item; waits for one at most `time`.
    pub fn pop(&self, time: Duration) -> Option<T> {
        let until = Instant::now() + time;
        let mut items = self.lock();
        loop {
            if let Some(item) = items.pop_front() {
                return Some(item);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            items = self.pushed.wait_timeout(items, left).expect("no thread panics with the lock").0;
        }
    }
}
