//! The syncer thread: calls fdatasync(2) on journal files, so that the event loop never waits for a disk.
//!
//! The intake owns the syncer, and starts it unless the policy is `never`. The thread sleeps without a timeout while
//! no file has unsynced bytes. It never reads or writes the files.

use mio::Waker;
use sampan_os::thread;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// When events that were written to the journal are synced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Before readers see the events.
    Always,
    /// At most this time after the events were written.
    Interval(Duration),
    /// When the kernel writes the file back.
    Never,
}

/// Handle of the syncer thread.
#[derive(Debug)]
pub(crate) struct Syncer {
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
    /// Files with unsynced bytes: the newest segment, and segments that were closed since the last sync.
    dirty: Vec<Arc<File>>,
    /// Number of the last request.
    requested: u64,
    /// Number of the last request whose bytes are synced, or could not be synced.
    done: u64,
    interval: Duration,
    stop: bool,
    error: Option<io::Error>,
}

impl Syncer {
    /// Starts the thread, which calls `waker` after each sync if the policy is [`Policy::Always`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(policy: Policy, waker: Arc<Waker>) -> io::Result<Self> {
        let interval = if let Policy::Interval(interval) = policy { interval } else { Duration::ZERO };
        let state = Mutex::new(State { interval, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), waker });
        let for_thread = Arc::clone(&shared);
        let thread =
            thread::spawn("syncer", 64 << 10, move || for_thread.run(matches!(policy, Policy::Always)))?;
        Ok(Syncer { shared, thread: Some(thread) })
    }

    /// Requests a sync of `file`. Returns the request's number: the sync is done when [`Syncer::done`] is at least
    /// that number.
    pub(crate) fn request(&self, file: &Arc<File>) -> u64 {
        let mut state = self.shared.lock();
        if !state.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, file)) {
            state.dirty.push(Arc::clone(file));
            self.shared.changed.notify_one();
        }
        state.requested += 1;
        state.requested
    }

    /// Number of the last request that is done, whether or not its sync has succeeded.
    pub(crate) fn done(&self) -> u64 {
        self.shared.lock().done
    }

    /// Removes and returns the error of a sync that has failed since the last call.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }

    pub(crate) fn set_interval(&self, interval: Duration) {
        self.shared.lock().interval = interval;
    }
}

impl Drop for Syncer {
    /// Waits until the thread has synced all files with unsynced bytes and has ended.
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

    fn run(&self, wakes_loop: bool) {
        loop {
            let (files, requested, stop) = self.await_work();
            let result = files.iter().map(|file| file.sync_data()).find(Result::is_err);
            let mut state = self.lock();
            state.done = requested;
            if let Some(Err(error)) = result {
                state.error = Some(error);
            }
            drop(state);
            if wakes_loop && let Err(error) = self.waker.wake() {
                log::error!("cannot wake the event loop after a sync, new events may be delayed: {error}");
            }
            if stop {
                return;
            }
        }
    }

    /// Waits until a sync is requested, then for the interval, so that requests within the interval share one sync.
    /// Returns the files, the number of the last request, and whether the thread must end.
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
        (std::mem::take(&mut state.dirty), state.requested, state.stop)
    }
}
