//! The file that stores the position of a subscription.
//!
//! A subscription owns the file, and locks it while the subscription lives. The file has 64 bytes in two slots. Writes
//! are in place and alternate between the slots, so that a power loss during a write leaves the other slot intact.
//! Layout and rules: docs/events.md, "The cursor file". Also reads files of version 1: a decimal number and a line
//! feed.

use crate::named_file::other_kind;
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Length of the file in bytes.
const LEN: usize = 64;
/// Length of one slot in bytes.
const SLOT_LEN: usize = 32;
const MAGIC: [u8; 4] = *b"SCU2";

/// Why a cursor file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The path is not a regular file. This process has not changed the file.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// Another reader has locked the file.
    #[error("{}", locked(*pid))]
    Locked {
        /// The process that holds the lock, if the kernel lists it.
        pid: Option<i32>,
    },
    /// The content is not a position. This process has not changed the file.
    #[error("it does not hold a position")]
    NotCursor,
    /// The file was removed or replaced while this process used it.
    #[error("it was removed while it was in use")]
    Removed,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn locked(pid: Option<i32>) -> String {
    let by = pid.map_or(String::new(), |pid| format!(", process {pid}"));
    format!("another reader uses it{by}")
}

/// The content of a cursor file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// No position: the file is new, or its reader never had a position.
    Nothing,
    /// The position is lost: the file is empty or contains only NUL bytes, as after a power loss.
    Emptied,
    /// A sequence number, and its lineage if the file contains one.
    Seq(u64, Option<u64>),
}

/// The open file and its content.
#[derive(Debug)]
pub(crate) struct CursorFile {
    file: Flock<File>,
    path: PathBuf,
    interval: Duration,
    turn: u32,
    held: Remembered,
    written_at: Instant,
    /// The content of the next write, which waits until the interval since the last write is over.
    waiting: Option<Remembered>,
}

impl CursorFile {
    /// Opens and locks the file; creates the file if it does not exist. Writes the content again at once, so that a
    /// file that cannot be written is an error now and not later.
    ///
    /// Follows symbolic links. Two writes are at least `interval` apart, except for [`CursorFile::save`].
    pub(super) fn open(path: &Path, interval: Duration) -> Result<(Self, Remembered), CursorError> {
        let is_new = match std::fs::metadata(path) {
            Ok(meta) => check_kind(&meta).map(|()| false)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error.into()),
        };
        let mut options = OpenOptions::new();
        // O_NONBLOCK, because a FIFO may take the path after the check, and open(2) of a FIFO could wait without
        // limit.
        options.read(true).write(true).create(true).truncate(false).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path)?;
        let meta = file.metadata()?;
        check_kind(&meta)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => CursorError::Locked { pid: holder(&meta) },
            errno => CursorError::Io(errno.into()),
        })?;
        let mut bytes = [0; LEN + 1];
        let len = read_up_to(&file, &mut bytes)?;
        let bytes = bytes.get(..len.min(LEN)).filter(|_| len <= LEN).ok_or(CursorError::NotCursor)?;
        let (turn, held) = parse(bytes).ok_or(CursorError::NotCursor)?;
        // An empty file that existed before this call has lost its content.
        let held = if is_new && len == 0 { Remembered::Nothing } else { held };
        let (path, written_at) = (path.to_owned(), Instant::now());
        let mut cursor = CursorFile { file, path, interval, turn, held, written_at, waiting: None };
        cursor.write(held)?;
        if is_new {
            cursor.file.sync_all()?;
            sync_parent(&cursor.path);
        }
        Ok((cursor, held))
    }

    /// Stores a position when the interval since the last write is over. Stores and syncs the first position of a
    /// lineage at once: the next run must not begin elsewhere, or with an old lineage, if this process is killed.
    pub(super) fn remember(&mut self, seq: u64, lineage: Option<u64>) -> Result<(), CursorError> {
        let new = Remembered::Seq(seq, lineage);
        self.waiting = (new != self.held).then_some(new);
        let is_first = !matches!(self.held, Remembered::Seq(_, held) if held == lineage);
        if is_first { self.finish() } else { self.write_if_due() }
    }

    /// Writes the waiting content if the interval since the last write is over.
    pub(super) fn write_if_due(&mut self) -> Result<(), CursorError> {
        match self.due() {
            Some(at) if at <= Instant::now() => self.save(),
            _ => Ok(()),
        }
    }

    /// When the waiting content must be written; `None` if no content waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.map(|_| self.written_at + self.interval)
    }

    /// Writes the waiting content now.
    pub(super) fn save(&mut self) -> Result<(), CursorError> {
        match self.waiting {
            Some(waiting) => self.write(waiting),
            None => Ok(()),
        }
    }

    /// Writes the waiting content now, and syncs the file.
    pub(super) fn finish(&mut self) -> Result<(), CursorError> {
        if self.waiting.is_some() {
            self.save()?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Path of the file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, new: Remembered) -> Result<(), CursorError> {
        // If the file was removed, this process would write to a file that no later run finds.
        if self.file.metadata()?.nlink() == 0 {
            return Err(CursorError::Removed);
        }
        let turn = self.turn.wrapping_add(1);
        // The first write goes to the second slot: the text of a version 1 file is in the first slot, and survives.
        let offset = if turn % 2 == 1 { SLOT_LEN } else { 0 };
        self.file.write_all_at(&slot(turn, new), offset as u64)?;
        (self.turn, self.held, self.waiting, self.written_at) = (turn, new, None, Instant::now());
        Ok(())
    }
}

fn check_kind(meta: &Metadata) -> Result<(), CursorError> {
    other_kind(&meta.file_type()).map_or(Ok(()), |kind| Err(CursorError::NotRegular(kind)))
}

fn slot(turn: u32, held: Remembered) -> [u8; SLOT_LEN] {
    let (state, seq, lineage): (u32, u64, u64) = match held {
        Remembered::Nothing => (0, 0, 0),
        Remembered::Seq(seq, lineage) => (1, seq, lineage.unwrap_or(0)),
        Remembered::Emptied => (2, 0, 0),
    };
    let mut bytes = [0; SLOT_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&state.to_le_bytes());
    bytes[8..16].copy_from_slice(&lineage.to_le_bytes());
    bytes[16..24].copy_from_slice(&seq.to_le_bytes());
    bytes[24..28].copy_from_slice(&turn.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse_slot(bytes: &[u8]) -> Option<(u32, Remembered)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if !bytes.starts_with(&MAGIC) || word(28)? != crc32c::crc32c(bytes.get(..28)?) {
        return None;
    }
    let held = match word(4)? {
        0 => Remembered::Nothing,
        1 => Remembered::Seq(long(16)?, long(8).filter(|lineage| *lineage != 0)),
        2 => Remembered::Emptied,
        _ => return None,
    };
    Some((word(24)?, held))
}

/// Parses the content; returns the turn of the newest slot, and the slot's content. `None` if this is no cursor file.
fn parse(bytes: &[u8]) -> Option<(u32, Remembered)> {
    let newest = bytes.chunks(SLOT_LEN).filter_map(parse_slot).max_by_key(|(turn, _)| *turn);
    if newest.is_some() {
        return newest;
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Some((0, Remembered::Emptied));
    }
    // A file of version 1 begins with text. A slot that was not written completely may follow.
    let text = bytes.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    let seq = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    let rest = bytes.get(text.len()..SLOT_LEN.min(bytes.len()))?;
    rest.iter().all(|byte| matches!(byte, b'\n' | 0)).then_some((0, Remembered::Seq(seq, None)))
}

fn read_up_to(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, got as u64) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Syncs the directory of a new file. If the directory cannot be opened, the kernel writes the file's name later.
fn sync_parent(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(parent).and_then(|parent| parent.sync_all()) {
        log::debug!("cannot sync directory {}: {error}", parent.display());
    }
}

/// The process that holds the lock of the file with these metadata. proc_locks(5).
fn holder(meta: &Metadata) -> Option<i32> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let device = meta.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let mut holders = locks.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    holders.find_map(|words| match words.as_slice() {
        [_, "FLOCK", _, _, pid, place, ..] if *place == file => pid.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn open(path: &Path) -> Result<(CursorFile, Remembered), CursorError> {
        CursorFile::open(path, NO_TIME)
    }

    #[test]
    fn a_position_is_read_back_from_whichever_slot_is_whole_and_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cursor");
        let (mut file, held) = open(&path).expect("made");
        assert_eq!(held, Remembered::Nothing);
        for seq in 1..10 {
            file.remember(seq, Some(7)).expect("writable");
        }
        drop(file);
        let bytes = std::fs::read(&path).expect("there");
        assert_eq!(bytes.len(), LEN);
        assert_eq!(parse(&bytes).map(|(_, held)| held), Some(Remembered::Seq(9, Some(7))));
        for cut in 0..SLOT_LEN {
            // An interrupted write damages only the slot that is written. The other slot has the position of the write
            // before.
            for slot in [0, SLOT_LEN] {
                let mut torn = bytes.clone();
                torn[slot + cut] ^= 0x55;
                let held = parse(&torn).map(|(_, held)| held);
                assert!(matches!(held, Some(Remembered::Seq(8 | 9, Some(7)))), "{held:?}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "no other file");
        assert_eq!(open(&path).expect("good").1, Remembered::Seq(9, Some(7)));
    }

    #[test]
    fn a_file_of_version_1_is_read_and_becomes_one_of_version_2() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cursor");
        std::fs::write(&path, "42\n").expect("written");
        let (mut file, held) = open(&path).expect("good");
        assert_eq!(held, Remembered::Seq(42, None));
        file.remember(43, Some(1)).expect("writable");
        drop(file);
        assert_eq!(open(&path).expect("good").1, Remembered::Seq(43, Some(1)));
        // The file after a power loss while the first slot was written.
        let torn = [&b"42\n"[..], &[0; 29], &slot(1, held)[..20]].concat();
        assert_eq!(parse(&torn), Some((0, Remembered::Seq(42, None))));
    }

    #[test]
    fn what_lost_its_content_is_told_from_what_is_new() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in [("empty", &[][..]), ("nuls", &[0; 64])] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("written");
            assert_eq!(open(&path).expect("usable").1, Remembered::Emptied, "{name}");
            assert_eq!(open(&path).expect("usable").1, Remembered::Emptied, "{name}, the second time");
        }
    }

    #[test]
    fn what_is_no_cursor_file_is_refused_and_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notes");
        for text in ["4x", "42 apples", "42\napples", &"1".repeat(65), "SCU2"] {
            std::fs::write(&path, text).expect("written");
            assert!(matches!(open(&path), Err(CursorError::NotCursor)), "{text}");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), text);
        }
        assert!(matches!(open(dir.path()), Err(CursorError::NotRegular("a directory"))));
    }

    #[test]
    fn a_link_stays_a_link_and_its_target_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        open(&link).expect("made").0.remember(5, Some(1)).expect("writable");
        assert!(link.symlink_metadata().expect("there").is_symlink());
        assert_eq!(open(&target).expect("good").1, Remembered::Seq(5, Some(1)));
    }

    #[test]
    fn a_second_reader_is_refused_with_the_first_ones_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cursor");
        let first = open(&path).expect("made");
        match open(&path) {
            Err(CursorError::Locked { pid }) => assert_eq!(pid, i32::try_from(std::process::id()).ok()),
            other => panic!("{other:?}"),
        }
        drop(first);
        open(&path).expect("free again");
    }

    #[test]
    fn writes_are_an_interval_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cursor");
        let (mut file, _) = CursorFile::open(&path, Duration::from_secs(3600)).expect("made");
        file.remember(4, Some(1)).expect("the first one is written at once");
        file.remember(5, Some(1)).expect("it waits");
        assert!(file.due().is_some_and(|at| at > Instant::now()));
        let on_disk = || parse(&std::fs::read(&path).expect("there")).map(|(_, held)| held);
        assert_eq!(on_disk(), Some(Remembered::Seq(4, Some(1))));
        file.finish().expect("writable");
        assert_eq!((on_disk(), file.due()), (Some(Remembered::Seq(5, Some(1))), None));
    }
}
