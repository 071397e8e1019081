//! `GET /images/get` and `GET /images/NAME/get`.

use super::load;
use super::name::Name;
use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};
use sampan_client::engine::{self, Answers, Next, Request, Save};
use sampan_http::answer::Answer;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Bytes that are read at once. Each read is one chunk.
const READ_BYTES: usize = 32 << 10;
/// Most reads before the other clients have their turn.
const READS_PER_STEP: usize = 16;

/// Starts the operation.
///
/// # Errors
/// No image is named, or one platform of an image.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let names: Vec<String> = match name {
        "" => call.query.all("names").map(str::to_owned).collect(),
        name => vec![name.to_owned()],
    };
    if names.is_empty() {
        return Err(Refusal::bad("no image is named (names)"));
    }
    if load::platform(call)?.is_some() {
        return Err(Refusal::missing("the archive of one platform (platform)"));
    }
    Ok(Started::Operation(Box::new(SaveOperation::Begins(names))))
}

/// The operation: looks the names up, and then sends what the engine writes into a pipe.
enum SaveOperation {
    /// The engine has not been asked.
    Begins(Vec<String>),
    /// The engine lists its images.
    LooksUp { names: Vec<String>, answers: Answers, references: HashSet<String> },
    /// The engine writes the archive.
    Streams(Archive),
}

/// An archive on its way from the engine to the client.
struct Archive {
    answers: Answers,
    /// Our end of the pipe; `None` once the engine has closed its end.
    pipe: Option<OwnedFd>,
    /// Whether the engine has written all.
    is_done: bool,
}

impl Operation for SaveOperation {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            match self {
                SaveOperation::Begins(names) => {
                    let answers = exchange.shared.engine.request(Request::Images, &[])?;
                    exchange.watch(&answers, Interest::READABLE)?;
                    let (names, references) = (std::mem::take(names), HashSet::new());
                    *self = SaveOperation::LooksUp { names, answers, references };
                }
                SaveOperation::LooksUp { names, answers, references } => {
                    match answers.next_within(Duration::ZERO)? {
                        Next::Nothing => return Ok(Progress::Waits),
                        Next::Answer(engine::Answer::Images(images)) => {
                            references.extend(images.into_iter().flat_map(|image| image.references));
                        }
                        Next::Answer(_) => {}
                        Next::End => {
                            let names = names.iter().map(|name| stored(name, references)).collect();
                            *self = SaveOperation::Streams(Archive::begin(names, exchange)?);
                        }
                    }
                }
                SaveOperation::Streams(archive) => return archive.step(exchange),
            }
        }
    }
}

/// The full name of an image that docker calls `typed`, if the store has it; otherwise `typed`, which may be an ID.
fn stored(typed: &str, references: &HashSet<String>) -> String {
    let full = Name::parse(typed).ok().map(|name| name.tagged().full());
    full.filter(|full| references.contains(full)).unwrap_or_else(|| typed.to_owned())
}

impl Archive {
    fn begin(names: Vec<String>, exchange: &mut Exchange<'_>) -> Result<Self, Refusal> {
        let (pipe, engine_end) = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        // The engine's end blocks: each end has its own flags.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        let save = Save { names, ..Save::default() };
        let answers = exchange.shared.engine.request(Request::Save(save), &[engine_end.as_fd()])?;
        exchange.watch(&answers, Interest::READABLE)?;
        exchange.watch(&pipe, Interest::READABLE)?;
        Ok(Archive { answers, pipe: Some(pipe), is_done: false })
    }

    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            match self.answers.next_within(Duration::ZERO)? {
                Next::Nothing => break,
                Next::End => {
                    self.is_done = true;
                    break;
                }
                Next::Answer(_) => {}
            }
        }
        for _ in 0..READS_PER_STEP {
            if exchange.room() < READ_BYTES {
                return Ok(Progress::Waits);
            }
            let Some(pipe) = &self.pipe else { break };
            let mut bytes = [0; READ_BYTES];
            match read(pipe, &mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(len) => {
                    if !exchange.has_begun() {
                        exchange.begin(&Answer::new(200, "application/x-tar", ""));
                    }
                    exchange.send(bytes.get(..len).unwrap_or_default());
                }
                Err(Errno::EAGAIN) => return Ok(Progress::Waits),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        match (&self.pipe, self.is_done) {
            (Some(_), _) => Ok(Progress::Again),
            // The archive is complete only if the engine says so.
            (None, false) => Ok(Progress::Waits),
            (None, true) => Ok(exchange.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_names_come_first_and_ids_stay() {
        let references = HashSet::from(["docker.io/library/a:latest".to_owned(), "r:5000/b:1".to_owned()]);
        for (typed, expected) in [
            ("a", "docker.io/library/a:latest"),
            ("r:5000/b:1", "r:5000/b:1"),
            ("0123456789ab", "0123456789ab"),
            ("sha256:0123456789ab", "sha256:0123456789ab"),
            ("a:2", "a:2"),
        ] {
            assert_eq!(stored(typed, &references), expected);
        }
    }
}
