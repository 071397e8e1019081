//! A small pool of threads that start on demand.
//!
//! Used by the manager. A thread does one piece of work after the other, and ends after a short time without work:
//! requests about containers come in bursts, and an idle engine should have no threads. The pool never refuses work;
//! work waits for a thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most threads at a time.
const THREADS_MAX: usize = 4;
/// How long an idle thread waits for more work before it ends.
const LINGER: Duration = Duration::from_millis(100);
/// Stack size of a thread, in bytes.
const STACK: usize = 1 << 20;

type Work<C> = Box<dyn FnOnce(&C) + Send>;

struct PoolState<C> {
    works: VecDeque<Work<C>>,
    threads: usize,
    /// Number of threads that wait for work.
    idle: usize,
}

/// A bounded number of threads, whose work shares one value of type `C`.
pub struct ThreadPool<C> {
    shared: Arc<(Mutex<PoolState<C>>, Condvar)>,
}

impl<C> Clone for ThreadPool<C> {
    fn clone(&self) -> Self {
        ThreadPool { shared: Arc::clone(&self.shared) }
    }
}

impl<C> Default for ThreadPool<C> {
    fn default() -> Self {
        let state = PoolState { works: VecDeque::new(), threads: 0, idle: 0 };
        ThreadPool { shared: Arc::new((Mutex::new(state), Condvar::new())) }
    }
}

impl<C: Send + Sync + 'static> ThreadPool<C> {
    /// Runs `work` on a thread, as soon as one is free.
    pub fn add(&self, shared: &Arc<C>, work: impl FnOnce(&C) + Send + 'static) {
        let mut state = self.lock();
        state.works.push_back(Box::new(work));
        if state.idle >= state.works.len() {
            self.shared.1.notify_one();
            return;
        }
        if state.threads == THREADS_MAX {
            return;
        }
        let (workers, shared) = (self.clone(), Arc::clone(shared));
        match sampan_os::thread::spawn("container", STACK, move || workers.work(&shared)) {
            Ok(_) => state.threads += 1,
            // Another thread takes the work, or the next thread that can be started.
            Err(error) => log::error!("cannot start a thread, work on a container waits: {error}"),
        }
    }

    /// Whether any work is running or waiting.
    pub fn is_busy(&self) -> bool {
        let state = self.lock();
        state.threads > state.idle || !state.works.is_empty()
    }

    fn work(&self, shared: &C) {
        loop {
            match self.next() {
                Some(work) => work(shared),
                None => return,
            }
        }
    }

    /// Waits for the next piece of work. `None` after [`LINGER`]: the thread is no longer counted, and must end.
    fn next(&self) -> Option<Work<C>> {
        let mut state = self.lock();
        if state.works.is_empty() {
            state.idle += 1;
            let waited = self.shared.1.wait_timeout_while(state, LINGER, |state| state.works.is_empty());
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        let work = state.works.pop_front();
        if work.is_none() {
            state.threads -= 1;
        }
        work
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<C>> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
