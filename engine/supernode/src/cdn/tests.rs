//! What the tests of the manager share: an origin with faults, and a rig that runs tasks to their end.

mod fetches;
mod manager;
mod restarts;

use super::job::Shared;
use super::source::{Fetch, Source};
use super::{Cdn, CdnError, CdnEvent, CdnMessage, CdnSettings, CompleteFile, FileInfo, TriggerOutcome, Work};
use crate::origin::{Body, OriginError, Request, Validators};
use crate::piece::{self, Pieces};
use crate::task_id::TaskId;
use md5::{Digest as _, Md5};
use sampan_job::cancel::Cancel;
use sampan_job::rate_limit::RateLimit;
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Small pieces, so that tests are quick.
const PIECES: Pieces = Pieces { size: 1 << 20, is_wrapped: true };
const URL: &str = "http://origin/file";
/// A test fails that waits for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong with one request.
enum Fault {
    /// The connection breaks after so many bytes.
    Cut(u64),
    /// The connection breaks after so many bytes, and the origin changes.
    CutThen(u64, Change),
    /// The answer has this status.
    Status(u16),
    /// The reader stops after so many bytes until [`Origin::release`].
    Stop(u64),
}

type Change = Box<dyn FnOnce(&mut OriginState) + Send>;

/// An origin in memory.
#[derive(Default)]
struct Origin {
    state: Mutex<OriginState>,
    woken: Condvar,
}

#[derive(Default)]
struct OriginState {
    content: Vec<u8>,
    version: u32,
    /// Whether the origin sends an ETag.
    has_etag: bool,
    states_length: bool,
    takes_ranges: bool,
    faults: VecDeque<Fault>,
    requests: Vec<(u64, Option<u64>)>,
    sent: u64,
    /// Readers that have stopped, and whether they may go on.
    stopped: usize,
    is_released: bool,
    open: usize,
    open_max: usize,
}

impl Origin {
    fn release(&self) {
        lock(&self.state).is_released = true;
        self.woken.notify_all();
    }

    fn wait_until(&self, mut is_true: impl FnMut(&OriginState) -> bool) {
        let mut state = lock(&self.state);
        while !is_true(&state) {
            state = mutex::wait_timeout(&self.woken, state, PATIENCE);
        }
    }

    fn set(&self, change: impl FnOnce(&mut OriginState)) {
        change(&mut lock(&self.state));
    }

    fn requests(&self) -> Vec<(u64, Option<u64>)> {
        lock(&self.state).requests.clone()
    }

    /// Bytes sent since the last call.
    fn sent(&self) -> u64 {
        std::mem::take(&mut lock(&self.state).sent)
    }

    fn validators(&self) -> Validators {
        let state = lock(&self.state);
        let etag = state.has_etag.then(|| format!("\"{}\"", state.version));
        Validators { etag, last_modified: None }
    }
}

/// The source of a manager: an [`Origin`].
struct Link(Arc<Origin>);

impl Source for Link {
    fn fetch<'a>(&self, fetch: &Fetch<'_>, cancel: &'a Cancel) -> Result<Body<'a>, OriginError> {
        let validators = self.0.validators();
        let mut state = lock(&self.0.state);
        state.requests.push((fetch.from, fetch.to));
        let url = fetch.request.printable_url();
        let fault = state.faults.pop_front();
        if let Some(Fault::Status(status)) = fault {
            return Err(OriginError::Status { url, status, retry_after: None });
        }
        if fetch.validators.is_same(&validators) == Some(false) {
            return Err(OriginError::Changed { url });
        }
        let len = state.content.len() as u64;
        let starts = if state.takes_ranges { fetch.from } else { 0 };
        if starts > 0 && starts >= len {
            return Err(OriginError::Changed { url });
        }
        let end = fetch.to.unwrap_or(len).min(len);
        let bytes = state.content[starts as usize..end.max(starts) as usize].to_vec();
        let length = state.states_length.then_some(len);
        let (mut cut, mut stop, mut change) = (None, None, None);
        match fault {
            Some(Fault::Cut(at)) => cut = Some(at),
            Some(Fault::CutThen(at, then)) => (cut, change) = (Some(at), Some(then)),
            Some(Fault::Stop(at)) => stop = Some(at),
            Some(Fault::Status(_)) | None => {}
        }
        state.open += 1;
        state.open_max = state.open_max.max(state.open);
        let origin = Arc::clone(&self.0);
        let woken = Arc::clone(&self.0);
        let link = cancel.link(move || {
            // A reader that has stopped looks at the flag again.
            drop(lock(&woken.state));
            woken.woken.notify_all();
        });
        let reader = Box::new(Reader { origin, cancel, _link: link, bytes, at: 0, cut, stop, change });
        Ok(Body { starts, length, validators, reader })
    }
}

struct Reader<'a> {
    origin: Arc<Origin>,
    cancel: &'a Cancel,
    _link: sampan_job::cancel::Link<'a>,
    bytes: Vec<u8>,
    at: u64,
    cut: Option<u64>,
    stop: Option<u64>,
    change: Option<Change>,
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cut.is_some_and(|cut| self.at >= cut) {
            if let Some(change) = self.change.take() {
                change(&mut lock(&self.origin.state));
            }
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.stop.is_some_and(|stop| self.at >= stop) {
            self.stop = None;
            let mut state = lock(&self.origin.state);
            state.stopped += 1;
            self.origin.woken.notify_all();
            while !state.is_released && !self.cancel.is_cancelled() {
                state = mutex::wait_timeout(&self.origin.woken, state, PATIENCE);
            }
            state.stopped -= 1;
        }
        if self.cancel.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let bound = [self.cut, self.stop].into_iter().flatten().min().unwrap_or(u64::MAX);
        let rest = &self.bytes[self.at as usize..];
        let count = rest.len().min(into.len()).min(usize::try_from(bound - self.at).unwrap_or(usize::MAX));
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        lock(&self.origin.state).sent += count as u64;
        Ok(count)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        lock(&self.origin.state).open -= 1;
    }
}

/// A manager with its origin and the messages of its threads.
struct Rig {
    cdn: Cdn,
    origin: Arc<Origin>,
    messages: Receiver<CdnMessage>,
    now: SystemTime,
    /// The pieces that the last end of a fetch has lost.
    lost: Vec<u32>,
}

impl Rig {
    /// A manager of the files below `home`. The origin has `content`, sends an ETag and a length, and takes
    /// ranges.
    fn new(home: &Path, content: Vec<u8>) -> Self {
        let origin = Arc::new(Origin::default());
        origin.set(|state| {
            *state = OriginState {
                content,
                version: 1,
                has_etag: true,
                states_length: true,
                takes_ranges: true,
                ..OriginState::default()
            };
        });
        Rig::open(home, origin, CdnSettings::default(), |_| {})
    }

    fn open(
        home: &Path,
        origin: Arc<Origin>,
        settings: CdnSettings,
        change: impl FnOnce(&mut Shared),
    ) -> Self {
        let (sender, messages) = channel();
        let mut shared = Shared {
            source: Arc::new(Link(Arc::clone(&origin))),
            send: Box::new(move |message| drop(sender.send(message))),
            rate: RateLimit::new(settings.bytes_per_second),
            origin_bytes: AtomicU64::new(0),
            pause: |cancel, _| cancel.check(),
            boot_id: Some("this boot".to_owned()),
            space: AtomicU64::new(u64::MAX),
        };
        change(&mut shared);
        let cdn = Cdn::open_with(home, shared, settings).expect("opened");
        Rig { cdn, origin, messages, now: UNIX_EPOCH + Duration::from_secs(1_000_000), lost: Vec::new() }
    }

    /// Another process on the same files and with the same origin.
    fn restart(self, home: &Path) -> Self {
        self.restart_with(home, |_| {})
    }

    fn restart_with(self, home: &Path, change: impl FnOnce(&mut Shared)) -> Self {
        let Rig { cdn, origin, messages, .. } = self;
        drop(cdn);
        // Threads of this process end a moment later; those of a killed one are gone.
        while messages.recv_timeout(PATIENCE).is_ok() {}
        Rig::open(home, origin, CdnSettings::default(), change)
    }

    /// What a probe of the origin says.
    fn file(&self) -> FileInfo {
        let state = lock(&self.origin.state);
        FileInfo {
            url: URL.to_owned(),
            task_url: URL.to_owned(),
            md5: None,
            identifier: None,
            range: None,
            pieces: PIECES,
            length: state.states_length.then_some(state.content.len() as u64),
            validators: {
                drop(state);
                self.origin.validators()
            },
            takes_ranges: true,
            is_protected: false,
        }
    }

    fn trigger(&mut self) -> TriggerOutcome {
        let file = self.file();
        self.trigger_file(file)
    }

    fn trigger_file(&mut self, file: FileInfo) -> TriggerOutcome {
        self.trigger_task(&task(), file)
    }

    fn trigger_task(&mut self, task: &TaskId, file: FileInfo) -> TriggerOutcome {
        let request = Request { url: file.url.clone(), headers: Vec::new() };
        self.cdn.trigger(task, file, request, self.now).expect("triggered")
    }

    /// The next event.
    fn event(&mut self) -> CdnEvent {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("a message");
            if let Some(event) = self.cdn.on_message(message) {
                return event;
            }
        }
    }

    /// Waits for the end of the fetch. Returns the result and the numbers of the pieces that came.
    fn end(&mut self) -> (Result<CompleteFile, CdnError>, Vec<u32>) {
        let mut numbers = Vec::new();
        loop {
            match self.event() {
                CdnEvent::Piece { task, number, digest } => {
                    let file = self.cdn.file(&task).expect("active");
                    let is_last = u64::from(digest.content_len) < file.pieces.content();
                    assert!(file.length.is_some() || !is_last, "a piece that is not full needs the length");
                    numbers.push(number);
                }
                CdnEvent::Ended { task, result, lost } => {
                    let kept = self.cdn.ready_pieces(&task).count();
                    assert!(lost.is_empty() || kept == 0 && result.is_err());
                    self.lost = lost;
                    return (result, numbers);
                }
                CdnEvent::Started { .. } | CdnEvent::Length { .. } | CdnEvent::Checked { .. } => {}
            }
        }
    }

    /// Fetches the file, which must succeed; returns the numbers of the pieces that came.
    fn fetch(&mut self) -> Vec<u32> {
        assert_eq!(self.trigger(), TriggerOutcome::Begins);
        let (result, numbers) = self.end();
        result.expect("fetched");
        self.assert_complete();
        numbers
    }

    /// Fetches the file, which must fail.
    fn fail(&mut self) -> CdnError {
        assert_eq!(self.trigger(), TriggerOutcome::Begins);
        self.end().0.expect_err("an error")
    }

    /// The file on the disk, its length and all digests are those of the origin's content.
    fn assert_complete(&mut self) {
        let content = lock(&self.origin.state).content.clone();
        self.assert_has(&task(), &content, PIECES);
    }

    fn assert_has(&mut self, task: &TaskId, content: &[u8], pieces: Pieces) {
        assert_eq!(self.cdn.status(task), Some(super::CdnStatus::Success));
        let length = content.len() as u64;
        assert_eq!(self.cdn.file(task).expect("known").length, Some(length));
        let mut stored = vec![0; content.len()];
        let file = self.cdn.content(task).expect("open");
        file.read_exact_at(&mut stored, 0).expect("read");
        assert!(stored == content, "the content on the disk is another one");
        assert!(self.cdn.check_file(task));
        assert_eq!(self.cdn.content_md5(task), Some(<[u8; 16]>::from(Md5::digest(content))));
        assert!(self.cdn.ready_pieces(task).eq(0..pieces.count(length)));
        for number in 0..pieces.count(length) {
            let (start, len) = (pieces.offset(number), pieces.content_len(number, length));
            let part = &content[start as usize..(start + len) as usize];
            let digest = self.cdn.piece(task, number).expect("a digest");
            assert_eq!(digest.md5, wrapped_md5(part, pieces), "piece {number}");
            assert_eq!(digest.sha256[..], *ring::digest::digest(&ring::digest::SHA256, part).as_ref());
            assert_eq!(u64::from(digest.content_len), len);
        }
    }

    /// Waits until the disk thread has done all its work.
    fn settle(&self) {
        let (sender, done) = channel();
        self.cdn.send_to_disk_thread(Work::Signal(sender));
        done.recv_timeout(PATIENCE).expect("the disk thread works");
    }
}

/// MD5 of a piece as clients get it.
fn wrapped_md5(content: &[u8], pieces: Pieces) -> [u8; 16] {
    let head = piece::head(content.len() as u64, pieces.size);
    let whole = [&head[..], content, &[piece::TAIL]].concat();
    Md5::digest(if pieces.is_wrapped { &whole } else { content }).into()
}

fn task() -> TaskId {
    TaskId::new(URL, "", "")
}

/// Bytes that look random; each `seed` gives others.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

/// Length of the content of a full piece.
fn piece_len() -> usize {
    PIECES.content() as usize
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// The names in `home`'s directory of tasks and in its trash.
fn leftovers(home: &Path) -> (usize, usize) {
    let count = |dir: &str| fs::read_dir(home.join(dir)).expect("listed").count();
    (count("tasks"), count("trash"))
}

/// The open files of this process below `home`.
fn open_files(home: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("listed").flatten();
    links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target.starts_with(home))).count()
}
