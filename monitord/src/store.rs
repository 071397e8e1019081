//! The store: the ring in memory and the journal on disk, as one sequence of events.
//!
//! The intake owns the store and adds events in batches; [`crate::clients`] reads the bytes after any cursor. Readers
//! see committed events only after [`Store::make_visible`], so that with `sync = "always"` no reader sees an event
//! that a power cut could remove. This module does not know sockets.

use crate::journal::{Change, Journal};
use crate::ring::{Cursor, Ring};
use crate::segment::Segment;
use sampan_ipc::record::Record;
use sampan_ipc::{Event, frame, record, watch};
use std::io;

/// Lag in bytes from which on a reader gets events from the journal's file by sendfile(2), without a copy in this
/// process.
const FILE_MIN: u64 = 8 << 10;

/// The place of a reader's next bytes.
#[derive(Debug)]
pub(crate) enum Read<'a> {
    /// The reader has every visible event.
    End,
    /// The next frames were removed. The oldest frame after them is at this cursor.
    Gap(Cursor),
    /// The bytes are in memory, in two parts, and end at this cursor.
    Ring((&'a [u8], &'a [u8]), Cursor),
    /// The bytes are in this segment's file, and end at this cursor.
    File(&'a Segment, Cursor),
}

/// The ring, the journal, and the ends of the committed and the visible events.
#[derive(Debug)]
pub(crate) struct Store {
    ring: Ring,
    journal: Option<Journal>,
    /// End of the events that readers may see; never later than `committed`.
    visible: Cursor,
    /// End of the events that the journal has; never later than the end of the ring.
    committed: Cursor,
    /// Latest event time since the last commit.
    newest: i64,
    /// The lineage of sequence numbers without a journal. It lasts as long as this process.
    own_lineage: u64,
}

/// The store's knowledge of a lineage that a reader names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineageStatus {
    /// The lineage of new events.
    Current,
    /// An earlier lineage of this journal, with the number after its last event.
    Earlier(u64),
    Unknown,
}

impl Store {
    /// Makes a store whose next event will be at `next`.
    pub(crate) fn new(ring_bytes: usize, journal: Option<Journal>, next: Cursor) -> Self {
        Store {
            ring: Ring::new(ring_bytes, next),
            journal,
            visible: next,
            committed: next,
            newest: i64::MIN,
            own_lineage: sampan_ipc::sender::random(),
        }
    }

    /// Appends the event of a record of the monitor FIFO.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        self.push_body(record.body, record.crc, record.event.time);
    }

    /// Appends the event of a record of the emit FIFO, with the tag that marks it as such an event.
    pub(crate) fn push_emitted(&mut self, record: &Record<'_>) {
        // The first byte of a record's body is its tag. The header of an emitted event contains another tag instead.
        let rest = record.body.get(1..).unwrap_or_default();
        let seq = self.ring.end().seq;
        self.ring.append([&frame::emitted_header(rest, seq), rest, &seq.to_le_bytes()]);
        self.newest = self.newest.max(record.event.time);
    }

    /// Appends an event of this process. If the event cannot be encoded, logs and drops it.
    pub(crate) fn push_own(&mut self, event: &Event) {
        match record::encode(event) {
            Ok(bytes) => {
                let body = bytes.get(record::HEADER_LEN..).unwrap_or_default();
                self.push_body(body, crc32c::crc32c(body), event.time);
            }
            Err(error) => {
                log::error!("dropped an event of sampan-monitord itself, cannot encode it: {error}")
            }
        }
    }

    fn push_body(&mut self, body: &[u8], crc: u32, time: i64) {
        let seq = self.ring.end().seq;
        let header = frame::event_header(body.len(), crc, seq);
        self.ring.append([&header, body, &seq.to_le_bytes()]);
        self.newest = self.newest.max(time);
    }

    /// Writes the events since the last commit to the journal.
    pub(crate) fn commit(&mut self) -> Change {
        let from = self.committed;
        self.committed = self.ring.end();
        let newest = std::mem::replace(&mut self.newest, i64::MIN);
        match &mut self.journal {
            Some(journal) if from != self.committed => journal.append(&self.ring, from, newest),
            _ => Change::None,
        }
    }

    /// End of the committed events.
    pub(crate) fn committed(&self) -> Cursor {
        self.committed
    }

    /// Makes the events before `end` visible to readers. `end` must be committed.
    pub(crate) fn make_visible(&mut self, end: Cursor) {
        debug_assert!(end.pos <= self.committed.pos);
        self.visible = end;
    }

    /// End of the events that readers may see.
    pub(crate) fn visible(&self) -> Cursor {
        self.visible
    }

    /// Sequence number of the newest visible event; 0 if there is none.
    pub(crate) fn head(&self) -> u64 {
        self.visible.seq - 1
    }

    /// The place of the next bytes after `at`, at most `max` bytes. If `inside` is true, `at` is inside a frame of a
    /// file, and the bytes are in that file.
    pub(crate) fn read(&self, at: Cursor, max: u64, inside: bool) -> Read<'_> {
        if at.pos >= self.visible.pos {
            return if at.seq < self.visible.seq { Read::Gap(self.visible) } else { Read::End };
        }
        let in_ring = at.pos >= self.ring.start().pos;
        let ahead = self.visible.pos - at.pos;
        if !in_ring || inside || (ahead >= FILE_MIN && self.journal.is_some()) {
            let segment = self.journal.as_ref().and_then(|journal| journal.at(at.pos));
            match segment {
                Some(segment) if segment.first().pos <= at.pos => {
                    if at.pos == segment.first().pos && at.seq < segment.first().seq && !inside {
                        return Read::Gap(segment.first());
                    }
                    return Read::File(segment, bounded(at, max, segment.end(), self.visible));
                }
                Some(segment) if !in_ring && segment.first().pos < self.ring.start().pos => {
                    return Read::Gap(segment.first());
                }
                _ if !in_ring => return Read::Gap(self.ring.start()),
                _ => {}
            }
        }
        if at.pos == self.ring.start().pos && at.seq < self.ring.start().seq {
            return Read::Gap(self.ring.start());
        }
        let to = if ahead <= max { self.visible } else { self.ring.align(at, at.pos + max) };
        Read::Ring(self.ring.slices(at.pos, to.pos), to)
    }

    /// The first frame boundary in the ring at position `pos` or later, and the bytes from `pos` to that boundary, in
    /// two parts. The search begins at `from`.
    pub(crate) fn align_in_ring(&self, from: Cursor, pos: u64) -> (Cursor, (&[u8], &[u8])) {
        let at = self.ring.align(from, pos);
        (at, self.ring.slices(pos, at.pos))
    }

    /// The cursor of a reader that has every event up to sequence number `after`.
    ///
    /// If the events after that number were removed, a read at this cursor returns [`Read::Gap`].
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(crate) fn after(&self, after: u64) -> io::Result<Cursor> {
        let seq = after.saturating_add(1);
        let start = self.ring.start();
        if seq >= start.seq {
            let mut at = start;
            while at.seq < seq && at.pos < self.visible.pos {
                at = Cursor { pos: at.pos + self.ring.frame_len(at.pos), seq: at.seq + 1 };
            }
            return Ok(at);
        }
        match self.journal.as_ref().and_then(|journal| journal.at_seq(seq)) {
            Some(segment) if segment.first().seq <= seq => segment.locate(seq),
            Some(segment) if segment.first().pos < start.pos => Ok(Cursor { pos: segment.first().pos, seq }),
            _ => Ok(Cursor { pos: start.pos, seq }),
        }
    }

    /// The cursor of a reader that wants events with time `since` or later: no event before the cursor has such a
    /// time.
    pub(crate) fn since(&self, since: i64) -> Cursor {
        match self.journal.as_ref().and_then(|journal| journal.since(since)) {
            Some(segment) if segment.first().pos < self.ring.start().pos => segment.first(),
            _ => self.ring.start(),
        }
    }

    /// The lineage of new sequence numbers.
    pub(crate) fn lineage(&self) -> u64 {
        self.journal.as_ref().map_or(self.own_lineage, Journal::lineage)
    }

    /// Searches `lineage` among the lineages of this store.
    pub(crate) fn lineage_status(&self, lineage: u64) -> LineageStatus {
        if lineage == self.lineage() {
            return LineageStatus::Current;
        }
        let end = self.journal.as_ref().and_then(|journal| journal.end_of_lineage(lineage));
        end.map_or(LineageStatus::Unknown, LineageStatus::Earlier)
    }

    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Whether the journal exceeds its limits. The caller then calls [`crate::clients::Clients::finish_frames`] before
    /// [`Store::prune`], which removes files that clients may be reading.
    pub(crate) fn is_over_limits(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_over_limits)
    }

    /// Removes the oldest segments while the journal exceeds its limits.
    pub(crate) fn prune(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.prune();
        }
    }

    pub(crate) fn journal_mut(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

    /// Extent of the ring, for a status.
    pub(crate) fn ring_extent(&self) -> watch::Extent {
        let (start, end) = (self.ring.start(), self.ring.end());
        watch::Extent {
            first: if start == end { 0 } else { start.seq },
            last: if start == end { 0 } else { end.seq - 1 },
            bytes: end.pos - start.pos,
            bytes_max: self.ring.capacity() as u64,
        }
    }

    /// Extent and health of the journal, for a status; `None` without a journal.
    pub(crate) fn journal_status(&self) -> Option<watch::Journal> {
        let journal = self.journal.as_ref()?;
        let segments = journal.segments();
        Some(watch::Journal {
            extent: watch::Extent {
                first: segments.front().map_or(0, |segment| segment.first().seq),
                last: segments.back().map_or(0, |segment| segment.end().seq - 1),
                bytes: journal.bytes(),
                bytes_max: journal.limits().bytes,
            },
            segments: u32::try_from(segments.len()).unwrap_or(u32::MAX),
            failed: journal.failure().map(str::to_owned),
        })
    }
}

/// The end of a read from a segment: the end of its visible frames, or `max` bytes after `at`. The latter may be
/// inside a frame, and then has the sequence number 0.
fn bounded(at: Cursor, max: u64, segment_end: Cursor, visible: Cursor) -> Cursor {
    let end = if segment_end.pos <= visible.pos { segment_end } else { visible };
    if end.pos - at.pos <= max { end } else { Cursor { pos: at.pos + max, seq: 0 } }
}
