//! Writers of a FIFO that record what they have written, for tests that stop and kill the FIFO's readers meanwhile.
//!
//! The journal must have each successful write exactly once. A write that the kernel refused never happened; these are
//! counted by their error.

use nix::errno::Errno;
use sampan_ipc::Event;
use sampan_ipc::record;
use sampan_ipc::sender::{self, FifoSender};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The type of all events of these writers.
pub const KIND: &str = "load";
/// Pause between two events of one writer: some events per millisecond in all, far fewer than the journal can hold.
const PACE: Duration = Duration::from_micros(500);

/// What the writers have done.
#[derive(Debug, Default)]
pub struct Written {
    /// IDs of the events that were written.
    pub ids: Vec<String>,
    /// Number of refused writes and opens, by error.
    pub refused: BTreeMap<&'static str, usize>,
}

/// Running writers.
#[derive(Debug, Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
}

impl Load {
    /// Begins without a writer.
    pub fn new() -> Self {
        Load::default()
    }

    /// Adds a writer that opens `fifo`, writes once and closes it for each event. A failed write is not repeated.
    pub fn add_one_shots(&mut self, name: &str, fifo: PathBuf) {
        let (stop, name) = (Arc::clone(&self.stop), name.to_owned());
        self.writers.push(thread::spawn(move || {
            let mut written = Written::default();
            for nth in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{name}-{nth}");
                let mut event = Event::new(KIND, "one-shot", &id);
                (event.writer, event.counter) = (sender::random(), 1);
                let bytes = record::encode(&event).expect("small");
                let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
                let opened = OpenOptions::new().write(true).custom_flags(flags).open(&fifo);
                match opened.and_then(|mut file| file.write(&bytes)) {
                    Ok(len) => {
                        assert_eq!(len, bytes.len(), "pipe(7): a record is written whole");
                        written.ids.push(id);
                    }
                    Err(error) => {
                        let errno = Errno::from_raw(error.raw_os_error().expect("the kernel's"));
                        *written.refused.entry(errno.desc()).or_default() += 1;
                    }
                }
                thread::sleep(PACE);
            }
            written
        }));
    }

    /// Adds a writer that keeps `fifo` open, and writes at the end the events that it could not write before.
    pub fn add_persistent(&mut self, name: &str, fifo: PathBuf) {
        let (stop, name) = (Arc::clone(&self.stop), name.to_owned());
        self.writers.push(thread::spawn(move || {
            let (sender, mut written) = (FifoSender::new(fifo), Written::default());
            for nth in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{name}-{nth}");
                sender.send(Event::new(KIND, "persistent", &id)).expect("small");
                written.ids.push(id);
                thread::sleep(PACE);
            }
            assert!(sender.flush(crate::host::PATIENCE), "{name}: {:?}", sender.problem());
            assert_eq!(sender.dropped(), 0, "{name}: its spool is large enough");
            written
        }));
    }

    /// Ends all writers; returns what they have done.
    pub fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.writers {
            let written = writer.join().expect("a writer failed");
            all.ids.extend(written.ids);
            for (why, count) in written.refused {
                *all.refused.entry(why).or_default() += count;
            }
        }
        all
    }
}
