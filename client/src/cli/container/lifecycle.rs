//! Commands for existing containers: `stop`, `kill`, `restart`, `pause`, `unpause`, `wait`, `rm` and `rename`.

use crate::cli::args::container::{Containers, Kill, RemoveContainers, Rename, Stop, Wait, WaitFor};
use crate::cli::args::socket::EngineSocket;
use crate::cli::engine::{engine, finish};
use crate::cli::error::{FAILED, Failure};
use crate::cli::output;
use crate::cli::output::print;
use sampan_client::engine::{self, Answer, Answers, Code, EngineError, Request};
use sampan_ipc::container::Condition;

/// Most requests at a time. Stopping a container takes a while, so several containers stop at a time.
const AT_ONCE: usize = 32;

/// Sends a request for each name, several at a time. Calls `then` with the answers in the order of the names.
fn for_all(
    socket: &EngineSocket,
    names: &[String],
    request: impl Fn(&String) -> Request,
    mut then: impl FnMut(&String, Answers) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last: Option<Failure> = None;
    for some in names.chunks(AT_ONCE) {
        let asked: Vec<_> = some.iter().map(|name| engine(socket).request(request(name), &[])).collect();
        for (name, asked) in some.iter().zip(asked) {
            if let Err(failure) = asked.map_err(Failure::from).and_then(|answers| then(name, answers))
                && let Some(earlier) = last.replace(failure)
            {
                output::report(&earlier);
            }
        }
    }
    last.map_or(Ok(()), |failure| Err(Failure { status: failure.status.max(FAILED), ..failure }))
}

/// Waits for the end of the request, and prints the name that the person typed.
fn print_name(name: &String, answers: Answers) -> Result<(), Failure> {
    finish(answers)?;
    print(&format!("{name}\n"))
}

fn stop_request(name: &str, args: &Stop) -> engine::Stop {
    engine::Stop { container: name.to_owned(), timeout: args.time, signal: args.signal.clone() }
}

pub(crate) fn stop(args: &Stop) -> Result<(), Failure> {
    for_all(&args.socket, &args.containers, |name| Request::Stop(stop_request(name, args)), print_name)
}

pub(crate) fn restart(args: &Stop) -> Result<(), Failure> {
    for_all(&args.socket, &args.containers, |name| Request::Restart(stop_request(name, args)), print_name)
}

pub(crate) fn kill(args: &Kill) -> Result<(), Failure> {
    let request = |name: &String| Request::Kill { container: name.clone(), signal: args.signal.clone() };
    for_all(&args.socket, &args.containers, request, print_name)
}

pub(crate) fn pause(args: &Containers) -> Result<(), Failure> {
    for_all(&args.socket, &args.containers, |name| Request::Pause { container: name.clone() }, print_name)
}

pub(crate) fn unpause(args: &Containers) -> Result<(), Failure> {
    for_all(&args.socket, &args.containers, |name| Request::Unpause { container: name.clone() }, print_name)
}

pub(crate) fn remove(args: &RemoveContainers) -> Result<(), Failure> {
    let request = |name: &String| Request::RemoveContainer { container: name.clone(), force: args.force };
    for_all(&args.socket, &args.containers, request, |name, answers| {
        for answer in answers {
            match answer {
                Err(EngineError::Failed(failure)) if args.force && failure.code == Code::NotFound => {
                    return Ok(());
                }
                answer => drop(answer?),
            }
        }
        print(&format!("{name}\n"))
    })
}

pub(crate) fn wait(args: &Wait) -> Result<(), Failure> {
    let condition = match args.condition {
        WaitFor::NotRunning => Condition::NotRunning,
        WaitFor::NextExit => Condition::NextExit,
        WaitFor::Removed => Condition::Removed,
    };
    // Send all requests at the beginning: the second container may end during the wait for the first.
    let request = |name: &String| Request::Wait { container: name.clone(), condition };
    for_all(&args.socket, &args.containers, request, |name, answers| {
        for answer in answers {
            if let Answer::Exit { code, error } = answer? {
                print(&format!("{code}\n"))?;
                if !error.is_empty() {
                    crate::cli::output::note(&format!("{name}: {error}"));
                }
            }
        }
        Ok(())
    })
}

pub(crate) fn rename(args: &Rename) -> Result<(), Failure> {
    let request = Request::Rename { container: args.container.clone(), name: args.name.clone() };
    finish(engine(&args.socket).request(request, &[])?).map(drop)
}
