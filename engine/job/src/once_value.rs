//! A value that one thread sets once and several threads wait for.
//!
//! Called by pulls for results that several downloads need. A wait does not end early: some thread must call `set`.

use sampan_os::mutex::lock;
use std::sync::{Condvar, Mutex};

/// A value that is not set yet, set, or known never to come (set to `None`).
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
    /// Sets the value and wakes all waiting threads. `None` means that the value will never come.
    pub fn set(&self, value: Option<T>) {
        *lock(&self.value) = Some(value);
        self.is_set.notify_all();
    }

    /// The value; `None` if it is not set yet or will never come.
    pub fn get(&self) -> Option<T> {
        lock(&self.value).clone().flatten()
    }

    /// Waits until the value is set and returns it; `None` if it will never come.
    pub fn wait(&self) -> Option<T> {
        let value = self.is_set.wait_while(lock(&self.value), |value| value.is_none());
        value.unwrap_or_else(|poisoned| poisoned.into_inner()).clone().flatten()
    }
}
