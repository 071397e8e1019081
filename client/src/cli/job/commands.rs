//! `sampan jobs`, `sampan watch` and `sampan cancel`.

use crate::cli::args::job::{Cancel, Jobs, Watch};
use crate::cli::engine::{engine, finish};
use crate::cli::error::Failure;
use crate::cli::format::{self, ListFormat, ListRow};
use crate::cli::human_units;
use crate::cli::job::follow::follow;
use crate::cli::job::rows::is_replication;
use crate::cli::output;
use crate::cli::replication;
use crate::cli::table::Table;
use sampan_client::Engine;
use sampan_client::engine::{Answer, Job, JobState, Phase, Request, Row};
use sampan_client::time;
use serde_json::json;

/// The fields of a job, and their headers in a table.
const HEADERS: [(&str, &str); 12] = [
    ("ID", "JOB"),
    ("Kind", "KIND"),
    ("Subject", "SUBJECT"),
    ("State", "STATE"),
    ("Current", "CURRENT"),
    ("Total", "TOTAL"),
    ("Layers", "LAYERS"),
    ("Started", "STARTED"),
    ("Ended", "ENDED"),
    ("Error", "ERROR"),
    ("Watchers", "WATCHERS"),
    ("Detached", "DETACHED"),
];

pub(crate) fn watch(args: &Watch) -> Result<(), Failure> {
    let engine = engine(&args.socket);
    // A replication ends with a report and not with a digest.
    let job = all(&engine)?.into_iter().find(|job| job.id == args.job);
    match job.filter(is_replication) {
        Some(job) => replication::follow::watch(&engine, job.id, &job.subject, &(&args.progress).into()),
        None => follow(&engine, Request::Watch { job: args.job }, &[], &args.progress),
    }
}

pub(crate) fn cancel(args: &Cancel) -> Result<(), Failure> {
    finish(engine(&args.socket).request(Request::Cancel { job: args.job }, &[])?)?;
    Ok(())
}

pub(crate) fn list(args: &Jobs) -> Result<(), Failure> {
    let shape = ListFormat::parse(args.format.as_deref())?;
    let jobs = all(&engine(&args.socket))?;
    if args.quiet {
        return output::print(&jobs.iter().map(|job| format!("{}\n", job.id)).collect::<String>());
    }
    let rows: Vec<ListRow> = jobs.iter().map(|job| ListRow::new(&json_job(job))).collect();
    match shape.text(&rows, &HEADERS)? {
        Some(text) => format::print(&text),
        None => output::print(&table(&jobs)),
    }
}

/// All jobs that the engine knows.
fn all(engine: &Engine) -> Result<Vec<Job>, Failure> {
    let mut jobs = Vec::new();
    for answer in engine.request(Request::Jobs, &[])? {
        if let Answer::Jobs(more) = answer? {
            jobs.extend(more);
        }
    }
    Ok(jobs)
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
        let state = state(job).to_owned();
        table.row(vec![job.id.to_string(), job.kind.clone(), state, progress, started, job.subject.clone()]);
    }
    table.text()
}

fn json_job(job: &Job) -> serde_json::Value {
    let (current, total) = bytes(job);
    let at = |nanos: i64| (nanos != 0).then(|| time::local(nanos));
    json!({
        "id": job.id, "kind": job.kind, "subject": job.subject, "state": state(job),
        "current": current, "total": total, "layers": layers(job).count(),
        "started": at(job.started), "ended": at(job.ended), "error": job.error,
        "watchers": job.watchers, "detached": job.detached,
    })
}

/// The row about a whole replication; `None` for other jobs.
fn summary(job: &Job) -> Option<&Row> {
    job.rows.first().filter(|row| is_replication(job) && row.index == 0)
}

/// The rows that are about one layer or blob.
fn layers(job: &Job) -> impl Iterator<Item = &Row> {
    job.rows.iter().filter(|row| !is_replication(job) || row.index > 0)
}

fn bytes(job: &Job) -> (u64, u64) {
    if let Some(row) = summary(job) {
        return (row.current, row.total);
    }
    layers(job).fold((0, 0), |(current, total): (u64, u64), row| {
        (current.saturating_add(row.current), total.saturating_add(row.total))
    })
}

fn state(job: &Job) -> &'static str {
    // A replication that waits for its next attempt has a note that says how long.
    let waits = |row: &Row| row.phase == Phase::Waiting && !row.note.is_empty();
    match job.state {
        JobState::Running if summary(job).is_some_and(waits) => "retrying",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        // A stopped replication can be resumed. Jobs have no state of their own for it; their error says so.
        JobState::Cancelled if is_replication(job) && job.error.ends_with(" was stopped") => "stopped",
        JobState::Cancelled => "cancelled",
    }
}
