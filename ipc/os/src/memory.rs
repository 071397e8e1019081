//! Returns an idle process's memory to the kernel: freed heap, unused stack, pages of program code.
//!
//! Called by the daemons and the shim: [`bound_heap`] before anything else, [`trim`] before they sleep for long. Never
//! returns a page with contents that exist nowhere else: only unused pages, and clean copies of the program's file.

use nix::poll::{PollFd, PollTimeout, poll};

/// Bounds on the memory that the C library's allocator keeps after it was freed. mallopt(3).
#[derive(Clone, Copy, Debug)]
pub struct HeapBounds {
    /// Most heaps that threads share; each heap keeps free memory of its own.
    pub arenas: i32,
    /// A buffer of at least this many bytes gets a mapping of its own, which is unmapped as soon as it is freed.
    pub mmap_threshold: i32,
    /// Most free bytes that are kept at the end of a heap.
    pub trim_threshold: i32,
}

/// Bounds the memory that the allocator keeps. Must be called before a second thread exists.
///
/// Does nothing with C libraries other than glibc.
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

/// Returns memory that an idle process does not need: freed heap, the unused stack, and pages of program code.
/// malloc_trim(3), madvise(2).
pub fn trim() {
    trim_heap();
    trim_stack();
    drop_code_pages();
}

/// Calls [`trim`], then poll(2) at once: any code that ran in between would bring its pages back.
#[inline(never)]
pub fn trim_and_poll(polls: &mut [PollFd<'_>], timeout: PollTimeout) {
    trim();
    let _ = poll(polls, timeout);
}

/// Drops the pages of this program's code. Code that runs again is mapped again from the page cache, page by page.
/// madvise(2), MADV_DONTNEED.
#[inline(always)]
pub fn drop_code_pages() {
    unsafe extern "C" {
        // The linker defines both: the first byte of the program, and the first byte after its code. ld(1), end(3).
        static __executable_start: u8;
        static etext: u8;
    }
    // Only the addresses are taken; nothing is read.
    let (start, end) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    let (start, end) = (start & !(PAGE - 1), end & !(PAGE - 1));
    // SAFETY: the range is a read-only mapping of this program's file, so its pages come back from the file unchanged.
    // If pages are larger than PAGE and the range is not aligned to them, the call fails and does nothing.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
    }
}

/// Bytes of a page.
const PAGE: usize = 4096;
/// Bytes of the stack below the current frame that are kept: room for the functions that this module calls.
const STACK_IN_USE: usize = 16 << 10;
/// Bytes of the stack below [`STACK_IN_USE`] that are returned.
const STACK_TRIMMED: usize = 2 << 20;

/// Returns the unused part of the main thread's stack. Does nothing on another thread.
#[inline(never)]
fn trim_stack() {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return;
    }
    let here = std::hint::black_box(0_u8);
    let end = std::ptr::from_ref(&here).addr().saturating_sub(STACK_IN_USE) & !(PAGE - 1);
    let start = end.saturating_sub(STACK_TRIMMED);
    // SAFETY: all frames in use lie above `here`, or within STACK_IN_USE below it. Stack memory below them is always
    // written before it is read. The kernel maps nothing else within 128 MiB below the main thread's stack (or within
    // its size limit, if that is larger: proc(5), "legacy_va_layout"), and madvise skips addresses that are not mapped.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
    }
}

fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and invalidates no allocation.
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
