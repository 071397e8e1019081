//! `sampan pull`: one reference or several, on one screen.

use crate::cli::args::Pull;
use crate::cli::credentials;
use crate::cli::failure::{FAILED, Failure, USAGE};
use crate::cli::follow::Follow;
use crate::cli::job::engine;
use crate::cli::output;
use crate::cli::progress::unwritable;
use crate::cli::units;
use sampan_client::engine::{self, Answer, Answers, Request};

/// Runs the command.
///
/// # Errors
/// The engine is not there, or a pull failed: the last one that did; those before it are reported here.
pub fn run(args: &Pull) -> Result<(), Failure> {
    let bytes_per_second = args.limit_rate.as_deref().map_or(Ok(0), rate)?;
    let request = |reference: &String| {
        Request::Pull(engine::Pull {
            reference: reference.clone(),
            platform: args.platform.clone(),
            detach: args.detach,
            insecure: !args.tls_verify,
            all_tags: args.all_tags,
            no_unpack: args.no_unpack,
            bytes_per_second,
            credentials: credentials::of(reference),
        })
    };
    let engine = engine(&args.socket);
    // What is asked for twice is one job.
    let names = unique(&args.references);
    let mut start = |at: usize| engine.request(request(names.get(at).unwrap_or(&String::new())), &[]);
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
