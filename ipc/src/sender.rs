//! The producer's side of a FIFO: writes events in order, never blocks, and counts every event that it drops.
//!
//! Used by the engine, the shims and every program that emits events. A process has one [`FifoSender`], whose clones
//! share one state. [`FifoSender::send`] makes one non-blocking write. While the FIFO is full, missing or without a
//! reader, records wait in a bounded spool, and a thread writes them when the FIFO accepts them. The thread lives only
//! while records wait. Events are dropped only when the spool is full, oldest first; the next record that is written
//! has the number of dropped events. Never opens the FIFO for reading, and never creates the FIFO.
//!
//! ```no_run
//! use sampan_ipc::{Event, paths::Paths, sender::FifoSender};
//! let sender = FifoSender::new(Paths::from_env().emit_fifo());
//! sender.send(Event::new("backup", "done", "nightly").with("bytes", 4096))?;
//! # Ok::<(), sampan_ipc::record::RecordError>(())
//! ```

use crate::event::Event;
use crate::record::{self, Record, RecordError};
use crate::trust;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::collections::VecDeque;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Default for the most bytes of records that wait in a spool.
pub const SPOOL_BYTES_MAX: usize = 1 << 20;
/// Pause before the first new attempt to open a FIFO that is missing or has no reader; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to open a FIFO.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Longest time that one poll(2) waits for room in the FIFO, so that a replaced FIFO is noticed.
const ROOM_WAIT_MS: u16 = 1000;

/// Writes events to a FIFO. Cheap to clone; safe to share between threads.
///
/// A process that is not written in Rust, or that restores SIGPIPE's default action, must ignore SIGPIPE: a write to a
/// FIFO without a reader raises SIGPIPE. pipe(7).
#[derive(Clone, Debug)]
pub struct FifoSender {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    spool_bytes_max: usize,
    state: Mutex<State>,
    drained: Condvar,
}

#[derive(Debug)]
struct State {
    writer: u64,
    counter: u64,
    fifo: Option<File>,
    spool: VecDeque<Vec<u8>>,
    spool_bytes: usize,
    lost: u32,
    dropped: u64,
    draining: bool,
    problem: Option<String>,
}

/// The outcome of one write to the FIFO.
enum Written {
    Whole,
    /// The FIFO is full.
    Full,
    /// The FIFO does not exist, or has no reader.
    NoReader,
}

impl FifoSender {
    /// Makes a sender for the FIFO at `path`, which need not exist yet. Opens nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_spool(path, SPOOL_BYTES_MAX)
    }

    /// Makes a sender whose spool holds at most `spool_bytes_max` bytes of records.
    pub fn with_spool(path: impl Into<PathBuf>, spool_bytes_max: usize) -> Self {
        let state = State {
            writer: random(),
            counter: 0,
            fifo: None,
            spool: VecDeque::new(),
            spool_bytes: 0,
            lost: 0,
            dropped: 0,
            draining: false,
            problem: None,
        };
        let shared =
            Shared { path: path.into(), spool_bytes_max, state: Mutex::new(state), drained: Condvar::new() };
        FifoSender { shared: Arc::new(shared) }
    }

    /// Sends `event`: at once if the FIFO accepts it, otherwise by way of the spool. Sets the event's writer and
    /// counter.
    ///
    /// # Errors
    /// [`RecordError`] if the event breaks a rule or is too large. Such an event is not sent.
    pub fn send(&self, mut event: Event) -> Result<(), RecordError> {
        let mut state = self.shared.lock();
        event.writer = state.writer;
        event.counter = state.counter + 1;
        event.lost = 0;
        let bytes = record::encode(&event)?;
        state.counter += 1;
        state.push(bytes, self.shared.spool_bytes_max);
        if !state.draining {
            match state.drain(&self.shared.path) {
                Written::Whole => {}
                Written::Full | Written::NoReader => self.start_drainer(&mut state),
            }
        }
        Ok(())
    }

    /// Writes a record of another sender unchanged, after all records that wait. The record keeps its writer and
    /// counter.
    pub fn pass_on(&self, record: &Record<'_>) {
        let mut state = self.shared.lock();
        state.push(record::encode_again(record), self.shared.spool_bytes_max);
        if !state.draining {
            match state.drain(&self.shared.path) {
                Written::Whole => {}
                Written::Full | Written::NoReader => self.start_drainer(&mut state),
            }
        }
    }

    /// Removes and returns the records that wait, for a process that ends: another process can then send them.
    pub fn take_spool(&self) -> Vec<u8> {
        let mut state = self.shared.lock();
        let lost = std::mem::take(&mut state.lost);
        if let Some(front) = state.spool.front_mut().filter(|_| lost > 0) {
            record::set_lost(front, lost);
        }
        state.spool_bytes = 0;
        std::mem::take(&mut state.spool).into_iter().flatten().collect()
    }

    /// Waits until the spool is empty, for at most `timeout`. Returns whether the spool is empty.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !state.spool.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state =
                self.shared.drained.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
        true
    }

    /// The path of the FIFO.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Number of events that wait in the spool.
    pub fn spooled(&self) -> usize {
        self.shared.lock().spool.len()
    }

    /// Number of events that this sender has dropped since it was created.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Why events wait; `None` if the last write succeeded.
    pub fn problem(&self) -> Option<String> {
        self.shared.lock().problem.clone()
    }

    /// This sender's identity, which its records contain.
    pub fn writer(&self) -> u64 {
        self.shared.lock().writer
    }

    fn start_drainer(&self, state: &mut State) {
        let shared = Arc::clone(&self.shared);
        // If the thread cannot start, the next event starts another one.
        state.draining =
            sampan_os::thread::spawn("events-spool", 64 << 10, move || shared.drain_all()).is_ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread cannot leave the spool broken: each single step keeps it valid.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes the spool; the body of the thread. Ends when the spool is empty. Also ends while the FIFO has no reader,
    /// if all other handles of the sender were dropped.
    fn drain_all(self: &Arc<Self>) {
        let mut pause = RETRY_MIN;
        loop {
            let mut state = self.lock();
            match state.drain(&self.path) {
                Written::Whole => {
                    state.draining = false;
                    self.drained.notify_all();
                    return;
                }
                Written::Full => {
                    let fifo = state.fifo.as_ref().and_then(|fifo| fifo.try_clone().ok());
                    drop(state);
                    pause = RETRY_MIN;
                    wait_for_room(fifo.as_ref());
                }
                Written::NoReader => {
                    if Arc::strong_count(self) == 1 {
                        return;
                    }
                    drop(state);
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

impl State {
    fn push(&mut self, record: Vec<u8>, bytes_max: usize) {
        self.spool_bytes += record.len();
        self.spool.push_back(record);
        while self.spool_bytes > bytes_max.max(record::RECORD_MAX) {
            let Some(oldest) = self.spool.pop_front() else {
                return;
            };
            self.spool_bytes -= oldest.len();
            self.lost = self.lost.saturating_add(1);
            self.dropped += 1;
        }
    }

    /// Writes records that wait, in order, until the FIFO is full or the spool is empty.
    fn drain(&mut self, path: &Path) -> Written {
        while let Some(front) = self.spool.front_mut() {
            if self.lost > 0 {
                record::set_lost(front, self.lost);
            }
            match write(&mut self.fifo, path, front) {
                Ok(Written::Whole) => {
                    self.lost = 0;
                    self.problem = None;
                    self.spool_bytes -= self.spool.pop_front().map_or(0, |record| record.len());
                }
                Ok(other) => return other,
                Err(error) => {
                    self.problem = Some(error.to_string());
                    return Written::NoReader;
                }
            }
        }
        // Give back the memory that many waiting records needed.
        self.spool.shrink_to(16);
        Written::Whole
    }
}

/// Writes one record atomically; opens the FIFO first if it is not open.
fn write(fifo: &mut Option<File>, path: &Path, record: &[u8]) -> io::Result<Written> {
    for fresh in [false, true] {
        if fifo.is_none() || fresh {
            // Keep the old descriptor until a new one is open: a FIFO loses its content when no descriptor is open.
            match open_fifo(path) {
                Ok(file) => *fifo = Some(file),
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                    return Err(io::Error::other(format!("nobody reads {}", path.display())));
                }
                Err(error) => return Err(error),
            }
        }
        let Some(file) = fifo.as_mut() else {
            return Ok(Written::NoReader);
        };
        match file.write(record) {
            Ok(_) => return Ok(Written::Whole),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Full),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !fresh => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::NoReader)
}

fn open_fifo(path: &Path) -> io::Result<File> {
    let context = |error: io::Error| {
        if error.raw_os_error() == Some(Errno::ENXIO as i32) {
            return error;
        }
        io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
    };
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = File::from(open(path, flags, Mode::empty()).map_err(|errno| context(errno.into()))?);
    let stat = fstat(&file).map_err(|errno| context(errno.into()))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return Err(io::Error::other(format!("{} is not a FIFO", path.display())));
    }
    // Nothing is written before this check, so the FIFO's owner has learnt nothing.
    trust::fifo(path, stat.st_uid)?;
    Ok(file)
}

fn wait_for_room(fifo: Option<&File>) {
    let Some(fifo) = fifo else { return };
    let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::from(ROOM_WAIT_MS)) {
        // After POLLERR, which means that the reader is gone, poll(2) would return at once every time.
        Ok(_) if fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR)) => {
            std::thread::sleep(RETRY_MIN)
        }
        _ => {}
    }
}

/// A random number, for an identity, made from the keys for hash maps that the standard library gets from the kernel.
pub fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_i64(crate::time::now());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Scanner, Step};
    use std::io::Read;

    struct Fifo {
        dir: tempfile::TempDir,
    }

    impl Fifo {
        fn new() -> Self {
            Fifo { dir: tempfile::tempdir().expect("a directory") }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("fifo")
        }

        fn make(&self) {
            nix::unistd::mkfifo(&self.path(), Mode::from_bits_truncate(0o600)).expect("a FIFO");
        }

        fn reader(&self) -> File {
            File::from(
                open(&self.path(), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).expect("a reader"),
            )
        }
    }

    /// Reads until `count` events have arrived; returns the ID and the lost count of each.
    fn read(reader: &mut File, count: usize) -> Vec<(String, u32)> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        while events.len() < count {
            assert!(Instant::now() < deadline, "only {} of {count} events came", events.len());
            let mut part = vec![0; 65536];
            match reader.read(&mut part) {
                Ok(0) | Err(_) => std::thread::yield_now(),
                Ok(len) => bytes.extend_from_slice(&part[..len]),
            }
            events.clear();
            let mut scanner = Scanner::new(&bytes);
            while let Some(Step::Record(record)) = scanner.next() {
                events.push((record.event.id.to_owned(), record.event.lost));
            }
        }
        events
    }

    fn event(nth: usize) -> Event {
        Event::new("test", "tick", nth.to_string())
    }

    #[test]
    fn events_wait_in_order_for_a_fifo_and_a_reader() {
        let fifo = Fifo::new();
        let sender = FifoSender::new(fifo.path());
        for nth in 0..10 {
            sender.send(event(nth)).expect("small");
        }
        assert_eq!(sender.spooled(), 10);
        assert!(sender.problem().expect("no FIFO").contains("No such file"));
        fifo.make();
        let mut reader = fifo.reader();
        let got = read(&mut reader, 10);
        assert!(got.iter().enumerate().all(|(nth, (id, lost))| *id == nth.to_string() && *lost == 0));
        assert!(sender.flush(Duration::from_secs(10)));
        assert_eq!(sender.problem(), None);
    }

    #[test]
    fn a_full_fifo_delays_and_a_full_spool_counts_what_it_drops() {
        let fifo = Fifo::new();
        fifo.make();
        let mut reader = fifo.reader();
        let sender = FifoSender::with_spool(fifo.path(), 20_000);
        let all = 5_000;
        for nth in 0..all {
            sender.send(event(nth)).expect("small");
        }
        let dropped = usize::try_from(sender.dropped()).expect("few");
        assert!(dropped > 0 && dropped < all);
        let got = read(&mut reader, all - dropped);
        let lost: u32 = got.iter().map(|(_, lost)| lost).sum();
        assert_eq!(lost as usize, dropped);
        let mut expected = 0;
        for (id, lost) in got {
            expected += lost as usize;
            assert_eq!(id, expected.to_string());
            expected += 1;
        }
        assert_eq!(expected, all);
    }

    #[test]
    fn a_reader_that_goes_and_returns_misses_nothing() {
        let fifo = Fifo::new();
        fifo.make();
        let sender = FifoSender::new(fifo.path());
        let mut first = fifo.reader();
        sender.send(event(0)).expect("small");
        assert_eq!(read(&mut first, 1)[0].0, "0");
        drop(first);
        for nth in 1..5 {
            sender.send(event(nth)).expect("small");
        }
        let mut second = fifo.reader();
        let got = read(&mut second, 4);
        assert_eq!(got.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    }

    #[test]
    fn a_file_in_the_place_of_the_fifo_is_never_written() {
        let fifo = Fifo::new();
        std::fs::write(fifo.path(), "").expect("a file");
        let sender = FifoSender::new(fifo.path());
        sender.send(event(0)).expect("small");
        assert!(sender.problem().expect("no FIFO").contains("is not a FIFO"));
        assert_eq!(std::fs::read(fifo.path()).expect("the file"), b"");
    }
}
