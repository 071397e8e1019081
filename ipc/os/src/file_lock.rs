//! Lock files that admit one process at a time: one daemon for a socket, one engine for a store.
//!
//! Called by daemons at start. The kernel releases a lock when its process ends; nothing here removes a lock file.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::time::{Duration, Instant};

/// How long to wait for a lock that another process holds.
///
/// If an engine is killed while it starts a program, the forked child shares the lock until its execve(2), a moment
/// later. A new engine must outwait that moment.
pub const WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// Locks `file` for this process alone; waits at most [`WAIT_MAX`].
///
/// # Errors
/// `EWOULDBLOCK`: another process still holds the lock. Any other errno: the file system does not support locks.
pub fn take(file: File) -> Result<Flock<File>, Errno> {
    take_within(file, WAIT_MAX)
}

/// Locks `file` for this process alone; waits at most `wait_max` for another process to release it.
///
/// # Errors
/// `EWOULDBLOCK`: another process still holds the lock. Any other errno: the file system does not support locks.
pub fn take_within(mut file: File, wait_max: Duration) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + wait_max;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => file = again,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(RETRY_DELAY);
    }
}
