//! The checker thread: owns the deadlines of subscribers and says when one is over.
//!
//! Owned by the event loop, which arms and disarms; the verdicts come back over a bounded channel and a mio
//! Waker. Sleeps until the earliest deadline, and without any it does not wake up at all. Never touches a
//! subscriber: it knows tokens, and the loop ignores those that it no longer knows.

use mio::{Token, Waker};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most verdicts that wait for the loop; the checker waits when there are more.
const VERDICTS_MAX: usize = 256;
/// Longest sleep while a deadline is armed: the most by which a step of the clock can delay it.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// A deadline: the time in nanoseconds since the epoch, of whom.
pub type Deadline = (i64, Token);

#[derive(Debug)]
enum Order {
    Arm(Deadline),
    Disarm(Deadline),
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Checker {
    orders: Option<SyncSender<Order>>,
    verdicts: Receiver<Token>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Starts the thread; `orders_max` bounds what it has not yet taken up.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(orders_max: usize, waker: Arc<Waker>) -> io::Result<Self> {
        let (orders, orders_in) = sync_channel(orders_max);
        let (verdicts_out, verdicts) = sync_channel(VERDICTS_MAX);
        let thread = std::thread::Builder::new()
            .name("checker".into())
            .stack_size(64 << 10);
        let thread = thread.spawn(move || run(&orders_in, &verdicts_out, &waker))?;
        Ok(Checker {
            orders: Some(orders),
            verdicts,
            thread: Some(thread),
        })
    }

    /// Asks for a verdict on `deadline`; false if the checker is too far behind to take it.
    #[must_use]
    pub fn arm(&self, deadline: Deadline) -> bool {
        self.orders
            .as_ref()
            .is_some_and(|orders| orders.try_send(Order::Arm(deadline)).is_ok())
    }

    /// Takes a deadline back. Its verdict may come all the same.
    pub fn disarm(&self, deadline: Deadline) {
        let _ = self
            .orders
            .as_ref()
            .map(|orders| orders.try_send(Order::Disarm(deadline)));
    }

    /// The next one whose deadline has passed.
    pub fn verdict(&self) -> Option<Token> {
        self.verdicts.try_recv().ok()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.orders = None;
        // It may be waiting to hand over a verdict.
        while self.verdicts.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(orders: &Receiver<Order>, verdicts: &SyncSender<Token>, waker: &Waker) {
    let mut deadlines = BTreeSet::new();
    loop {
        match next_order(orders, deadlines.first()) {
            Ok(Order::Arm(deadline)) => {
                deadlines.insert(deadline);
            }
            Ok(Order::Disarm(deadline)) => {
                deadlines.remove(&deadline);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = sampan_ipc::time::now();
        let mut passed = false;
        while let Some((at, token)) = deadlines.first().copied()
            && at < now
        {
            deadlines.pop_first();
            if verdicts.send(token).is_err() {
                return;
            }
            passed = true;
        }
        if passed && let Err(error) = waker.wake() {
            log::error!("cannot wake the loop: {error}");
        }
    }
}

fn next_order(orders: &Receiver<Order>, earliest: Option<&Deadline>) -> Result<Order, RecvTimeoutError> {
    let Some((at, _)) = earliest else {
        return orders.recv().map_err(|_| RecvTimeoutError::Disconnected);
    };
    // One nanosecond behind, as a deadline itself still belongs to the time before it.
    let left = at.saturating_sub(sampan_ipc::time::now()).saturating_add(1);
    match u64::try_from(left) {
        Ok(left) if left > 0 => orders.recv_timeout(Duration::from_nanos(left).min(SLEEP_MAX)),
        _ => orders.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::time::Instant;

    #[test]
    fn deadlines_come_in_their_order_and_disarmed_ones_do_not() {
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let checker = Checker::start(16, waker).expect("a thread");
        let now = sampan_ipc::time::now();
        let later = |ms: i64| now + ms * 1_000_000;
        assert!(checker.arm((later(60), Token(3))));
        assert!(checker.arm((later(40), Token(2))));
        assert!(checker.arm((later(50), Token(9))));
        assert!(checker.arm((now - 1, Token(1))));
        checker.disarm((later(50), Token(9)));
        let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        while got.len() < 3 && Instant::now() < deadline {
            let _ = poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(1)));
            got.extend(std::iter::from_fn(|| checker.verdict()));
        }
        assert_eq!(got, [Token(1), Token(2), Token(3)]);
        assert!(sampan_ipc::time::now() > later(60));
    }
}
