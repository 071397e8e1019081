//! What all jobs of the engine share: downloads at a time, processors at a time, bytes per second, and one
//! download of a blob at a time.
//!
//! A thread takes a claim before a slot, and a slot before a processor, never the other way round, and gives its
//! processor back for as long as it waits for anything ([`Cpu::idle`]): so none waits for ever. Threads that
//! wait for a slot or a claim look whether their job was cancelled.

use crate::cancel::{Cancel, Cancelled};
use crate::digest::Digest;
use crate::rate::Rate;
use crate::store::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How often a waiting job looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(200);

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
    cpus: Permits,
    claims: Mutex<HashMap<Digest, Arc<AtomicU64>>>,
    released: Condvar,
}

/// A number of permits, and those who wait for one.
struct Permits {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: usize,
    waiting: usize,
}

impl Permits {
    fn new(free: usize) -> Self {
        Permits { state: Mutex::new(State { free: free.max(1), waiting: 0 }), freed: Condvar::new() }
    }

    fn take(&self, cancel: Option<&Cancel>) -> Result<(), Cancelled> {
        let mut state = lock(&self.state);
        while state.free == 0 {
            cancel.map_or(Ok(()), Cancel::check)?;
            state.waiting += 1;
            state = self.freed.wait_timeout(state, LOOK).unwrap_or_else(|e| e.into_inner()).0;
            state.waiting -= 1;
        }
        state.free -= 1;
        Ok(())
    }

    fn give(&self) {
        let mut state = lock(&self.state);
        state.free += 1;
        if state.waiting > 0 {
            drop(state);
            self.freed.notify_one();
        }
    }
}

/// One of the downloads that may run at a time.
pub struct Slot<'a>(&'a Limits);

/// The right to compute.
pub struct Cpu<'a>(&'a Limits);

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
            cpus: Permits::new(bounds.cpus),
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

    /// Waits for a processor. Those who have one give it back soon: see [`Cpu::idle`].
    pub fn cpu(&self) -> Cpu<'_> {
        // Without a job that may be cancelled it does not fail.
        let _ = self.cpus.take(None);
        Cpu(self)
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

impl Cpu<'_> {
    /// Waits for something without keeping the processor from others.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.0.cpus.give();
        let waited = wait();
        let _ = self.0.cpus.take(None);
        waited
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

impl Drop for Cpu<'_> {
    fn drop(&mut self) {
        self.0.cpus.give();
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
        let cpu = limits.cpu();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = limits.cpu();
                done.send(()).expect("somebody waits");
            });
            cpu.idle(|| wait.recv()).expect("the other one ran meanwhile");
        });
    }
}
