//! Events of a container that its shim could not write before it ended, because the monitor was away: kept on the disk
//! for an engine, which writes them into the FIFO.
//!
//! A file a shim, `DATA/containers/.unsaid/ID.RANDOM`, with the records as they were to be written: they keep their writer
//! and number. Shims write the files; the engine reads and removes them (`container::event_replay`).

use sampan_ipc::sender::random;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The directory's name, beside those of containers.
pub const DIR: &str = ".unsaid";
/// Most files; what a shim could not say is lost when there are so many. With the bound of a spool it is the most that
/// a monitor which never comes back costs: 64 MiB.
const FILES_MAX: usize = 64;
/// Keeps `records` of the container whose directory is `home`, which need not be there any more.
///
/// # Errors
/// There are too many already, or the file cannot be written.
pub fn keep(home: &Path, records: &[u8]) -> io::Result<()> {
    let (dir, id) = (home.with_file_name(DIR), home.file_name().unwrap_or_default());
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::read_dir(&dir)?.count() >= FILES_MAX {
        return Err(io::Error::other(format!("there are {FILES_MAX} files in {}", dir.display())));
    }
    let name = format!("{}.{:016x}", id.display(), random());
    let draft = dir.join(format!(".{name}"));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(records)?;
    fs::rename(draft, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_so_many() {
        let top = tempfile::tempdir().expect("a directory");
        for _ in 0..FILES_MAX {
            keep(&top.path().join("ab"), b"x").expect("kept");
        }
        let error = keep(&top.path().join("ab"), b"x").expect_err("one too many").to_string();
        assert!(error.contains("64 files"), "{error}");
    }
}
