//! The right of a thread to compute: at most as many threads hash, decompress and unpack at a time as there are
//! processors for that.
//!
//! Which thread waits is known deep below, where a socket turns out to be empty, so a thread's processor is a matter of
//! the thread: [`idle`] gives it back for as long as the thread waits for anything. Processors go round in the order they
//! are asked for; what then is left over is for threads that run ahead of others.

use crate::permits::Permits;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long a thread may compute while others wait: many times what a switch costs, and so short that no connection
/// is left alone for longer than peers put up with.
const SLICE: Duration = Duration::from_millis(50);

/// The processors that threads may compute on.
pub struct Cpus(Arc<Permits>);

/// The right to compute, of the thread that has it. Given back for as long as that thread is in [`idle`].
pub struct Cpu {
    /// False if the thread had one already.
    is_first: bool,
    of_this_thread: PhantomData<*const ()>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    /// How long this thread has waited in [`idle`] to get its processor back.
    static QUEUED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A processor that this thread has.
struct Held {
    of: Arc<Permits>,
    since: Instant,
}

/// Waits for something without keeping this thread's processor, if it has one, from others.
pub fn idle<T>(wait: impl FnOnce() -> T) -> T {
    let Some(Held { of, .. }) = HELD.take() else {
        return wait();
    };
    of.give();
    let waited = wait();
    let since = Instant::now();
    let _ = of.take(None);
    QUEUED.set(QUEUED.get() + since.elapsed());
    HELD.set(Some(Held { of, since: Instant::now() }));
    waited
}

/// Does `work`, and says how long that took without the waits for this thread's processor, which are nobody's fault.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let (began, queued) = (Instant::now(), QUEUED.get());
    let done = work();
    (done, began.elapsed().saturating_sub(QUEUED.get() - queued))
}

/// Lets the next one have this thread's processor, if it has had it for 50 ms and somebody waits.
pub fn share() {
    let is_due = |held: &Held| held.since.elapsed() >= SLICE && held.of.is_wanted();
    if HELD.with_borrow(|held| held.as_ref().is_some_and(is_due)) {
        idle(|| ());
    }
}

impl Cpus {
    /// So many; one at least.
    pub fn new(count: usize) -> Self {
        Cpus(Arc::new(Permits::new(count)))
    }

    /// Waits for a processor. Those who have one give it back soon: see [`idle`] and [`share`].
    pub fn take(&self) -> Cpu {
        let is_first = HELD.with_borrow(Option::is_none);
        if is_first {
            // Without a job that may be cancelled it does not fail.
            let _ = self.0.take(None);
            self.hold();
        }
        Cpu { is_first, of_this_thread: PhantomData }
    }

    /// Waits for a processor that nobody else wants; `None` once `done` is set, see [`Cpus::recheck`]. To be given
    /// back as soon as one [`Cpus::is_wanted`].
    pub fn take_spare(&self, done: &AtomicBool) -> Option<Cpu> {
        self.0.take_spare(done).then(|| {
            self.hold();
            Cpu { is_first: true, of_this_thread: PhantomData }
        })
    }

    fn hold(&self) {
        HELD.set(Some(Held { of: Arc::clone(&self.0), since: Instant::now() }));
    }

    /// Has those who wait for a spare processor look at their `done` again.
    pub fn recheck(&self) {
        self.0.recheck();
    }

    /// True if somebody waits for a processor.
    pub fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        if self.is_first
            && let Some(held) = HELD.take()
        {
            held.of.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::channel;

    #[test]
    fn one_who_waits_for_something_else_lends_its_processor() {
        let cpus = Cpus::new(1);
        let (done, wait) = channel();
        let _cpu = cpus.take();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = cpus.take();
                done.send(()).expect("somebody waits");
            });
            idle(|| wait.recv()).expect("the other one ran meanwhile");
        });
    }

    #[test]
    fn a_wait_for_a_processor_is_not_part_of_the_time_that_something_takes() {
        let cpus = Cpus::new(1);
        let (has, wait) = channel();
        let _cpu = cpus.take();
        let (began, computed) = (Instant::now(), Duration::from_millis(100));
        let took = std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = cpus.take();
                has.send(()).expect("somebody waits");
                // However long that takes: what counts is the time behind it.
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
    fn a_processor_goes_to_who_asked_first_and_a_spare_one_to_who_runs_ahead() {
        let cpus = Cpus::new(1);
        let (order, ordered) = channel();
        let done = AtomicBool::new(false);
        let cpu = cpus.take();
        std::thread::scope(|scope| {
            let ahead = order.clone();
            let (cpus, done) = (&cpus, &done);
            scope.spawn(move || {
                let _cpu = cpus.take_spare(done).expect("not done");
                ahead.send("ahead").expect("somebody looks");
            });
            while cpus.0.waiting().1 == 0 {
                std::thread::yield_now();
            }
            for name in ["first", "second"] {
                let order = order.clone();
                let queued = cpus.0.waiting().0;
                scope.spawn(move || {
                    let _cpu = cpus.take();
                    order.send(name).expect("somebody looks");
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
