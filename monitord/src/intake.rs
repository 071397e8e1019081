//! From the two FIFOs to the store: what comes in, and when readers may see it.
//!
//! Owned by the event loop. Peeks, checks, numbers, journals, and only then consumes; knows repeats after a
//! restart, counts what is no record, and emits this process's own events through the same store. Each FIFO has
//! its own account of all that, so that neither waits for the other. What comes by the emit FIFO is marked, and
//! refused where its type is one of facts. Knows nothing of clients.

use crate::config::Settings;
use crate::counters::Counters;
use crate::fifo::{Fifo, WINDOW};
use crate::journal::{Change, Found, Journal, Limits};
use crate::ring::Cursor;
use crate::segment;
use crate::store::Store;
use crate::syncer::{Policy, Syncer};
use mio::Waker;
use sampan_ipc::Event;
use sampan_ipc::event::{FACT_KINDS, Origin};
use sampan_ipc::record::{Record, Scanner, Step};
use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two reports of what a FIFO brought that is not taken, so a hostile writer costs two events a second.
const REPORT_SPACING: Duration = Duration::from_secs(1);
/// How long the FIFOs are drained when this process stops, however fast writers are.
const LAST_DRAIN: Duration = Duration::from_millis(200);
/// Both FIFOs, in the order in which they are looked at.
pub const ORIGINS: [Origin; 2] = [Origin::Facts, Origin::Emit];
/// Subject of this process's own events.
const SELF: &str = "sampan-monitord";

/// FIFOs and store, and what is between them.
#[derive(Debug)]
pub struct Intake {
    facts: Source,
    emit: Source,
    store: Store,
    syncer: Option<Syncer>,
    policy: Policy,
    /// What this process counts.
    pub counters: Counters,
    /// This process's own events that wait for the disk.
    unsynced: Option<Unsynced>,
    /// Records of the emit FIFO that claimed to be facts, not reported yet: how many, and the type of the first.
    refused: Option<(u64, String)>,
    refused_reports: Spacing,
    writer: u64,
    counter: u64,
}

/// One FIFO, and what is known of it.
#[derive(Debug)]
struct Source {
    fifo: Fifo,
    /// Its records that wait for the disk.
    unsynced: Option<Unsynced>,
    repeats: Repeats,
    /// Bytes that were no record, not reported yet.
    garbage: u64,
    garbage_reports: Spacing,
}

/// Records that are committed and wait for the disk: their bytes in the FIFO, and the request to the syncer.
#[derive(Debug)]
struct Unsynced {
    fifo_bytes: usize,
    request: u64,
    upto: Cursor,
}

/// When something was last reported.
#[derive(Debug, Default)]
struct Spacing(Option<Instant>);

/// Records that may come once more after a restart, for so many bytes of the FIFO.
#[derive(Debug)]
struct Repeats {
    /// Writer, counter, and checksum of the rest: to know those of another writer is not enough to pass for it.
    known: HashSet<(u64, u64, u32)>,
    bytes_left: usize,
}

impl Intake {
    /// Joins FIFOs and journal; `waker` is rung when what was taken has reached the disk.
    ///
    /// # Errors
    /// The syncer thread cannot be started.
    pub fn new(
        facts: Fifo,
        emit: Fifo,
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
        let source = |fifo, origin| {
            let known = found.repeats.iter().filter(|repeat| repeat.0 == origin);
            let known = known.map(|(_, writer, counter, sum)| (*writer, *counter, *sum)).collect();
            Source {
                fifo,
                unsynced: None,
                repeats: Repeats { known, bytes_left: 2 * WINDOW },
                garbage: 0,
                garbage_reports: Spacing::default(),
            }
        };
        Ok(Intake {
            facts: source(facts, Origin::Facts),
            emit: source(emit, Origin::Emit),
            store: Store::new(settings.ring_bytes, journal, found.next),
            syncer,
            policy: settings.sync,
            counters: Counters::new(),
            unsynced: None,
            refused: None,
            refused_reports: Spacing::default(),
            writer: sampan_ipc::sender::random(),
            counter: 0,
        })
    }

    /// The descriptor of the FIFO of `origin`, to be polled.
    pub fn raw(&self, origin: Origin) -> RawFd {
        self.source(origin).fifo.raw()
    }

    fn source(&self, origin: Origin) -> &Source {
        match origin {
            Origin::Facts => &self.facts,
            Origin::Emit => &self.emit,
        }
    }

    fn source_mut(&mut self, origin: Origin) -> &mut Source {
        match origin {
            Origin::Facts => &mut self.facts,
            Origin::Emit => &mut self.emit,
        }
    }

    /// The events that there are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The events that there are, to drop old ones.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// True while what was taken of this FIFO waits for the disk; nothing more of it is taken until then.
    pub fn waits(&self, origin: Origin) -> bool {
        self.source(origin).unsynced.is_some()
    }

    /// Takes what the FIFO of `origin` holds, at most `windows` windows of it; false if it is empty.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn take(&mut self, origin: Origin, windows: usize) -> io::Result<bool> {
        for _ in 0..windows {
            if self.waits(origin) {
                return Ok(true);
            }
            if !self.take_window(origin)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes one window; false if the FIFO is empty.
    fn take_window(&mut self, origin: Origin) -> io::Result<bool> {
        let source = match origin {
            Origin::Facts => &mut self.facts,
            Origin::Emit => &mut self.emit,
        };
        let window = source.fifo.peek()?;
        if window.is_empty() {
            return Ok(false);
        }
        let (mut events, mut garbage) = (0, 0);
        let mut scanner = Scanner::new(window);
        while let Some(step) = scanner.next() {
            match step {
                Step::Record(record) if source.repeats.has(&record) => {
                    self.counters.repeated += 1;
                }
                Step::Record(record) if origin == Origin::Emit && FACT_KINDS.contains(&record.event.kind) => {
                    self.counters.emit_refused += 1;
                    self.refused.get_or_insert_with(|| (0, record.event.kind.to_owned())).0 += 1;
                }
                Step::Record(record) => {
                    self.counters.writers_lost += u64::from(record.event.lost);
                    events += 1;
                    match origin {
                        Origin::Facts => self.store.push(&record),
                        Origin::Emit => self.store.push_emitted(&record),
                    }
                }
                Step::Garbage(bytes) => garbage += bytes,
                // It may be whole in the next window, whose front it will be; at the front it cannot become so.
                Step::Partial if scanner.consumed() > 0 => break,
                Step::Partial => garbage += scanner.skip_partial(),
            }
        }
        let consumed = scanner.consumed();
        source.garbage += garbage as u64;
        source.repeats.pass(consumed);
        self.counters.add_events(events);
        self.counters.skipped_bytes += garbage as u64;
        self.commit(Some((origin, consumed)));
        if !self.waits(origin) {
            self.source_mut(origin).fifo.consume(consumed)?;
        }
        Ok(true)
    }

    /// Writes what was taken, of a FIFO so many bytes, to the journal and lets readers see it, or has it synced first.
    fn commit(&mut self, taken: Option<(Origin, usize)>) {
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
                let fifo_bytes = taken.map_or(0, |(_, bytes)| bytes);
                let unsynced = Some(Unsynced { fifo_bytes, request, upto });
                match taken {
                    Some((origin, _)) => self.source_mut(origin).unsynced = unsynced,
                    None => self.unsynced = unsynced,
                }
            }
            _ => self.show(upto),
        }
    }

    /// Lets readers see what is before `upto`. They may see more already, of what waited for another sync.
    fn show(&mut self, upto: Cursor) {
        if upto.pos > self.store.visible().pos {
            self.store.show(upto);
        }
    }

    /// Lets readers see what has reached the disk; gives the FIFOs that are to be looked at again.
    ///
    /// # Errors
    /// A FIFO itself failed.
    pub fn take_synced(&mut self) -> io::Result<Vec<Origin>> {
        let Some(syncer) = &self.syncer else { return Ok(Vec::new()) };
        let (done, error) = (syncer.done(), syncer.error());
        if let Some(error) = error {
            self.tell_failure(&error.to_string());
            self.commit(None);
        }
        let is_done = |unsynced: &mut Unsynced| done >= unsynced.request;
        if let Some(own) = self.unsynced.take_if(is_done) {
            self.show(own.upto);
        }
        let mut again = Vec::new();
        for origin in ORIGINS {
            if let Some(unsynced) = self.source_mut(origin).unsynced.take_if(is_done) {
                self.show(unsynced.upto);
                self.source_mut(origin).fifo.consume(unsynced.fifo_bytes)?;
                again.push(origin);
            }
        }
        Ok(again)
    }

    /// Emits an event of this process's own.
    pub fn emit(&mut self, event: Event) {
        self.push(event);
        self.commit(None);
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

    /// Tells of what the FIFOs brought and was not taken: at once, and then at most once a second.
    pub fn report_bad_input(&mut self) {
        for origin in ORIGINS {
            self.report_garbage(origin);
        }
        if self.refused.is_some()
            && self.refused_reports.is_due()
            && let Some((count, kind)) = self.refused.take()
        {
            self.refused_reports.mark();
            log::warn!(
                "refused {count} records of the emit FIFO, the first of type {kind}: events of this type are facts, and come by the monitor FIFO"
            );
            self.emit(Event::new("daemon", "emit-refused", SELF).with("count", count).with("type", kind));
        }
    }

    fn report_garbage(&mut self, origin: Origin) {
        let source = self.source_mut(origin);
        if source.garbage == 0 || !source.garbage_reports.is_due() {
            return;
        }
        source.garbage_reports.mark();
        let bytes = std::mem::take(&mut source.garbage);
        let fifo = match origin {
            Origin::Facts => "monitor",
            Origin::Emit => "emit",
        };
        log::warn!("skipped {bytes} bytes of the {fifo} FIFO that are no record");
        self.emit(Event::new("daemon", "fifo-garbage", SELF).with("bytes", bytes).with("fifo", fifo));
    }

    /// When [`Intake::report_bad_input`] has something to do.
    pub fn next_report(&self) -> Option<Instant> {
        let garbage = |source: &Source| (source.garbage > 0).then(|| source.garbage_reports.next());
        let refused = self.refused.as_ref().map(|_| self.refused_reports.next());
        [garbage(&self.facts), garbage(&self.emit), refused].into_iter().flatten().min()
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

    /// Takes what the FIFOs still hold, emits that this process stops, and syncs; readers see it all then.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn close(&mut self) -> io::Result<()> {
        let until = Instant::now() + LAST_DRAIN;
        // Nobody is served before the sync below: no window needs to wait for one of its own.
        self.policy = Policy::Never;
        for origin in ORIGINS {
            let source = self.source_mut(origin);
            if let Some(unsynced) = source.unsynced.take() {
                source.fifo.consume(unsynced.fifo_bytes)?;
            }
        }
        while Instant::now() < until && (self.take_window(Origin::Facts)? | self.take_window(Origin::Emit)?) {
        }
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

impl Spacing {
    fn is_due(&self) -> bool {
        self.0.is_none_or(|at| at.elapsed() >= REPORT_SPACING)
    }

    /// When the next report may come.
    fn next(&self) -> Instant {
        self.0.map_or_else(Instant::now, |at| at + REPORT_SPACING)
    }

    fn mark(&mut self) {
        self.0 = Some(Instant::now());
    }
}

impl Repeats {
    fn has(&self, record: &Record<'_>) -> bool {
        let (writer, counter) = (record.event.writer, record.event.counter);
        self.bytes_left > 0 && self.known.contains(&(writer, counter, segment::record_sum(record.body)))
    }

    /// Forgets once the FIFO has moved past all that the process before this one can have left.
    fn pass(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        if self.bytes_left == 0 {
            self.known = HashSet::new();
        }
    }
}
