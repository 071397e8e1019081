//! A budget of memory that all jobs share, so that memory does not grow with the number of transfers.
//!
//! A thread takes its share before it allocates, and gives it back when it frees. Threads get their shares in the order
//! of their requests, so small ones do not overtake a large one for ever.

use crate::cancel::{Cancel, Cancelled};
use crate::permits::Permits;

/// The budget; a permit is one byte.
pub struct Buffers(Permits, usize);

/// A share of the budget; dropping it gives it back.
pub struct Share<'a> {
    of: &'a Buffers,
    bytes: usize,
}

impl Buffers {
    /// Makes a budget of `total` bytes, but at least one.
    pub fn new(total: usize) -> Self {
        Buffers(Permits::new(total), total.max(1))
    }

    /// Waits for a share of `bytes` bytes; a larger share than the whole budget is the whole budget.
    ///
    /// # Errors
    /// [`Cancelled`]: the wait was cancelled.
    pub fn take(&self, bytes: usize, cancel: &Cancel) -> Result<Share<'_>, Cancelled> {
        let bytes = bytes.min(self.1);
        self.0.take_many(bytes, Some(cancel))?;
        Ok(Share { of: self, bytes })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.of.0.release_many(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_waits_until_enough_is_free() {
        let (buffers, cancel) = (Buffers::new(10), Cancel::default());
        let first = buffers.take(7, &cancel).expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(buffers.take(100, &cancel).expect("free in the end")));
            while !buffers.0.is_wanted() {
                std::thread::yield_now();
            }
            drop(first);
            second.join().expect("no panic");
        });
        drop(buffers.take(10, &cancel).expect("all is free again"));
    }

    #[test]
    fn a_cancelled_wait_ends_and_blocks_no_other() {
        let (buffers, cancel, live) = (Buffers::new(10), Cancel::default(), Cancel::default());
        let held = buffers.take(10, &live).expect("free");
        cancel.cancel();
        assert!(buffers.take(1, &cancel).is_err());
        drop(held);
        drop(buffers.take(10, &live).expect("free"));
    }
}
