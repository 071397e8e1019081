//! Threads that do one thing after the other, and are there only as long as something is to be done, and a moment more:
//! one request about a container is followed by the next as a rule.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most threads at a time.
const THREADS_MAX: usize = 4;
/// How long one that has nothing to do waits for more.
const LINGER: Duration = Duration::from_millis(100);
/// Stack of each.
const STACK: usize = 1 << 20;

type Work<C> = Box<dyn FnOnce(&C) + Send>;

struct PoolState<C> {
    works: VecDeque<Work<C>>,
    threads: usize,
    /// How many of them have nothing to do.
    idle: usize,
}

/// A bounded number of threads, which all know one `C`.
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
    /// Does `work` on a thread, now or when one is free.
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
        let builder = std::thread::Builder::new().name("container".into()).stack_size(STACK);
        match builder.spawn(move || workers.work(&shared)) {
            Ok(_) => state.threads += 1,
            // A thread that is at work does it, or the next that can be started.
            Err(error) => log::error!("cannot start a thread: {error}"),
        }
    }

    /// True while something is done or waits for that.
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

    /// What is to be done next; `None` if nothing has come for a while, and the thread counts no more.
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
