//! Lock files that say which process is the one: the engine of a socket, the engine of a store.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::time::{Duration, Instant};

/// How long a lock is waited for. An engine that is killed while it starts a program leaves a child that has the
/// lock until it has become that program: no engine, and gone in a moment.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(5);

/// Locks `file` for this process alone.
///
/// # Errors
/// Another process has it and keeps it, or the file system knows no locks.
pub fn take(file: File) -> Result<Flock<File>, Errno> {
    take_within(file, PATIENCE)
}

/// Locks `file` for this process alone; waits at most `patience` for another process.
///
/// # Errors
/// `EWOULDBLOCK`: another process has it and keeps it. Others: the file system knows no locks.
pub fn take_within(mut file: File, patience: Duration) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => file = again,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(AGAIN);
    }
}
