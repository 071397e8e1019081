//! The numbers of jobs: they go on where the last engine left off, also after a kill or a power failure.
//!
//! Opened by `main`; owned by the event loop, which claims each number before a job gets it. The file `job-ids` in the
//! data directory holds the first number that no engine may have used yet. Numbers are claimed there in blocks, ahead of
//! their use and on a thread, so that the event loop does not wait for the disk. If the file cannot be written, jobs run
//! all the same, and only a later engine may repeat their numbers.

use sampan_ipc::{report, trust};
use sampan_os::{small_file, thread};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Numbers that one write of the file claims.
const BLOCK: u64 = 64;
/// Most bytes of the file.
const FILE_MAX: u64 = 32;
/// Stack size of the thread that writes, in bytes.
const STACK: usize = 256 << 10;

/// The numbers that this engine may give to jobs.
#[derive(Debug)]
pub struct JobIds {
    path: PathBuf,
    first: u64,
    /// Smaller numbers are this engine's.
    end: u64,
    /// A thread that writes this as the next end.
    writer: Option<(u64, JoinHandle<io::Result<()>>)>,
    /// The file could not be written, and the log says so.
    is_failing: bool,
}

impl JobIds {
    /// Reads the file in the directory `data`, and begins to claim numbers of at least `least`.
    pub fn open(data: &Path, least: u64) -> Self {
        let path = data.join("job-ids");
        let next = match read(&path) {
            Ok(next) => next,
            Err(error) => {
                let path = path.display();
                log::warn!("cannot read {path}, so numbers of earlier jobs may be used again: {error}");
                1
            }
        };
        let first = next.max(least).max(1);
        let mut ids = JobIds { path, first, end: first, writer: None, is_failing: false };
        ids.write_ahead(first + BLOCK);
        ids
    }

    /// The number of this engine's first job.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Makes sure that no later engine uses the number `id`, as far as the disk permits. Numbers must grow.
    ///
    /// Waits for the disk only if jobs begin faster than a file can be written.
    pub fn claim(&mut self, id: u64) {
        if self.writer.as_ref().is_some_and(|(_, thread)| id >= self.end || thread.is_finished()) {
            self.join();
        }
        if id >= self.end {
            let end = id + BLOCK;
            let written = write(&self.path, end, true);
            self.on_written(end, written);
        } else if id + BLOCK / 2 >= self.end && self.writer.is_none() {
            self.write_ahead(self.end + BLOCK);
        }
    }

    /// Gives back the claimed numbers from `next` on, when the engine stops. Does not wait for the disk: if the change
    /// is lost, the numbers are only left out.
    pub fn release(mut self, next: u64) {
        self.join();
        if next < self.end
            && !self.is_failing
            && let Err(error) = write(&self.path, next, false)
        {
            log::debug!("cannot write {}: {error}", self.path.display());
        }
    }

    fn write_ahead(&mut self, end: u64) {
        let path = self.path.clone();
        match thread::spawn("job-ids", STACK, move || write(&path, end, true)) {
            Ok(thread) => self.writer = Some((end, thread)),
            // The next number but a few waits for the disk.
            Err(error) => log::debug!("cannot start a thread to write {}: {error}", self.path.display()),
        }
    }

    fn join(&mut self) {
        if let Some((end, thread)) = self.writer.take() {
            let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
            self.on_written(end, written);
        }
    }

    fn on_written(&mut self, end: u64, written: io::Result<()>) {
        let (path, has_failed) = (self.path.display(), written.is_err());
        match written {
            Ok(()) if self.is_failing => log::info!("{path} can be written again"),
            Err(error) if !self.is_failing => log::warn!(
                "cannot write {path}, so the next engine may use numbers of this engine's jobs again: {}",
                report::chain(&error)
            ),
            _ => {}
        }
        self.is_failing = has_failed;
        self.end = end;
    }
}

impl Drop for JobIds {
    /// Waits for the write that runs, so that no file appears after the engine's end.
    fn drop(&mut self) {
        self.join();
    }
}

/// Reads the first number that no engine has claimed; 1 if there is no file.
fn read(path: &Path) -> io::Result<u64> {
    let bytes = match small_file::open(path).and_then(|file| small_file::read(file, FILE_MAX)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(1),
        bytes => bytes?,
    };
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse::<u64>().ok());
    // A number that leaves no room for later ones was never written here.
    number.filter(|next| *next < u64::MAX / 2).ok_or_else(|| io::Error::other("it does not hold a number"))
}

/// Replaces the file. With `durable`, the change is on the disk when this function returns.
fn write(path: &Path, next: u64, durable: bool) -> io::Result<()> {
    let dir = trust::parent(path);
    trust::make_root(dir, trust::PRIVATE).map_err(io::Error::other)?;
    let draft = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(format!("{next}\n").as_bytes())?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&draft, path)?;
    if durable { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Numbers `jobs` jobs, as an engine does from its start until it is killed. Returns the numbers.
    fn run(dir: &Path, jobs: u64) -> Vec<u64> {
        let mut ids = JobIds::open(dir, 0);
        let numbers: Vec<u64> = (ids.first()..ids.first() + jobs).collect();
        for id in &numbers {
            ids.claim(*id);
            let on_disk = read(&dir.join("job-ids")).expect("a number");
            assert!(on_disk > *id, "{id} is used before it is claimed");
        }
        // A killed engine's thread ends at any time; here it ends now, before the directory goes.
        ids.join();
        numbers
    }

    #[test]
    fn no_number_is_used_twice_however_engines_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut last = 0;
        for jobs in [1, 0, 63, 64, 65, 500, 1] {
            let numbers = run(dir.path(), jobs);
            assert!(numbers.first().is_none_or(|first| *first > last && *first <= last + 4 * BLOCK));
            last = numbers.last().copied().unwrap_or(last);
        }
        let mode = fs::metadata(dir.path().join("job-ids")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_engine_that_stops_leaves_no_gap() {
        let dir = tempfile::tempdir().expect("a directory");
        for first in [1, 3, 5] {
            let mut ids = JobIds::open(dir.path(), 0);
            assert_eq!(ids.first(), first);
            ids.claim(first);
            ids.claim(first + 1);
            ids.release(first + 2);
        }
    }

    #[test]
    fn numbers_begin_behind_those_of_recovered_executions() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ids = JobIds::open(dir.path(), 1000);
        ids.claim(ids.first());
        ids.release(1001);
        assert_eq!(JobIds::open(dir.path(), 5).first(), 1001);
    }

    #[test]
    fn without_a_file_that_can_be_written_jobs_have_numbers_all_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        fs::write(&data, b"a file where the directory should be").expect("written");
        let mut ids = JobIds::open(&data, 0);
        assert_eq!(ids.first(), 1);
        (1..=200).for_each(|id| ids.claim(id));
        assert!(ids.is_failing);
        fs::remove_file(&data).expect("removed");
        (201..=400).for_each(|id| ids.claim(id));
        ids.release(401);
        assert_eq!(JobIds::open(&data, 0).first(), 401);
    }

    #[test]
    fn a_file_without_a_number_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["", "nonsense", "-5\n", "18446744073709551615\n", &"1".repeat(100)] {
            fs::write(dir.path().join("job-ids"), text).expect("written");
            assert_eq!(run(dir.path(), 1), [1], "{text:?}");
        }
    }
}
