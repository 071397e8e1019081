//! Ends a job from outside: a flag for its threads, and a shutdown of its connections.

use sampan_os::mutex::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Shared by a job's threads and whoever may end it.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    actions: Mutex<Actions>,
    called: Condvar,
}

/// What runs when the job is cancelled, each with a number of its own.
#[derive(Default)]
struct Actions {
    last: u64,
    waiting: Vec<(u64, Action)>,
}

type Action = Box<dyn FnOnce() + Send>;

/// Takes an action back when it is dropped; it has no effect on one that ran.
#[must_use]
pub struct Link<'a>(&'a Cancel, u64);

impl Drop for Link<'_> {
    fn drop(&mut self) {
        lock(&self.0.actions).waiting.retain(|(number, _)| *number != self.1);
    }
}

/// The job was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    /// Sets the flag and runs what [`Cancel::on_cancel`] was given. Idempotent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // Behind the lock: one that was about to wait has seen the flag, or waits by now.
        let actions = std::mem::take(&mut lock(&self.actions).waiting);
        self.called.notify_all();
        actions.into_iter().for_each(|(_, action)| action());
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`Cancelled`] once cancelled.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits, and no longer than until it is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`] once cancelled.
    pub fn wait(&self, wait: Duration) -> Result<(), Cancelled> {
        let actions = lock(&self.actions);
        let waited = self.called.wait_timeout_while(actions, wait, |_| !self.is_cancelled());
        drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.check()
    }

    /// Has `action` run when the job is cancelled; at once if it is already.
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) {
        self.add(Box::new(action));
    }

    /// The same, for as long as the link is kept.
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
        // Looked at after the push: a cancel in between ran without it.
        if self.is_cancelled() {
            self.cancel();
        }
        number
    }
}
