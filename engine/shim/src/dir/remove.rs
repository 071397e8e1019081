//! How a container's directory goes, so that its `destroy` is told once, whatever is killed meanwhile.
//!
//! Called by shims and by the engine. Out of sight first (`ID` becomes `.ID`), then all goes but what says whose it
//! was; then `destroy` is announced, by the caller; then the rest goes. Who finds a `.ID` knows by what is in it how
//! far that came.

use sampan_os::remove_tree;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What says whose the directory was: it goes last.
pub const WHOSE: &str = "container.json";
/// What says where it stood; goes with it.
const STOOD: &str = "state";

/// Takes `dir` out of sight and removes all but whose it was; what is left, or `None` if nothing was there that is to
/// be announced.
///
/// # Errors
/// Something cannot be removed.
pub fn hollow(dir: &Path) -> io::Result<Option<PathBuf>> {
    let going = going(dir);
    match fs::rename(dir, &going) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let entries = match fs::read_dir(&going) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut is_known = false;
    for entry in entries {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(WHOSE) => is_known = true,
            Some(STOOD) => {}
            _ => remove_tree::remove(&entry.path())?,
        }
    }
    match is_known {
        true => Ok(Some(going)),
        false => remove_tree::remove(&going).map(|()| None),
    }
}

/// Removes what [`hollow`] has left; `destroy` was announced.
///
/// # Errors
/// It cannot be removed.
pub fn finish(left: &Path) -> io::Result<()> {
    remove_tree::remove(&left.join(WHOSE))?;
    remove_tree::remove(left)
}

/// The name of `dir` while it goes, and while it is made.
pub fn going(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    dir.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_it_was_goes_last_and_a_second_farewell_has_nothing_to_announce() {
        let top = tempfile::tempdir().expect("a directory");
        let dir = top.path().join("ab");
        fs::create_dir_all(dir.join("upper/deep")).expect("made");
        for name in [WHOSE, STOOD, "config.json"] {
            fs::write(dir.join(name), "x").expect("written");
        }
        let left = hollow(&dir).expect("removed").expect("left");
        assert_eq!(left, top.path().join(".ab"));
        assert_eq!(fs::read_dir(&left).expect("there").count(), 2);
        // As after a kill at this moment.
        assert_eq!(hollow(&dir).expect("removed"), Some(left.clone()));
        finish(&left).expect("removed");
        assert_eq!(hollow(&dir).expect("nothing to do"), None);
    }
}
