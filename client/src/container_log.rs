//! The log of a container: reads the files of docker's json-file driver, from a tail on, and follows them.
//!
//! Used by `sampan logs` and by the gateway. The engine passes the open files of the log; the lines do not go through
//! the engine. [`LogStream::step`] never blocks, and reads a bounded number of bytes. To follow a log, the stream
//! watches the current file with inotify(7). When the log is rotated or the container ends, the stream requests the
//! files from the engine again and continues after the last line; it recognizes its file by the inode.

mod file;
mod line;
mod tail;

pub use self::line::Line;

use self::file::{Reader, id};
use self::line::Lines;
pub use self::line::{LogNote, LogSink};
use self::tail::TailSearch;
use crate::engine::{Answer, Answers, Engine, EngineError, Next, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sampan_ipc::container::Condition;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Time without an event after which the stream asks the engine whether the container still exists.
const IDLE: Duration = Duration::from_secs(5);
/// Longest absence of the engine before a stream that follows gives up.
const ENGINE_AWAY_MAX: Duration = Duration::from_secs(30);
/// Pause between two attempts to reach the engine.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Which lines of which log to read.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Id, name or unique id prefix of the container.
    pub container: String,
    /// Only lines from this time on, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Only lines up to this time, in nanoseconds since the epoch.
    pub until: Option<i64>,
    /// Only this number of lines from the end; all lines if absent.
    pub tail: Option<u64>,
    /// Wait for further lines until the container has ended.
    pub follow: bool,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The engine has refused the request, or cannot be reached.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The container's log driver keeps no files.
    #[error("cannot read the log of {container:?}: its driver is {driver:?}, which keeps no files")]
    Driver {
        /// The container as the query names it.
        container: String,
        /// The driver.
        driver: String,
    },
    /// The engine has sent another number of files than it has announced.
    #[error("the engine speaks of {announced} files of the log, and {arrived} came")]
    Files {
        /// Number in the engine's answer.
        announced: u32,
        /// Number of descriptors that have arrived.
        arrived: usize,
    },
    /// The engine's answer lacks the log.
    #[error("the engine gave no answer about the log")]
    NoAnswer,
    /// A file of the log cannot be read.
    #[error("cannot read the log")]
    Read(#[source] io::Error),
    /// The files of the log cannot be watched.
    #[error("cannot follow the log")]
    Follow(#[source] io::Error),
}

/// How a step has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// More can be read at once.
    Again,
    /// The sink has no room, or nothing can be read now: see [`LogStream::wait`] and [`LogStream::deadline`].
    Waits,
    /// All lines were read.
    Ended,
}

/// The engine's answer to a request for the files of a log, as far as it has arrived.
struct Opening {
    answers: Answers,
    log: Option<(String, u32, bool)>,
}

/// The files of a log, oldest first, and whether the container may still write to the last one.
struct Opened {
    files: Vec<File>,
    is_open: bool,
}

enum State {
    /// The engine is asked for the files for the first time.
    Opening(Opening),
    /// The beginning of the tail is searched.
    Searching(TailSearch),
    /// The files are read to their ends.
    Reading,
    /// The last file has been read; the stream waits for a change.
    Following { idle_at: Instant },
    /// The engine is asked for the files again.
    Reopening { opening: Option<Opening>, retry_at: Option<Instant>, give_up_at: Instant },
}

/// A log that is being read.
pub struct LogStream {
    engine: Engine,
    query: LogQuery,
    state: State,
    reader: Reader,
    /// The files after the one that is being read, each with the offset of its first line.
    queue: VecDeque<(File, u64)>,
    is_open: bool,
    lines: Lines,
    inotify: Option<Inotify>,
    /// The file that is watched.
    watched: Option<(u64, u64)>,
    /// The wait for the container's end; `None` before the stream follows, and after an end.
    end: Option<Answers>,
    has_waited: bool,
}

impl LogStream {
    /// Requests the log from the engine.
    ///
    /// # Errors
    /// No engine listens.
    pub fn open(engine: &Engine, query: LogQuery, sink: &mut dyn LogSink) -> Result<Self, LogError> {
        let opening = Opening::request(engine, &query.container, sink)?;
        Ok(LogStream {
            engine: engine.clone(),
            state: State::Opening(opening),
            reader: Reader::default(),
            queue: VecDeque::new(),
            is_open: false,
            lines: Lines::new(query.since, query.until),
            inotify: None,
            watched: None,
            end: None,
            has_waited: false,
            query,
        })
    }

    /// Whether the engine has sent the files of the log. No line comes before.
    pub fn has_opened(&self) -> bool {
        !matches!(self.state, State::Opening(_))
    }

    /// When to step, even if no descriptor is ready.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Following { idle_at } => Some(*idle_at),
            State::Reopening { retry_at, .. } => *retry_at,
            _ => None,
        }
    }

    /// Waits until the stream can go on, or until `also` is ready for reading, or until its other end is closed.
    pub fn wait(&self, also: BorrowedFd<'_>) {
        let mut fds = vec![PollFd::new(also, PollFlags::empty())];
        let mut want = |fd| fds.push(PollFd::new(fd, PollFlags::POLLIN));
        match &self.state {
            State::Opening(opening) | State::Reopening { opening: Some(opening), .. } => {
                want(opening.answers.as_fd());
            }
            State::Following { .. } => {
                self.inotify.iter().for_each(|inotify| want(inotify.as_fd()));
                self.end.iter().for_each(|end| want(end.as_fd()));
            }
            _ => {}
        }
        let timeout = self.deadline().map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, timeout);
    }

    /// Goes on: reads at most one block, and hands its lines to `sink`.
    ///
    /// # Errors
    /// The log cannot be read; the stream has ended.
    pub fn step(&mut self, sink: &mut dyn LogSink) -> Result<LogStep, LogError> {
        if !sink.has_room() {
            return Ok(LogStep::Waits);
        }
        if self.lines.is_over {
            return Ok(LogStep::Ended);
        }
        match &self.state {
            State::Opening(_) => self.finish_opening(),
            State::Searching(_) => self.search(),
            State::Reading => self.read(sink),
            State::Following { .. } => self.follow(sink),
            State::Reopening { .. } => self.reopen(sink),
        }
    }

    fn finish_opening(&mut self) -> Result<LogStep, LogError> {
        let State::Opening(opening) = &mut self.state else { return Ok(LogStep::Again) };
        let Some(opened) = opening.poll(&self.query.container)? else { return Ok(LogStep::Waits) };
        self.is_open = opened.is_open;
        self.state = match self.query.tail {
            Some(lines) => State::Searching(TailSearch::new(opened.files, lines)),
            None => {
                self.queue.extend(opened.files.into_iter().map(|file| (file, 0)));
                State::Reading
            }
        };
        Ok(LogStep::Again)
    }

    fn search(&mut self) -> Result<LogStep, LogError> {
        let State::Searching(search) = &mut self.state else { return Ok(LogStep::Again) };
        if let Some(found) = search.step().map_err(LogError::Read)? {
            self.queue.extend(found);
            self.state = State::Reading;
        }
        Ok(LogStep::Again)
    }

    fn read(&mut self, sink: &mut dyn LogSink) -> Result<LogStep, LogError> {
        if self.reader.read_block(&mut self.lines, sink).map_err(LogError::Read)? {
            return Ok(LogStep::Again);
        }
        if let Some((file, from)) = self.queue.pop_front() {
            self.reader.open(file, from);
            return Ok(LogStep::Again);
        }
        if !self.query.follow || !self.is_open {
            return Ok(LogStep::Ended);
        }
        self.begin_to_follow(sink)?;
        Ok(LogStep::Again)
    }

    /// Watches the current file and the container's end.
    fn begin_to_follow(&mut self, sink: &mut dyn LogSink) -> Result<(), LogError> {
        let cannot = |errno: nix::errno::Errno| LogError::Follow(errno.into());
        if self.inotify.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(cannot)?;
            sink.watch(inotify.as_fd()).map_err(LogError::Follow)?;
            self.inotify = Some(inotify);
        }
        if self.watched != self.reader.id()
            && let (Some(file), Some(inotify)) = (self.reader.file(), &self.inotify)
        {
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ATTRIB;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            inotify.add_watch(path.as_str(), flags | AddWatchFlags::IN_DELETE_SELF).map_err(cannot)?;
            self.watched = self.reader.id();
        }
        if self.end.is_none() {
            let condition = if self.has_waited { Condition::NextExit } else { Condition::NotRunning };
            let request = Request::Wait { container: self.query.container.clone(), condition };
            let end = self.engine.request(request, &[])?;
            sink.watch(end.as_fd()).map_err(LogError::Follow)?;
            (self.end, self.has_waited) = (Some(end), true);
        }
        self.state = State::Following { idle_at: Instant::now() + IDLE };
        Ok(())
    }

    fn follow(&mut self, sink: &mut dyn LogSink) -> Result<LogStep, LogError> {
        let State::Following { idle_at } = self.state else { return Ok(LogStep::Again) };
        // Look for changes before the read, so that the read finds the lines of each change.
        let (has_grown, has_moved) = self.changes();
        let has_ended =
            self.end.as_mut().is_none_or(|end| !matches!(end.next_within(Duration::ZERO), Ok(Next::Nothing)));
        if self.reader.read_block(&mut self.lines, sink).map_err(LogError::Read)? {
            // More may follow, and the changes that were seen must not be forgotten.
            if has_moved || has_ended {
                self.ask_again(has_ended);
            }
            return Ok(LogStep::Again);
        }
        if has_moved || has_ended || Instant::now() >= idle_at {
            self.ask_again(has_ended);
            return Ok(LogStep::Again);
        }
        if has_grown {
            self.state = State::Following { idle_at: Instant::now() + IDLE };
            return Ok(LogStep::Again);
        }
        Ok(LogStep::Waits)
    }

    /// Whether the current file has grown, and whether it was renamed or removed.
    fn changes(&self) -> (bool, bool) {
        let (mut has_grown, mut has_moved) = (false, false);
        while let Some(inotify) = &self.inotify
            && let Ok(events) = inotify.read_events()
        {
            for event in events {
                match event.mask.contains(AddWatchFlags::IN_MODIFY) {
                    true => has_grown = true,
                    false => has_moved = true,
                }
            }
        }
        (has_grown, has_moved)
    }

    fn ask_again(&mut self, has_ended: bool) {
        if has_ended {
            self.end = None;
        }
        let give_up_at = Instant::now() + ENGINE_AWAY_MAX;
        self.state = State::Reopening { opening: None, retry_at: None, give_up_at };
    }

    /// Requests the files again. Waits for an engine that restarts: containers and their logs continue without it.
    fn reopen(&mut self, sink: &mut dyn LogSink) -> Result<LogStep, LogError> {
        let State::Reopening { opening, retry_at, give_up_at } = &mut self.state else {
            return Ok(LogStep::Again);
        };
        let result = match opening {
            Some(opening) => opening.poll(&self.query.container),
            None if retry_at.is_some_and(|at| Instant::now() < at) => return Ok(LogStep::Waits),
            None => match Opening::request(&self.engine, &self.query.container, sink) {
                Ok(new) => {
                    (*opening, *retry_at) = (Some(new), None);
                    return Ok(LogStep::Again);
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(None) => return Ok(LogStep::Waits),
            Ok(Some(opened)) => {
                self.is_open = opened.is_open;
                self.enqueue_rotated(opened.files, sink);
            }
            Err(error @ LogError::Engine(EngineError::Connect { .. } | EngineError::Broken { .. })) => {
                if Instant::now() >= *give_up_at {
                    return Err(error);
                }
                (*opening, *retry_at) = (None, Some(Instant::now() + RETRY_PAUSE));
                return Ok(LogStep::Waits);
            }
            // The container and its log were removed, but the open file can still be read.
            Err(_) => self.is_open = false,
        }
        self.state = State::Reading;
        Ok(LogStep::Again)
    }

    /// Reads the files after the current one next.
    fn enqueue_rotated(&mut self, files: Vec<File>, sink: &mut dyn LogSink) {
        let own = self.reader.id();
        let place = files.iter().position(|file| id(file).ok() == own);
        if place.is_none() && own.is_some() && !files.is_empty() {
            sink.note(LogNote::Missing);
        }
        let after = files.into_iter().skip(place.map_or(0, |place| place + 1));
        self.queue.extend(after.map(|file| (file, 0)));
    }
}

impl Opening {
    fn request(engine: &Engine, container: &str, sink: &mut dyn LogSink) -> Result<Self, LogError> {
        let answers = engine.request(Request::Logs { container: container.to_owned() }, &[])?;
        sink.watch(answers.as_fd()).map_err(LogError::Follow)?;
        Ok(Opening { answers, log: None })
    }

    /// The files, once the engine's answer is complete.
    fn poll(&mut self, container: &str) -> Result<Option<Opened>, LogError> {
        loop {
            match self.answers.next_within(Duration::ZERO)? {
                Next::Nothing => return Ok(None),
                Next::Answer(Answer::Log { driver, files, is_open }) => {
                    self.log = Some((driver, files, is_open));
                }
                Next::Answer(Answer::Done(_)) | Next::End => break,
                Next::Answer(_) => {}
            }
        }
        let (driver, announced, is_open) = self.log.take().ok_or(LogError::NoAnswer)?;
        if driver != "json-file" {
            return Err(LogError::Driver { container: container.to_owned(), driver });
        }
        let files: Vec<File> = self.answers.take_descriptors().into_iter().map(File::from).collect();
        if usize::try_from(announced).ok() != Some(files.len()) {
            return Err(LogError::Files { announced, arrived: files.len() });
        }
        Ok(Some(Opened { files, is_open }))
    }
}
