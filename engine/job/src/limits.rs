//! The limits that all jobs of the engine share: transfers at a time, threads that compute at a time, bytes per second,
//! and one download of a blob at a time.
//!
//! Owned by the engine, called by the threads of all jobs. To avoid a deadlock, a thread takes a claim before a slot, a
//! slot before a permit to compute, and releases that permit for every wait ([`crate::cpu::idle`]). Waits for a slot
//! or a claim end when the job is cancelled.

use crate::cancel::{Cancel, Cancelled};
use crate::cpu::Cpus;
use crate::permits::{CANCEL_CHECK_INTERVAL, Permits};
use crate::rate_limit::RateLimit;
use sampan_os::mutex::{self, lock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The configured bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most downloads and uploads at a time; at least one.
    pub downloads: usize,
    /// Most threads that hash, decompress and unpack at a time; at least one.
    pub cpus: usize,
    /// Most bytes per second from and to registries, all jobs together; 0 means no limit.
    pub bytes_per_second: u64,
    /// The binary logarithm of the largest zstd window in bytes.
    pub zstd_window_log: u32,
    /// A transfer of fewer than `stall_bytes` bytes in this time is aborted and retried.
    pub stall_time: Duration,
    /// The fewest bytes that a transfer must move in `stall_time`.
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

/// The limits of one engine.
pub struct Limits {
    /// The configured bounds.
    pub bounds: Bounds,
    /// The rate limit of all transfers together.
    pub rate: RateLimit,
    /// The permits to compute.
    pub cpus: Cpus,
    slots: Permits,
    /// Claimed blobs by key, each with the number of bytes that its job has fetched.
    claims: Mutex<HashMap<String, Arc<AtomicU64>>>,
    released: Condvar,
}

/// A permit for one transfer; dropping it lets the next transfer start.
pub struct Slot<'a>(&'a Limits);

/// The exclusive right of one job to fetch a blob; dropping it lets the next job have it.
pub struct Claim<'a> {
    limits: &'a Limits,
    key: String,
    fetched: Arc<AtomicU64>,
}

impl Limits {
    /// Makes the limits with all slots free and no blob claimed.
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

    /// Waits until fewer than [`Bounds::downloads`] transfers run, and takes a slot for one more.
    ///
    /// # Errors
    /// [`Cancelled`]: the job was cancelled during the wait.
    pub fn slot(&self, cancel: &Cancel) -> Result<Slot<'_>, Cancelled> {
        self.slots.take(Some(cancel))?;
        Ok(Slot(self))
    }

    /// Waits until no other job fetches the blob `key`, then claims the blob. During the wait, calls `on_wait` every
    /// 200 ms with the number of bytes that the other job has fetched.
    ///
    /// # Errors
    /// [`Cancelled`]: the job was cancelled during the wait.
    pub fn claim(&self, key: &str, cancel: &Cancel, on_wait: &dyn Fn(u64)) -> Result<Claim<'_>, Cancelled> {
        let mut claims = lock(&self.claims);
        while let Some(other) = claims.get(key) {
            cancel.check()?;
            on_wait(other.load(Ordering::Relaxed));
            claims = mutex::wait_timeout(&self.released, claims, CANCEL_CHECK_INTERVAL);
        }
        let fetched = Arc::<AtomicU64>::default();
        claims.insert(key.to_owned(), Arc::clone(&fetched));
        Ok(Claim { limits: self, key: key.to_owned(), fetched })
    }
}

impl Claim<'_> {
    /// Records the number of bytes fetched so far, for jobs that wait for this blob.
    pub fn record_bytes(&self, bytes: u64) {
        self.fetched.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.slots.release();
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
    fn a_waiting_job_sees_the_bytes_of_the_other_and_claims_the_blob_after_it() {
        let limits = Limits::new(Bounds::default());
        let (key, cancel) = ("sha256:x", Cancel::default());
        let first = limits.claim(key, &cancel, &|_| panic!("no other job has claimed it")).expect("claimed");
        first.record_bytes(7);
        let (report, reports) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let on_wait = move |bytes| assert!(report.send(bytes).is_ok());
                drop(limits.claim(key, &cancel, &on_wait).expect("claimed"));
            });
            assert_eq!(reports.recv(), Ok(7));
            drop(first);
        });
        drop(limits.claim(key, &cancel, &|_| panic!("no other job has claimed it")).expect("claimed"));
    }
}
