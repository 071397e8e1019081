//! Finds the processor that a thread runs on, and moves a thread to another processor.
//!
//! The kernel starts a thread on its creator's processor, and wakes a thread that waits for a socket on the processor
//! that received the packet. Two threads of the engine may therefore share a processor while another processor is idle.
//! The kernel moves one of the threads only after some milliseconds, and a small layer is finished by then. Used by
//! [`crate::image::pull::decompress_ahead`], whose second thread is useful only on another processor. This module moves
//! a thread a single time; after that, the kernel schedules the thread as usual. sched(7), sched_setaffinity(2).

use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The processor that the calling thread runs on; `None` if the kernel does not say.
pub fn current() -> Option<usize> {
    sched_getcpu().ok()
}

/// Moves the calling thread off `cpu`, and then restores the processors that the thread may run on. Has no effect if
/// the thread may run on no other processor.
pub fn leave(cpu: usize) {
    let this = Pid::from_raw(0);
    let Ok(all) = sched_getaffinity(this) else { return };
    let mut others = all;
    if others.unset(cpu).is_ok() && sched_setaffinity(this, &others).is_ok() {
        let _ = sched_setaffinity(this, &all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::CpuSet;

    fn allowed() -> CpuSet {
        sched_getaffinity(Pid::from_raw(0)).expect("asked")
    }

    #[test]
    fn a_thread_that_left_a_processor_may_return_to_it() {
        let (before, here) = (allowed(), current().expect("known"));
        leave(here);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn a_thread_that_may_run_nowhere_else_stays() {
        std::thread::spawn(|| {
            let here = current().expect("known");
            let mut only = CpuSet::new();
            only.set(here).expect("one of them");
            sched_setaffinity(Pid::from_raw(0), &only).expect("allowed");
            leave(here);
            assert_eq!((allowed(), current()), (only, Some(here)));
        })
        .join()
        .expect("stayed");
    }
}
