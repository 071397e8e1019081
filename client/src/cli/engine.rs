//! The engine, as every command asks it: where it listens, short work awaited, several things tried one after the other.

use crate::cli::args::socket::EngineSocket;
use crate::cli::error::{FAILED, Failure};
use crate::cli::output;
use crate::cli::signals::Signals;
use sampan_client::engine::{Answer, Done};
use sampan_client::{Answers, Engine};

/// The engine that the arguments or the environment name.
pub(crate) fn engine(socket: &EngineSocket) -> Engine {
    socket.socket.as_ref().map_or_else(Engine::from_env, Engine::new)
}

/// Waits for the end of short work.
pub(crate) fn finish(answers: Answers) -> Result<Done, Failure> {
    let mut done = None;
    for answer in answers {
        match answer? {
            Answer::Done(last) => done = Some(last),
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    done.ok_or_else(|| Failure::new("the engine gave no answer"))
}

/// The exit status of several attempts: that of the last one that failed.
pub(crate) fn each<T>(
    things: &[T],
    mut attempt: impl FnMut(&T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last = None;
    for thing in things {
        if let Err(failure) = attempt(thing)
            && let Some(earlier) = last.replace(failure)
        {
            output::report(&earlier);
        }
    }
    last.map_or(Ok(()), |failure| Err(Failure { status: failure.status.max(FAILED), ..failure }))
}

/// Catches the signals that end a command; they end `answers` too.
pub(crate) fn catch(answers: &Answers) -> Result<Signals, Failure> {
    Signals::catch(&answers.stopper()?.into())
        .map_err(|error| Failure::new(format!("cannot catch signals: {error}")))
}
