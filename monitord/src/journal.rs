//! The journal: events on disk, in segments, limited in bytes and age.
//!
//! The store owns the journal. The journal appends the newest frames of the ring, begins new segments, removes old
//! segments, and reads all segments when the process starts. If a write fails, it reports that once, and writes
//! nothing until a later try succeeds; readers get the missing events as lost. The syncer thread syncs the events.
//!
//! Each boot begins a new lineage of numbers ([`crate::numbering`]) and a new segment, which is synced before readers
//! see an event in it. Otherwise a power cut could remove a lineage that readers have stored.
//!
//! Files in the directory: `NNNNNNNNNNNNNNNNNNNN.journal`, the segments ([`crate::segment`]); `new`, a segment that is
//! being created; `lock`; and `seq` with twelve bytes: a sequence number u64 LE and its CRC-32C u32 LE. Events that
//! are in no segment, because the disk refused them, may have numbers below it.

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

/// Number of bytes at the end of the journal whose records a FIFO may still contain: two windows of each FIFO.
const REPEATS_BYTES: u64 = 4 * crate::fifo::WINDOW as u64;
/// Highest sequence number that is accepted. A million events a second would reach it after 146,000 years.
const SEQ_MAX: u64 = 1 << 62;
/// Time after a failed write until the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Number of sequence numbers that one write to the file `seq` reserves while segments cannot be written.
const RESERVE: u64 = 4096;
/// Size of the smallest frame in bytes: header, fixed fields, and the shortest words.
const FRAME_MIN: u64 = 45;

/// The limits above which old segments are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Most bytes of all segments together.
    pub(crate) bytes: u64,
    /// Most time since the last write to a segment.
    pub(crate) age: Duration,
}

impl Limits {
    /// Size in bytes at which a segment is full: an eighth of the journal, between 64 KiB and 64 MiB.
    fn segment_bytes(self) -> u64 {
        (self.bytes / 8).clamp(64 << 10, 64 << 20)
    }
}

/// Why the journal's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("journal directory {} is in use by another sampan-monitord", .0.display())]
    Busy(PathBuf),
    #[error("cannot use journal directory {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The result of reading the journal when the process starts.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Position and sequence number of the next frame.
    pub(crate) next: Cursor,
    /// One message for each damaged file.
    pub(crate) damage: Vec<String>,
    /// The numbering of the newest segment; `None` if no segment has one.
    pub(crate) numbering: Option<Numbering>,
    /// Origin, writer, counter and [`segment::record_sum`] of the newest events, which the FIFOs may still contain.
    pub(crate) repeats: Vec<(Origin, u64, u64, u32)>,
}

/// Whether a call changed the state of the journal from working to failed or back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// A write failed, for this reason. The journal does not store events until a later write succeeds.
    Failed(String),
    /// A write succeeded again.
    Recovered,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    next_try: Instant,
}

/// The segments on disk, and the state of writing them.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    limits: Limits,
    segments: VecDeque<Segment>,
    /// Bytes of all segments, including headers.
    bytes: u64,
    failure: Option<Failure>,
    /// Whether the next frame must begin a new segment: there is a hole between it and the newest segment, or it has
    /// another lineage.
    needs_new_segment: bool,
    /// The numbering of new events.
    numbering: Numbering,
    /// The file `seq`; `None` if it cannot be written.
    seq_file: Option<File>,
    /// The sequence number in the file `seq`.
    reserved: u64,
    _lock: Option<Flock<File>>,
}

impl Journal {
    /// Opens the journal in `dir`, and reads all segments. Creates the directory if it does not exist.
    ///
    /// If the directory can be read but not written, the journal is opened as failed, and readers still get its
    /// events.
    ///
    /// # Errors
    /// [`OpenError::Busy`] if another process uses the directory; [`OpenError::Io`] if it cannot be created or read.
    pub(crate) fn open(dir: &Path, limits: Limits) -> Result<(Self, Recovery), OpenError> {
        Self::open_in_boot(dir, limits, numbering::boot())
    }

    fn open_in_boot(dir: &Path, limits: Limits, boot: [u8; 16]) -> Result<(Self, Recovery), OpenError> {
        let context = |source| OpenError::Io { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(context)?;
        let mut write_error = None;
        let lock = match lock(dir) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Err(OpenError::Busy(dir.to_owned())),
            Err(error) => {
                write_error = Some(error);
                None
            }
        };
        let mut journal = Journal {
            dir: dir.to_owned(),
            limits,
            segments: VecDeque::new(),
            bytes: 0,
            failure: None,
            needs_new_segment: false,
            numbering: Numbering::first(boot),
            seq_file: None,
            reserved: 0,
            _lock: lock,
        };
        let mut recovery = journal.read_segments(write_error.is_none()).map_err(context)?;
        if write_error.is_none() {
            write_error = journal.open_seq_file().err();
        }
        recovery.next.seq = recovery.next.seq.max(journal.reserved);
        journal.needs_new_segment = journal.end().is_none_or(|end| end != recovery.next);
        let before = recovery.numbering;
        journal.numbering =
            before.map_or(journal.numbering, |before| before.in_boot(boot, recovery.next.seq));
        if write_error.is_none() && before != Some(journal.numbering) {
            write_error = journal.begin_segment(recovery.next, true).err();
        }
        if let Some(error) = write_error {
            journal.fail(&error);
        }
        Ok((journal, recovery))
    }

    /// Reads all segments; if `writable`, repairs damaged ones.
    fn read_segments(&mut self, writable: bool) -> io::Result<Recovery> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(first) = name.to_str().and_then(segment::parse_name) {
                names.push((first, self.dir.join(name)));
            }
        }
        names.sort();
        let mut recovery = Recovery { next: Cursor { pos: 0, seq: 1 }, ..Recovery::default() };
        let mut newest = VecDeque::new();
        // Most events that the damaged part of the last segment read can have contained.
        let mut damaged_events = 0;
        for (first, path) in names {
            if first > SEQ_MAX {
                recovery
                    .damage
                    .push(format!("{}: ignored, the number in its name is too large", path.display()));
                continue;
            }
            if first < recovery.next.seq {
                recovery
                    .damage
                    .push(format!("{}: ignored, it overlaps the segment before it", path.display()));
                continue;
            }
            let first = Cursor { pos: recovery.next.pos, seq: first };
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
                    recovery.damage.push(format!("{name}: ignored, it cannot be read: {error}"));
                    continue;
                }
            };
            recovery.next = segment.end();
            recovery.numbering = segment.numbering().or(recovery.numbering);
            damaged_events = 0;
            match damage {
                None => {}
                Some(Damage::Torn(bytes)) => {
                    recovery.damage.push(format!("{name}: cut off {bytes} bytes of an unfinished write"));
                }
                Some(Damage::Corrupt(bytes)) => {
                    recovery.damage.push(format!("{name}: dropped {bytes} bytes that are no valid events"));
                    damaged_events = bytes / FRAME_MIN + 1;
                }
            }
            self.keep_segment(segment, writable);
        }
        // Readers may have seen the events in the damaged part of the newest segment, so their numbers are not used
        // again. After damage in an older segment, the name of the following segment gives the next number.
        recovery.next.seq += damaged_events;
        recovery.repeats = newest.into_iter().map(|(_, record)| record).collect();
        Ok(recovery)
    }

    /// Adds a segment that was read. If the segment has no frame and `writable` is true, removes its file.
    fn keep_segment(&mut self, segment: Segment, writable: bool) {
        if segment.first() != segment.end() {
            self.bytes += segment.bytes();
            self.segments.push_back(segment);
        } else if writable && let Err(error) = segment.remove() {
            log::warn!("cannot remove an empty journal segment, it stays without effect: {error}");
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
        // Write now, so that the file has its block, and later writes succeed on a full disk.
        write_seq(&file, self.reserved)?;
        self.seq_file = Some(file);
        Ok(())
    }

    /// Appends the frames of `ring` from `from` to its end. `newest` is the latest event time in these frames.
    pub(crate) fn append(&mut self, ring: &Ring, from: Cursor, newest: i64) -> Change {
        if self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.next_try) {
            self.needs_new_segment = true;
            self.reserve_seq(ring.end().seq);
            return Change::None;
        }
        let failed_before = self.failure.is_some();
        match self.try_append(ring, from, newest) {
            Ok(()) if failed_before => {
                self.failure = None;
                // Segments now have the next number. A reserved number above it would become a hole after a restart.
                self.write_seq_file(ring.end().seq);
                Change::Recovered
            }
            Ok(()) => Change::None,
            Err(error) => {
                self.fail(&error);
                self.needs_new_segment = true;
                self.reserve_seq(ring.end().seq);
                if failed_before { Change::None } else { Change::Failed(error.to_string()) }
            }
        }
    }

    fn try_append(&mut self, ring: &Ring, from: Cursor, newest: i64) -> io::Result<()> {
        let end = ring.end();
        if self.needs_new_segment || self.is_full_for(end.pos - from.pos) {
            self.begin_segment(from, false)?;
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

    /// Begins a segment at `from`. With `durable`, syncs the segment before this function returns.
    fn begin_segment(&mut self, from: Cursor, durable: bool) -> io::Result<()> {
        let intended = self.limits.segment_bytes();
        let segment = Segment::create(&self.dir, from, self.numbering, intended, durable)?;
        self.bytes += segment.bytes();
        self.segments.push_back(segment);
        self.needs_new_segment = false;
        Ok(())
    }

    /// Whether `bytes` more bytes do not fit into the newest segment.
    fn is_full_for(&self, bytes: u64) -> bool {
        self.segments.back().is_none_or(|active| active.bytes() + bytes > self.limits.segment_bytes())
    }

    /// Whether [`Journal::prune`] would remove a segment.
    pub(crate) fn is_over_limits(&self) -> bool {
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1);
        oldest.is_some_and(|oldest| self.bytes > self.limits.bytes || self.is_too_old(oldest))
    }

    fn is_too_old(&self, segment: &Segment) -> bool {
        SystemTime::now().duration_since(segment.written()).unwrap_or_default() > self.limits.age
    }

    /// Removes the oldest segments while the journal exceeds its limits. The newest segment always stays.
    pub(crate) fn prune(&mut self) {
        while self.is_over_limits()
            && let Some(oldest) = self.segments.pop_front()
        {
            self.bytes -= oldest.bytes();
            if let Err(error) = oldest.remove() {
                log::warn!("cannot remove an old journal segment, the journal exceeds its limits: {error}");
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failure = Some(Failure { reason: error.to_string(), next_try: Instant::now() + RETRY });
    }

    /// Records in the file `seq` that events in no segment may have numbers below `next`, and the [`RESERVE`] numbers
    /// after it.
    fn reserve_seq(&mut self, next: u64) {
        if next > self.reserved {
            self.write_seq_file(next + RESERVE);
        }
    }

    /// Records `next` as the next sequence number when this process stops, unless the newest segment ends with it.
    pub(crate) fn record_next_seq(&mut self, next: u64) {
        if self.end().is_none_or(|end| end.seq != next) {
            self.write_seq_file(next);
        }
    }

    fn write_seq_file(&mut self, next: u64) {
        self.reserved = next;
        if let Some(Err(error)) = self.seq_file.as_ref().map(|file| write_seq(file, next)) {
            log::debug!("cannot write the sequence number {next} to the file 'seq': {error}");
        }
    }

    /// Sets new limits, which take effect at the next append.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The lineage of new sequence numbers.
    pub(crate) fn lineage(&self) -> u64 {
        self.numbering.lineage
    }

    /// The number after the last event of an earlier lineage; `None` if that lineage is not known.
    pub(crate) fn end_of_lineage(&self, lineage: u64) -> Option<u64> {
        self.numbering.end_of(lineage)
    }

    /// The segment that contains the frame at `pos`, or the first segment after that position.
    pub(crate) fn at(&self, pos: u64) -> Option<&Segment> {
        let nth = self.segments.partition_point(|segment| segment.end().pos <= pos);
        self.segments.get(nth)
    }

    /// The segment that contains the frame with sequence number `seq`, or the first segment after that number.
    pub(crate) fn at_seq(&self, seq: u64) -> Option<&Segment> {
        let nth = self.segments.partition_point(|segment| segment.end().seq <= seq);
        self.segments.get(nth)
    }

    /// The first segment that may contain an event with time `since` or later.
    pub(crate) fn since(&self, since: i64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.newest() >= since)
    }

    /// The newest segment's file, for a sync; `None` while the journal has failed.
    pub(crate) fn active(&self) -> Option<&Arc<File>> {
        self.failure.is_none().then(|| self.segments.back().map(Segment::file)).flatten()
    }

    /// Bytes of all segments, including headers.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All segments, oldest first.
    pub(crate) fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// Why the last write failed; `None` while the journal works.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    pub(crate) fn limits(&self) -> Limits {
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

/// Locks the directory for this process; `None` if another process has the lock. flock(2).
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

    fn open(dir: &Path) -> (Journal, Ring, Recovery) {
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
    fn damage_in_one_segment_drops_none_after_it() {
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
    fn a_boot_begins_a_lineage_and_earlier_ones_stay_known() {
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
        assert_ne!(open(0).0.lineage(), second, "without a boot ID, each start begins a lineage");
    }

    #[test]
    fn segments_of_version_1_are_read_and_never_appended_to() {
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
    fn a_lineage_stays_known_when_a_power_cut_took_its_events() {
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
