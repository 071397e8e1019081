//! Something that several threads wait for and one tells, once.

use sampan_os::mutex::lock;
use std::sync::{Condvar, Mutex};

/// What is awaited; `None` if it will never come.
pub struct Awaited<T> {
    told: Mutex<Option<Option<T>>>,
    is_told: Condvar,
}

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Awaited { told: Mutex::default(), is_told: Condvar::new() }
    }
}

impl<T: Clone> Awaited<T> {
    /// Tells all who wait, and all who come later.
    pub fn tell(&self, value: Option<T>) {
        *lock(&self.told) = Some(value);
        self.is_told.notify_all();
    }

    /// What was told by now.
    pub fn now(&self) -> Option<T> {
        lock(&self.told).clone().flatten()
    }

    /// Waits until it is told.
    pub fn wait(&self) -> Option<T> {
        let told = self.is_told.wait_while(lock(&self.told), |told| told.is_none());
        told.unwrap_or_else(|poisoned| poisoned.into_inner()).clone().flatten()
    }
}
