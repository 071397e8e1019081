//! Code that all commands with requests to the engine share: the engine's address, short requests, one request per
//! argument.

use crate::cli::args::socket::EngineSocket;
use crate::cli::error::{FAILED, Failure};
use crate::cli::output;
use crate::cli::signals::Signals;
use sampan_client::engine::{Answer, Done};
use sampan_client::{Answers, Engine};

/// Returns the engine that the arguments or the environment name. Does not connect.
pub(crate) fn engine(socket: &EngineSocket) -> Engine {
    socket.socket.as_ref().map_or_else(Engine::from_env, Engine::new)
}

/// Waits until a short request has ended, prints its notes, and returns its result.
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

/// Calls the function for all of `things`. Prints each failure except the last, which it returns.
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

/// Catches the signals that end a command. After such a signal, the iterator `answers` ends instead of waiting for the
/// engine.
pub(crate) fn catch(answers: &Answers) -> Result<Signals, Failure> {
    Signals::catch(&answers.stopper()?.into())
        .map_err(|error| Failure::new(format!("cannot catch signals: {error}")))
}
