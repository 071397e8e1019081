//! Which processor a thread runs on, and how it gets off one.
//!
//! The kernel starts a thread beside its maker, and wakes who waited for a socket where the bytes came in. That two of
//! ours share a processor while another one has nothing to do it finds out some milliseconds later, which is as long as
//! a small layer takes. Used by [`crate::image::pull::decompress_ahead`], whose second thread is of use only on another processor than the
//! first. Which one is the kernel's affair, and so is all that comes later. sched(7), sched_setaffinity(2).

use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The processor that the caller runs on now; `None` where the kernel does not say.
pub fn current() -> Option<usize> {
    sched_getcpu().ok()
}

/// Has the calling thread go on elsewhere than on `cpu`, wherever it may run. What it may run on later is as before.
/// Without effect if there is nowhere else.
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
    fn who_leaves_a_processor_may_come_back_to_it() {
        let (before, here) = (allowed(), current().expect("known"));
        leave(here);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn who_may_run_nowhere_else_stays() {
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
