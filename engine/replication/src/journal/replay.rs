//! Reads a journal's file, and replays its records into a model.
//!
//! Called when the engine starts, and for executions that are kept. Reads in pieces; holds one frame at a time.

use super::file::{JournalFile, MAGIC};
use crate::model::Model;
use crate::record::Record;
use sampan_ipc::frame::{self, FRAME_MAX, HEADER_LEN};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of one read.
const CHUNK: usize = 64 << 10;
/// Most bytes that are searched for another frame behind one that is not valid.
const SEARCH_MAX: usize = 1 << 20;

/// What a file holds.
pub(super) enum Replayed {
    /// An execution. What a torn append left at the end is cut off.
    Whole(Box<Model>, JournalFile),
    /// Nothing: the engine ended before the first record was complete, so nobody has been told of the execution.
    Empty,
    /// The file was changed by something else than an append. The model is that of the records before the damage, if
    /// the first one can be read.
    Damaged(Option<Box<Model>>, String),
}

/// Why the reader stopped.
enum Stop {
    /// Behind the last frame, or before bytes that are no complete frame.
    NoFrame,
    /// A complete frame does not continue the journal.
    Wrong(&'static str),
}

/// Reads the file of execution `id`.
///
/// # Errors
/// The file cannot be opened, read or cut.
pub(super) fn replay(path: &Path, id: u64) -> io::Result<Replayed> {
    // For reading and writing, Linux opens even a FIFO without waiting. fifo(7).
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut magic = Vec::new();
    (&file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        let is_torn = MAGIC.starts_with(&magic);
        let why = "it does not begin as a journal of this version".to_owned();
        return Ok(if is_torn { Replayed::Empty } else { Replayed::Damaged(None, why) });
    }
    let mut frames = Frames { file: &file, bytes: Vec::new(), start: 0, at: MAGIC.len() as u64 };
    let mut model = None;
    let stop = apply(&mut frames, &mut model, id)?;
    let (end, len) = (frames.at, file.metadata()?.len());
    let why = match stop {
        Stop::Wrong(why) => why,
        Stop::NoFrame if frames.has_later_record()? => "a frame is not valid",
        Stop::NoFrame => {
            let Some(model) = model else { return Ok(Replayed::Empty) };
            if end < len {
                log::info!("{}: cut {} bytes of an incomplete record off the end", path.display(), len - end);
                file.set_len(end)?;
            }
            return Ok(Replayed::Whole(model, JournalFile::adopt(file, path.to_owned(), end)));
        }
    };
    Ok(Replayed::Damaged(model, format!("{why} at byte {end}")))
}

/// Applies all records that can be read.
fn apply(frames: &mut Frames, model: &mut Option<Box<Model>>, id: u64) -> io::Result<Stop> {
    while let Some((body, len)) = frames.next()? {
        match (frame::parse::<Record>(body), &mut *model) {
            (Err(_), _) => return Ok(Stop::Wrong("a record is of no known kind")),
            (Ok(Record::Begun { id: other, .. }), _) if other != id => {
                return Ok(Stop::Wrong("a record is of another execution"));
            }
            (Ok(record), Some(model)) => model.apply(&record),
            (Ok(record @ Record::Begun { .. }), None) => model.insert(Box::default()).apply(&record),
            (Ok(_), None) => return Ok(Stop::Wrong("the first record is missing")),
        }
        frames.skip(len);
    }
    Ok(Stop::NoFrame)
}

/// The frames of a file, one after the other.
struct Frames<'a> {
    file: &'a File,
    /// Bytes of the file, as far as they have been read; those before `start` belong to earlier frames.
    bytes: Vec<u8>,
    start: usize,
    /// The place of the next frame in the file.
    at: u64,
}

impl Frames<'_> {
    /// The next frame's body, and the length of the whole frame; `None` if the bytes there are no complete frame.
    fn next(&mut self) -> io::Result<Option<(&[u8], usize)>> {
        while self.held().len() < wanted(self.held()) {
            if !self.read()? {
                return Ok(None);
            }
        }
        Ok(frame::split(self.held(), FRAME_MAX).ok().flatten())
    }

    fn skip(&mut self, len: usize) {
        self.start += len;
        self.at += len as u64;
    }

    fn held(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Reads more; returns false at the end of the file.
    fn read(&mut self) -> io::Result<bool> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let held = self.bytes.len();
        self.bytes.resize(held + CHUNK, 0);
        let room = self.bytes.get_mut(held..).unwrap_or_default();
        let read = self.file.read_at(room, self.at + held as u64)?;
        self.bytes.truncate(held + read);
        Ok(read > 0)
    }

    /// Whether a record follows behind the bytes that are no complete frame. No append leaves such a file: only its
    /// last frame can be incomplete.
    fn has_later_record(&mut self) -> io::Result<bool> {
        while self.held().len() < SEARCH_MAX && self.read()? {}
        let held = self.held();
        let is_record = |at: usize| match frame::split(held.get(at..).unwrap_or_default(), FRAME_MAX) {
            Ok(Some((body, _))) => frame::parse::<Record>(body).is_ok(),
            _ => false,
        };
        Ok((1..held.len().min(SEARCH_MAX)).any(is_record))
    }
}

/// Length of the frame at the front of `bytes`, or of its header while that is not complete or not valid.
fn wanted(bytes: &[u8]) -> usize {
    match bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize) {
        Some(len) if len <= FRAME_MAX => HEADER_LEN + len,
        _ => HEADER_LEN,
    }
}
