//! The engine's client: each request has its own connection, and a stream of answers.
//!
//! Used by the command line and by other programs. A stream is complete when its last answer is [`Answer::Done`]; a
//! stream that stops earlier is an error, never a success. A drop of the stream closes the connection: the engine then
//! ends a job that no other client watches, unless the request has `detach`.
//!
//! ```no_run
//! use sampan_client::Engine;
//! use sampan_client::engine::{Answer, Pull, Request};
//!
//! let pull = Pull { reference: "alpine".into(), ..Pull::default() };
//! for answer in Engine::from_env().request(Request::Pull(pull), &[])? {
//!     match answer? {
//!         Answer::Rows { rows, .. } => println!("{} layers moved on", rows.len()),
//!         Answer::Done(done) => println!("{}@{}", done.reference, done.digest),
//!         _ => {}
//!     }
//! }
//! # Ok::<(), sampan_client::EngineError>(())
//! ```

use sampan_ipc::connection::{self, Connection, Received};
pub use sampan_ipc::engine::*;
use sampan_ipc::frame::{self, FrameError};
use sampan_ipc::paths::Paths;
use sampan_ipc::pull::PullMessage;
use sampan_ipc::subscription::Stopper;
use sampan_ipc::trust::Server;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An engine, given by the path of its socket.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

/// Why the engine has sent no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The process cannot connect to the engine.
    #[error("cannot connect to the engine at {}", socket.display())]
    Connect {
        /// Path of the engine's socket.
        socket: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The stream stopped before the work was finished.
    #[error("connection to the engine at {} broke off; the work may be unfinished", socket.display())]
    Broken {
        /// Path of the engine's socket.
        socket: PathBuf,
        /// Why it failed; `None` if the engine closed the connection.
        source: Option<io::Error>,
    },
    /// The work failed, or was refused.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The request is too large for a frame.
    #[error(
        "the request has {len} bytes, at most {max} are allowed: variables, labels and the command line together"
    )]
    TooLarge {
        /// Length of the request in bytes.
        len: u32,
        /// The largest length allowed: [`frame::FRAME_MAX`].
        max: usize,
    },
    /// The engine sent bytes that are no message.
    #[error("cannot exchange messages with the engine")]
    Protocol(#[from] FrameError),
    /// There are more than [`DESCRIPTORS_MAX`] descriptors.
    #[error("{0} descriptors are too many for one request: at most {DESCRIPTORS_MAX}")]
    Descriptors(usize),
    /// A system call on this process's own descriptors failed.
    #[error("cannot wait for the engine")]
    System(#[source] io::Error),
}

impl Engine {
    /// Makes a client of the engine that listens at `socket`. Does not connect.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Engine { socket: socket.into() }
    }

    /// Makes a client of the engine whose socket the environment names: see [`Paths::from_env`].
    pub fn from_env() -> Self {
        Engine::new(Paths::from_env().engine_socket())
    }

    /// Path of the engine's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends `request` with the descriptors `fds`, whose number must be the one that the request states.
    ///
    /// # Errors
    /// [`EngineError::Connect`] if no engine listens. In that case nothing was sent.
    pub fn request(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answers, EngineError> {
        if fds.len() > DESCRIPTORS_MAX {
            return Err(EngineError::Descriptors(fds.len()));
        }
        let opening = match frame::encode(&Opening { version: VERSION, request }) {
            Err(FrameError::Length { len, max }) => return Err(EngineError::TooLarge { len, max }),
            other => other?,
        };
        let connection = Connection::open(&self.socket, Server::Engine, &opening, fds)
            .map_err(|source| EngineError::Connect { socket: self.socket.clone(), source })?;
        let stop = connection::Stop::new().map_err(EngineError::System)?;
        Ok(Answers { socket: self.socket.clone(), connection, stop, ended: false })
    }
}

/// The engine's answers to one request. [`Engine::request`] makes it.
///
/// The last item is [`Answer::Done`] or an error, unless a [`Stopper`] was used.
#[derive(Debug)]
pub struct Answers {
    socket: PathBuf,
    connection: Connection,
    stop: connection::Stop,
    ended: bool,
}

/// The result of a wait for an answer.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and used at once")]
pub enum Next {
    /// An answer.
    Answer(Answer),
    /// No answer has arrived in the given time. More answers may arrive later.
    Nothing,
    /// The stream has ended, or a [`Stopper`] has stopped it.
    End,
}

impl Iterator for Answers {
    type Item = Result<Answer, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.wait(None) {
                Ok(Next::Answer(answer)) => return Some(Ok(answer)),
                Ok(Next::Nothing) => {}
                Ok(Next::End) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl AsFd for Answers {
    /// A descriptor that becomes readable when an answer may have arrived. An answer may also be buffered while the
    /// descriptor is not readable.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Answers {
    /// Returns a handle with which another thread ends the iterator, which then returns `None` instead of waiting.
    ///
    /// # Errors
    /// [`EngineError::System`] if the process has no free descriptor.
    pub fn stopper(&self) -> Result<Stopper, EngineError> {
        self.stop.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// Removes and returns the descriptors that came with the answers so far, in order: the files of [`Answer::Log`].
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.connection.take_descriptors()
    }

    /// Waits for the next answer, for at most `time`.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the engine reports that the work failed; [`EngineError::Broken`] if the connection
    /// ended before the last answer.
    pub fn next_within(&mut self, time: Duration) -> Result<Next, EngineError> {
        self.wait(Some(Instant::now() + time))
    }

    /// Ends the interest in the pull of a [`Request::PullKept`]: the engine cancels the pull, unless another client
    /// watches it. Without this message the pull goes on when the connection closes.
    pub fn release(self) {
        if let Ok(message) = frame::encode(&PullMessage::Release) {
            // A connection that is broken has released nothing: then the engine has ended, and with it the pull.
            let _ = self.connection.send(&message);
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<Next, EngineError> {
        if self.ended {
            return Ok(Next::End);
        }
        match self.receive(deadline) {
            Ok(Received::Message(Answer::Error(failure))) => {
                self.ended = true;
                Err(EngineError::Failed(failure))
            }
            Ok(Received::Message(answer)) => {
                self.ended = matches!(answer, Answer::Done(_));
                Ok(Next::Answer(answer))
            }
            Ok(Received::Timeout) => Ok(Next::Nothing),
            Ok(Received::Stopped) => {
                self.ended = true;
                Ok(Next::End)
            }
            Ok(Received::Closed) => {
                self.ended = true;
                Err(EngineError::Broken { socket: self.socket.clone(), source: None })
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Received<Answer>, EngineError> {
        loop {
            if let Some(body) = self.connection.buffered()? {
                return Ok(Received::Message(frame::parse(body)?));
            }
            match self.connection.fill(&self.stop, deadline) {
                Ok(Received::Message(())) => {}
                Ok(Received::Closed) => return Ok(Received::Closed),
                Ok(Received::Stopped) => return Ok(Received::Stopped),
                Ok(Received::Timeout) => return Ok(Received::Timeout),
                Err(source) => {
                    return Err(EngineError::Broken { socket: self.socket.clone(), source: Some(source) });
                }
            }
        }
    }
}
