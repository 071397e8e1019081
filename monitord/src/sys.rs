//! The system calls that no safe wrapper covers. One per function; nothing else here.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Has the C library keep little: one heap for three threads that hardly allocate, and none of the pages of a
/// buffer of 32 KiB or more once that is freed. mallopt(3). No effect where the C library has no such call.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 10);
    }
}

/// Gives back the pages of this program's own code: much of what ran does not run again soon, and what does is
/// mapped again from the page cache as it is called. madvise(2), MADV_DONTNEED.
pub fn forget_code() {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            // Set by the linker: the first byte of the program, and the first behind its code. ld(1), end(3).
            static __executable_start: u8;
            static etext: u8;
        }
        const PAGE: usize = 4096;
        // Only the addresses are taken; nothing is read.
        let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
        let (start, end) = (start & !(PAGE - 1), end & !(PAGE - 1));
        // SAFETY: the range is this program's read-only file mapping; its pages are the file's and come back
        // unchanged. Where pages are larger than 4 KiB and the range does not fit, the call fails and does nothing.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
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

/// How many bytes a pipe holds. ioctl(2), FIONREAD, pipe(7).
pub fn unread(pipe: impl AsFd) -> Result<usize, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the address that it is given, and `bytes` is one.
    let result = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Errno::result(result).map(|_| usize::try_from(bytes).unwrap_or(0))
}
