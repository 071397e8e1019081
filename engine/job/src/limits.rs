//! What all jobs of the engine share: downloads at a time, processors at a time, bytes per second, and one
//! download of a blob at a time.
//!
//! A thread takes a claim before a slot, and a slot before a processor, never the other way round, and gives its
//! processor back for as long as it waits for anything ([`crate::cpu::idle`]): so none waits for ever. Threads that
//! wait for a slot or a claim look whether their job was cancelled.

use crate::cancel::{Cancel, Cancelled};
use crate::cpu::Cpus;
use crate::permits::{LOOK, Permits};
use crate::rate_limit::RateLimit;
use sampan_os::mutex::{self, lock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

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
    pub rate: RateLimit,
    /// The processors that threads may compute on.
    pub cpus: Cpus,
    slots: Permits,
    claims: Mutex<HashMap<String, Arc<AtomicU64>>>,
    released: Condvar,
}

/// One of the downloads that may run at a time.
pub struct Slot<'a>(&'a Limits);

/// The right to be the one that fetches a blob.
pub struct Claim<'a> {
    limits: &'a Limits,
    key: String,
    here: Arc<AtomicU64>,
}

impl Limits {
    /// Nobody has anything yet.
    pub fn new(bounds: Bounds) -> Self {
        Limits {
            slots: Permits::new(bounds.downloads),
            cpus: Cpus::new(bounds.cpus),
            rate: RateLimit::new(bounds.bytes_per_second),
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

    /// Waits until no other job fetches the blob that `key` names, and claims it. Meanwhile `tell` hears, again and again, how many
    /// bytes the other one has.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn claim(&self, key: &str, cancel: &Cancel, tell: &dyn Fn(u64)) -> Result<Claim<'_>, Cancelled> {
        let mut claims = lock(&self.claims);
        while let Some(other) = claims.get(key) {
            cancel.check()?;
            tell(other.load(Ordering::Relaxed));
            claims = mutex::wait_timeout(&self.released, claims, LOOK);
        }
        let here = Arc::<AtomicU64>::default();
        claims.insert(key.to_owned(), Arc::clone(&here));
        Ok(Claim { limits: self, key: key.to_owned(), here })
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

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.limits.claims).remove(&self.key);
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
        let (key, cancel) = ("sha256:x", Cancel::default());
        let first = limits.claim(key, &cancel, &|_| panic!("nobody has it")).expect("claimed");
        first.tell(7);
        let (heard, hears) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tell = move |bytes| assert!(heard.send(bytes).is_ok());
                drop(limits.claim(key, &cancel, &tell).expect("claimed"));
            });
            assert_eq!(hears.recv(), Ok(7));
            drop(first);
        });
        drop(limits.claim(key, &cancel, &|_| panic!("nobody has it")).expect("claimed"));
    }
}
