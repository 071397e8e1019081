//! Saves events of a container that the shim could not write into the FIFO before it ended, because monitord did not
//! run. The engine writes these events into the FIFO later.
//!
//! Each shim writes one file, `DATA/containers/.unsaid/ID.RANDOM`. It contains the records with the bytes that the
//! FIFO would have got. Shims write the files; the engine reads and removes them (`container::event_replay`).

use sampan_ipc::sender::random;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Name of the directory for the files, which is in the directory of all containers.
pub const DIR: &str = ".unsaid";
/// Most files. If there are this many, the events of further shims are lost. A file has at most 1 MiB, so the files
/// take at most 64 MiB of disk if monitord never runs again.
const FILES_MAX: usize = 64;

/// Saves `records` of the container whose directory is `home`, which may be removed already.
///
/// # Errors
/// There are `FILES_MAX` files already, or the file cannot be written. Nothing is saved after an error.
pub fn save(home: &Path, records: &[u8]) -> io::Result<()> {
    let (dir, id) = (home.with_file_name(DIR), home.file_name().unwrap_or_default());
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::read_dir(&dir)?.count() >= FILES_MAX {
        return Err(io::Error::other(format!("there are {FILES_MAX} files in {} already", dir.display())));
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
    fn there_are_never_more_than_64_files() {
        let top = tempfile::tempdir().expect("a directory");
        for _ in 0..FILES_MAX {
            save(&top.path().join("ab"), b"x").expect("kept");
        }
        let error = save(&top.path().join("ab"), b"x").expect_err("one too many").to_string();
        assert!(error.contains("64 files"), "{error}");
    }
}
