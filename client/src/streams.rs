//! The answers to several requests, followed in one loop.
//!
//! For programs that follow several jobs, such as `sampan pull` with several references. Starts no thread: one poll(2)
//! waits for all connections. Each stream returns at most one answer before it is the others' turn, so a busy stream
//! does not delay the others.

use crate::engine::{Answer, Answers, EngineError, Next};
use sampan_ipc::connection::{Stop, Woken};
use sampan_ipc::subscription::Stopper;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Several streams of answers.
#[derive(Debug)]
pub struct Streams {
    /// The streams; `None` for a stream that has ended.
    streams: Vec<Option<Answers>>,
    turn: usize,
    stop: Stop,
    wake: Stop,
}

/// An event of one of several streams.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and used at once")]
pub enum Happened {
    /// An answer has arrived. [`Answer::Done`] is the last answer of its stream.
    Answer {
        /// Number of the stream, from [`Streams::add`].
        stream: usize,
        /// The answer.
        answer: Answer,
    },
    /// A stream has ended with an error.
    Failed {
        /// Number of the stream, from [`Streams::add`].
        stream: usize,
        /// The error.
        error: EngineError,
    },
    /// Nothing has happened in the given time.
    Nothing,
    /// A handle of [`Streams::waker`] was used.
    Woken,
    /// All streams have ended, or the [`Stopper`] was used.
    End,
}

impl Streams {
    /// Makes a set without streams.
    ///
    /// # Errors
    /// [`EngineError::System`] if the process has no free descriptor.
    pub fn new() -> Result<Self, EngineError> {
        let open = || Stop::new().map_err(EngineError::System);
        Ok(Streams { streams: Vec::new(), turn: 0, stop: open()?, wake: open()? })
    }

    /// Adds a stream, and returns its number. The first stream has number 0.
    pub fn add(&mut self, answers: Answers) -> usize {
        self.streams.push(Some(answers));
        self.streams.len() - 1
    }

    /// Number of streams that have not ended.
    pub fn running(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    /// Returns a handle that ends all streams: the next item is then [`Happened::End`].
    ///
    /// # Errors
    /// [`EngineError::System`] if the process has no free descriptor.
    pub fn stopper(&self) -> Result<Stopper, EngineError> {
        self.stop.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// Returns a handle that interrupts one wait with [`Happened::Woken`].
    ///
    /// # Errors
    /// [`EngineError::System`] if the process has no free descriptor.
    pub fn waker(&self) -> Result<Stopper, EngineError> {
        self.wake.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// Waits for the next event, for at most `time`; `None` means without limit.
    ///
    /// # Errors
    /// [`EngineError::System`] if waiting fails. An error of one stream is no error of this function: see
    /// [`Happened::Failed`].
    pub fn next_within(&mut self, time: Option<Duration>) -> Result<Happened, EngineError> {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            if self.stop.is_requested() || self.running() == 0 {
                return Ok(Happened::End);
            }
            if self.wake.take().map_err(EngineError::System)? {
                return Ok(Happened::Woken);
            }
            if let Some(happened) = self.ready() {
                return Ok(happened);
            }
            let live = self.streams.iter().flatten().map(Answers::as_fd).chain([self.wake.as_fd()]);
            match self.stop.wait_any(live, deadline).map_err(EngineError::System)? {
                Woken::Readable => {}
                Woken::Stopped => return Ok(Happened::End),
                Woken::Timeout => return Ok(Happened::Nothing),
            }
        }
    }

    /// Returns the event of the next ready stream. The streams have turns.
    fn ready(&mut self) -> Option<Happened> {
        let count = self.streams.len();
        for step in 0..count {
            let stream = (self.turn + step) % count;
            let Some(answers) = self.streams.get_mut(stream).and_then(Option::as_mut) else {
                continue;
            };
            let happened = match answers.next_within(Duration::ZERO) {
                Ok(Next::Nothing) => continue,
                Ok(Next::Answer(answer)) => Happened::Answer { stream, answer },
                Ok(Next::End) => {
                    self.end(stream);
                    continue;
                }
                Err(error) => Happened::Failed { stream, error },
            };
            if matches!(happened, Happened::Failed { .. } | Happened::Answer { answer: Answer::Done(_), .. })
            {
                self.end(stream);
            }
            self.turn = stream + 1;
            return Some(happened);
        }
        None
    }

    fn end(&mut self, stream: usize) {
        if let Some(ended) = self.streams.get_mut(stream) {
            *ended = None;
        }
    }
}
