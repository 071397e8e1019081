//! The directory of a task on the disk, and the directory of all tasks.
//!
//! Layout below the home directory: `tasks/XXX/TASK/` has `content` (the raw content), `record`, `pieces` and
//! `access`; `XXX` is the beginning of the task's ID. `trash/` has what is being removed: a directory moves there
//! by a rename, so that the event loop need not wait for the removal of a large file.

use super::eviction::Space;
use super::record::{AccessTimes, MODE, Record};
use crate::task_id::TaskId;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Space that no allocation takes, in bytes, for records and for other programs.
const RESERVE_MAX: u64 = 64 << 20;
/// On a small disk, the reserve is the size of the disk divided by this.
const RESERVE_FRACTION: u64 = 64;

/// The directory of a task.
#[derive(Clone, Debug)]
pub(super) struct TaskDir {
    path: PathBuf,
}

impl TaskDir {
    pub(super) fn of(home: &Path, task: &TaskId) -> Self {
        TaskDir { path: home.join("tasks").join(task.prefix()).join(task.to_string()) }
    }

    /// Makes the directory, unless it exists.
    pub(super) fn make(&self) -> io::Result<()> {
        make_dir(&self.path)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The raw content.
    pub(super) fn content(&self) -> PathBuf {
        self.path.join("content")
    }

    /// The record.
    pub(super) fn record(&self) -> PathBuf {
        self.path.join("record")
    }

    /// The digests of the pieces.
    pub(super) fn pieces(&self) -> PathBuf {
        self.path.join("pieces")
    }

    /// Opens the content for reading and writing, and makes it if need be.
    pub(super) fn open_content(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(MODE).open(self.content())
    }

    /// Reads the access times.
    pub(super) fn access(&self) -> Option<AccessTimes> {
        let mut bytes = [0; AccessTimes::SIZE];
        File::open(self.path.join("access")).and_then(|file| file.read_exact_at(&mut bytes, 0)).ok()?;
        AccessTimes::decode(&bytes)
    }

    /// Writes the access times, if the directory exists. An error does no harm: the times only order deletions.
    pub(super) fn write_access(&self, access: &AccessTimes) {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(MODE);
        let written = options.open(self.path.join("access"));
        if let Err(error) = written.and_then(|file| file.write_all_at(&access.encode(), 0)) {
            log::debug!("cannot write the access times in {}: {error}", self.path.display());
        }
    }
}

/// Gives `file` the length `length`, with space for all of it. A file that has the length already is left alone.
///
/// # Errors
/// The disk is full or fails; the file has its old length.
pub(super) fn allocate(file: &File, length: u64) -> io::Result<()> {
    let meta = file.metadata()?;
    let old = meta.len();
    if old == length {
        return Ok(());
    }
    // fallocate(2) takes all free space before it fails. A length that an origin invents must not do that to other
    // programs, even for a moment.
    let space = Space::of_file(file)?;
    let needed = length.saturating_sub(meta.blocks().saturating_mul(512));
    if needed > space.free.saturating_sub(RESERVE_MAX.min(space.total / RESERVE_FRACTION)) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let size = i64::try_from(length).map_err(io::Error::other)?;
    let allocated = match size {
        0 => Ok(()),
        // Not posix_fallocate(3): it writes zeros where the file system cannot allocate.
        size => fallocate(file, FallocateFlags::empty(), 0, size),
    };
    match allocated {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(length),
        Err(errno) => {
            let _ = file.set_len(old);
            Err(errno.into())
        }
    }
}

/// Makes a directory with its parents, for this user only.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A task that a scan has found.
pub(super) struct ScannedTask {
    pub(super) record: Record,
    pub(super) access: AccessTimes,
    /// Length of the content on the disk.
    pub(super) bytes: u64,
}

/// Reads the records of all tasks below `home` and passes each to `on_found`. Passes a directory without a usable
/// record to `on_orphan`.
///
/// # Errors
/// The directory of tasks cannot be read.
pub(super) fn scan(
    home: &Path,
    mut on_found: impl FnMut(ScannedTask),
    mut on_orphan: impl FnMut(&Path),
) -> io::Result<()> {
    for group in fs::read_dir(home.join("tasks"))? {
        let group = group?.path();
        let Ok(entries) = fs::read_dir(&group) else {
            on_orphan(&group);
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            match look(home, &path) {
                Some(found) => on_found(found),
                None => on_orphan(&path),
            }
        }
        // Fails unless the directory is empty.
        let _ = fs::remove_dir(&group);
    }
    Ok(())
}

fn look(home: &Path, path: &Path) -> Option<ScannedTask> {
    let task = TaskId::parse(path.file_name()?.to_str()?)?;
    let dir = TaskDir::of(home, &task);
    if dir.path() != path {
        return None;
    }
    let record = Record::read(&dir.record()).filter(|record| record.id == task)?;
    let access = dir.access().unwrap_or(AccessTimes { last: record.created, interval: 0 });
    let bytes = fs::metadata(dir.content()).map_or(0, |meta| meta.len());
    Some(ScannedTask { record, access, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_allocated_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = TaskDir { path: dir.path().to_owned() };
        let file = dir.open_content().expect("made");
        let len = || file.metadata().expect("known").len();
        allocate(&file, 100_000).expect("allocated");
        assert_eq!(len(), 100_000);
        assert!(file.metadata().expect("known").blocks() * 512 >= 100_000, "not sparse");
        let free = Space::of_file(&file).expect("known").total;
        let error = allocate(&file, free.max(1 << 40)).expect_err("too long");
        assert_eq!((error.kind(), len()), (io::ErrorKind::StorageFull, 100_000));
        allocate(&file, 10).expect("shortened");
        assert_eq!(len(), 10);
        allocate(&file, 0).expect("emptied");
        assert_eq!(len(), 0);
    }
}
