//! Work that takes its time: `watch`, `serve`, one job of any kind, and the list of jobs.
//!
//! A command watches its job on one connection. Ctrl-C hangs up, and the engine ends what nobody watches.

use crate::cli::args::display::{ListFormat, Progress};
use crate::cli::args::image::Serve;
use crate::cli::args::job::{Cancel, Jobs, Watch};
use crate::cli::args::socket::EngineSocket;
use crate::cli::error::{FAILED, Failure};
use crate::cli::event::format;
use crate::cli::human_units;
use crate::cli::human_units::rate;
use crate::cli::job::follow::Follow;
use crate::cli::job::view::{Words, unwritable};
use crate::cli::output;
use crate::cli::signals::{self, Signals};
use crate::cli::table::Table;
use sampan_client::engine::{self, Answer, Done, Job, JobState, Request};
use sampan_client::{Answers, Engine, time};
use serde_json::json;
use std::os::fd::BorrowedFd;

/// The engine that the arguments or the environment name.
pub fn engine(socket: &EngineSocket) -> Engine {
    socket.socket.as_ref().map_or_else(Engine::from_env, Engine::new)
}

/// Runs `sampan watch`.
///
/// # Errors
/// There is no such job, or it failed.
pub fn watch(args: &Watch) -> Result<(), Failure> {
    follow(&engine(&args.socket), Request::Watch { job: args.job }, &[], &args.progress)
}

/// Asks for work, shows its progress, and prints its result.
///
/// # Errors
/// The engine is not there, or the work failed.
pub fn follow(
    engine: &Engine,
    request: Request,
    fds: &[BorrowedFd<'_>],
    progress: &Progress,
) -> Result<(), Failure> {
    follow_to(engine, request, fds, progress, None)
}

/// As [`follow`], and prints of the result what `words` makes of it, unless it is wanted as JSON.
///
/// # Errors
/// As [`follow`].
pub fn follow_to(
    engine: &Engine,
    request: Request,
    fds: &[BorrowedFd<'_>],
    progress: &Progress,
    words: Option<Words>,
) -> Result<(), Failure> {
    let name = subject(&request);
    let mut start = |_| engine.request(request.clone(), fds);
    let followed = Follow::new(std::slice::from_ref(&name), progress, &mut start)?.run()?;
    let outcomes = followed.finish(words, [(0, name.as_str())])?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
}

/// What a request is about, until the engine says it better.
fn subject(request: &Request) -> String {
    match request {
        Request::Pull(pull) => pull.reference.clone(),
        Request::Import(import) => import.reference.clone(),
        Request::Push(push) => push.target.as_ref().unwrap_or(&push.source).clone(),
        Request::Save(save) => save.names.join(" "),
        Request::Load(load) => load.reference.clone().unwrap_or_else(|| "archive".to_owned()),
        Request::Watch { job } => format!("job {job}"),
        _ => "store".to_owned(),
    }
}

/// Catches the signals that end a command; they end `answers` too.
pub fn catch(answers: &Answers) -> Result<Signals, Failure> {
    Signals::catch(&answers.stopper()?.into())
        .map_err(|error| Failure::new(format!("cannot catch signals: {error}")))
}

/// Runs `sampan serve`: until Ctrl-C.
///
/// # Errors
/// The engine is not there, or cannot listen.
pub fn serve(args: &Serve) -> Result<(), Failure> {
    let bytes_per_second = args.rate.as_deref().map_or(Ok(0), rate)?;
    let request = Request::Serve(engine::Serve { listen: args.listen.clone(), bytes_per_second });
    let mut answers = engine(&args.socket).request(request, &[])?;
    let signals = catch(&answers)?;
    while let Some(answer) = answers.next().transpose()? {
        match answer {
            Answer::Serving { address } => {
                output::print(&format!("serving on {address}\n")).map_err(|error| unwritable(&error))?;
            }
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    if let Some(signal) = signals.caught() {
        drop(answers);
        signals::die_of(signal);
    }
    Ok(())
}

/// Runs `sampan cancel`.
///
/// # Errors
/// There is no such job, or it has ended.
pub fn cancel(args: &Cancel) -> Result<(), Failure> {
    finish(engine(&args.socket).request(Request::Cancel { job: args.job }, &[])?)?;
    Ok(())
}

/// Waits for the end of short work.
///
/// # Errors
/// It failed.
pub fn finish(answers: Answers) -> Result<Done, Failure> {
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

/// Runs `sampan jobs`.
///
/// # Errors
/// The engine is not there.
pub fn list(args: &Jobs) -> Result<(), Failure> {
    let mut jobs = Vec::new();
    for answer in engine(&args.socket).request(Request::Jobs, &[])? {
        if let Answer::Jobs(more) = answer? {
            jobs.extend(more);
        }
    }
    let text = match (args.quiet, args.format) {
        (true, _) => jobs.iter().map(|job| format!("{}\n", job.id)).collect(),
        (false, ListFormat::Json) => format::json(&jobs.iter().map(json_job).collect::<Vec<_>>()) + "\n",
        (false, ListFormat::Table) => table(&jobs),
    };
    output::print(&text).map_err(|error| unwritable(&error))
}

fn table(jobs: &[Job]) -> String {
    let mut table = Table::new(&["JOB", "KIND", "STATE", "PROGRESS", "STARTED", "SUBJECT"]);
    for job in jobs {
        let (current, total) = bytes(job);
        let progress = if job.rows.is_empty() {
            "-".to_owned()
        } else {
            format!("{}/{}", human_units::bytes(current), human_units::bytes(total))
        };
        let started = human_units::age(time::now().saturating_sub(job.started));
        let state = state(job.state).to_owned();
        table.row(vec![job.id.to_string(), job.kind.clone(), state, progress, started, job.subject.clone()]);
    }
    table.text()
}

fn json_job(job: &Job) -> serde_json::Value {
    let (current, total) = bytes(job);
    let at = |nanos: i64| (nanos != 0).then(|| time::local(nanos));
    json!({
        "id": job.id, "kind": job.kind, "subject": job.subject, "state": state(job.state),
        "current": current, "total": total, "layers": job.rows.len(),
        "started": at(job.started), "ended": at(job.ended), "error": job.error,
        "watchers": job.watchers, "detached": job.detached,
    })
}

fn bytes(job: &Job) -> (u64, u64) {
    job.rows.iter().fold((0, 0), |(current, total): (u64, u64), row| {
        (current.saturating_add(row.current), total.saturating_add(row.total))
    })
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// The exit status of several attempts: that of the last one that failed.
pub fn each<T>(things: &[T], mut attempt: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut last = None;
    for thing in things {
        if let Err(failure) = attempt(thing)
            && let Some(earlier) = last.replace(failure)
        {
            crate::report(&earlier);
        }
    }
    last.map_or(Ok(()), |failure| Err(Failure { status: failure.status.max(FAILED), ..failure }))
}
