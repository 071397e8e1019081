//! Replays events that a shim could not write into the FIFO before the shim ended, because monitord was not running.
//!
//! Shims save such records in files (`sampan_shim::dir::event_spool`), with writer and counter, by which the engine
//! skips records that monitord has already. Called when the engine starts and when a shim has ended. A file is removed
//! when monitord has all of its records: records that are only in the FIFO are lost when the last process closes the
//! FIFO.

use super::event_history;
use sampan_ipc::record::{Scanner, Step};
use sampan_ipc::sender::{FifoSender, SPOOL_BYTES_MAX};
use sampan_shim::dir::event_spool::DIR;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Stack size of a thread that waits for monitord, in bytes.
const STACK: usize = 128 << 10;
/// Pause between two queries, while monitord does not run or has not read the records yet.
const QUERY_INTERVAL: Duration = Duration::from_millis(500);
/// Most answers of monitord without the records. After that the engine gives up: monitord may have dropped them, if it
/// has no journal.
const ANSWERS_MAX: usize = 20;

/// The files with the records that shims could not write. Cheap to clone; clones share `taken`.
#[derive(Clone, Debug)]
pub struct EventReplay {
    dir: PathBuf,
    /// Files whose records this engine has passed to its sender already. They must not be replayed again.
    taken: Arc<Mutex<HashSet<PathBuf>>>,
}

impl EventReplay {
    /// Makes the replay for the containers in the directory `containers`.
    pub fn new(containers: &Path) -> Self {
        EventReplay { dir: containers.join(DIR), taken: Arc::default() }
    }

    /// Returns the IDs of all containers that have files. Each ID occurs once.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.files("").iter().filter_map(|path| id_of(path)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether container `id` has a file that this engine has not replayed.
    pub fn has(&self, id: &str) -> bool {
        let files = self.files(id);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().any(|file| !taken.contains(file))
    }

    /// Passes the saved records of container `id` to `sender`, except records that monitord has already. `fifo` is the
    /// path from which monitord's socket is found. Returns before the records are written; the files are removed
    /// later. Returns the actions of all saved records, in order.
    pub fn replay(&self, id: &str, fifo: &Path, sender: &FifoSender) -> Vec<String> {
        let mut all: Vec<(i64, PathBuf, Vec<u8>)> =
            self.files(id).into_iter().filter(|path| self.take(path)).filter_map(read).collect();
        if all.is_empty() {
            return Vec::new();
        }
        all.sort();
        let known = event_history::known(fifo, id).unwrap_or_default();
        let mut actions = Vec::new();
        for (_, path, bytes) in all {
            let (mut scanner, mut numbers) = (Scanner::new(&bytes), Vec::new());
            while let Some(step) = scanner.next() {
                let Step::Record(record) = step else { continue };
                actions.push(record.event.action.to_owned());
                let number = (record.event.writer, record.event.counter);
                if !known.contains(&number) {
                    sender.pass_on(&record);
                }
                numbers.push(number);
            }
            self.remove_when_received(path, id.to_owned(), numbers, fifo.to_owned());
        }
        log::info!("container {id}: {} events that its shim could not write are replayed", actions.len());
        actions
    }

    fn files(&self, id: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| id_of(path).is_some_and(|of| id.is_empty() || of == id)).collect()
    }

    fn take(&self, path: &Path) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
    }

    /// Starts a thread that removes the file when monitord has all its records. If the engine ends before that, the
    /// next engine finds the file.
    fn remove_when_received(&self, path: PathBuf, id: String, numbers: Vec<(u64, u64)>, fifo: PathBuf) {
        let taken = Arc::clone(&self.taken);
        let remove = move || {
            let mut answers = 0;
            while answers < ANSWERS_MAX {
                match event_history::known(&fifo, &id) {
                    Ok(known) if numbers.iter().all(|number| known.contains(number)) => break,
                    Ok(_) => answers += 1,
                    Err(_) => {}
                }
                std::thread::sleep(QUERY_INTERVAL);
            }
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
            taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        };
        if let Err(error) = sampan_os::thread::spawn("replay", STACK, remove) {
            log::warn!(
                "cannot start a thread, replayed events stay on disk until the engine restarts: {error}"
            );
        }
    }
}

/// Returns the container that a file belongs to; `None` for an incomplete file, or a file of another program.
fn id_of(path: &Path) -> Option<String> {
    let (id, _) = path.file_name()?.to_str()?.split_once('.')?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// Returns the time of the file's first record, the path and the file's content.
fn read(path: PathBuf) -> Option<(i64, PathBuf, Vec<u8>)> {
    let bytes = match fs::metadata(&path) {
        Ok(found) if found.len() <= 2 * SPOOL_BYTES_MAX as u64 => fs::read(&path),
        Ok(_) => Err(io::Error::other("the file is too large")),
        Err(error) => Err(error),
    };
    let bytes = bytes.inspect_err(|error| log::warn!("cannot read {}: {error}", path.display())).ok()?;
    let time = match Scanner::new(&bytes).next() {
        Some(Step::Record(record)) => record.event.time,
        _ => 0,
    };
    Some((time, path, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::Event;
    use sampan_shim::dir::event_spool::save;
    use std::io::Read;

    #[test]
    fn records_that_one_sender_could_not_write_another_writes_unchanged() {
        let top = tempfile::tempdir().expect("a directory");
        let (home, fifo) = (top.path().join("ab"), top.path().join("fifo"));
        let first = FifoSender::new(&fifo);
        for action in ["start", "die"] {
            first.send(Event::new("container", action, "ab")).expect("small");
        }
        save(&home, &first.take_spool()).expect("saved");
        assert_eq!(first.spooled(), 0);
        fs::write(top.path().join(DIR).join("garbage"), "x").expect("written");
        let replay = EventReplay::new(top.path());
        assert!(replay.ids() == ["ab"] && replay.has("ab") && !replay.has("a"));
        let second = FifoSender::new(&fifo);
        assert_eq!(replay.replay("ab", &fifo, &second), ["start", "die"]);
        // The first replay has passed the records to a sender, so a second replay sends nothing.
        assert!(!replay.has("ab") && replay.replay("ab", &fifo, &second).is_empty());
        second.send(Event::new("container", "destroy", "ab")).expect("small");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let mut reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).expect("opened");
        assert!(second.flush(Duration::from_secs(10)));
        let mut bytes = vec![0; 65536];
        let len = reader.read(&mut bytes).expect("records");
        let (mut scanner, mut got) = (Scanner::new(&bytes[..len]), Vec::new());
        while let Some(Step::Record(record)) = scanner.next() {
            got.push((record.event.action.to_owned(), record.event.writer == first.writer()));
        }
        let expected = [("start", true), ("die", true), ("destroy", false)];
        assert_eq!(got, expected.map(|(action, is_first)| (action.to_owned(), is_first)));
        // No monitord has confirmed the records, so the file stays.
        assert_eq!(replay.ids(), ["ab"]);
    }
}
