//! Several streams of answers, followed in one loop.
//!
//! Used by programs that have more than one job under way, as `sampan pull` of several references. No thread:
//! one poll(2) over all connections. A stream is served at most one answer before the others get their turn, so
//! a talkative one delays none.

use crate::engine::{Answer, Answers, EngineError, Next};
use sampan_ipc::connection::{Stop, Woken};
use sampan_ipc::subscription::Stopper;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Streams that are followed together.
#[derive(Debug)]
pub struct Streams {
    /// `None` where one has ended.
    streams: Vec<Option<Answers>>,
    turn: usize,
    stop: Stop,
    wake: Stop,
}

/// What happened in one of several streams.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and used at once")]
pub enum Happened {
    /// An answer. With [`Answer::Done`] the stream has ended.
    Answer {
        /// The number that [`Streams::add`] gave.
        stream: usize,
        /// The answer.
        answer: Answer,
    },
    /// A stream has ended, and not well.
    Failed {
        /// The number that [`Streams::add`] gave.
        stream: usize,
        /// Why.
        error: EngineError,
    },
    /// Nothing within the time given.
    Nothing,
    /// [`Streams::waker`] was used.
    Woken,
    /// All streams have ended, or the [`Stopper`] was used.
    End,
}

impl Streams {
    /// No stream yet.
    ///
    /// # Errors
    /// [`EngineError::System`]: there is no descriptor left.
    pub fn new() -> Result<Self, EngineError> {
        let open = || Stop::new().map_err(EngineError::System);
        Ok(Streams { streams: Vec::new(), turn: 0, stop: open()?, wake: open()? })
    }

    /// Follows one more stream; gives its number, from 0 upwards.
    pub fn add(&mut self, answers: Answers) -> usize {
        self.streams.push(Some(answers));
        self.streams.len() - 1
    }

    /// How many have not ended.
    pub fn running(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    /// A handle that ends the wait for good: [`Happened::End`].
    ///
    /// # Errors
    /// [`EngineError::System`]: there is no descriptor left.
    pub fn stopper(&self) -> Result<Stopper, EngineError> {
        self.stop.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// A handle that interrupts one wait: [`Happened::Woken`].
    ///
    /// # Errors
    /// [`EngineError::System`]: there is no descriptor left.
    pub fn waker(&self) -> Result<Stopper, EngineError> {
        self.wake.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// What happens next; waited for at most this long, or for ever.
    ///
    /// # Errors
    /// [`EngineError::System`]: it cannot wait. What befalls one stream is [`Happened::Failed`].
    pub fn next_within(&mut self, time: Option<Duration>) -> Result<Happened, EngineError> {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            if self.stop.is_asked() || self.running() == 0 {
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

    /// What a stream has ready, each in its turn.
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

    /// Closes a connection.
    fn end(&mut self, stream: usize) {
        if let Some(ended) = self.streams.get_mut(stream) {
            *ended = None;
        }
    }
}
