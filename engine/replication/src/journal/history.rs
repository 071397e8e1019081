//! The history: executions that have ended, in append-only segments of bounded number and length.
//!
//! Owned by the directory of the journals. A start of the engine reads none of it: a segment is read when executions
//! are listed, from its end backwards. A segment that is not valid in one place costs only what is there.
//!
//! Layout of a segment: `magic "SMPHIST\x01"`, then for each execution one frame of [`sampan_ipc::frame`] with a
//! [`Past`], and `len u32 LE`, the length of that frame. The name of a segment is its number.

use super::file::{MODE, sync_directory};
use super::past::{PAST_MAX, Past};
use sampan_ipc::frame::{self, FRAME_MAX, HEADER_LEN};
use sampan_ipc::replication::Execution;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"SMPHIST\x01";
/// Most bytes of a segment.
const SEGMENT_MAX: u64 = 8 << 20;
/// Most bytes of all segments.
const HISTORY_MAX: u64 = 64 << 20;
/// Bytes of the length behind a frame.
const TRAILER_LEN: u64 = 4;
/// Place of the first entry.
const START: u64 = MAGIC.len() as u64;
/// Bytes of one read.
const CHUNK: u64 = 64 << 10;

/// The segments of the history.
#[derive(Debug)]
pub(super) struct History {
    dir: PathBuf,
    /// The segment that is appended to; `None` before the first append and after a failure.
    newest: Option<Segment>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    len: u64,
}

impl History {
    /// Takes a directory, which exists. Reads nothing.
    pub(super) fn new(dir: PathBuf) -> Self {
        History { dir, newest: None }
    }

    /// Appends an execution. With `durable`, it is on the disk when this function returns.
    ///
    /// # Errors
    /// The disk is full or fails; the history is as before.
    pub(super) fn append(&mut self, past: &Past, durable: bool) -> io::Result<()> {
        let mut bytes = frame::encode(past).map_err(io::Error::other)?;
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        bytes.extend(len.to_le_bytes());
        let mut segment = match self.newest.take() {
            Some(segment) => segment,
            None => self.open_newest()?,
        };
        if segment.len + bytes.len() as u64 > SEGMENT_MAX {
            segment = create(&self.dir, segment.number + 1)?;
        }
        let written = segment.file.write_all_at(&bytes, segment.len);
        let written = written.and_then(|()| if durable { segment.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => segment.len += bytes.len() as u64,
            // Without a segment here, the next append checks the file's end.
            Err(error) => {
                let _ = segment.file.set_len(segment.len);
                return Err(error);
            }
        }
        let is_new = segment.len == START + bytes.len() as u64;
        self.newest = Some(segment);
        if is_new {
            self.remove_oldest();
        }
        Ok(())
    }

    /// Opens the newest segment for appending. After a power failure, cuts an incomplete entry off its end.
    fn open_newest(&self) -> io::Result<Segment> {
        let Some(number) = self.numbers()?.pop() else { return create(&self.dir, 1) };
        let file = OpenOptions::new().read(true).write(true).open(self.path(number))?;
        let len = file.metadata()?.len();
        if len <= START {
            return create(&self.dir, number);
        }
        let mut walk = Walk::new(file, len);
        if !walk.has_magic()? {
            return create(&self.dir, number + 1);
        }
        if walk.step_back()?.is_some() {
            return Ok(Segment { number, file: walk.file, len });
        }
        let end = walk.scan(len)?.last().map_or(START, |entry| entry.end());
        // More than one entry is not valid: that was no append, so what can still be read there must stay.
        if len - end > (HEADER_LEN + PAST_MAX) as u64 + TRAILER_LEN {
            return create(&self.dir, number + 1);
        }
        walk.file.set_len(end)?;
        Ok(Segment { number, file: walk.file, len: end })
    }

    /// Removes the oldest segments, so that the newest can reach its full length.
    fn remove_oldest(&self) {
        let mut sum = SEGMENT_MAX;
        for number in self.numbers().unwrap_or_default().into_iter().rev().skip(1) {
            let path = self.path(number);
            sum += fs::metadata(&path).map_or(0, |meta| meta.len());
            if sum > HISTORY_MAX
                && let Err(error) = fs::remove_file(&path)
            {
                log::warn!("cannot remove {}, old replication history: {error}", path.display());
            }
        }
    }

    /// The numbers of all segments, oldest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// All executions, the last that ended first. Later appends do not change what it returns.
    pub(super) fn backwards(&self) -> Backwards {
        let mut segments: Vec<(PathBuf, Option<u64>)> = Vec::new();
        match self.numbers() {
            Ok(numbers) => segments.extend(numbers.into_iter().map(|number| {
                let newest = self.newest.as_ref().filter(|newest| newest.number == number);
                (self.path(number), newest.map(|segment| segment.len))
            })),
            Err(error) => log::warn!("cannot list {}: {error}", self.dir.display()),
        }
        Backwards { segments, walk: None }
    }
}

fn create(dir: &Path, number: u64) -> io::Result<Segment> {
    let path = dir.join(number.to_string());
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(MODE).open(&path)?;
    file.write_all_at(&MAGIC, 0)?;
    sync_directory(&path)?;
    Ok(Segment { number, file, len: START })
}

/// Reads the history backwards; yields the encoded form of each [`Past`].
pub(super) struct Backwards {
    /// Segments that were not read yet, the newest last, with their length if it is known.
    segments: Vec<(PathBuf, Option<u64>)>,
    walk: Option<(PathBuf, Walk)>,
}

impl Iterator for Backwards {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((path, walk)) = &mut self.walk {
                match walk.previous(path) {
                    Ok(Some(body)) => return Some(body),
                    Ok(None) => {}
                    Err(error) => log::warn!("cannot read {}: {error}", path.display()),
                }
            }
            let (path, len) = self.segments.pop()?;
            match open(&path, len) {
                Ok(walk) => self.walk = Some((path, walk)),
                Err(error) => {
                    // The oldest segment may have been removed meanwhile.
                    log::warn!("cannot read {}, a part of the replication history: {error}", path.display());
                    self.walk = None;
                }
            }
        }
    }
}

fn open(path: &Path, len: Option<u64>) -> io::Result<Walk> {
    let file = sampan_os::small_file::open(path)?;
    let len = len.map_or_else(|| file.metadata().map(|meta| meta.len()), Ok)?;
    let mut walk = Walk::new(file, len);
    match walk.has_magic()? {
        true => Ok(walk),
        false => Err(io::Error::other("not a segment of this version")),
    }
}

/// Where an entry's frame is.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    len: u32,
}

impl Place {
    fn end(self) -> u64 {
        self.at + u64::from(self.len) + TRAILER_LEN
    }
}

/// Reads the entries of one segment.
struct Walk {
    file: File,
    /// The entry that is read next ends here.
    end: u64,
    /// Entries that are still to be read, found from the front because the way from the end is blocked.
    scanned: Option<Vec<Place>>,
    /// Bytes of the file from `at` on.
    bytes: Vec<u8>,
    at: u64,
}

impl Walk {
    fn new(file: File, end: u64) -> Self {
        Walk { file, end, scanned: None, bytes: Vec::new(), at: 0 }
    }

    fn has_magic(&mut self) -> io::Result<bool> {
        Ok(self.bytes(0, START)? == MAGIC)
    }

    /// The entry before the last one that was returned; `None` at the front.
    fn previous(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        if self.scanned.is_none() {
            if self.end <= START {
                return Ok(None);
            }
            if let Some(body) = self.step_back()? {
                return Ok(Some(body));
            }
            let scanned = self.scan(self.end)?;
            let lost = self.end - scanned.last().map_or(START, |entry| entry.end());
            log::warn!("{}: skipped {lost} bytes of replication history that are not valid", path.display());
            self.scanned = Some(scanned);
        }
        let Some(place) = self.scanned.as_mut().and_then(Vec::pop) else { return Ok(None) };
        self.body(place)
    }

    /// The entry that ends at `end`; `None` if the bytes there are no entry.
    fn step_back(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(trailer) = self.end.checked_sub(TRAILER_LEN).filter(|at| *at > START) else {
            return Ok(None);
        };
        let Some(len) = self.number(trailer)? else { return Ok(None) };
        let Some(at) = trailer.checked_sub(u64::from(len)).filter(|at| *at >= START) else { return Ok(None) };
        let body = self.body(Place { at, len })?;
        if body.is_some() {
            self.end = at;
        }
        Ok(body)
    }

    /// The places of all entries before `end`, from the front to the first that is not valid.
    fn scan(&mut self, end: u64) -> io::Result<Vec<Place>> {
        let (mut places, mut at) = (Vec::new(), START);
        while let Some(len) = self.number(at)? {
            let Some(len) = len.checked_add(HEADER_LEN as u32) else { break };
            let place = Place { at, len };
            if place.end() > end || self.body(place)?.is_none() {
                break;
            }
            places.push(place);
            at = place.end();
        }
        Ok(places)
    }

    /// The body of the frame at `place`; `None` if it is not valid.
    fn body(&mut self, place: Place) -> io::Result<Option<Vec<u8>>> {
        if place.len as usize > HEADER_LEN + FRAME_MAX {
            return Ok(None);
        }
        let bytes = self.bytes(place.at, u64::from(place.len))?;
        Ok(match frame::split(bytes, FRAME_MAX) {
            Ok(Some((body, len))) if len == bytes.len() && len == place.len as usize => Some(body.to_vec()),
            _ => None,
        })
    }

    fn number(&mut self, at: u64) -> io::Result<Option<u32>> {
        Ok(self.bytes(at, 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)))
    }

    /// Bytes of the file; fewer if the file ends before. Reads a whole piece around them, since entries are small.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let held = self.at..self.at + self.bytes.len() as u64;
        if !(held.start <= at && at + len <= held.end) {
            // Backwards, the next bytes are those before; while scanning, those after.
            let is_before = at < held.start;
            let from = if is_before { (at + len).saturating_sub(CHUNK).min(at) } else { at };
            let to = (at + len).max(from + CHUNK);
            self.bytes.resize(usize::try_from(to - from).unwrap_or(0), 0);
            let read = read_at(&self.file, &mut self.bytes, from)?;
            self.bytes.truncate(read);
            self.at = from;
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let held = self.bytes.get(from..).unwrap_or_default();
        Ok(held.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(held))
    }
}

/// Fills `bytes` from the place `at`; returns how many there are before the end of the file.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Parses only the execution of an encoded [`Past`].
pub(super) fn execution(body: &[u8]) -> Option<Execution> {
    postcard::take_from_bytes(body).ok().map(|(execution, _)| execution)
}

#[cfg(test)]
mod tests {
    use super::super::past::Described;
    use super::*;

    fn entry(id: u64, bytes: usize) -> Past {
        let execution = Execution { id, source: "x".repeat(bytes), ..Execution::default() };
        Past { described: Described { execution, tasks: Vec::new() }, order: None }
    }

    fn ids(history: &History) -> Vec<u64> {
        history.backwards().filter_map(|body| execution(&body)).map(|execution| execution.id).collect()
    }

    fn filled(dir: &Path, lens: &[usize]) -> History {
        let mut history = History::new(dir.to_owned());
        for (len, id) in lens.iter().zip(1..) {
            history.append(&entry(id, *len), false).expect("appended");
        }
        history
    }

    #[test]
    fn the_history_is_read_backwards_whatever_the_entries_lengths() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = filled(dir.path(), &[0, 1, 70_000, 5, 65_500, 65_536, 200_000, 9, 3]);
        assert_eq!(ids(&history), (1..=9).rev().collect::<Vec<_>>());
        assert_eq!(ids(&History::new(dir.path().to_owned())).len(), 9);
    }

    #[test]
    fn the_oldest_segment_goes_when_the_history_is_full() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = filled(dir.path(), &[1 << 20; 100]);
        let sum = || -> u64 {
            let files = fs::read_dir(dir.path()).expect("a directory");
            files.map(|file| file.expect("an entry").metadata().expect("a file").len()).sum()
        };
        assert!(sum() <= HISTORY_MAX && sum() > HISTORY_MAX / 4 * 3, "{}", sum());
        let found = ids(&history);
        assert_eq!(found, (101 - found.len() as u64..=100).rev().collect::<Vec<_>>());
    }

    #[test]
    fn an_incomplete_entry_is_cut_off_before_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(filled(dir.path(), &[5, 5]));
        let path = dir.path().join("1");
        let two = fs::read(&path).expect("read");
        filled(dir.path(), &[]).append(&entry(3, 5), true).expect("appended");
        let three = fs::read(&path).expect("read");
        for len in two.len()..three.len() {
            fs::write(&path, &three[..len]).expect("cut");
            let mut history = History::new(dir.path().to_owned());
            assert_eq!(ids(&history), [2, 1], "cut at {len}");
            history.append(&entry(4, 5), true).expect("appended");
            assert_eq!(ids(&history), [4, 2, 1], "cut at {len}");
            assert!(!dir.path().join("2").exists());
        }
        for len in 0..START as usize {
            fs::write(&path, &three[..len]).expect("cut");
            let mut history = History::new(dir.path().to_owned());
            history.append(&entry(4, 5), true).expect("appended");
            assert_eq!(ids(&history), [4], "cut at {len}");
        }
    }

    #[test]
    fn damage_costs_only_the_entries_around_it() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(filled(dir.path(), &[1 << 20; 20]));
        let path = dir.path().join("2");
        let mut bytes = fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("written");
        let found = ids(&History::new(dir.path().to_owned()));
        assert_eq!(found.len(), 19, "{found:?}");
        let at = |id| found.iter().position(|found| *found == id);
        assert!(at(8) > at(14) && at(1).is_some() && at(20) == Some(0), "{found:?}");
    }

    #[test]
    fn a_segment_of_another_version_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let newer = b"SMPHIST\x02 of a later engine";
        fs::write(dir.path().join("5"), newer).expect("written");
        let mut history = History::new(dir.path().to_owned());
        assert!(ids(&history).is_empty());
        history.append(&entry(1, 5), true).expect("appended");
        assert_eq!(ids(&history), [1]);
        assert_eq!(fs::read(dir.path().join("5")).expect("read"), newer);
    }
}
