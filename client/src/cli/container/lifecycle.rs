//! Containers that are there: stop, kill, restart, pause, unpause, wait, rm, rename, top, prune, inspect.

use crate::cli::args::container::{
    Containers, InspectContainers, Kill, PruneContainers, RemoveContainers, Rename, Stop, Top, Wait, WaitFor,
};
use crate::cli::args::socket::EngineSocket;
use crate::cli::args::{InspectAny, InspectKind};
use crate::cli::container::run::document;
use crate::cli::error::{FAILED, Failure};
use crate::cli::event::format;
use crate::cli::human_units;
use crate::cli::image::list::{self, print};
use crate::cli::job::commands::{each, engine, finish};
use sampan_client::engine::{self, Answer, Answers, Code, EngineError, Request};
use sampan_ipc::container::Condition;
use sampan_ipc::event::escape;
use sampan_ipc::time;
use serde_json::Value;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::Command;

/// Most containers that the engine is asked about at a time: to stop one takes its time.
const AT_ONCE: usize = 32;

/// Asks the same of several containers at once; each answer is dealt with in the order of the names.
fn all(
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
                crate::report(&earlier);
            }
        }
    }
    last.map_or(Ok(()), |failure| Err(Failure { status: failure.status.max(FAILED), ..failure }))
}

/// Prints a name, as it was given, when what was asked for is done.
fn told(name: &String, answers: Answers) -> Result<(), Failure> {
    finish(answers)?;
    print(&format!("{name}\n"))
}

fn stop_of(name: &str, args: &Stop) -> engine::Stop {
    engine::Stop { container: name.to_owned(), timeout: args.time, signal: args.signal.clone() }
}

/// Runs `sampan stop`.
///
/// # Errors
/// There is no such container.
pub fn stop(args: &Stop) -> Result<(), Failure> {
    all(&args.socket, &args.containers, |name| Request::Stop(stop_of(name, args)), told)
}

/// Runs `sampan restart`.
///
/// # Errors
/// There is no such container, or it does not start.
pub fn restart(args: &Stop) -> Result<(), Failure> {
    all(&args.socket, &args.containers, |name| Request::Restart(stop_of(name, args)), told)
}

/// Runs `sampan kill`.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn kill(args: &Kill) -> Result<(), Failure> {
    let request = |name: &String| Request::Kill { container: name.clone(), signal: args.signal.clone() };
    all(&args.socket, &args.containers, request, told)
}

/// Runs `sampan pause`.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn pause(args: &Containers) -> Result<(), Failure> {
    all(&args.socket, &args.containers, |name| Request::Pause { container: name.clone() }, told)
}

/// Runs `sampan unpause`.
///
/// # Errors
/// There is no such container, or it is not paused.
pub fn unpause(args: &Containers) -> Result<(), Failure> {
    all(&args.socket, &args.containers, |name| Request::Unpause { container: name.clone() }, told)
}

/// Runs `sampan rm`.
///
/// # Errors
/// There is no such container, or it runs.
pub fn remove(args: &RemoveContainers) -> Result<(), Failure> {
    let request = |name: &String| Request::RemoveContainer { container: name.clone(), force: args.force };
    all(&args.socket, &args.containers, request, |name, answers| {
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

/// Runs `sampan wait`.
///
/// # Errors
/// There is no such container.
pub fn wait(args: &Wait) -> Result<(), Failure> {
    let condition = match args.condition {
        WaitFor::NotRunning => Condition::NotRunning,
        WaitFor::NextExit => Condition::NextExit,
        WaitFor::Removed => Condition::Removed,
    };
    // All at once: the second may end while the first is waited for.
    let request = |name: &String| Request::Wait { container: name.clone(), condition };
    all(&args.socket, &args.containers, request, |name, answers| {
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

/// Runs `sampan rename`.
///
/// # Errors
/// There is no such container, or another has the name.
pub fn rename(args: &Rename) -> Result<(), Failure> {
    let request = Request::Rename { container: args.container.clone(), name: args.name.clone() };
    finish(engine(&args.socket).request(request, &[])?).map(drop)
}

/// Runs `sampan container prune`.
///
/// # Errors
/// A filter makes no sense, or the engine is not there.
pub fn prune(args: &PruneContainers) -> Result<(), Failure> {
    if !args.force && io::stdin().is_terminal() && !confirmed()? {
        return Ok(());
    }
    let filters = args.filters.iter().map(|filter| prune_filter(filter)).collect::<Result<_, Failure>>()?;
    let request = Request::PruneContainers { filters };
    let done = finish(engine(&args.socket).request(request, &[])?)?;
    let mut text = String::new();
    if !done.removed.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", done.removed.join("\n"));
    }
    print(&format!("{text}Total reclaimed space: {}\n", human_units::bytes(done.freed)))
}

/// A filter as the engine takes it: times are nanoseconds since the epoch.
fn prune_filter(text: &str) -> Result<String, Failure> {
    match text.strip_prefix("until=") {
        Some(until) => Ok(format!("until={}", time::parse(until, time::now()).map_err(Failure::usage)?)),
        None => Ok(text.to_owned()),
    }
}

fn confirmed() -> Result<bool, Failure> {
    let cannot = |error: io::Error| Failure::new(format!("cannot ask: {error}")).hint("--force does not ask");
    let mut stderr = io::stderr();
    stderr.write_all(b"This removes all containers that do not run. Go on? [y/N] ").map_err(cannot)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(cannot)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Runs `sampan container inspect`.
///
/// # Errors
/// There is no such container.
pub fn inspect(args: &InspectContainers) -> Result<(), Failure> {
    show(&args.containers, |name| document(&args.socket, name, args.size))
}

/// Runs `sampan inspect`: containers first, then images.
///
/// # Errors
/// There is nothing of a name.
pub fn inspect_any(args: &InspectAny) -> Result<(), Failure> {
    show(&args.names, |name| match args.kind {
        Some(InspectKind::Container) => document(&args.socket, name, args.size),
        Some(InspectKind::Image) => list::document(&args.socket, name),
        None => match document_if_any(&args.socket, name, args.size)? {
            Some(document) => Ok(document),
            None => list::document(&args.socket, name).map_err(|failure| match failure.message.is_empty() {
                true => failure,
                false => failure.hint("there is no container of this name either"),
            }),
        },
    })
}

/// A container in full, if there is one.
fn document_if_any(socket: &EngineSocket, name: &str, size: bool) -> Result<Option<Value>, Failure> {
    let request = Request::InspectContainer { container: name.to_owned(), size };
    match engine(socket).request(request, &[])?.next() {
        Some(Err(EngineError::Failed(failure))) if failure.code == Code::NotFound => Ok(None),
        _ => document(socket, name, size).map(Some),
    }
}

fn show(
    names: &[String],
    mut document: impl FnMut(&String) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let mut documents = Vec::new();
    let outcome = each(names, |name| {
        documents.push(document(name)?);
        Ok(())
    });
    // An array, also of what is there when some are not, as docker-inspect(1) does.
    print(&(format::json_pretty(&documents) + "\n"))?;
    outcome
}

/// Runs `sampan top`: ps(1) of this host, and of its lines those of the container's processes.
///
/// # Errors
/// The container does not run, or there is no ps here.
pub fn top(args: &Top) -> Result<(), Failure> {
    let Some((name, options)) = args.words.split_first() else {
        return Err(Failure::new("no container is given"));
    };
    let mut pids = Vec::new();
    let request = Request::Top { container: name.clone(), columns: Vec::new() };
    for answer in engine(&args.socket).request(request, &[])? {
        if let Answer::Processes(more) = answer? {
            pids.extend(more);
        }
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = Command::new("ps").args(options).output().map_err(|error| {
        Failure::new(format!("cannot run ps: {error}")).hint("install the package procps")
    })?;
    if !output.status.success() {
        // Its usage follows, over many lines.
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it did not say why");
        let why = why.trim_start_matches("error: ");
        return Err(Failure::new(format!("ps {} failed: {why}", options.join(" ")))
            .hint("what stands behind the container are options of ps(1)"));
    }
    let text = rows(&String::from_utf8_lossy(&output.stdout), &pids)?;
    print(&text)
}

/// The header of what ps says, and the lines of these processes.
fn rows(text: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let at = header.split_whitespace().position(|word| word == "PID").ok_or_else(|| {
        Failure::new("cannot tell the container's processes: ps prints no column PID")
            .hint("add it: -o pid,…")
    })?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(at).and_then(|word| word.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let mut out = String::new();
    for line in [header].into_iter().chain(lines.filter(is_ours)) {
        escape(&mut out, line);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_ps_says_the_processes_of_the_container_are_kept() {
        let text = "UID   PID  CMD\nroot    1  init\nroot   17  sh -c \x1b[2J\nroot  117  x 17\n";
        assert_eq!(rows(text, &[17]).expect("a column"), "UID   PID  CMD\nroot   17  sh -c \\u{1b}[2J\n");
        assert!(rows("COMMAND\nsh\n", &[1]).is_err());
        assert!(rows("", &[1]).is_err());
    }
}
