//! Mutexes that a panic does not close: what they guard is never left half-done.

use std::sync::{Mutex, MutexGuard};

/// Locks, also behind a thread that panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
