//! The engine's client: one request on a connection of its own, answered by a stream.
//!
//! Used by the CLI and by programs that pull or list images. A stream is finished when its last answer is
//! [`Answer::Done`]; one that stops earlier is reported as broken, never as success. To leave is to drop the
//! stream: the engine ends a pull that nobody watches, unless it was asked for with `detach`.
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
use sampan_ipc::subscription::Stopper;
use sampan_ipc::trust::Server;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where an engine listens.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

/// Why the engine gave no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot be reached.
    #[error("cannot connect to the engine at {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The stream stopped before the work was finished.
    #[error("connection to the engine at {} broke off; the work may be unfinished", socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// Why; `None` if it was closed without a word.
        source: Option<io::Error>,
    },
    /// The work failed, or was refused.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// A request of so many bytes fits no frame.
    #[error(
        "the request has {len} bytes, at most {max}: variables, labels and words of the command line together"
    )]
    TooLarge {
        /// Its length.
        len: u32,
        /// [`frame::FRAME_MAX`].
        max: usize,
    },
    /// The engine sends what is no message.
    #[error("cannot exchange messages with the engine")]
    Protocol(#[from] FrameError),
    /// More descriptors than [`DESCRIPTORS_MAX`].
    #[error("{0} descriptors are too many for one request: at most {DESCRIPTORS_MAX}")]
    Descriptors(usize),
    /// A system call on this process's own descriptors failed.
    #[error("cannot wait for the engine")]
    System(#[source] io::Error),
}

impl Engine {
    /// The engine that listens at `socket`. Connects to nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Engine { socket: socket.into() }
    }

    /// The engine that the environment gives.
    pub fn from_env() -> Self {
        Engine::new(Paths::from_env().engine_socket())
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for `request`; hands over `fds`, as many as the request says.
    ///
    /// # Errors
    /// [`EngineError::Connect`]: nobody listens.
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

/// The engine's answers to one request; made by [`Engine::request`].
///
/// The last item is [`Answer::Done`] or an error. Ends without either only if its [`Stopper`] was used.
#[derive(Debug)]
pub struct Answers {
    socket: PathBuf,
    connection: Connection,
    stop: connection::Stop,
    ended: bool,
}

/// What became of a wait for an answer.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and used at once")]
pub enum Next {
    /// An answer.
    Answer(Answer),
    /// None within the time given; more may come.
    Nothing,
    /// The stream has ended, or was stopped.
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
    /// Readable when there may be a next answer; one that came with the last may be there without.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Answers {
    /// A handle that ends the iterator from elsewhere: it returns `None` instead of waiting.
    ///
    /// # Errors
    /// [`EngineError::System`]: there is no descriptor left.
    pub fn stopper(&self) -> Result<Stopper, EngineError> {
        self.stop.sender().map(Stopper::new).map_err(EngineError::System)
    }

    /// The descriptors that have come with answers so far, in their order: the files of [`Answer::Log`].
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.connection.take_descriptors()
    }

    /// The next answer, waited for at most this long.
    ///
    /// # Errors
    /// [`EngineError::Failed`] is the engine's word, [`EngineError::Broken`] the lack of one.
    pub fn next_within(&mut self, time: Duration) -> Result<Next, EngineError> {
        self.wait(Some(Instant::now() + time))
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
