//! Permits to compute: bounds the number of threads that hash, decompress and unpack at the same time.
//!
//! Called by threads of pulls, around their computations and their waits. Only the code that reads a socket knows when
//! a thread must wait, so the thread's permit is in a thread-local variable: [`idle`] releases it for the duration of
//! a wait. Threads get permits in the order of their requests. Spare permits go to threads that work ahead of others.

use crate::permits::Permits;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long a thread may compute while others wait for a permit. Long compared with the cost of a context switch, and
/// short enough that no peer closes a connection that is not read meanwhile.
const SLICE: Duration = Duration::from_millis(50);

/// The permits to compute; one for each processor that may be used.
pub struct Cpus(Arc<Permits>);

/// A permit to compute, held by the current thread. [`idle`] releases it temporarily.
pub struct Cpu {
    /// False for a nested permit: the thread held one already, which dropping this one must not release.
    is_first: bool,
    /// Makes the type not `Send`: a permit belongs to one thread.
    of_this_thread: PhantomData<*const ()>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    /// How long this thread has waited in [`idle`] to get its permit back.
    static QUEUED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The permit that this thread holds.
struct Held {
    of: Arc<Permits>,
    since: Instant,
}

/// Calls `wait` after releasing this thread's permit, if it holds one; takes the permit again before returning.
pub fn idle<T>(wait: impl FnOnce() -> T) -> T {
    let Some(Held { of, .. }) = HELD.take() else {
        return wait();
    };
    of.release();
    let waited = wait();
    let since = Instant::now();
    let _ = of.take(None);
    QUEUED.set(QUEUED.get() + since.elapsed());
    HELD.set(Some(Held { of, since: Instant::now() }));
    waited
}

/// Calls `work` and returns its result and duration. Waits of this thread to get its permit back do not count: a peer
/// is not to blame for them.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let (began, queued) = (Instant::now(), QUEUED.get());
    let done = work();
    (done, began.elapsed().saturating_sub(QUEUED.get() - queued))
}

/// Passes this thread's permit to the next waiting thread, if this thread has held the permit for 50 ms.
pub fn share() {
    let is_due = |held: &Held| held.since.elapsed() >= SLICE && held.of.is_wanted();
    if HELD.with_borrow(|held| held.as_ref().is_some_and(is_due)) {
        idle(|| ());
    }
}

impl Cpus {
    /// Makes `count` permits, but at least one.
    pub fn new(count: usize) -> Self {
        Cpus(Arc::new(Permits::new(count)))
    }

    /// Waits for a permit. The wait is short, since holders call [`idle`] and [`share`].
    pub fn take(&self) -> Cpu {
        let is_first = HELD.with_borrow(Option::is_none);
        if is_first {
            // `take` fails only if a job is cancelled, and none is given here.
            let _ = self.0.take(None);
            self.hold();
        }
        Cpu { is_first, of_this_thread: PhantomData }
    }

    /// Waits for a permit that no thread in the queue wants. Returns `None` once `done` is set; the thread that sets
    /// `done` must call [`Cpus::recheck`]. The caller must drop the permit as soon as [`Cpus::is_wanted`] is true.
    pub fn take_spare(&self, done: &AtomicBool) -> Option<Cpu> {
        self.0.take_spare(done).then(|| {
            self.hold();
            Cpu { is_first: true, of_this_thread: PhantomData }
        })
    }

    fn hold(&self) {
        HELD.set(Some(Held { of: Arc::clone(&self.0), since: Instant::now() }));
    }

    /// Wakes the threads in [`Cpus::take_spare`], so that they check `done` again.
    pub fn recheck(&self) {
        self.0.recheck();
    }

    /// Whether a thread is waiting in [`Cpus::take`].
    pub fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        if self.is_first
            && let Some(held) = HELD.take()
        {
            held.of.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_that_waits_lends_its_permit() {
        let cpus = Cpus::new(1);
        let (done, wait) = channel();
        let _cpu = cpus.take();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = cpus.take();
                done.send(()).expect("the receiver lives");
            });
            idle(|| wait.recv()).expect("the other thread ran meanwhile");
        });
    }

    #[test]
    fn a_wait_for_a_permit_does_not_count_as_time_of_the_work() {
        let cpus = Cpus::new(1);
        let (has, wait) = channel();
        let _cpu = cpus.take();
        let (began, computed) = (Instant::now(), Duration::from_millis(100));
        let took = std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = cpus.take();
                has.send(()).expect("the receiver lives");
                // The time until the other thread queues varies; only the time after that must not count.
                while !cpus.is_wanted() {
                    std::thread::yield_now();
                }
                std::thread::sleep(computed);
            });
            timed(|| idle(|| wait.recv())).1
        });
        assert!(took + computed <= began.elapsed(), "{took:?} of {:?}", began.elapsed());
    }

    #[test]
    fn permits_go_out_in_the_order_of_requests_and_spare_ones_last() {
        let cpus = Cpus::new(1);
        let (order, ordered) = channel();
        let done = AtomicBool::new(false);
        let cpu = cpus.take();
        std::thread::scope(|scope| {
            let ahead = order.clone();
            let (cpus, done) = (&cpus, &done);
            scope.spawn(move || {
                let _cpu = cpus.take_spare(done).expect("not done");
                ahead.send("ahead").expect("the receiver lives");
            });
            while cpus.0.waiting().1 == 0 {
                std::thread::yield_now();
            }
            for name in ["first", "second"] {
                let order = order.clone();
                let queued = cpus.0.waiting().0;
                scope.spawn(move || {
                    let _cpu = cpus.take();
                    order.send(name).expect("the receiver lives");
                });
                while cpus.0.waiting().0 == queued {
                    std::thread::yield_now();
                }
            }
            assert!(cpus.is_wanted());
            drop(cpu);
        });
        assert_eq!(ordered.try_iter().collect::<Vec<_>>(), ["first", "second", "ahead"]);
        done.store(true, Ordering::SeqCst);
        assert!(cpus.take_spare(&done).is_none());
    }
}
