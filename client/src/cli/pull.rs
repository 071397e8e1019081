//! `sampan pull`: one reference or several, on one screen; from registries, or from files and directories.

use crate::cli::args::Pull;
use crate::cli::credentials;
use crate::cli::failure::{FAILED, Failure, USAGE};
use crate::cli::follow::Follow;
use crate::cli::job::engine;
use crate::cli::output;
use crate::cli::progress::unwritable;
use crate::cli::transport::{self, Place};
use crate::cli::units;
use sampan_client::engine::{self, Answer, Answers, Request};
use std::os::fd::{AsFd, OwnedFd};

/// Runs the command.
///
/// # Errors
/// The engine is not there, or a pull failed: the last one that did; those before it are reported here.
pub fn run(args: &Pull) -> Result<(), Failure> {
    let bytes_per_second = args.limit_rate.as_deref().map_or(Ok(0), rate)?;
    let request = |reference: String| {
        Request::Pull(engine::Pull {
            credentials: credentials::of(&reference),
            reference,
            platform: args.platform.clone(),
            detach: args.detach,
            insecure: !args.tls_verify,
            all_tags: args.all_tags,
            no_unpack: args.no_unpack,
            bytes_per_second,
        })
    };
    let engine = engine(&args.socket);
    // What is asked for twice is one job.
    let names = unique(&args.references);
    let sources = names.iter().map(|name| source(name, args)).collect::<Result<Vec<Source>, Failure>>()?;
    let mut start = |at: usize| match sources.get(at) {
        Some(Source::Files(load, from)) => engine.request(Request::Load(load.clone()), &[from.as_fd()]),
        Some(Source::Registry(reference)) => engine.request(request(reference.clone()), &[]),
        None => engine.request(request(String::new()), &[]),
    };
    if args.detach {
        return report((0..names.len()).map(|at| detached(start(at)?)));
    }
    let (outcomes, mut view) = Follow::new(&names, &args.progress, &mut start)?.run()?;
    let place = |reference: &String| names.iter().position(|name| name == reference);
    let asked = args.references.iter().filter_map(|reference| {
        let at = place(reference)?;
        Some((at, reference.as_str(), outcomes.get(at)?))
    });
    view.finish(asked).map_err(|error| unwritable(&error))?;
    report(outcomes.into_iter().map(|outcome| outcome.map(drop)))
}

/// Where one of the images is.
enum Source {
    Registry(String),
    Files(engine::Load, OwnedFd),
}

fn source(name: &str, args: &Pull) -> Result<Source, Failure> {
    let (container, path, within) = match transport::parse(name)? {
        Place::Registry(reference) => return Ok(Source::Registry(reference)),
        Place::Files { container, path, name } => (container, path, name),
    };
    let pointless = [
        (args.detach, "--detach"),
        (args.all_tags, "--all-tags"),
        (args.limit_rate.is_some(), "--limit-rate"),
    ];
    if let Some((_, option)) = pointless.into_iter().find(|(given, _)| *given) {
        let message = format!("cannot pull {name} with {option}: that is for registries");
        return Err(Failure::new(message).status(USAGE));
    }
    let platform = args.platform.clone();
    let (load, from) = transport::load(container, &path, within.as_deref(), platform, args.no_unpack)?;
    Ok(Source::Files(load, from))
}

/// Reads what `--rate` and `--limit-rate` take.
///
/// # Errors
/// It is no rate.
pub fn rate(text: &str) -> Result<u64, Failure> {
    units::parse_rate(text).ok_or_else(|| {
        let message =
            format!("rate {text:?} is not understood; write bytes per second over zero: 500K, 1.5M/s");
        Failure::new(message).status(USAGE)
    })
}

fn unique(references: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for reference in references {
        if !names.contains(reference) {
            names.push(reference.clone());
        }
    }
    names
}

/// Prints the number of a job that goes on by itself.
///
/// # Errors
/// The engine refuses.
pub fn detached(answers: Answers) -> Result<(), Failure> {
    for answer in answers {
        match answer? {
            Answer::Job(job) => {
                output::print(&format!("{}\n", job.id)).map_err(|error| unwritable(&error))?
            }
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    Ok(())
}

/// Reports all failures but the last, which is returned, with the exit status of all together.
///
/// Bad usage is the status only where nothing else was: else something was tried, and failed.
fn report(outcomes: impl Iterator<Item = Result<(), Failure>>) -> Result<(), Failure> {
    let (done, failed): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);
    let mut failures: Vec<Failure> = failed.into_iter().filter_map(Result::err).collect();
    let is_usage = done.is_empty() && failures.iter().all(|failure| failure.status == USAGE);
    let Some(last) = failures.pop() else {
        return Ok(());
    };
    failures.iter().for_each(crate::report);
    Err(last.status(if is_usage { USAGE } else { FAILED }))
}
