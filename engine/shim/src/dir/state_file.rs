//! The file that contains a container's state. Writes are in place, and a reader finds a valid state at every moment.
//!
//! Layout: two slots of 16 KiB, which are written alternately. Each slot begins with
//! `frame::encode(&(generation, state))`. `generation` is a `u64` that grows by one with each write; the slot with the
//! higher generation is valid. If a write is interrupted or still running, the other slot is complete.
//!
//! A change of state costs one pwrite(2). A new file and a rename would cost five system calls, and ext4 would write
//! the file to the disk at once (ext4(5), "auto_da_alloc"). This module does not decide which process may write: the
//! shim writes while it lives, otherwise the engine.

use sampan_ipc::frame::{self, FrameError, HEADER_LEN};
use sampan_ipc::shim::State;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a slot.
const SLOT: u64 = 16 << 10;
/// Bytes of a slot that the first read gets. Only a longer state, which is rare, needs a second read.
const FIRST_READ: usize = 512;
/// Longest [`State::error`] that is stored, in bytes. The other fields are short, so that any state fits into a slot.
const ERROR_MAX: usize = 8 << 10;

/// An open state file.
#[derive(Debug)]
pub struct StateFile {
    file: File,
    /// Generation of the newest state in the file.
    generation: u64,
}

impl StateFile {
    /// Makes the file at `path` and writes `state` into it.
    ///
    /// # Errors
    /// The file exists already, or cannot be written.
    pub fn create(path: &Path, state: &State) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut made = StateFile { file, generation: 0 };
        made.write(state)?;
        Ok(made)
    }

    /// Opens the file at `path` for writing. Creates an empty file if the path does not exist.
    ///
    /// # Errors
    /// The file cannot be opened or created.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let generation = newest(&file).map_or(0, |(generation, _)| generation);
        Ok(StateFile { file, generation })
    }

    /// Writes `state` as the newest state. Does not sync: after a power loss the file may contain the state before
    /// `state`.
    ///
    /// # Errors
    /// The file cannot be written. It then still contains the previous state.
    pub fn write(&mut self, state: &State) -> io::Result<()> {
        let generation = self.generation.wrapping_add(1);
        let bytes = encode(generation, state).map_err(io::Error::other)?;
        self.file.write_all_at(&bytes, offset(generation))?;
        self.generation = generation;
        Ok(())
    }

    /// Syncs the file to the disk. fsync(2).
    ///
    /// # Errors
    /// The disk reports an error; a power loss may then remove the newest state.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The newest state in the file at `path`; `None` if there is no such file, or if neither slot is valid.
pub fn read(path: &Path) -> Option<State> {
    newest(&File::open(path).ok()?).map(|(_, state)| state)
}

fn newest(file: &File) -> Option<(u64, State)> {
    [0, 1]
        .into_iter()
        .filter_map(|generation| slot(file, generation))
        .max_by_key(|(generation, _)| *generation)
}

/// Reads the slot that belongs to `generation`; returns the generation and the state in the slot.
fn slot(file: &File, generation: u64) -> Option<(u64, State)> {
    [FIRST_READ, SLOT as usize].into_iter().find_map(|len| {
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, offset(generation)).ok()?;
        let (body, _) = frame::split(bytes.get(..read)?, SLOT as usize - HEADER_LEN).ok()??;
        frame::parse(body).ok()
    })
}

fn offset(generation: u64) -> u64 {
    generation % 2 * SLOT
}

fn encode(generation: u64, state: &State) -> Result<Vec<u8>, FrameError> {
    if state.error.len() <= ERROR_MAX {
        return frame::encode(&(generation, state));
    }
    let mut short = state.clone();
    let end = (0..=ERROR_MAX).rev().find(|at| short.error.is_char_boundary(*at)).unwrap_or(0);
    short.error.truncate(end);
    frame::encode(&(generation, &short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pid: i32, error: &str) -> State {
        State { pid, error: error.to_owned(), boot: "b".repeat(36), ..State::default() }
    }

    #[test]
    fn the_last_state_is_valid_whichever_process_wrote_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        assert_eq!(read(&path), None);
        let mut file = StateFile::create(&path, &state(1, "")).expect("made");
        assert!(StateFile::create(&path, &state(1, "")).is_err(), "it is there");
        for pid in 2..6 {
            file.write(&state(pid, "")).expect("written");
            assert_eq!(read(&path), Some(state(pid, "")));
            let mut other = StateFile::open(&path).expect("opened");
            other.write(&state(-pid, "why")).expect("written");
            assert_eq!(read(&path), Some(state(-pid, "why")));
            file = StateFile::open(&path).expect("opened");
        }
    }

    #[test]
    fn a_write_that_was_cut_leaves_the_state_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let mut file = StateFile::create(&path, &state(1, "before")).expect("made");
        file.write(&state(2, "after")).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for at in 0..SLOT as usize {
            let mut cut = whole.clone();
            cut.truncate(at + 1);
            if let Some(byte) = cut.get_mut(at) {
                *byte ^= 0xff;
            }
            if at > 200 && at + 1 < SLOT as usize {
                continue;
            }
            std::fs::write(&path, cut).expect("written");
            // Generation 2 is in the first slot. Generation 1 is in the second slot, which this test cuts off.
            let is = read(&path);
            assert!(is.is_none() || is == Some(state(2, "after")), "{at}: {is:?}");
        }
        for at in (0..200).chain(whole.len() - 60..whole.len()) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            std::fs::write(&path, damaged).expect("written");
            let is = read(&path).expect("one slot is whole");
            assert!(is == state(1, "before") || is == state(2, "after"), "{at}: {is:?}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_and_the_state_fits() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let mut file = StateFile::create(&path, &state(1, &"ä".repeat(1 << 20))).expect("made");
        assert!(read(&path).is_some_and(|is| is.pid == 1 && is.error.len() == ERROR_MAX));
        file.write(&state(2, &"x".repeat(5000))).expect("written");
        assert!(read(&path).is_some_and(|is| is.pid == 2 && is.error.len() == 5000));
    }
}
