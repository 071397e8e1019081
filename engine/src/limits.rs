//! What all jobs of the engine share: a number of downloads at a time, and one download of a blob at a time.

use crate::cancel::{Cancel, Cancelled};
use crate::digest::Digest;
use crate::store::lock;
use std::collections::HashSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often a waiting job looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(200);

/// Engine-wide limits. A thread takes a claim before a slot and never the other way round, so none waits for ever.
pub struct Limits {
    slots: Mutex<usize>,
    claims: Mutex<HashSet<Digest>>,
    freed: Condvar,
    released: Condvar,
}

/// One of the downloads that may run at a time.
pub struct Slot<'a>(&'a Limits);

/// The right to be the one who fetches a blob.
pub struct Claim<'a>(&'a Limits, Digest);

impl Limits {
    /// At most `downloads` at a time, and at least one.
    pub fn new(downloads: usize) -> Self {
        Limits {
            slots: Mutex::new(downloads.max(1)),
            claims: Mutex::default(),
            freed: Condvar::new(),
            released: Condvar::new(),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn slot(&self, cancel: &Cancel) -> Result<Slot<'_>, Cancelled> {
        let mut free = lock(&self.slots);
        while *free == 0 {
            cancel.check()?;
            free = self.freed.wait_timeout(free, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        }
        *free -= 1;
        Ok(Slot(self))
    }

    /// Waits until no other job fetches `digest`, and claims it.
    ///
    /// # Errors
    /// [`Cancelled`] meanwhile.
    pub fn claim(&self, digest: &Digest, cancel: &Cancel) -> Result<Claim<'_>, Cancelled> {
        let mut claims = lock(&self.claims);
        while !claims.insert(digest.clone()) {
            cancel.check()?;
            claims = self.released.wait_timeout(claims, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(Claim(self, digest.clone()))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.slots) += 1;
        self.0.freed.notify_one();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.0.claims).remove(&self.1);
        self.0.released.notify_all();
    }
}
