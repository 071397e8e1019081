//! A segment: a file of the journal, with a header and complete frames with consecutive sequence numbers.
//!
//! The journal owns the segment, and decides when a segment begins and when it is removed. Reads name their position,
//! so all readers share one descriptor. The file's name is the sequence number of its first frame.
//!
//! Layout, version 2: `magic "SMPJRNL\x02" · first u64 LE · numbering (152 bytes) · crc u32 LE · 0 u32`, then frames in
//! the format of [`sampan_ipc::frame`]. `crc` is the CRC-32C of the bytes before it; the numbering is encoded by
//! [`crate::numbering`]. Version 1, which is read but no longer written: `magic "SMPJRNL\x01" · first u64 LE`, then
//! frames.

use crate::numbering::{self, Numbering};
use crate::ring::Cursor;
use nix::fcntl::OFlag;
use nix::sys::uio::pwritev;
use sampan_ipc::{event::EventView, frame};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Length of the header in version 2, in bytes.
const HEADER_LEN: u64 = 16 + numbering::LEN as u64 + 8;
const MAGIC: [u8; 8] = *b"SMPJRNL\x02";
/// Length of the header in version 1, in bytes.
const HEADER_LEN_1: u64 = 16;
const MAGIC_1: [u8; 8] = *b"SMPJRNL\x01";
/// Longest body of a frame of an event, in bytes: a record and its sequence number.
const EVENT_FRAME_MAX: usize = sampan_ipc::record::RECORD_MAX + 8;
/// Least distance between two marks of the index, in bytes.
const MARK_STEP_MIN: u64 = 16 << 10;
/// Most marks in the index of a segment of the usual size.
const MARKS_MAX: u64 = 128;
/// Bytes of the sequence number at the end of a frame's body.
const SEQ_LEN: usize = 8;
/// Most bytes of one read when frames are scanned.
const CHUNK: usize = 64 << 10;

/// The open file of a segment, and an index of its frames.
#[derive(Debug)]
pub(crate) struct Segment {
    file: Arc<File>,
    path: PathBuf,
    /// The numbering of the segment's events; `None` in a segment of version 1.
    numbering: Option<Numbering>,
    header_len: u64,
    first: Cursor,
    end: Cursor,
    /// Latest event time in the segment; [`i64::MIN`] while the segment has no event.
    newest: i64,
    /// Time of the last write.
    written: SystemTime,
    /// Frame boundaries, about one for every `mark_step` bytes. A search reads only the frames after the nearest mark.
    marks: Vec<Cursor>,
    mark_step: u64,
}

/// The kind of damage in a segment, and the number of bytes that were cut off its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The last write is incomplete, as after a kill. No reader has seen its events.
    Torn(u64),
    /// The bytes are no valid frames. Readers may have seen the events.
    Corrupt(u64),
}

impl Segment {
    /// Creates the file of a segment whose first frame will be at `first`; replaces an existing file of this name.
    /// With `durable`, syncs the file and its name before this function returns.
    ///
    /// # Errors
    /// The file cannot be created or synced. After an error no file is left.
    pub(crate) fn create(
        dir: &Path,
        first: Cursor,
        numbering: Numbering,
        intended_bytes: u64,
        durable: bool,
    ) -> io::Result<Self> {
        let (path, new) = (dir.join(file_name(first.seq)), dir.join("new"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o640).open(&new)?;
        let make = || {
            file.write_all_at(&header(first.seq, Some(numbering)), 0)?;
            if durable {
                file.sync_all()?;
            }
            std::fs::rename(&new, &path)?;
            if durable { File::open(dir)?.sync_all() } else { Ok(()) }
        };
        if let Err(error) = make() {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        Ok(Segment {
            file: Arc::new(file),
            path,
            numbering: Some(numbering),
            header_len: HEADER_LEN,
            first,
            end: first,
            newest: i64::MIN,
            written: SystemTime::now(),
            marks: Vec::new(),
            mark_step: (intended_bytes / MARKS_MAX).max(MARK_STEP_MIN),
        })
    }

    /// Opens an existing segment and checks every frame. If `writable`, cuts the file after the last valid frame.
    /// Calls `on_event` for each event, with its [`record_sum`] and its place.
    ///
    /// A segment without a valid frame has `first == end`, and frames can be appended to it.
    ///
    /// # Errors
    /// The file is not a regular file, or cannot be read or cut.
    pub(crate) fn open(
        path: PathBuf,
        first: Cursor,
        intended_bytes: u64,
        writable: bool,
        mut on_event: impl FnMut(&EventView<'_>, u32, Cursor),
    ) -> io::Result<(Self, Option<Damage>)> {
        // The directory may contain any kind of file. O_NOFOLLOW refuses a symbolic link; O_NONBLOCK does not wait for
        // the writer of a FIFO. open(2).
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).write(writable).custom_flags(flags).open(&path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut segment = Segment {
            file: Arc::new(file),
            path,
            numbering: None,
            header_len: HEADER_LEN_1,
            first,
            end: first,
            newest: i64::MIN,
            written: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            marks: Vec::new(),
            mark_step: (intended_bytes / MARKS_MAX).max(MARK_STEP_MIN),
        };
        let damage = segment.check(meta.len(), &mut on_event)?;
        if damage.is_some() && writable {
            segment.restore_header()?;
        }
        Ok((segment, damage))
    }

    /// Checks all frames. Afterwards `end` is the end of the last valid frame.
    fn check(
        &mut self,
        file_len: u64,
        on_event: &mut impl FnMut(&EventView<'_>, u32, Cursor),
    ) -> io::Result<Option<Damage>> {
        let mut bytes = [0; HEADER_LEN as usize];
        let got = read_up_to(&self.file, &mut bytes, 0)?;
        match parse_header(bytes.get(..got).unwrap_or_default(), self.first.seq) {
            Ok(numbering) => self.set_numbering(numbering),
            Err(is_torn) => {
                return Ok(Some(if is_torn { Damage::Torn(file_len) } else { Damage::Corrupt(file_len) }));
            }
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let offset = self.offset(self.end.pos);
            let got = read_up_to(&self.file, &mut chunk, offset)?;
            let bytes = chunk.get(..got).unwrap_or_default();
            let used = self.check_chunk(bytes, on_event);
            if used == 0 {
                let left = file_len.saturating_sub(offset);
                return Ok(match left {
                    0 => None,
                    // After a write that a kill has interrupted, the file ends inside a frame.
                    _ if ends_inside_frame(bytes, left) => Some(Damage::Torn(left)),
                    _ => Some(Damage::Corrupt(left)),
                });
            }
        }
    }

    /// Indexes the valid frames at the beginning of `bytes`. Returns the number of their bytes.
    fn check_chunk(&mut self, bytes: &[u8], on_event: &mut impl FnMut(&EventView<'_>, u32, Cursor)) -> usize {
        let mut used = 0;
        while let Ok(Some((body, len))) = frame::split(bytes.get(used..).unwrap_or_default(), EVENT_FRAME_MAX)
        {
            let Some(event) = EventView::of_frame(body) else {
                break;
            };
            let Some((record, seq)) = body.split_last_chunk::<SEQ_LEN>() else {
                break;
            };
            if u64::from_le_bytes(*seq) != self.end.seq {
                break;
            }
            on_event(&event, record_sum(record), self.end);
            self.newest = self.newest.max(event.time);
            self.mark(self.end);
            self.end = Cursor { pos: self.end.pos + len as u64, seq: self.end.seq + 1 };
            used += len;
        }
        used
    }

    fn restore_header(&self) -> io::Result<()> {
        self.file.set_len(self.offset(self.end.pos))?;
        self.file.write_all_at(&header(self.first.seq, self.numbering), 0)
    }

    fn set_numbering(&mut self, numbering: Option<Numbering>) {
        self.numbering = numbering;
        self.header_len = if numbering.is_some() { HEADER_LEN } else { HEADER_LEN_1 };
    }

    /// The numbering of this segment's events; `None` in a segment of version 1.
    pub(crate) fn numbering(&self) -> Option<Numbering> {
        self.numbering
    }

    /// Appends frames, in two parts, up to `end`. `newest` is the latest event time in these frames.
    ///
    /// # Errors
    /// The file cannot be written. The file has its previous length again.
    pub(crate) fn append(&mut self, parts: (&[u8], &[u8]), end: Cursor, newest: i64) -> io::Result<()> {
        let offset = self.offset(self.end.pos);
        if let Err(error) = write_all(&self.file, parts, offset) {
            let _ = self.file.set_len(offset);
            return Err(error);
        }
        self.mark(self.end);
        self.end = end;
        self.newest = self.newest.max(newest);
        self.written = SystemTime::now();
        Ok(())
    }

    fn mark(&mut self, at: Cursor) {
        if self.marks.last().is_none_or(|last| at.pos >= last.pos + self.mark_step) {
            self.marks.push(at);
        }
    }

    /// Reads frames from position `pos` on into `buffer`. Returns the number of bytes, which may end inside a frame.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(&self, pos: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.pos - pos).unwrap_or(usize::MAX).min(buffer.len());
        read_up_to(&self.file, buffer.get_mut(..left).unwrap_or_default(), self.offset(pos))
    }

    /// The first frame boundary at position `pos` or later. `pos` must be in this segment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn align(&self, pos: u64) -> io::Result<Cursor> {
        let from = self.last_mark(|mark| mark.pos <= pos);
        self.scan(from, |at| at.pos >= pos)
    }

    /// The cursor of the frame with sequence number `seq`. The frame must be in this segment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn locate(&self, seq: u64) -> io::Result<Cursor> {
        let from = self.last_mark(|mark| mark.seq <= seq);
        self.scan(from, |at| at.seq >= seq)
    }

    /// The last mark for which `is_before` is true, or the segment's beginning.
    fn last_mark(&self, is_before: impl Fn(&Cursor) -> bool) -> Cursor {
        let nth = self.marks.partition_point(is_before);
        nth.checked_sub(1).and_then(|nth| self.marks.get(nth)).copied().unwrap_or(self.first)
    }

    /// Reads the lengths of frames from `from` on. Returns the first boundary for which `is_found` is true, or the
    /// end.
    fn scan(&self, from: Cursor, is_found: impl Fn(Cursor) -> bool) -> io::Result<Cursor> {
        let mut at = from;
        let mut chunk = vec![0; CHUNK];
        // `chunk[..held]` contains the bytes from position `base` on.
        let (mut base, mut held) = (at.pos, 0);
        while !is_found(at) && at.pos < self.end.pos {
            let mut offset = (at.pos - base) as usize;
            if offset + 4 > held {
                base = at.pos;
                offset = 0;
                held = self.read(base, &mut chunk)?;
                if held < 4 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let Some(len) = chunk.get(offset..).and_then(|bytes| bytes.first_chunk::<4>()) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let len = u64::from(u32::from_le_bytes(*len));
            at = Cursor { pos: at.pos + frame::HEADER_LEN as u64 + len, seq: at.seq + 1 };
        }
        Ok(at)
    }

    /// Where the first frame begins.
    pub(crate) fn first(&self) -> Cursor {
        self.first
    }

    /// Where the last frame ends.
    pub(crate) fn end(&self) -> Cursor {
        self.end
    }

    /// Latest event time in the segment; [`i64::MIN`] while the segment has no event.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Time of the last write.
    pub(crate) fn written(&self) -> SystemTime {
        self.written
    }

    /// Length of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.offset(self.end.pos)
    }

    /// The open file, for sendfile(2) and fdatasync(2).
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Offset in the file of position `pos`.
    pub(crate) fn offset(&self, pos: u64) -> u64 {
        self.header_len + (pos - self.first.pos)
    }

    /// Removes the file's name. Open descriptors keep the content.
    pub(crate) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Encodes the header of a segment whose first frame has the number `first`.
fn header(first: u64, numbering: Option<Numbering>) -> Vec<u8> {
    let Some(numbering) = numbering else {
        return [MAGIC_1, first.to_le_bytes()].concat();
    };
    let mut bytes = [MAGIC, first.to_le_bytes()].concat();
    bytes.extend(numbering.encode());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.resize(HEADER_LEN as usize, 0);
    bytes
}

/// Parses the header at the front of `bytes`. The error is true for an incomplete header and false for an invalid one.
fn parse_header(bytes: &[u8], first: u64) -> Result<Option<Numbering>, bool> {
    if bytes.starts_with(&header(first, None)) {
        return Ok(None);
    }
    let numbering = bytes.get(16..16 + numbering::LEN).and_then(|part| part.try_into().ok());
    match numbering.map(Numbering::parse) {
        Some(numbering) if bytes == header(first, Some(numbering)) => Ok(Some(numbering)),
        _ => Err(bytes.len() < HEADER_LEN as usize),
    }
}

/// CRC-32C of a record's body without the tag, which differs between the FIFOs.
pub(crate) fn record_sum(body: &[u8]) -> u32 {
    crc32c::crc32c(body.get(1..).unwrap_or_default())
}

/// File name of a segment: twenty digits, so that sorted names are in the order of the numbers.
fn file_name(first: u64) -> String {
    format!("{first:020}.journal")
}

/// Parses the sequence number in a segment's file name; `None` if the name is of another file.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn ends_inside_frame(rest: &[u8], left: u64) -> bool {
    if left > EVENT_FRAME_MAX as u64 + frame::HEADER_LEN as u64 {
        return false;
    }
    matches!(frame::split(rest, EVENT_FRAME_MAX), Ok(None))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(buffer.get_mut(got..).unwrap_or_default(), offset + got as u64) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn write_all(file: &File, parts: (&[u8], &[u8]), offset: u64) -> io::Result<()> {
    let at = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let total = parts.0.len() + parts.1.len();
    let mut done = match pwritev(file, &[IoSlice::new(parts.0), IoSlice::new(parts.1)], at) {
        Ok(len) => len,
        Err(nix::errno::Errno::EINTR) => 0,
        Err(errno) => return Err(errno.into()),
    };
    // A short write is no error: the next write returns the reason if the rest cannot be written.
    while done < total {
        let second = parts.1.get(done.saturating_sub(parts.0.len())..);
        let rest = parts.0.get(done..).filter(|rest| !rest.is_empty()).or(second).unwrap_or_default();
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
