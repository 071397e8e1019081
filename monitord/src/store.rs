//! All events that can still be had: the ring in memory, the journal behind it, as one sequence.
//!
//! Owned by the event loop. Takes events in batches, and says for any cursor where its next bytes are. What
//! is committed becomes visible to readers only by [`Store::show`], so that with `sync = always` nobody hears
//! of an event that a power cut could take back. Knows nothing of sockets.

use crate::journal::{Change, Journal};
use crate::ring::{Cursor, Ring};
use crate::segment::Segment;
use sampan_ipc::record::Record;
use sampan_ipc::{Event, frame, record, watch};
use std::io;

/// From so many bytes on, frames are sent from the journal's file without a copy in this process.
const FILE_MIN: u64 = 8 << 10;

/// Where a reader's next bytes are.
#[derive(Debug)]
pub enum Read<'a> {
    /// Nothing to read: the reader has all.
    End,
    /// The next frames are gone; reading goes on at this cursor.
    Gap(Cursor),
    /// In memory, up to this cursor.
    Ring((&'a [u8], &'a [u8]), Cursor),
    /// In this segment, up to this cursor.
    File(&'a Segment, Cursor),
}

/// Ring and journal.
#[derive(Debug)]
pub struct Store {
    ring: Ring,
    journal: Option<Journal>,
    /// Readers see what is before this.
    visible: Cursor,
    /// What is committed ends here.
    committed: Cursor,
    /// Latest event time since the last commit.
    newest: i64,
    /// The lineage of the numbers where no journal has one: of this process alone.
    own_lineage: u64,
}

/// Where a reader's number belongs, by the lineage that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is of the numbers that are given out now.
    Current,
    /// It is of an earlier lineage of this journal, whose last number was the one before this.
    Earlier(u64),
    /// Nothing here is of its lineage.
    Unknown,
}

impl Store {
    /// A store whose next event will be at `next`.
    pub fn new(ring_bytes: usize, journal: Option<Journal>, next: Cursor) -> Self {
        Store {
            ring: Ring::new(ring_bytes, next),
            journal,
            visible: next,
            committed: next,
            newest: i64::MIN,
            own_lineage: sampan_ipc::sender::random(),
        }
    }

    /// Takes the event of a FIFO record.
    pub fn push(&mut self, record: &Record<'_>) {
        self.push_body(record.body, record.crc, record.event.time);
    }

    /// Takes the event of a record of the emit FIFO: the same bytes, behind the tag that marks it.
    pub fn push_emitted(&mut self, record: &Record<'_>) {
        // A record is an event, so it has a tag to be replaced.
        let (_, rest) = record.body.split_at(1);
        let seq = self.ring.end().seq;
        self.ring.append([&frame::emitted_header(rest, seq), rest, &seq.to_le_bytes()]);
        self.newest = self.newest.max(record.event.time);
    }

    /// Takes an event of this process's own; one that cannot be encoded is logged and dropped.
    pub fn push_own(&mut self, event: &Event) {
        match record::encode(event) {
            Ok(bytes) => {
                let body = &bytes[record::HEADER_LEN..];
                self.push_body(body, crc32c::crc32c(body), event.time);
            }
            Err(error) => log::error!("cannot emit an event of my own: {error}"),
        }
    }

    fn push_body(&mut self, body: &[u8], crc: u32, time: i64) {
        let seq = self.ring.end().seq;
        let header = frame::event_header(body.len(), crc, seq);
        self.ring.append([&header, body, &seq.to_le_bytes()]);
        self.newest = self.newest.max(time);
    }

    /// Writes what was taken since the last commit to the journal.
    pub fn commit(&mut self) -> Change {
        let from = self.committed;
        self.committed = self.ring.end();
        let newest = std::mem::replace(&mut self.newest, i64::MIN);
        match &mut self.journal {
            Some(journal) if from != self.committed => journal.append(&self.ring, from, newest),
            _ => Change::None,
        }
    }

    /// Where what is committed ends.
    pub fn committed(&self) -> Cursor {
        self.committed
    }

    /// Lets readers see what is before `upto`, which is committed.
    pub fn show(&mut self, upto: Cursor) {
        debug_assert!(upto.pos <= self.committed.pos);
        self.visible = upto;
    }

    /// Readers see what is before this.
    pub fn visible(&self) -> Cursor {
        self.visible
    }

    /// Sequence number of the newest visible event; 0 if there is none.
    pub fn head(&self) -> u64 {
        self.visible.seq - 1
    }

    /// Where the next at most `max` bytes behind `at` are; `inside` a frame, they are in the file.
    pub fn read(&self, at: Cursor, max: u64, inside: bool) -> Read<'_> {
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

    /// The first boundary at or behind `pos` in the ring, coming from `from`.
    pub fn align_in_ring(&self, from: Cursor, pos: u64) -> (Cursor, (&[u8], &[u8])) {
        let at = self.ring.align(from, pos);
        (at, self.ring.slices(pos, at.pos))
    }

    /// The cursor of a reader that has everything up to sequence number `after`.
    ///
    /// What is gone behind `after` is between the cursor and the next frame: a [`Read::Gap`].
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn after(&self, after: u64) -> io::Result<Cursor> {
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

    /// The cursor of a reader that wants events of time `since` and later: the oldest that may be one.
    pub fn since(&self, since: i64) -> Cursor {
        match self.journal.as_ref().and_then(|journal| journal.since(since)) {
            Some(segment) if segment.first().pos < self.ring.start().pos => segment.first(),
            _ => self.ring.start(),
        }
    }

    /// The lineage of the numbers that are given out now.
    pub fn lineage(&self) -> u64 {
        self.journal.as_ref().map_or(self.own_lineage, Journal::lineage)
    }

    /// Where a number of `lineage` belongs.
    pub fn standing(&self, lineage: u64) -> Standing {
        if lineage == self.lineage() {
            return Standing::Current;
        }
        let end = self.journal.as_ref().and_then(|journal| journal.end_of_lineage(lineage));
        end.map_or(Standing::Unknown, Standing::Earlier)
    }

    /// The journal, if there is one.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// True if the journal is over its limits: settle the clients, then [`Store::prune`].
    pub fn is_over_limits(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_over_limits)
    }

    /// Removes the oldest segments while the journal is over its limits.
    pub fn prune(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.prune();
        }
    }

    /// The journal, to change its limits.
    pub fn journal_mut(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

    /// What the ring holds, for people.
    pub fn ring_extent(&self) -> watch::Extent {
        let (start, end) = (self.ring.start(), self.ring.end());
        watch::Extent {
            first: if start == end { 0 } else { start.seq },
            last: if start == end { 0 } else { end.seq - 1 },
            bytes: end.pos - start.pos,
            bytes_max: self.ring.capacity() as u64,
        }
    }

    /// What the journal holds, for people.
    pub fn journal_status(&self) -> Option<watch::Journal> {
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
            failed: journal.failed().map(str::to_owned),
        })
    }
}

/// The end of a read: what is visible of the segment, or `max` bytes of it (a place within a frame then, with
/// a sequence number of 0).
fn bounded(at: Cursor, max: u64, segment_end: Cursor, visible: Cursor) -> Cursor {
    let end = if segment_end.pos <= visible.pos { segment_end } else { visible };
    if end.pos - at.pos <= max { end } else { Cursor { pos: at.pos + max, seq: 0 } }
}
