//! The events on disk: segments, bounded by bytes and age.
//!
//! Owned by the store. Appends what the ring has just taken, rolls and prunes, and reads itself back at start.
//! When the disk refuses, it says so once, takes nothing until a later try works, and the hole is told to
//! readers as such. Never calls fsync: that is the syncer's, off the loop.
//!
//! Each boot begins a new lineage of numbers ([`crate::numbering`]), with a segment that is on the disk before any event
//! of it is heard: otherwise the next power cut could take back the lineage that readers have noted.
//!
//! Files of its directory: `NNNNNNNNNNNNNNNNNNNN.journal` (see [`crate::segment`]), `new`, a segment that has no name yet,
//! `lock`, and `seq`, twelve
//! bytes that tell up to which sequence number events may have been given out while the disk refused them.

use crate::numbering::{self, Numbering};
use crate::ring::{Cursor, Ring};
use crate::segment::{self, Damage, Segment};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sampan_ipc::event::Origin;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Bytes at the end of the journal among which a record of a FIFO may be once more: two windows of each FIFO.
const REPEATS_BYTES: u64 = 4 * crate::fifo::WINDOW as u64;
/// No event has a higher number: at a million events a second it is reached after 146,000 years.
const SEQ_MAX: u64 = 1 << 62;
/// Pause before a refused write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Sequence numbers that are set aside at a time while nothing can be written.
const RESERVE: u64 = 4096;
/// Fewest bytes of frames that may take a sequence number: header, fixed fields and the shortest words.
const FRAME_MIN: u64 = 45;

/// How much the journal may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments together.
    pub bytes: u64,
    /// Age of the newest event of a segment.
    pub age: Duration,
}

impl Limits {
    /// Size at which a segment is closed: an eighth of all, between 64 KiB and 64 MiB.
    fn segment_bytes(self) -> u64 {
        (self.bytes / 8).clamp(64 << 10, 64 << 20)
    }
}

/// Why the journal's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("journal directory {} is in use by another sampan-monitord", .0.display())]
    Busy(PathBuf),
    /// The file system refuses.
    #[error("cannot use journal directory {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Found {
    /// Where the next frame belongs.
    pub next: Cursor,
    /// What was dropped, in words.
    pub damage: Vec<String>,
    /// Whose numbers the newest segment carries; `None` if no segment tells.
    pub numbering: Option<Numbering>,
    /// Origin, writer, counter and [`segment::record_sum`] of the newest events: their FIFO may hold some of them still.
    pub repeats: Vec<(Origin, u64, u64, u32)>,
}

/// A change of the journal's health.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// As before.
    None,
    /// It takes nothing from now on; why.
    Failed(String),
    /// It works again.
    Recovered,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    next_try: Instant,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    limits: Limits,
    segments: VecDeque<Segment>,
    /// Bytes of all segments.
    bytes: u64,
    failure: Option<Failure>,
    /// True if the next frame needs a new segment: the newest one does not end where it begins, or is of another
    /// lineage.
    broken_off: bool,
    /// Whose numbers are given out now.
    numbering: Numbering,
    seq_file: Option<File>,
    reserved: u64,
    _lock: Option<Flock<File>>,
}

impl Journal {
    /// Opens, or makes, the journal in `dir` and reads it back.
    ///
    /// A directory that can be read but not written gives a journal that has failed: its history is served.
    ///
    /// # Errors
    /// [`OpenError::Busy`]: another process has it. [`OpenError::Io`]: it cannot be made or read.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Found), OpenError> {
        Self::open_in_boot(dir, limits, numbering::boot())
    }

    fn open_in_boot(dir: &Path, limits: Limits, boot: [u8; 16]) -> Result<(Self, Found), OpenError> {
        let context = |source| OpenError::Io { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(context)?;
        let mut refused = None;
        let lock = match lock(dir) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Err(OpenError::Busy(dir.to_owned())),
            Err(error) => {
                refused = Some(error);
                None
            }
        };
        let mut journal = Journal {
            dir: dir.to_owned(),
            limits,
            segments: VecDeque::new(),
            bytes: 0,
            failure: None,
            broken_off: false,
            numbering: Numbering::first(boot),
            seq_file: None,
            reserved: 0,
            _lock: lock,
        };
        let mut found = journal.read_back(refused.is_none()).map_err(context)?;
        if refused.is_none() {
            refused = journal.open_seq_file().err();
        }
        found.next.seq = found.next.seq.max(journal.reserved);
        journal.broken_off = journal.end().is_none_or(|end| end != found.next);
        let before = found.numbering;
        journal.numbering = before.map_or(journal.numbering, |before| before.in_boot(boot, found.next.seq));
        if refused.is_none() && before != Some(journal.numbering) {
            refused = journal.roll(found.next, true).err();
        }
        if let Some(error) = refused {
            journal.fail(&error);
        }
        Ok((journal, found))
    }

    fn read_back(&mut self, writable: bool) -> io::Result<Found> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(first) = name.to_str().and_then(segment::parse_name) {
                names.push((first, self.dir.join(name)));
            }
        }
        names.sort();
        let mut found = Found { next: Cursor { pos: 0, seq: 1 }, ..Found::default() };
        let mut newest = VecDeque::new();
        // At most so many events were in what the newest segment has lost.
        let mut unread = 0;
        for (first, path) in names {
            if first > SEQ_MAX {
                found.damage.push(format!("{}: no event has such a number, ignored", path.display()));
                continue;
            }
            if first < found.next.seq {
                found.damage.push(format!("{}: overlaps the segment before it, ignored", path.display()));
                continue;
            }
            let first = Cursor { pos: found.next.pos, seq: first };
            let name = path.display().to_string();
            let intended = self.limits.segment_bytes();
            let opened = Segment::open(path, first, intended, writable, |event, sum, at| {
                newest.push_back((at.pos, (event.origin, event.writer, event.counter, sum)));
                while newest.front().is_some_and(|(pos, ..)| pos + REPEATS_BYTES < at.pos) {
                    newest.pop_front();
                }
            });
            let (segment, damage) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    found.damage.push(format!("{name}: cannot be read, ignored: {error}"));
                    continue;
                }
            };
            found.next = segment.end();
            found.numbering = segment.numbering().or(found.numbering);
            unread = 0;
            match damage {
                None => {}
                Some(Damage::Torn(bytes)) => {
                    found.damage.push(format!("{name}: cut off {bytes} bytes of an unfinished write"));
                }
                Some(Damage::Corrupt(bytes)) => {
                    found.damage.push(format!("{name}: dropped {bytes} bytes that are no valid events"));
                    unread = bytes / FRAME_MIN + 1;
                }
            }
            self.keep(segment, writable);
        }
        // Their sequence numbers were given out: none is used again. Behind an older segment the name of the next
        // one tells.
        found.next.seq += unread;
        found.repeats = newest.into_iter().map(|(_, said)| said).collect();
        Ok(found)
    }

    /// Keeps a segment that was read back, unless nothing is left of it.
    fn keep(&mut self, segment: Segment, writable: bool) {
        if segment.first() != segment.end() {
            self.bytes += segment.bytes();
            self.segments.push_back(segment);
        } else if writable && let Err(error) = segment.remove() {
            log::warn!("cannot remove an empty journal segment: {error}");
        }
    }

    fn open_seq_file(&mut self) -> io::Result<()> {
        let path = self.dir.join("seq");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        let mut bytes = [0; 12];
        if file.read_exact_at(&mut bytes, 0).is_ok()
            && let (Some(seq), Some(crc)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<4>())
            && crc32c::crc32c(seq) == u32::from_le_bytes(*crc)
        {
            self.reserved = Some(u64::from_le_bytes(*seq)).filter(|seq| *seq <= SEQ_MAX).unwrap_or(0);
        }
        // Written now, so that its block is there when the disk is full.
        write_seq(&file, self.reserved)?;
        self.seq_file = Some(file);
        Ok(())
    }

    /// Takes the frames of `ring` from `from` to its end; `newest` is the latest event time among them.
    pub fn append(&mut self, ring: &Ring, from: Cursor, newest: i64) -> Change {
        if self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.next_try) {
            // Nothing is written, so the newest segment no longer ends where the next frame begins.
            self.broken_off = true;
            self.reserve(ring.end().seq);
            return Change::None;
        }
        let failed_before = self.failure.is_some();
        match self.try_append(ring, from, newest) {
            Ok(()) if failed_before => {
                self.failure = None;
                // Segments tell again: what was set aside beyond would only be a hole after the next start.
                self.note_seq(ring.end().seq);
                Change::Recovered
            }
            Ok(()) => Change::None,
            Err(error) => {
                self.fail(&error);
                self.broken_off = true;
                self.reserve(ring.end().seq);
                if failed_before { Change::None } else { Change::Failed(error.to_string()) }
            }
        }
    }

    fn try_append(&mut self, ring: &Ring, from: Cursor, newest: i64) -> io::Result<()> {
        let end = ring.end();
        if self.broken_off || self.is_due(end.pos - from.pos) {
            self.roll(from, false)?;
        }
        let Some(active) = self.segments.back_mut() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = active.append(ring.slices(from.pos, end.pos), end, newest);
        match &written {
            Ok(()) => self.bytes += end.pos - from.pos,
            Err(_) if active.first() == active.end() => {
                self.bytes -= active.bytes();
                self.segments.pop_back().map(Segment::remove);
            }
            Err(_) => {}
        }
        written
    }

    /// Begins a segment at `from`; with `durable`, it is on the disk then.
    fn roll(&mut self, from: Cursor, durable: bool) -> io::Result<()> {
        let intended = self.limits.segment_bytes();
        let segment = Segment::create(&self.dir, from, self.numbering, intended, durable)?;
        self.bytes += segment.bytes();
        self.segments.push_back(segment);
        self.broken_off = false;
        Ok(())
    }

    /// True if the newest segment is to be closed before so many more bytes.
    fn is_due(&self, more: u64) -> bool {
        self.segments.back().is_none_or(|active| active.bytes() + more > self.limits.segment_bytes())
    }

    /// True if [`Journal::prune`] would remove something.
    pub fn is_over_limits(&self) -> bool {
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1);
        oldest.is_some_and(|oldest| self.bytes > self.limits.bytes || self.is_too_old(oldest))
    }

    fn is_too_old(&self, segment: &Segment) -> bool {
        SystemTime::now().duration_since(segment.written()).unwrap_or_default() > self.limits.age
    }

    /// Removes the oldest segments while the journal is over its limits; the newest one always stays.
    pub fn prune(&mut self) {
        while self.is_over_limits()
            && let Some(oldest) = self.segments.pop_front()
        {
            self.bytes -= oldest.bytes();
            if let Err(error) = oldest.remove() {
                log::warn!("cannot remove an old journal segment: {error}");
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failure = Some(Failure { reason: error.to_string(), next_try: Instant::now() + RETRY });
    }

    /// Notes that sequence numbers below `next` are, or will be, given out though no segment has them.
    fn reserve(&mut self, next: u64) {
        if next > self.reserved {
            self.note_seq(next + RESERVE);
        }
    }

    /// Writes down that the next sequence number is `next` exactly, if segments do not tell it.
    pub fn settle(&mut self, next: u64) {
        if self.end().is_none_or(|end| end.seq != next) {
            self.note_seq(next);
        }
    }

    fn note_seq(&mut self, next: u64) {
        self.reserved = next;
        if let Some(Err(error)) = self.seq_file.as_ref().map(|file| write_seq(file, next)) {
            log::debug!("cannot note the sequence number: {error}");
        }
    }

    /// Sets new limits; they hold from the next append.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The lineage of the numbers that are given out now.
    pub fn lineage(&self) -> u64 {
        self.numbering.lineage
    }

    /// The number behind the last one of an earlier lineage; `None` if it is not known.
    pub fn end_of_lineage(&self, lineage: u64) -> Option<u64> {
        self.numbering.end_of(lineage)
    }

    /// The segment that holds the frame at `pos`, or else the first one behind it.
    pub fn at(&self, pos: u64) -> Option<&Segment> {
        let nth = self.segments.partition_point(|segment| segment.end().pos <= pos);
        self.segments.get(nth)
    }

    /// The segment that holds the frame with sequence number `seq`, or else the first one behind it.
    pub fn at_seq(&self, seq: u64) -> Option<&Segment> {
        let nth = self.segments.partition_point(|segment| segment.end().seq <= seq);
        self.segments.get(nth)
    }

    /// The first segment that may hold an event of `since` or later.
    pub fn since(&self, since: i64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.newest() >= since)
    }

    /// The newest segment's file, if the journal works: what a sync must reach.
    pub fn active(&self) -> Option<&Arc<File>> {
        self.failure.is_none().then(|| self.segments.back().map(Segment::file)).flatten()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// Why it takes nothing at present.
    pub fn failed(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn end(&self) -> Option<Cursor> {
        self.segments.back().map(Segment::end)
    }
}

fn write_seq(file: &File, next: u64) -> io::Result<()> {
    let seq = next.to_le_bytes();
    file.write_all_at(&[&seq[..], &crc32c::crc32c(&seq).to_le_bytes()].concat(), 0)
}

/// Locks the directory for this process; `None` if another one has it. flock(2).
fn lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o640).open(dir.join("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::{Event, frame, record};

    const LIMITS: Limits = Limits { bytes: 512 << 10, age: Duration::from_secs(3600) };

    /// Appends `count` events to ring and journal.
    fn write(journal: &mut Journal, ring: &mut Ring, count: usize) {
        for _ in 0..count {
            let from = ring.end();
            let event = Event { time: from.seq as i64, ..Event::new("test", "tick", "x".repeat(100)) };
            let bytes = record::encode(&event).expect("small");
            let body = &bytes[record::HEADER_LEN..];
            let header = frame::event_header(body.len(), crc32c::crc32c(body), from.seq);
            ring.append([&header, body, &from.seq.to_le_bytes()]);
            assert_eq!(journal.append(ring, from, event.time), Change::None);
            journal.prune();
        }
    }

    fn open(dir: &Path) -> (Journal, Ring, Found) {
        let (journal, found) = Journal::open(dir, LIMITS).expect("a journal");
        let ring = Ring::new(64 << 10, found.next);
        (journal, ring, found)
    }

    #[test]
    fn what_was_written_is_read_back_within_the_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, mut ring, found) = open(dir.path());
        assert_eq!(found.next.seq, 1);
        write(&mut journal, &mut ring, 10_000);
        let bytes = journal.bytes();
        assert_eq!(bytes, journal.segments.iter().map(Segment::bytes).sum::<u64>());
        assert!(bytes <= LIMITS.bytes && bytes > LIMITS.bytes / 2, "{bytes}");
        let oldest = journal.segments[0].first().seq;
        assert!(matches!(Journal::open(dir.path(), LIMITS), Err(OpenError::Busy(_))));
        drop(journal);
        let (journal, _, found) = open(dir.path());
        assert_eq!((found.next.seq, found.damage.len()), (10_001, 0));
        assert_eq!(journal.segments[0].first().seq, oldest);
        for seq in [oldest, oldest + 777, 10_000] {
            let segment = journal.at_seq(seq).expect("in it");
            let at = segment.locate(seq).expect("readable");
            assert_eq!((at.seq, segment.align(at.pos).expect("readable")), (seq, at));
        }
    }

    #[test]
    fn a_torn_tail_is_cut_and_its_number_given_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, mut ring, _) = open(dir.path());
        write(&mut journal, &mut ring, 100);
        let file = Arc::clone(journal.active().expect("works"));
        let len = file.metadata().expect("a file").len();
        drop(journal);
        file.set_len(len - 5).expect("cut");
        let (mut journal, mut ring, found) = open(dir.path());
        assert_eq!((found.next.seq, found.damage.len()), (100, 1));
        write(&mut journal, &mut ring, 50);
        drop(journal);
        assert_eq!(open(dir.path()).2.next.seq, 150);
    }

    #[test]
    fn numbers_of_corrupted_events_are_never_given_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, mut ring, _) = open(dir.path());
        write(&mut journal, &mut ring, 100);
        let file = Arc::clone(journal.active().expect("works"));
        let at = file.metadata().expect("a file").len() / 2;
        file.write_all_at(b"damage", at).expect("written");
        drop(journal);
        let (mut journal, mut ring, found) = open(dir.path());
        assert!(found.next.seq > 100 && found.damage[0].contains("no valid events"), "{found:?}");
        write(&mut journal, &mut ring, 50);
        let hole = journal.segments.iter().map(|s| (s.first().seq, s.end().seq)).collect::<Vec<_>>();
        assert_eq!(hole.len(), 2);
        assert!(hole[0].1 < 100 && hole[1].0 == found.next.seq);
        drop(journal);
        assert_eq!(open(dir.path()).2.next.seq, found.next.seq + 50);
    }

    #[test]
    fn damage_of_one_segment_drops_none_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, mut ring, _) = open(dir.path());
        write(&mut journal, &mut ring, 1500);
        let firsts: Vec<u64> = journal.segments.iter().map(|segment| segment.first().seq).collect();
        assert!(firsts.len() > 3);
        journal.segments[1].file().write_all_at(b"damage", 1000).expect("written");
        drop(journal);
        let (journal, _, found) = open(dir.path());
        assert_eq!((found.next.seq, found.damage.len()), (1501, 1), "{found:?}");
        assert_eq!(journal.segments.iter().map(|segment| segment.first().seq).collect::<Vec<_>>(), firsts);
    }

    #[test]
    fn a_boot_begins_a_lineage_and_earlier_ones_are_known_by_their_segments() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |boot| {
            let (journal, found) = Journal::open_in_boot(dir.path(), LIMITS, [boot; 16]).expect("a journal");
            (journal, Ring::new(64 << 10, found.next))
        };
        let (mut journal, mut ring) = open(1);
        let first = journal.lineage();
        write(&mut journal, &mut ring, 10);
        drop(journal);
        let (mut journal, mut ring) = open(1);
        assert_eq!(journal.lineage(), first, "the same boot goes on");
        write(&mut journal, &mut ring, 10);
        assert_eq!(journal.segments.len(), 1);
        drop(journal);
        let (mut journal, mut ring) = open(2);
        let second = journal.lineage();
        assert_ne!(second, first);
        write(&mut journal, &mut ring, 5);
        assert_eq!((journal.end_of_lineage(first), journal.end_of_lineage(second)), (Some(21), None));
        assert_eq!(journal.end_of_lineage(first ^ second), None);
        drop(journal);
        assert_ne!(open(0).0.lineage(), second, "where the kernel tells no boot, each start is one");
    }

    #[test]
    fn segments_of_version_1_are_read_and_not_written_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, mut ring, _) = open(dir.path());
        write(&mut journal, &mut ring, 3);
        drop(journal);
        let path = dir.path().join(format!("{:020}.journal", 1));
        let frames = fs::read(&path).expect("there").split_off(176);
        fs::write(&path, [&b"SMPJRNL\x01\x01\0\0\0\0\0\0\0"[..], &frames].concat()).expect("written");
        let (mut journal, mut ring, found) = open(dir.path());
        assert_eq!((found.next.seq, found.damage.len()), (4, 0), "{found:?}");
        assert_eq!(journal.segments[0].locate(3).expect("readable").seq, 3);
        write(&mut journal, &mut ring, 1);
        assert_eq!(journal.segments.len(), 2);
        assert_eq!(journal.segments[1].first().seq, 4);
    }

    #[test]
    fn a_lineage_whose_events_a_power_cut_took_is_known_still() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |boot| {
            let (journal, found) = Journal::open_in_boot(dir.path(), LIMITS, [boot; 16]).expect("a journal");
            (journal, Ring::new(64 << 10, found.next))
        };
        let (mut journal, mut ring) = open(1);
        write(&mut journal, &mut ring, 10);
        drop(journal);
        let (mut journal, mut ring) = open(2);
        let taken = journal.lineage();
        let header = journal.segments[1].file().metadata().expect("a file").len();
        write(&mut journal, &mut ring, 10);
        let file = Arc::clone(journal.segments[1].file());
        drop(journal);
        file.set_len(header).expect("cut");
        let (mut journal, mut ring) = open(3);
        assert_eq!(journal.end_of_lineage(taken), Some(11));
        write(&mut journal, &mut ring, 5);
        drop(journal);
        assert_eq!(open(3).0.end_of_lineage(taken), Some(11));
    }

    #[test]
    fn a_file_of_garbage_does_not_stop_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(format!("{:020}.journal", 5)), vec![7; 5000]).expect("written");
        fs::write(dir.path().join(format!("{:020}.journal", 9)), "").expect("written");
        fs::write(dir.path().join("seq"), "junk").expect("written");
        let (mut journal, mut ring, found) = open(dir.path());
        assert_eq!(found.damage.len(), 2, "{found:?}");
        assert!(found.next.seq >= 5);
        write(&mut journal, &mut ring, 5);
    }
}
