//! Writes into the FIFO what shims could not write before they ended, because the monitor was away.
//!
//! Shims keep such records in files (`sampan_shim::dir::event_spool`). They have their writer and number, so one that the
//! monitor knows already is told from one that it does not. Called at the engine's start and when a shim has ended. A file is
//! removed once the monitor knows all that is in it: what is in the FIFO alone goes with the last process that has that open.

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

/// Stack of a thread that waits for the monitor.
const STACK: usize = 128 << 10;
/// Pause before the monitor is asked again; only while it is away, or behind.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often a monitor that answers is asked: one without a journal may have forgotten already.
const ASKS_MAX: usize = 20;

/// What shims have kept, as the engine sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventReplay {
    dir: PathBuf,
    /// Files whose records wait in the engine's own spool, and so must not be read again.
    taken: Arc<Mutex<HashSet<PathBuf>>>,
}

impl EventReplay {
    /// Those of the containers in `containers`.
    pub fn new(containers: &Path) -> Self {
        EventReplay { dir: containers.join(DIR), taken: Arc::default() }
    }

    /// Ids of the containers that something is kept of, each once.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.files("").iter().filter_map(|path| id_of(path)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// True if something of container `id` is kept and was not told by this engine.
    pub fn has(&self, id: &str) -> bool {
        let files = self.files(id);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().any(|file| !taken.contains(file))
    }

    /// Hands all that is kept of container `id` to `sender`, what the monitor behind `fifo` knows left out, and returns at
    /// once; the files go when the monitor knows it. The actions of all records, told before or now, in order.
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
            self.forget_when_known(path, id.to_owned(), numbers, fifo.to_owned());
        }
        log::info!("container {id}: {} events that its shim could not write are told", actions.len());
        actions
    }

    fn files(&self, id: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| id_of(path).is_some_and(|of| id.is_empty() || of == id)).collect()
    }

    fn take(&self, path: &Path) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
    }

    /// An engine that ends before that leaves the file to the next.
    fn forget_when_known(&self, path: PathBuf, id: String, numbers: Vec<(u64, u64)>, fifo: PathBuf) {
        let taken = Arc::clone(&self.taken);
        let forget = move || {
            let mut asked = 0;
            while asked < ASKS_MAX {
                match event_history::known(&fifo, &id) {
                    Ok(known) if numbers.iter().all(|number| known.contains(number)) => break,
                    Ok(_) => asked += 1,
                    Err(_) => {}
                }
                std::thread::sleep(ASK_AGAIN);
            }
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
            taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        };
        let thread = std::thread::Builder::new().name("replay".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(forget) {
            log::warn!("cannot start a thread: {error}");
        }
    }
}

/// The container that a file is of; `None` for one that is not whole, or none of ours.
fn id_of(path: &Path) -> Option<String> {
    let (id, _) = path.file_name()?.to_str()?.split_once('.')?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// When the first of its records happened, and all of them.
fn read(path: PathBuf) -> Option<(i64, PathBuf, Vec<u8>)> {
    let bytes = match fs::metadata(&path) {
        Ok(found) if found.len() <= 2 * SPOOL_BYTES_MAX as u64 => fs::read(&path),
        Ok(_) => Err(io::Error::other("it is too large")),
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
    fn what_one_sender_could_not_write_another_writes_as_it_was() {
        let top = tempfile::tempdir().expect("a directory");
        let (home, fifo) = (top.path().join("ab"), top.path().join("fifo"));
        let first = FifoSender::new(&fifo);
        for action in ["start", "die"] {
            first.send(Event::new("container", action, "ab")).expect("small");
        }
        save(&home, &first.take_spool()).expect("kept");
        assert_eq!(first.spooled(), 0);
        fs::write(top.path().join(DIR).join("garbage"), "x").expect("written");
        let replay = EventReplay::new(top.path());
        assert!(replay.ids() == ["ab"] && replay.has("ab") && !replay.has("a"));
        let second = FifoSender::new(&fifo);
        assert_eq!(replay.replay("ab", &fifo, &second), ["start", "die"]);
        // They wait now, and are not told twice.
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
        // There is no monitor that knows it.
        assert_eq!(replay.ids(), ["ab"]);
    }
}
