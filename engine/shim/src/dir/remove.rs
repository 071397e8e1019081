//! Removes a container's directory such that `destroy` is announced once, whichever process is killed meanwhile.
//!
//! Called by shims and by the engine, in these steps:
//!
//! 1. [`hide_and_empty`] renames `ID` to `.ID` and removes everything but `container.json` and `state`.
//! 2. The caller announces `destroy`, with the names that `container.json` has.
//! 3. [`finish`] removes `container.json`, then the rest.
//!
//! A process that finds a `.ID` later continues: while `container.json` is there, `destroy` may be missing.

use sampan_os::remove_tree;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The file that identifies the container. Removed only after `destroy` was announced.
pub const IDENTITY_FILE: &str = "container.json";
/// The container's state; kept as long as [`IDENTITY_FILE`].
const STATE_FILE: &str = "state";

/// Renames `dir` to its hidden name and removes all but [`IDENTITY_FILE`] and the state.
///
/// Returns the hidden directory, or `None` if there is nothing whose `destroy` the caller must announce.
///
/// # Errors
/// Something cannot be removed. The directory keeps its hidden name then; the caller may try again.
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

/// Removes what [`hide_and_empty`] has left. To be called once `destroy` was announced.
///
/// # Errors
/// The directory or a file in it cannot be removed.
pub fn finish(left: &Path) -> io::Result<()> {
    remove_tree::remove(&left.join(IDENTITY_FILE))?;
    remove_tree::remove(left)
}

/// The hidden name of `dir`, which it has while it is made and while it is removed.
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
        // A process that was killed at this moment leaves the directory so; the next one continues.
        assert_eq!(hide_and_empty(&dir).expect("removed"), Some(left.clone()));
        finish(&left).expect("removed");
        assert_eq!(hide_and_empty(&dir).expect("nothing to do"), None);
    }
}
