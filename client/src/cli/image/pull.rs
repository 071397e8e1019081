//! `sampan pull`: pulls one or several references, from registries or from files and directories.

use crate::cli::args::image::Pull;
use crate::cli::engine::engine;
use crate::cli::error::{FAILED, Failure, USAGE};
use crate::cli::human_units::rate;
use crate::cli::image::credentials;
use crate::cli::image::transport::{self, Location};
use crate::cli::job::follow::Follow;
use crate::cli::output;
use sampan_client::engine::{self, Answer, Answers, Request};
use std::os::fd::{AsFd, OwnedFd};

#[expect(clippy::expect_used, reason = "Follow counts through the names, and each name has its request")]
pub(crate) fn run(args: &Pull) -> Result<(), Failure> {
    // A reference that was typed twice is pulled by one job.
    let names = unique(&args.references);
    let requests =
        names.iter().map(|name| job_request(name, args)).collect::<Result<Vec<JobRequest>, Failure>>()?;
    let engine = engine(&args.socket);
    let mut start = |at: usize| {
        let (request, from) = requests.get(at).expect("as many as there are names");
        let from: Vec<_> = from.iter().map(AsFd::as_fd).collect();
        engine.request(request.clone(), &from)
    };
    if args.detach {
        return report((0..names.len()).map(|at| detached(start(at)?)));
    }
    let followed = Follow::new(&names, &args.progress, &mut start)?.run()?;
    let place = |reference: &String| names.iter().position(|name| name == reference);
    let asked = args.references.iter().filter_map(|reference| Some((place(reference)?, reference.as_str())));
    let outcomes = followed.finish(None, asked)?;
    report(outcomes.into_iter().map(|outcome| outcome.map(drop)))
}

/// A request, and the descriptor that comes with it.
type JobRequest = (Request, Option<OwnedFd>);

fn job_request(name: &str, args: &Pull) -> Result<JobRequest, Failure> {
    match transport::parse(name)? {
        Location::Registry(reference) => Ok((pull_of(reference, args)?, None)),
        Location::Files { container, path, name: within } => {
            check_options(name, args)?;
            let platform = args.platform.clone();
            let (load, from) =
                transport::load(container, &path, within.as_deref(), platform, args.no_unpack)?;
            Ok((Request::Load(load), Some(from)))
        }
    }
}

fn pull_of(reference: String, args: &Pull) -> Result<Request, Failure> {
    Ok(Request::Pull(engine::Pull {
        credentials: credentials::for_job(&engine(&args.socket), &reference, args.authfile.as_deref())?,
        reference,
        platform: args.platform.clone(),
        detach: args.detach,
        insecure: !args.tls_verify,
        all_tags: args.all_tags,
        no_unpack: args.no_unpack,
        bytes_per_second: args.limit_rate.as_deref().map_or(Ok(0), rate)?,
    }))
}

/// Refuses options that apply only to registries.
fn check_options(name: &str, args: &Pull) -> Result<(), Failure> {
    let pointless = [
        (args.detach, "--detach"),
        (args.all_tags, "--all-tags"),
        (args.limit_rate.is_some(), "--limit-rate"),
    ];
    match pointless.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, option)) => {
            let message = format!("cannot pull {name} with {option}, which is only for registries");
            Err(Failure::new(message).status(USAGE))
        }
    }
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

/// Prints the number of a detached job.
pub(crate) fn detached(answers: Answers) -> Result<(), Failure> {
    for answer in answers {
        match answer? {
            Answer::Job(job) => output::print(&format!("{}\n", job.id))?,
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    Ok(())
}

/// Prints all failures except the last, which it returns with the exit status for all of them.
///
/// The exit status is that of invalid usage only if no pull was tried.
fn report(outcomes: impl Iterator<Item = Result<(), Failure>>) -> Result<(), Failure> {
    let (done, failed): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);
    let mut failures: Vec<Failure> = failed.into_iter().filter_map(Result::err).collect();
    let is_usage = done.is_empty() && failures.iter().all(|failure| failure.status == USAGE);
    let Some(last) = failures.pop() else {
        return Ok(());
    };
    failures.iter().for_each(output::report);
    Err(last.status(if is_usage { USAGE } else { FAILED }))
}
