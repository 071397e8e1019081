//! What an idle process gives back to the kernel: freed heap, the stack below its caller, pages of program code.
//!
//! Called by the daemons and the shim: [`bound_heap`] first thing, [`trim`] before they sleep for long. Only pages that
//! hold nothing, or nothing but what the program's file holds too, are given back.

use nix::poll::{PollFd, PollTimeout, poll};

/// How much the C library's allocator keeps. mallopt(3).
#[derive(Clone, Copy, Debug)]
pub struct HeapBounds {
    /// Heaps that threads share; each keeps memory of its own.
    pub arenas: i32,
    /// A buffer of as many bytes has a mapping of its own, which goes with it.
    pub mmap_threshold: i32,
    /// Free bytes at the end of a heap beyond which they are given back.
    pub trim_threshold: i32,
}

/// Bounds what the allocator keeps; to be called before any other thread exists. No effect where the C library has no
/// such call.
pub fn bound_heap(bounds: HeapBounds) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers and changes the allocator's own settings; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, bounds.arenas);
        libc::mallopt(libc::M_MMAP_THRESHOLD, bounds.mmap_threshold);
        libc::mallopt(libc::M_TRIM_THRESHOLD, bounds.trim_threshold);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bounds;
}

/// Gives back what a job needed and an idle process does not: freed memory, the stack below the caller, and pages of
/// program code. malloc_trim(3), madvise(2).
pub fn trim() {
    trim_heap();
    trim_stack();
    drop_code_pages();
}

/// Does what [`trim`] does, then poll(2) at once: pages of code that ran in between would stay.
#[inline(never)]
pub fn trim_and_poll(polls: &mut [PollFd<'_>], timeout: PollTimeout) {
    trim();
    let _ = poll(polls, timeout);
}

/// Gives back the pages of this program's own code: much of what ran does not run again soon, and what does is
/// mapped again from the page cache as it is called. madvise(2), MADV_DONTNEED.
#[inline(always)]
pub fn drop_code_pages() {
    unsafe extern "C" {
        // Set by the linker: the first byte of the program, and the first after its code. ld(1), end(3).
        static __executable_start: u8;
        static etext: u8;
    }
    // Only the addresses are taken; nothing is read.
    let (start, end) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    let (start, end) = (start & !(PAGE - 1), end & !(PAGE - 1));
    // SAFETY: the range is this program's read-only file mapping; its pages are the file's and come back
    // unchanged. Where pages are larger than PAGE and the range does not fit, the call fails and does nothing.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
    }
}

/// Bytes of a page.
const PAGE: usize = 4096;
/// Bytes of the stack that are left alone: frames of the functions that give the rest back.
const STACK_IN_USE: usize = 16 << 10;
/// Bytes below those that are given back, if they were ever used.
const STACK_TRIMMED: usize = 2 << 20;

/// Gives back what of the main thread's stack is below its current end; does nothing on another thread.
#[inline(never)]
fn trim_stack() {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return;
    }
    let here = std::hint::black_box(0_u8);
    let end = std::ptr::from_ref(&here).addr().saturating_sub(STACK_IN_USE) & !(PAGE - 1);
    let start = end.saturating_sub(STACK_TRIMMED);
    // SAFETY: all frames that are in use lie above `here`, or within STACK_IN_USE below it; what is below them is read
    // by nobody before it is written. The kernel maps nothing else within 128 MiB below the main thread's stack (or
    // its limit, if larger: proc(5), "legacy_va_layout"), and passes over addresses that are not mapped.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
    }
}

fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim locks the allocator itself and invalidates no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_survives_a_trim() {
        let (kept, text) = (vec![7_u8; 1 << 20], "kept".to_owned());
        drop(vec![1_u8; 4 << 20]);
        trim();
        assert!(kept.iter().all(|byte| *byte == 7) && text == "kept");
    }
}
