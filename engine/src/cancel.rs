//! Ends a job from outside: a flag for its threads, and a shutdown of its connections.

use crate::store::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a job's threads and whoever may end it.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    actions: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

/// The job was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    /// Sets the flag and runs what [`Cancel::on_cancel`] was given. Idempotent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let actions = std::mem::take(&mut *lock(&self.actions));
        actions.into_iter().for_each(|action| action());
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

    /// Has `action` run when the job is cancelled; at once if it is already.
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) {
        lock(&self.actions).push(Box::new(action));
        // Looked at after the push: a cancel in between ran without it.
        if self.is_cancelled() {
            self.cancel();
        }
    }
}
