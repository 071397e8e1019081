//! The thread that calls fdatasync(2), so that the loop never waits for a disk.
//!
//! Owned by the event loop. Started only when the journal is to be synced. Sleeps without a timeout while
//! nothing is dirty. Never touches what the journal holds.

use mio::Waker;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// When written events are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Before anyone hears of them.
    Always,
    /// At most this much later.
    Interval(Duration),
    /// When the kernel does it.
    Never,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Syncer {
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
    /// Files with unsynced bytes; a handful, as segments close in turn.
    dirty: Vec<Arc<File>>,
    /// How many requests came, and how many are done.
    asked: u64,
    done: u64,
    interval: Duration,
    stop: bool,
    error: Option<io::Error>,
}

impl Syncer {
    /// Starts the thread; `waker` is rung after each sync when the policy is [`Policy::Always`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(policy: Policy, waker: Arc<Waker>) -> io::Result<Self> {
        let interval = if let Policy::Interval(interval) = policy { interval } else { Duration::ZERO };
        let state = Mutex::new(State { interval, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), waker });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("syncer".into()).stack_size(64 << 10);
        let thread = thread.spawn(move || theirs.run(matches!(policy, Policy::Always)))?;
        Ok(Syncer { shared, thread: Some(thread) })
    }

    /// Says that `file` has bytes to be synced; returns a number that [`Syncer::done`] reaches when they are.
    pub fn ask(&self, file: &Arc<File>) -> u64 {
        let mut state = self.shared.lock();
        if !state.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, file)) {
            state.dirty.push(Arc::clone(file));
            self.shared.changed.notify_one();
        }
        state.asked += 1;
        state.asked
    }

    /// The number of the last request that is done.
    pub fn done(&self) -> u64 {
        self.shared.lock().done
    }

    /// The error of a sync that failed since the last call.
    pub fn error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }

    /// Sets a new interval.
    pub fn set_interval(&self, interval: Duration) {
        self.shared.lock().interval = interval;
    }
}

impl Drop for Syncer {
    /// Syncs what is dirty and waits for the thread.
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

    fn run(&self, ring: bool) {
        loop {
            let (files, asked, stop) = self.await_work();
            let result = files.iter().map(|file| file.sync_data()).find(Result::is_err);
            let mut state = self.lock();
            state.done = asked;
            if let Some(Err(error)) = result {
                state.error = Some(error);
            }
            drop(state);
            if ring && let Err(error) = self.waker.wake() {
                log::error!("cannot wake the loop: {error}");
            }
            if stop {
                return;
            }
        }
    }

    /// Sleeps until there is work, and then for the interval, in which more may come.
    fn await_work(&self) -> (Vec<Arc<File>>, u64, bool) {
        let mut state = self.lock();
        while state.dirty.is_empty() && !state.stop {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if !state.stop && !state.interval.is_zero() {
            let interval = state.interval;
            let waited = self.changed.wait_timeout_while(state, interval, |state| !state.stop);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        (std::mem::take(&mut state.dirty), state.asked, state.stop)
    }
}
