//! Starts threads, each with a name, which ps(1) and panic messages show, and a stack size that fits its work.
//!
//! Called by every process. Never panics if a thread cannot be started: the caller's operation fails instead.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Starts a thread called `name` with a stack of `stack` bytes.
///
/// # Errors
/// A limit on threads or memory is reached. pthread_create(3).
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(stack).spawn(work)
}

/// Starts a thread that `scope` joins, called `name`, with a stack of `stack` bytes.
///
/// # Errors
/// A limit on threads or memory is reached. pthread_create(3).
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).stack_size(stack).spawn_scoped(scope, work)
}
