//! Starts threads: each has a name, which ps(1) and a panic show, and a stack of the size that its work needs.
//!
//! Called by every process. A thread that cannot be started is an error of the caller's operation, never a panic.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Starts a thread called `name` with a stack of `stack` bytes.
///
/// # Errors
/// The kernel, or a limit, allows no more threads. pthread_create(3).
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(stack).spawn(work)
}

/// Starts a thread of `scope`, which waits for its end.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).stack_size(stack).spawn_scoped(scope, work)
}
