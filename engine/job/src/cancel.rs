//! Cancels a job: a flag that its threads check, and actions such as the shutdown of its connections.
//!
//! Called by the event loop, which cancels, and by all threads of a job, which check and wait. Ends no thread itself.

use sampan_os::mutex::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The cancellation of one job, shared by its threads and by the event loop.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    actions: Mutex<Actions>,
    wake: Condvar,
}

/// The actions to run when the job is cancelled, each with a unique number.
#[derive(Default)]
struct Actions {
    last: u64,
    waiting: Vec<(u64, Action)>,
}

type Action = Box<dyn FnOnce() + Send>;

/// Removes an action when dropped, unless the action has run already.
#[must_use]
pub struct Link<'a>(&'a Cancel, u64);

impl Drop for Link<'_> {
    fn drop(&mut self) {
        lock(&self.0.actions).waiting.retain(|(number, _)| *number != self.1);
    }
}

/// The error of an operation whose job was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    /// Cancels the job: sets the flag, wakes waiting threads and runs the registered actions, each once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // Notify after taking the lock: `wait` checks the flag under it, so a thread there has either seen the flag or
        // is waiting by now, and does not miss the notification.
        let actions = std::mem::take(&mut lock(&self.actions).waiting);
        self.wake.notify_all();
        actions.into_iter().for_each(|(_, action)| action());
    }

    /// Whether the job was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Fails if the job was cancelled.
    ///
    /// # Errors
    /// [`Cancelled`]: the job was cancelled.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Sleeps for the time `wait`, or until the job is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`]: the job was cancelled.
    pub fn wait(&self, wait: Duration) -> Result<(), Cancelled> {
        let actions = lock(&self.actions);
        let waited = self.wake.wait_timeout_while(actions, wait, |_| !self.is_cancelled());
        drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.check()
    }

    /// Registers `action` to run when the job is cancelled. Runs it at once if the job was cancelled already.
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) {
        self.add(Box::new(action));
    }

    /// Registers `action` like [`Cancel::on_cancel`], but only until the returned [`Link`] is dropped.
    pub fn link(&self, action: impl FnOnce() + Send + 'static) -> Link<'_> {
        Link(self, self.add(Box::new(action)))
    }

    fn add(&self, action: Action) -> u64 {
        let number = {
            let mut actions = lock(&self.actions);
            actions.last += 1;
            let number = actions.last;
            actions.waiting.push((number, action));
            number
        };
        // Check after the push: a `cancel` between the caller's last check and the push has not run this action.
        if self.is_cancelled() {
            self.cancel();
        }
        number
    }
}
