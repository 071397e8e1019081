//! What all jobs of the engine share: downloads at a time, processors at a time, bytes per second, and one
//! download of a blob at a time.
//!
//! A thread takes a claim before a slot, and a slot before a processor, never the other way round, and gives its
//! processor back for as long as it waits for anything ([`idle`]): so none waits for ever. Who waits where is known
//! deep below, where a socket turns out to be empty, so a thread's processor is a matter of the thread. Threads that
//! wait for a slot or a claim look whether their job was cancelled. Processors go round in the order they are asked
//! for; what then is left over is for those who run ahead of others ([`crate::relay`]).

use crate::cancel::{Cancel, Cancelled};
use crate::rate::Rate;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How often a waiting job looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(200);
/// How long a thread may compute while others wait: many times what a switch costs, and so short that no connection
/// is left alone for longer than peers put up with.
const SLICE: Duration = Duration::from_millis(50);

/// Numbers that bound the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Downloads and uploads at a time; one at least.
    pub downloads: usize,
    /// Threads that hash, decompress and unpack at a time; one at least.
    pub cpus: usize,
    /// Bytes per second from and to registries, all jobs together; 0 is no limit.
    pub bytes_per_second: u64,
    /// Largest zstd window, as a power of two, in bytes.
    pub zstd_window_log: u32,
    /// A transfer in which fewer bytes move than `stall_bytes` in `stall_time` is broken off and tried again.
    pub stall_time: Duration,
    /// See `stall_time`.
    pub stall_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Bounds {
            downloads: cpus.clamp(3, 8),
            cpus,
            bytes_per_second: 0,
            zstd_window_log: 26,
            stall_time: Duration::from_secs(30),
            stall_bytes: 4096,
        }
    }
}

/// Engine-wide limits.
pub struct Limits {
    /// The numbers that are only looked up.
    pub bounds: Bounds,
    /// Bytes per second of all transfers.
    pub rate: Rate,
    slots: Permits,
    cpus: Arc<Permits>,
    claims: Mutex<HashMap<Digest, Arc<AtomicU64>>>,
    released: Condvar,
}

/// A number of permits, and those who wait for one, in the order they came.
struct Permits {
    state: Mutex<State>,
    /// For those in the queue.
    freed: Condvar,
    /// For those who take what nobody else wants.
    spare: Condvar,
}

struct State {
    free: usize,
    next_ticket: u64,
    queue: VecDeque<u64>,
    /// How many wait for a spare one.
    hopeful: usize,
}

impl State {
    fn has_spare(&self) -> bool {
        self.free > 0 && self.queue.is_empty()
    }
}

impl Permits {
    fn new(free: usize) -> Self {
        let state = State { free: free.max(1), next_ticket: 0, queue: VecDeque::new(), hopeful: 0 };
        Permits { state: Mutex::new(state), freed: Condvar::new(), spare: Condvar::new() }
    }

    fn take(&self, cancel: Option<&Cancel>) -> Result<(), Cancelled> {
        let mut state = lock(&self.state);
        if state.has_spare() {
            state.free -= 1;
            return Ok(());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let result = loop {
            if state.free > 0 && state.queue.front() == Some(&ticket) {
                state.free -= 1;
                break Ok(());
            }
            if let Err(cancelled) = cancel.map_or(Ok(()), Cancel::check) {
                break Err(cancelled);
            }
            state = self.freed.wait_timeout(state, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        };
        state.queue.retain(|other| *other != ticket);
        if state.free > 0 {
            self.tell(&state);
        }
        result
    }

    fn give(&self) {
        let mut state = lock(&self.state);
        state.free += 1;
        self.tell(&state);
    }

    /// Wakes who may have the free one. A call into the kernel each, so none without need.
    fn tell(&self, state: &State) {
        match (state.queue.is_empty(), state.hopeful) {
            (false, _) => self.freed.notify_all(),
            (true, 1..) => self.spare.notify_all(),
            (true, 0) => {}
        }
    }

    /// Takes one that nobody is queueing for; false once `done` is set, see [`Permits::recheck`].
    fn take_spare(&self, done: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        while !done.load(Ordering::SeqCst) {
            if state.has_spare() {
                state.free -= 1;
                return true;
            }
            state.hopeful += 1;
            state = self.spare.wait(state).unwrap_or_else(|e| e.into_inner());
            state.hopeful -= 1;
        }
        false
    }

    /// Has those who wait for a spare one look whether they still want it.
    fn recheck(&self) {
        let state = lock(&self.state);
        if state.hopeful > 0 {
            self.spare.notify_all();
        }
    }

    fn is_wanted(&self) -> bool {
        !lock(&self.state).queue.is_empty()
    }
}

/// One of the downloads that may run at a time.
pub struct Slot<'a>(&'a Limits);

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

/// The right to be the one who fetches a blob.
pub struct Claim<'a> {
    limits: &'a Limits,
    digest: Digest,
    here: Arc<AtomicU64>,
}

impl Limits {
    /// Nobody has anything yet.
    pub fn new(bounds: Bounds) -> Self {
        Limits {
            slots: Permits::new(bounds.downloads),
            cpus: Arc::new(Permits::new(bounds.cpus)),
            rate: Rate::new(bounds.bytes_per_second),
            claims: Mutex::default(),
            released: Condvar::new(),
            bounds,
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn slot(&self, cancel: &Cancel) -> Result<Slot<'_>, Cancelled> {
        self.slots.take(Some(cancel))?;
        Ok(Slot(self))
    }

    /// Waits for a processor. Those who have one give it back soon: see [`idle`] and [`share`].
    pub fn cpu(&self) -> Cpu {
        let is_first = HELD.with_borrow(Option::is_none);
        if is_first {
            // Without a job that may be cancelled it does not fail.
            let _ = self.cpus.take(None);
            self.hold();
        }
        Cpu { is_first, of_this_thread: PhantomData }
    }

    /// Waits for a processor that nobody else wants; `None` once `done` is set, see [`Limits::recheck`]. To be given
    /// back as soon as one [`Limits::is_wanted`].
    pub fn spare_cpu(&self, done: &AtomicBool) -> Option<Cpu> {
        self.cpus.take_spare(done).then(|| {
            self.hold();
            Cpu { is_first: true, of_this_thread: PhantomData }
        })
    }

    fn hold(&self) {
        HELD.set(Some(Held { of: Arc::clone(&self.cpus), since: Instant::now() }));
    }

    /// Has those who wait for a spare processor look at their `done` again.
    pub fn recheck(&self) {
        self.cpus.recheck();
    }

    /// True if somebody waits for a processor.
    pub fn is_wanted(&self) -> bool {
        self.cpus.is_wanted()
    }

    /// Waits until no other job fetches `digest`, and claims it. Meanwhile `tell` hears, again and again, how many
    /// bytes the other one has.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn claim(
        &self,
        digest: &Digest,
        cancel: &Cancel,
        tell: &dyn Fn(u64),
    ) -> Result<Claim<'_>, Cancelled> {
        let mut claims = lock(&self.claims);
        while let Some(other) = claims.get(digest) {
            cancel.check()?;
            tell(other.load(Ordering::Relaxed));
            claims = self.released.wait_timeout(claims, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        }
        let here = Arc::<AtomicU64>::default();
        claims.insert(digest.clone(), Arc::clone(&here));
        Ok(Claim { limits: self, digest: digest.clone(), here })
    }
}

impl Claim<'_> {
    /// Says how many bytes are here, for jobs that wait for the same blob.
    pub fn tell(&self, bytes: u64) {
        self.here.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.slots.give();
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

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.limits.claims).remove(&self.digest);
        self.limits.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn who_waits_for_a_blob_hears_of_its_bytes_and_gets_it_when_the_other_lets_go() {
        let limits = Limits::new(Bounds::default());
        let (digest, cancel) = (Digest::of(b"x"), Cancel::default());
        let first = limits.claim(&digest, &cancel, &|_| panic!("nobody has it")).expect("claimed");
        first.tell(7);
        let (heard, hears) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tell = move |bytes| assert!(heard.send(bytes).is_ok());
                drop(limits.claim(&digest, &cancel, &tell).expect("claimed"));
            });
            assert_eq!(hears.recv(), Ok(7));
            drop(first);
        });
        drop(limits.claim(&digest, &cancel, &|_| panic!("nobody has it")).expect("claimed"));
    }

    #[test]
    fn one_who_waits_for_something_else_lends_its_processor() {
        let limits = Limits::new(Bounds { cpus: 1, ..Bounds::default() });
        let (done, wait) = channel();
        let _cpu = limits.cpu();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = limits.cpu();
                done.send(()).expect("somebody waits");
            });
            idle(|| wait.recv()).expect("the other one ran meanwhile");
        });
    }

    #[test]
    fn a_wait_for_a_processor_is_not_part_of_the_time_that_something_takes() {
        let limits = Limits::new(Bounds { cpus: 1, ..Bounds::default() });
        let (has, wait) = channel();
        let _cpu = limits.cpu();
        let (began, computed) = (Instant::now(), Duration::from_millis(100));
        let took = std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = limits.cpu();
                has.send(()).expect("somebody waits");
                // However long that takes: what counts is the time behind it.
                while !limits.is_wanted() {
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
        let limits = Limits::new(Bounds { cpus: 1, ..Bounds::default() });
        let (order, ordered) = channel();
        let done = AtomicBool::new(false);
        let cpu = limits.cpu();
        std::thread::scope(|scope| {
            let ahead = order.clone();
            let (limits, done) = (&limits, &done);
            scope.spawn(move || {
                let _cpu = limits.spare_cpu(done).expect("not done");
                ahead.send("ahead").expect("somebody looks");
            });
            while lock(&limits.cpus.state).hopeful == 0 {
                std::thread::yield_now();
            }
            for name in ["first", "second"] {
                let order = order.clone();
                let queued = lock(&limits.cpus.state).queue.len();
                scope.spawn(move || {
                    let _cpu = limits.cpu();
                    order.send(name).expect("somebody looks");
                });
                while lock(&limits.cpus.state).queue.len() == queued {
                    std::thread::yield_now();
                }
            }
            assert!(limits.is_wanted());
            drop(cpu);
        });
        assert_eq!(ordered.try_iter().collect::<Vec<_>>(), ["first", "second", "ahead"]);
        done.store(true, Ordering::SeqCst);
        assert!(limits.spare_cpu(&done).is_none());
    }
}
