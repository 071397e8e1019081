//! `sampan jobs`, `sampan watch` and `sampan cancel`.

use crate::cli::args::display::ListFormat;
use crate::cli::args::job::{Cancel, Jobs, Watch};
use crate::cli::engine::{engine, finish};
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::job::follow::follow;
use crate::cli::json;
use crate::cli::output;
use crate::cli::table::Table;
use sampan_client::engine::{Answer, Job, JobState, Request};
use sampan_client::time;
use serde_json::json;

pub(crate) fn watch(args: &Watch) -> Result<(), Failure> {
    follow(&engine(&args.socket), Request::Watch { job: args.job }, &[], &args.progress)
}

pub(crate) fn cancel(args: &Cancel) -> Result<(), Failure> {
    finish(engine(&args.socket).request(Request::Cancel { job: args.job }, &[])?)?;
    Ok(())
}

pub(crate) fn list(args: &Jobs) -> Result<(), Failure> {
    let mut jobs = Vec::new();
    for answer in engine(&args.socket).request(Request::Jobs, &[])? {
        if let Answer::Jobs(more) = answer? {
            jobs.extend(more);
        }
    }
    let text = match (args.quiet, args.format) {
        (true, _) => jobs.iter().map(|job| format!("{}\n", job.id)).collect(),
        (false, ListFormat::Json) => json::line(&jobs.iter().map(json_job).collect::<Vec<_>>()) + "\n",
        (false, ListFormat::Table) => table(&jobs),
    };
    output::print(&text)
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
