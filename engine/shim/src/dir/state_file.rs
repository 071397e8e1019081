//! The file in which it stands where a container stands: written in place, readable at every moment.
//!
//! Two slots of 16 KiB, written in turn, the newer one counts: `frame::encode(&(turn, state))` from the
//! slot's beginning, `turn` a `u64` that grows. A kill, a power cut or a reader that comes in the middle of a write finds
//! the other slot whole. One pwrite(2) a change: a file that takes another's place costs five calls, and ext4 begins to
//! write it out at once (ext4(5), "auto_da_alloc"). Who may write is not decided here: the shim while there is one, else
//! the engine.

use sampan_ipc::frame::{self, FrameError, HEADER_LEN};
use sampan_ipc::shim::State;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a slot.
const SLOT: u64 = 16 << 10;
/// As many bytes of a slot are read at first: few states are longer.
const FIRST_READ: usize = 512;
/// Longest reason that is kept, in bytes: the rest of a state is far from filling a slot.
const ERROR_MAX: usize = 8 << 10;

/// A state file, open.
#[derive(Debug)]
pub struct StateFile {
    file: File,
    /// Of the newest state that is in it.
    turn: u64,
}

impl StateFile {
    /// Makes the file at `path`, which holds `state`.
    ///
    /// # Errors
    /// It is there, or cannot be written.
    pub fn create(path: &Path, state: &State) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut made = StateFile { file, turn: 0 };
        made.write(state)?;
        Ok(made)
    }

    /// Opens the file at `path` to write on; makes it, empty, if it is not there.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let turn = newest(&file).map_or(0, |(turn, _)| turn);
        Ok(StateFile { file, turn })
    }

    /// Replaces what the file says. Not synced: after power loss it may say what it said before.
    ///
    /// # Errors
    /// It cannot be written; it says what it said before then.
    pub fn write(&mut self, state: &State) -> io::Result<()> {
        let turn = self.turn.wrapping_add(1);
        let bytes = encode(turn, state).map_err(io::Error::other)?;
        self.file.write_all_at(&bytes, offset(turn))?;
        self.turn = turn;
        Ok(())
    }

    /// Has the disk take it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// What the file at `path` says; `None` if there is none, or none that makes sense.
pub fn read(path: &Path) -> Option<State> {
    newest(&File::open(path).ok()?).map(|(_, state)| state)
}

fn newest(file: &File) -> Option<(u64, State)> {
    [0, 1].into_iter().filter_map(|turn| slot(file, turn)).max_by_key(|(turn, _)| *turn)
}

/// What the slot of `turn` holds.
fn slot(file: &File, turn: u64) -> Option<(u64, State)> {
    [FIRST_READ, SLOT as usize].into_iter().find_map(|len| {
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, offset(turn)).ok()?;
        let (body, _) = frame::split(bytes.get(..read)?, SLOT as usize - HEADER_LEN).ok()??;
        frame::parse(body).ok()
    })
}

fn offset(turn: u64) -> u64 {
    turn % 2 * SLOT
}

fn encode(turn: u64, state: &State) -> Result<Vec<u8>, FrameError> {
    if state.error.len() <= ERROR_MAX {
        return frame::encode(&(turn, state));
    }
    let mut short = state.clone();
    let end = (0..=ERROR_MAX).rev().find(|at| short.error.is_char_boundary(*at)).unwrap_or(0);
    short.error.truncate(end);
    frame::encode(&(turn, &short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pid: i32, error: &str) -> State {
        State { pid, error: error.to_owned(), boot: "b".repeat(36), ..State::default() }
    }

    #[test]
    fn the_last_state_counts_whoever_wrote_it() {
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
            // Turn 2 stands in the first slot, turn 1 in the second, which is cut off here.
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
