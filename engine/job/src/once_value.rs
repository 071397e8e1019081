//! A value that several threads wait for and one sets, once.

use sampan_os::mutex::lock;
use std::sync::{Condvar, Mutex};

/// What is waited for; `None` if it will never come.
pub struct OnceValue<T> {
    value: Mutex<Option<Option<T>>>,
    is_set: Condvar,
}

impl<T> Default for OnceValue<T> {
    fn default() -> Self {
        OnceValue { value: Mutex::default(), is_set: Condvar::new() }
    }
}

impl<T: Clone> OnceValue<T> {
    /// Gives the value to all threads that wait, and to all that come later.
    pub fn set(&self, value: Option<T>) {
        *lock(&self.value) = Some(value);
        self.is_set.notify_all();
    }

    /// The value, if it is set by now.
    pub fn get(&self) -> Option<T> {
        lock(&self.value).clone().flatten()
    }

    /// Waits until the value is set.
    pub fn wait(&self) -> Option<T> {
        let value = self.is_set.wait_while(lock(&self.value), |value| value.is_none());
        value.unwrap_or_else(|poisoned| poisoned.into_inner()).clone().flatten()
    }
}
