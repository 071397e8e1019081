//! From the FIFO to the store: what comes in, and when readers may see it.
//!
//! Owned by the event loop. Peeks, checks, numbers, journals, and only then consumes; knows repeats after a
//! restart, counts what is no record, and emits this process's own events through the same store. Knows nothing
//! of clients.

use crate::config::Settings;
use crate::counters::Counters;
use crate::fifo::{Fifo, WINDOW};
use crate::journal::{Change, Found, Journal, Limits};
use crate::ring::Cursor;
use crate::store::Store;
use crate::syncer::{Policy, Syncer};
use mio::Waker;
use sampan_ipc::Event;
use sampan_ipc::record::{Scanner, Step};
use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two reports of bytes that are no record, so a hostile writer costs an event a second.
const GARBAGE_SPACING: Duration = Duration::from_secs(1);
/// How long the FIFO is drained when this process stops, however fast writers are.
const LAST_DRAIN: Duration = Duration::from_millis(200);
/// Subject of this process's own events.
const SELF: &str = "sampan-monitord";

/// FIFO and store, and what is between them.
#[derive(Debug)]
pub struct Intake {
    fifo: Fifo,
    store: Store,
    syncer: Option<Syncer>,
    policy: Policy,
    /// What this process counts.
    pub counters: Counters,
    unsynced: Option<Unsynced>,
    repeats: Repeats,
    garbage: Garbage,
    writer: u64,
    counter: u64,
}

/// Records that are committed and wait for the disk: their bytes in the FIFO, and the request to the syncer.
#[derive(Debug)]
struct Unsynced {
    fifo_bytes: usize,
    request: u64,
    upto: Cursor,
}

/// Bytes of the FIFO that were no record, and when they were last reported.
#[derive(Debug, Default)]
struct Garbage {
    bytes: u64,
    reported: Option<Instant>,
}

/// Records that may come once more after a restart, for so many bytes of the FIFO.
#[derive(Debug)]
struct Repeats {
    known: HashSet<(u64, u64)>,
    bytes_left: usize,
}

impl Intake {
    /// Joins FIFO and journal; `waker` is rung when what was taken has reached the disk.
    ///
    /// # Errors
    /// The syncer thread cannot be started.
    pub fn new(
        fifo: Fifo,
        journal: Option<Journal>,
        found: &Found,
        settings: &Settings,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        let syncer = match settings.sync {
            Policy::Always | Policy::Interval(_) if journal.is_some() => {
                Some(Syncer::start(settings.sync, waker)?)
            }
            _ => None,
        };
        Ok(Intake {
            fifo,
            store: Store::new(settings.ring_bytes, journal, found.next),
            syncer,
            policy: settings.sync,
            counters: Counters::new(),
            unsynced: None,
            repeats: Repeats { known: found.repeats.iter().copied().collect(), bytes_left: 2 * WINDOW },
            garbage: Garbage::default(),
            writer: sampan_ipc::sender::random(),
            counter: 0,
        })
    }

    /// The FIFO's descriptor, to be polled.
    pub fn raw(&self) -> RawFd {
        self.fifo.raw()
    }

    /// The events that there are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The events that there are, to drop old ones.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// True while what was taken waits for the disk; nothing more is taken until then.
    pub fn waits(&self) -> bool {
        self.unsynced.is_some()
    }

    /// Takes what the FIFO holds, at most `windows` windows of it; false if it is empty.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn take(&mut self, windows: usize) -> io::Result<bool> {
        for _ in 0..windows {
            if self.waits() {
                return Ok(true);
            }
            if !self.take_window()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes one window; false if the FIFO is empty.
    fn take_window(&mut self) -> io::Result<bool> {
        let window = self.fifo.peek()?;
        if window.is_empty() {
            return Ok(false);
        }
        let (mut events, mut garbage) = (0, 0);
        let mut scanner = Scanner::new(window);
        while let Some(step) = scanner.next() {
            match step {
                Step::Record(record) if self.repeats.has(record.event.writer, record.event.counter) => {
                    self.counters.repeated += 1;
                }
                Step::Record(record) => {
                    self.counters.writers_lost += u64::from(record.event.lost);
                    events += 1;
                    self.store.push(&record);
                }
                Step::Garbage(bytes) => garbage += bytes,
                // It may be whole in the next window, whose front it will be; at the front it cannot become so.
                Step::Partial if scanner.consumed() > 0 => break,
                Step::Partial => garbage += scanner.skip_partial(),
            }
        }
        let consumed = scanner.consumed();
        self.counters.add_events(events);
        self.counters.skipped_bytes += garbage as u64;
        self.garbage.bytes += garbage as u64;
        self.repeats.pass(consumed);
        self.commit(consumed);
        if !self.waits() {
            self.fifo.consume(consumed)?;
        }
        Ok(true)
    }

    /// Writes what was taken to the journal and lets readers see it, or has it synced first.
    fn commit(&mut self, fifo_bytes: usize) {
        loop {
            match self.store.commit() {
                Change::None => break,
                Change::Failed(reason) => self.tell_failure(&reason),
                Change::Recovered => {
                    log::info!("the journal can be written again");
                    self.push(Event::new("daemon", "journal-recovered", SELF));
                }
            }
        }
        let upto = self.store.committed();
        let request = match (&self.syncer, self.store.journal().and_then(Journal::active)) {
            (Some(syncer), Some(file)) => Some(syncer.ask(file)),
            _ => None,
        };
        match request {
            Some(request) if self.policy == Policy::Always => {
                let before = self.unsynced.take().map_or(0, |unsynced| unsynced.fifo_bytes);
                self.unsynced = Some(Unsynced { fifo_bytes: before + fifo_bytes, request, upto });
            }
            _ => self.store.show(upto),
        }
    }

    /// Lets readers see what has reached the disk; true if the FIFO is to be looked at again.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn take_synced(&mut self) -> io::Result<bool> {
        let Some(syncer) = &self.syncer else { return Ok(false) };
        let (done, error) = (syncer.done(), syncer.error());
        if let Some(error) = error {
            self.tell_failure(&error.to_string());
            self.commit(0);
        }
        let Some(unsynced) = self.unsynced.take_if(|unsynced| done >= unsynced.request) else {
            return Ok(false);
        };
        self.store.show(unsynced.upto);
        self.fifo.consume(unsynced.fifo_bytes)?;
        Ok(true)
    }

    /// Emits an event of this process's own.
    pub fn emit(&mut self, event: Event) {
        self.push(event);
        self.commit(0);
    }

    /// Emits that this process begins, and what it found.
    pub fn emit_start(&mut self, damage: &[String], failed: Option<&str>) {
        for what in damage {
            log::warn!("journal damaged: {what}");
            self.push(Event::new("daemon", "journal-damaged", SELF).with("reason", what));
        }
        if let Some(reason) = failed {
            self.tell_failure(reason);
        }
        let start = Event::new("daemon", "start", SELF).with("version", env!("CARGO_PKG_VERSION"));
        self.emit(start.with("pid", std::process::id()));
    }

    fn tell_failure(&mut self, reason: &str) {
        log::error!("cannot write the journal, events are kept in memory only: {reason}");
        self.push(Event::new("daemon", "journal-failed", SELF).with("reason", reason));
    }

    fn push(&mut self, mut event: Event) {
        self.counter += 1;
        (event.writer, event.counter) = (self.writer, self.counter);
        self.counters.add_events(1);
        self.store.push_own(&event);
    }

    /// Tells of bytes that were no record: at once, and then at most once a second.
    pub fn report_garbage(&mut self) {
        let due = self.garbage.reported.is_none_or(|at| at.elapsed() >= GARBAGE_SPACING);
        if self.garbage.bytes == 0 || !due || self.waits() {
            return;
        }
        let bytes = std::mem::take(&mut self.garbage.bytes);
        self.garbage.reported = Some(Instant::now());
        log::warn!("skipped {bytes} bytes of the FIFO that are no record");
        self.emit(Event::new("daemon", "fifo-garbage", SELF).with("bytes", bytes));
    }

    /// When [`Intake::report_garbage`] has something to do.
    pub fn next_report(&self) -> Option<Instant> {
        self.garbage.reported.filter(|_| self.garbage.bytes > 0).map(|at| at + GARBAGE_SPACING)
    }

    /// Follows new settings.
    pub fn set(&mut self, limits: Limits, sync: Policy) {
        if let Some(journal) = self.store.journal_mut() {
            journal.set_limits(limits);
        }
        if let (Some(syncer), Policy::Interval(interval)) = (&self.syncer, sync) {
            syncer.set_interval(interval);
        }
        self.emit(Event::new("daemon", "reload", SELF));
    }

    /// Takes what the FIFO still holds, emits that this process stops, and syncs; readers see it all then.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn close(&mut self) -> io::Result<()> {
        let until = Instant::now() + LAST_DRAIN;
        // Nobody is served before the sync below: no window needs to wait for one of its own.
        self.policy = Policy::Never;
        if let Some(unsynced) = self.unsynced.take() {
            self.fifo.consume(unsynced.fifo_bytes)?;
        }
        while Instant::now() < until && self.take_window()? {}
        self.emit(Event::new("daemon", "stop", SELF).with("pid", std::process::id()));
        // Joins the thread, which syncs what is left.
        self.syncer = None;
        let next = self.store.committed().seq;
        if let Some(journal) = self.store.journal_mut() {
            journal.settle(next);
        }
        Ok(())
    }
}

impl Repeats {
    fn has(&self, writer: u64, counter: u64) -> bool {
        self.bytes_left > 0 && self.known.contains(&(writer, counter))
    }

    /// Forgets once the FIFO has moved past all that the process before this one can have left.
    fn pass(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        if self.bytes_left == 0 {
            self.known = HashSet::new();
        }
    }
}
