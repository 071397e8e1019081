//! The system calls that no safe wrapper covers. One per function; nothing else here.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Keeps the C library from giving each thread a heap of its own: three threads that hardly allocate need one.
/// mallopt(3). No effect where the C library has no such call.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Takes ownership of a descriptor that systemd passed. sd_listen_fds(3).
///
/// # Safety
/// `raw` is a descriptor of the range that LISTEN_FDS names, and nothing else in the process owns it.
pub unsafe fn take_passed(raw: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches for it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
