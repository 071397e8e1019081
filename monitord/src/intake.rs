//! Reads records from the two FIFOs into the store, and decides when readers may see them.
//!
//! The event loop owns the intake. For each FIFO it peeks a window, checks the records, appends them to the store and
//! the journal, and only then consumes the window. After a restart, it skips records that an earlier process has put
//! into the journal. It counts and reports bytes that are no record. The two FIFOs have separate states, so that
//! neither waits for the other. Events of the emit FIFO are marked, and refused if their type is reserved for facts.
//! This process's own events go into the same store. This module does not know clients.

use crate::config::Settings;
use crate::counters::Counters;
use crate::fifo::{Fifo, WINDOW};
use crate::journal::{Change, Journal, Limits, Recovery};
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

/// Least time between two reports of one kind of bad input: a hostile writer then causes few events of this process.
const REPORT_SPACING: Duration = Duration::from_secs(1);
/// Longest time to read the FIFOs when this process stops, since writers may continue to write.
const LAST_DRAIN: Duration = Duration::from_millis(200);
/// Both FIFOs, in the order in which they are read.
pub(crate) const ORIGINS: [Origin; 2] = [Origin::Facts, Origin::Emit];
/// ID of this process in its own events.
const SELF: &str = "sampan-monitord";

/// The FIFOs, the store, and the state of records between them.
#[derive(Debug)]
pub(crate) struct Intake {
    facts: Source,
    emit: Source,
    store: Store,
    syncer: Option<Syncer>,
    policy: Policy,
    pub(crate) counters: Counters,
    /// The events of this process that are not synced yet.
    unsynced: Option<Unsynced>,
    /// The records of the emit FIFO with a type of facts that are not reported yet: their number, and the first one's
    /// type.
    refused: Option<(u64, String)>,
    refused_reports: Spacing,
    /// Random identity of this process as a writer of records, and the number of its last record.
    writer: u64,
    counter: u64,
}

/// A FIFO and the state of its records.
#[derive(Debug)]
struct Source {
    fifo: Fifo,
    /// The window whose records are not synced yet. No further window is read until they are.
    unsynced: Option<Unsynced>,
    repeats: Repeats,
    /// Number of bytes that were no record and that are not reported yet.
    garbage: u64,
    garbage_reports: Spacing,
}

/// Records that are in the journal's file but not synced to the disk.
#[derive(Debug)]
struct Unsynced {
    /// Number of bytes to consume from the FIFO after the sync.
    fifo_bytes: usize,
    /// Number of the request to the syncer for these records.
    request: u64,
    /// The store's cursor after the records.
    end: Cursor,
}

/// When the last report was made; the next one waits for [`REPORT_SPACING`].
#[derive(Debug, Default)]
struct Spacing(Option<Instant>);

/// Records in the journal that a FIFO may still contain, since an earlier process died before it consumed them.
#[derive(Debug)]
struct Repeats {
    /// Writer, counter and checksum of each record. Another writer may know the first two; because of the checksum it
    /// cannot make this process skip a record.
    known: HashSet<(u64, u64, u32)>,
    /// Number of bytes of the FIFO in which repeated records may still be.
    bytes_left: usize,
}

impl Intake {
    /// Makes the intake of the FIFOs, the store and the journal. The syncer calls `waker` when records have reached
    /// the disk.
    ///
    /// # Errors
    /// The syncer thread cannot be started.
    pub(crate) fn new(
        facts: Fifo,
        emit: Fifo,
        journal: Option<Journal>,
        recovery: &Recovery,
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
            let known = recovery.repeats.iter().filter(|repeat| repeat.0 == origin);
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
            store: Store::new(settings.ring_bytes, journal, recovery.next),
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

    /// The descriptor of the FIFO of `origin`, for the poll.
    pub(crate) fn raw(&self, origin: Origin) -> RawFd {
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

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Whether records of this FIFO are being synced. No more records are read from the FIFO until then.
    pub(crate) fn is_waiting_for_disk(&self, origin: Origin) -> bool {
        self.source(origin).unsynced.is_some()
    }

    /// Reads at most `windows` windows from the FIFO of `origin`. Returns false if the FIFO is empty.
    ///
    /// # Errors
    /// The FIFO cannot be read.
    pub(crate) fn take(&mut self, origin: Origin, windows: usize) -> io::Result<bool> {
        for _ in 0..windows {
            if self.is_waiting_for_disk(origin) {
                return Ok(true);
            }
            if !self.take_window(origin)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one window. Returns false if the FIFO is empty.
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
                Step::Record(record) if source.repeats.contains(&record) => {
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
                // An incomplete record may be complete in the next window, of which it will be the front. At the front
                // of this window it can never become complete.
                Step::Partial if scanner.consumed() > 0 => break,
                Step::Partial => garbage += scanner.skip_partial(),
            }
        }
        let consumed = scanner.consumed();
        source.garbage += garbage as u64;
        source.repeats.advance(consumed);
        self.counters.add_events(events);
        self.counters.skipped_bytes += garbage as u64;
        self.commit(Some((origin, consumed)));
        if !self.is_waiting_for_disk(origin) {
            self.source_mut(origin).fifo.consume(consumed)?;
        }
        Ok(true)
    }

    /// Writes the records since the last commit to the journal, and makes them visible, at once or after a sync.
    /// `taken` is the FIFO that the records come from, if any, and the number of its bytes.
    fn commit(&mut self, taken: Option<(Origin, usize)>) {
        loop {
            match self.store.commit() {
                Change::None => break,
                Change::Failed(reason) => self.report_journal_failure(&reason),
                Change::Recovered => {
                    log::info!("the journal can be written again: new events are kept on disk");
                    self.push(Event::new("daemon", "journal-recovered", SELF));
                }
            }
        }
        let end = self.store.committed();
        let request = match (&self.syncer, self.store.journal().and_then(Journal::active)) {
            (Some(syncer), Some(file)) => Some(syncer.request(file)),
            _ => None,
        };
        match request {
            Some(request) if self.policy == Policy::Always => {
                let fifo_bytes = taken.map_or(0, |(_, bytes)| bytes);
                let unsynced = Some(Unsynced { fifo_bytes, request, end });
                match taken {
                    Some((origin, _)) => self.source_mut(origin).unsynced = unsynced,
                    None => self.unsynced = unsynced,
                }
            }
            _ => self.make_visible(end),
        }
    }

    /// Makes the events before `end` visible to readers. More events may be visible already: the FIFOs and this
    /// process's own events wait for separate syncs, which may end in any order.
    fn make_visible(&mut self, end: Cursor) {
        if end.pos > self.store.visible().pos {
            self.store.make_visible(end);
        }
    }

    /// Makes the events visible that have reached the disk, and consumes their bytes from the FIFOs. Returns the FIFOs
    /// that must be read again.
    ///
    /// # Errors
    /// A FIFO cannot be read.
    pub(crate) fn take_synced(&mut self) -> io::Result<Vec<Origin>> {
        let Some(syncer) = &self.syncer else { return Ok(Vec::new()) };
        let (done, error) = (syncer.done(), syncer.take_error());
        if let Some(error) = error {
            self.report_journal_failure(&error.to_string());
            self.commit(None);
        }
        let is_done = |unsynced: &mut Unsynced| done >= unsynced.request;
        if let Some(own) = self.unsynced.take_if(is_done) {
            self.make_visible(own.end);
        }
        let mut again = Vec::new();
        for origin in ORIGINS {
            if let Some(unsynced) = self.source_mut(origin).unsynced.take_if(is_done) {
                self.make_visible(unsynced.end);
                self.source_mut(origin).fifo.consume(unsynced.fifo_bytes)?;
                again.push(origin);
            }
        }
        Ok(again)
    }

    /// Stores an event of this process.
    pub(crate) fn emit(&mut self, event: Event) {
        self.push(event);
        self.commit(None);
    }

    /// Stores this process's `start` event; before it, events for damage in the journal and for a journal that cannot
    /// be opened.
    pub(crate) fn emit_start(&mut self, damage: &[String], failure: Option<&str>) {
        for what in damage {
            log::warn!("journal damaged: {what}");
            self.push(Event::new("daemon", "journal-damaged", SELF).with("reason", what));
        }
        if let Some(reason) = failure {
            self.report_journal_failure(reason);
        }
        let start = Event::new("daemon", "start", SELF).with("version", env!("CARGO_PKG_VERSION"));
        self.emit(start.with("pid", std::process::id()));
    }

    fn report_journal_failure(&mut self, reason: &str) {
        log::error!(
            "cannot write the journal, new events are kept in memory only and lost at a restart: {reason}"
        );
        self.push(Event::new("daemon", "journal-failed", SELF).with("reason", reason));
    }

    fn push(&mut self, mut event: Event) {
        self.counter += 1;
        (event.writer, event.counter) = (self.writer, self.counter);
        self.counters.add_events(1);
        self.store.push_own(&event);
    }

    /// Reports bytes that were no record, and refused records. The first ones are reported at once, later ones in one
    /// report each second.
    pub(crate) fn report_bad_input(&mut self) {
        for origin in ORIGINS {
            self.report_garbage(origin);
        }
        if self.refused.is_some()
            && self.refused_reports.is_due()
            && let Some((count, kind)) = self.refused.take()
        {
            self.refused_reports.mark();
            log::warn!(
                "refused {count} records of the emit FIFO, the first of type {kind}: this type is reserved for facts, \
                 which are written to the monitor FIFO"
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
        log::warn!(
            "skipped {bytes} bytes of the {fifo} FIFO that are no record: a writer is broken or hostile"
        );
        self.emit(Event::new("daemon", "fifo-garbage", SELF).with("bytes", bytes).with("fifo", fifo));
    }

    /// When [`Intake::report_bad_input`] must be called next; `None` if there is nothing to report.
    pub(crate) fn next_report(&self) -> Option<Instant> {
        let garbage = |source: &Source| (source.garbage > 0).then(|| source.garbage_reports.next());
        let refused = self.refused.as_ref().map(|_| self.refused_reports.next());
        [garbage(&self.facts), garbage(&self.emit), refused].into_iter().flatten().min()
    }

    /// Applies settings that were read again after SIGHUP.
    pub(crate) fn apply_settings(&mut self, limits: Limits, sync: Policy) {
        if let Some(journal) = self.store.journal_mut() {
            journal.set_limits(limits);
        }
        if let (Some(syncer), Policy::Interval(interval)) = (&self.syncer, sync) {
            syncer.set_interval(interval);
        }
        self.emit(Event::new("daemon", "reload", SELF));
    }

    /// Reads the remaining records from the FIFOs, stores this process's `stop` event, and syncs. Afterwards all
    /// events are visible.
    ///
    /// # Errors
    /// A FIFO cannot be read.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        let until = Instant::now() + LAST_DRAIN;
        // Clients get no event before the last sync at the end of this function, so no window needs a sync of its own.
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
        // A drop of the syncer syncs the remaining bytes and waits for its thread.
        self.syncer = None;
        let next = self.store.committed().seq;
        if let Some(journal) = self.store.journal_mut() {
            journal.record_next_seq(next);
        }
        Ok(())
    }
}

impl Spacing {
    fn is_due(&self) -> bool {
        self.0.is_none_or(|at| at.elapsed() >= REPORT_SPACING)
    }

    fn next(&self) -> Instant {
        self.0.map_or_else(Instant::now, |at| at + REPORT_SPACING)
    }

    fn mark(&mut self) {
        self.0 = Some(Instant::now());
    }
}

impl Repeats {
    fn contains(&self, record: &Record<'_>) -> bool {
        let (writer, counter) = (record.event.writer, record.event.counter);
        self.bytes_left > 0 && self.known.contains(&(writer, counter, segment::record_sum(record.body)))
    }

    /// Counts consumed bytes of the FIFO. Forgets the records after all bytes that the earlier process had peeked are
    /// consumed.
    fn advance(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        if self.bytes_left == 0 {
            self.known = HashSet::new();
        }
    }
}
