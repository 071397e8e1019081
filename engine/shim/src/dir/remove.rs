//! Removes a container's directory such that `destroy` is announced, even if a process is killed in the middle.
//!
//! Called by shims and by the engine, in these steps:
//!
//! 1. [`hide_and_empty`] renames `ID` to `.ID` and removes everything but `container.json` and `state`.
//! 2. The caller announces `destroy`, with the names that `container.json` has.
//! 3. [`finish`] removes `container.json`, then the rest.
//!
//! A process that later finds a `.ID` continues with the next step. If `container.json` still exists, `destroy` may
//! not have been announced.

use sampan_os::remove_tree;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The file that identifies the container. It is removed only after `destroy` was announced.
pub const IDENTITY_FILE: &str = "container.json";
/// The file with the container's state. It is removed together with [`IDENTITY_FILE`].
const STATE_FILE: &str = "state";

/// Renames `dir` to its hidden name and removes all but [`IDENTITY_FILE`] and the state.
///
/// Returns the hidden directory, or `None` if there is nothing whose `destroy` the caller must announce.
///
/// # Errors
/// A file cannot be removed. The directory then keeps its hidden name, and the caller may try again.
pub fn hide_and_empty(dir: &Path) -> io::Result<Option<PathBuf>> {
    let hidden = hidden_path(dir);
    match fs::rename(dir, &hidden) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let entries = match fs::read_dir(&hidden) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut is_known = false;
    for entry in entries {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(IDENTITY_FILE) => is_known = true,
            Some(STATE_FILE) => {}
            _ => remove_tree::remove(&entry.path())?,
        }
    }
    match is_known {
        true => Ok(Some(hidden)),
        false => remove_tree::remove(&hidden).map(|()| None),
    }
}

/// Removes the files that [`hide_and_empty`] has left. The caller must have announced `destroy`.
///
/// # Errors
/// The directory or a file in it cannot be removed.
pub fn finish(left: &Path) -> io::Result<()> {
    remove_tree::remove(&left.join(IDENTITY_FILE))?;
    remove_tree::remove(left)
}

/// The hidden name of `dir`. The directory has this name during its creation and its removal.
pub fn hidden_path(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    dir.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_removed_last_and_a_second_removal_has_nothing_to_announce() {
        let top = tempfile::tempdir().expect("a directory");
        let dir = top.path().join("ab");
        fs::create_dir_all(dir.join("upper/deep")).expect("made");
        for name in [IDENTITY_FILE, STATE_FILE, "config.json"] {
            fs::write(dir.join(name), "x").expect("written");
        }
        let left = hide_and_empty(&dir).expect("removed").expect("left");
        assert_eq!(left, top.path().join(".ab"));
        assert_eq!(fs::read_dir(&left).expect("there").count(), 2);
        // A process that is killed at this point leaves the directory like this; the next process continues.
        assert_eq!(hide_and_empty(&dir).expect("removed"), Some(left.clone()));
        finish(&left).expect("removed");
        assert_eq!(hide_and_empty(&dir).expect("nothing to do"), None);
    }
}
