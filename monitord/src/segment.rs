//! One file of the journal: a header and whole frames, in order, without a hole.
//!
//! Owned by the journal, which decides when one begins and goes. Reads are positional, so any number of
//! readers share the descriptor. Named by the sequence number of its first frame.
//!
//! Layout, version 2: `magic "SMPJRNL\x02" · first u64 LE · numbering (152 bytes) · crc u32 LE · 0 u32`, then frames as
//! [`sampan_ipc::frame`] has them; `crc` is CRC-32C of all before it, the numbering is as [`crate::numbering`] says.
//! Version 1, which is read but no longer written: `magic "SMPJRNL\x01" · first u64 LE`, then frames.

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

/// Bytes before the first frame.
const HEADER_LEN: u64 = 16 + numbering::LEN as u64 + 8;
const MAGIC: [u8; 8] = *b"SMPJRNL\x02";
/// The same of version 1.
const HEADER_LEN_1: u64 = 16;
const MAGIC_1: [u8; 8] = *b"SMPJRNL\x01";
/// Longest frame of an event: a record's body and its sequence number.
const EVENT_FRAME_MAX: usize = sampan_ipc::record::RECORD_MAX + 8;
/// Least distance of two marks, in bytes.
const MARK_STEP_MIN: u64 = 16 << 10;
/// Most marks of a segment of the intended size.
const MARKS_MAX: u64 = 128;
/// Bytes of the sequence number at the end of a frame's body.
const SEQ_LEN: usize = 8;
/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// A segment: what it holds, and the open file.
#[derive(Debug)]
pub struct Segment {
    file: Arc<File>,
    path: PathBuf,
    /// `None` of a segment of version 1.
    numbering: Option<Numbering>,
    header_len: u64,
    first: Cursor,
    end: Cursor,
    /// Latest event time in it; [`i64::MIN`] while it is empty.
    newest: i64,
    /// When it was last written to.
    written: SystemTime,
    marks: Vec<Cursor>,
    mark_step: u64,
}

/// What was wrong with a segment that was read back.
#[derive(Debug, PartialEq, Eq)]
pub enum Damage {
    /// The last write was cut short, as by a kill: an unfinished frame of so many bytes was cut off.
    Torn(u64),
    /// So many bytes that are no valid frames were cut off.
    Corrupt(u64),
}

impl Segment {
    /// Makes the file of a segment whose first frame will be at `first`, in the place of any other of that name. With
    /// `durable`, it is on the disk before this returns.
    ///
    /// # Errors
    /// Whatever the file system says; nothing is left behind then.
    pub fn create(
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

    /// Reads a segment back and checks every frame; cuts off what is no frame. `on_event` hears of each event, with its
    /// [`record_sum`].
    ///
    /// A segment of which nothing is left has `first == end`; it takes frames from `first` on like any other.
    ///
    /// # Errors
    /// The file cannot be read, or not be cut.
    pub fn open(
        path: PathBuf,
        first: Cursor,
        intended_bytes: u64,
        writable: bool,
        mut on_event: impl FnMut(&EventView<'_>, u32, Cursor),
    ) -> io::Result<(Self, Option<Damage>)> {
        // What lies in the journal's directory may be anything: no link is followed, and no FIFO waited for.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).write(writable).custom_flags(flags).open(&path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
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

    /// Walks all frames; `end` is behind the last good one afterwards.
    fn check(
        &mut self,
        file_len: u64,
        on_event: &mut impl FnMut(&EventView<'_>, u32, Cursor),
    ) -> io::Result<Option<Damage>> {
        let mut bytes = [0; HEADER_LEN as usize];
        let got = read_up_to(&self.file, &mut bytes, 0)?;
        match parse_header(&bytes[..got], self.first.seq) {
            Ok(numbering) => self.set_numbering(numbering),
            Err(is_torn) => {
                return Ok(Some(if is_torn { Damage::Torn(file_len) } else { Damage::Corrupt(file_len) }));
            }
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let offset = self.offset(self.end.pos);
            let got = read_up_to(&self.file, &mut chunk, offset)?;
            let used = self.check_chunk(&chunk[..got], on_event);
            if used == 0 {
                let left = file_len.saturating_sub(offset);
                return Ok(match left {
                    0 => None,
                    // A write that a kill cut short ends within a frame, at the end of the file.
                    _ if ends_within_a_frame(&chunk[..got], left) => Some(Damage::Torn(left)),
                    _ => Some(Damage::Corrupt(left)),
                });
            }
        }
    }

    /// Takes the good frames at the start of `bytes`; returns how many bytes they are.
    fn check_chunk(&mut self, bytes: &[u8], on_event: &mut impl FnMut(&EventView<'_>, u32, Cursor)) -> usize {
        let mut used = 0;
        while let Ok(Some((body, len))) = frame::split(&bytes[used..], EVENT_FRAME_MAX) {
            let Some(event) = EventView::of_frame(body) else {
                break;
            };
            let seq = body.last_chunk::<8>().map(|seq| u64::from_le_bytes(*seq));
            if seq != Some(self.end.seq) {
                break;
            }
            on_event(&event, record_sum(&body[..body.len() - SEQ_LEN]), self.end);
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

    /// Whose numbers it carries; `None` of a segment of version 1.
    pub fn numbering(&self) -> Option<Numbering> {
        self.numbering
    }

    /// Appends frames, given in two parts, that reach to `end`; `newest` is the latest event time among them.
    ///
    /// # Errors
    /// Whatever the file system says; the file is as before then.
    pub fn append(&mut self, parts: (&[u8], &[u8]), end: Cursor, newest: i64) -> io::Result<()> {
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

    /// Reads whole frames from `pos` on into `buffer`; returns the bytes read, which may end within a frame.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, pos: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.pos - pos).unwrap_or(usize::MAX).min(buffer.len());
        read_up_to(&self.file, &mut buffer[..left], self.offset(pos))
    }

    /// The first frame boundary at or behind byte `pos`, which lies in this segment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn align(&self, pos: u64) -> io::Result<Cursor> {
        let nth = self.marks.partition_point(|mark| mark.pos <= pos);
        let from = if nth == 0 { self.first } else { self.marks[nth - 1] };
        self.walk(from, |at| at.pos >= pos)
    }

    /// The boundary before the frame with sequence number `seq`, which lies in this segment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn locate(&self, seq: u64) -> io::Result<Cursor> {
        let nth = self.marks.partition_point(|mark| mark.seq <= seq);
        let from = if nth == 0 { self.first } else { self.marks[nth - 1] };
        self.walk(from, |at| at.seq >= seq)
    }

    fn walk(&self, from: Cursor, there: impl Fn(Cursor) -> bool) -> io::Result<Cursor> {
        let mut at = from;
        let mut chunk = vec![0; CHUNK];
        let (mut base, mut held) = (at.pos, 0);
        while !there(at) && at.pos < self.end.pos {
            let mut within = (at.pos - base) as usize;
            if within + 4 > held {
                base = at.pos;
                within = 0;
                held = self.read(base, &mut chunk)?;
                if held < 4 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let len =
                u32::from_le_bytes([chunk[within], chunk[within + 1], chunk[within + 2], chunk[within + 3]]);
            at = Cursor { pos: at.pos + frame::HEADER_LEN as u64 + u64::from(len), seq: at.seq + 1 };
        }
        Ok(at)
    }

    /// Where its first frame begins.
    pub fn first(&self) -> Cursor {
        self.first
    }

    /// Where its last frame ends.
    pub fn end(&self) -> Cursor {
        self.end
    }

    /// Latest event time in it.
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// When it was last written to.
    pub fn written(&self) -> SystemTime {
        self.written
    }

    /// Bytes that the file takes.
    pub fn bytes(&self) -> u64 {
        self.offset(self.end.pos)
    }

    /// The open file, for sendfile(2) and fdatasync(2).
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file the frame at `pos` begins.
    pub fn offset(&self, pos: u64) -> u64 {
        self.header_len + (pos - self.first.pos)
    }

    /// Takes the file away. Readers that have it open keep its content.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// The header of a segment whose first frame has the number `first`.
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

/// Reads the header at the front of `bytes`; an error says whether it is cut short rather than wrong.
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

/// Checksum of what a record says, whichever FIFO it came by: its body behind the tag, CRC-32C.
pub fn record_sum(body: &[u8]) -> u32 {
    crc32c::crc32c(body.get(1..).unwrap_or_default())
}

/// Name of the file of a segment: twenty digits, so that names sort as numbers do.
fn file_name(first: u64) -> String {
    format!("{first:020}.journal")
}

/// The first sequence number that a segment's file name tells.
pub fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn ends_within_a_frame(rest: &[u8], left: u64) -> bool {
    if left > EVENT_FRAME_MAX as u64 + frame::HEADER_LEN as u64 {
        return false;
    }
    matches!(frame::split(rest, EVENT_FRAME_MAX), Ok(None))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
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
    // A short write tells nothing yet: the next one gives the reason.
    while done < total {
        let rest = if done < parts.0.len() { &parts.0[done..] } else { &parts.1[done - parts.0.len()..] };
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
