//! `sampan replication ls`, `show`, `stop`, `resume` and `retry`.

use crate::cli::args::display::ListFormat;
use crate::cli::args::replication::{Again, Ls, ReportFormat, Show, Stop};
use crate::cli::engine::{engine, finish};
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::image::pull::detached;
use crate::cli::job::view;
use crate::cli::json;
use crate::cli::output;
use crate::cli::replication::follow::follow;
use crate::cli::replication::report::Report;
use crate::cli::replication::{json_report, table_report};
use crate::cli::table::Table;
use sampan_client::engine::{Answer, Request};
use sampan_client::time;
use sampan_ipc::replication::{Execution, ExecutionRequest, Listing};

pub(crate) fn list(args: &Ls) -> Result<(), Failure> {
    let since = args.since.as_deref().map(|text| time::parse(text, time::now()));
    let since = since.transpose().map_err(Failure::usage)?;
    let policy = args.policy.clone().unwrap_or_default();
    let listing = Listing { policy, since, limit: args.limit };
    let mut executions = Vec::new();
    for answer in engine(&args.socket).request(Request::Executions(listing), &[])? {
        if let Answer::Executions(more) = answer? {
            executions.extend(more);
        }
    }
    output::print(&match (args.quiet, args.format) {
        (true, _) => executions.iter().map(|execution| format!("{}\n", execution.id)).collect(),
        (false, ListFormat::Json) => {
            json::line(&executions.iter().map(json_report::execution).collect::<Vec<_>>()) + "\n"
        }
        (false, ListFormat::Table) => {
            let table = table(&executions, time::now());
            view::columns().map_or_else(|| table.text(), |columns| table.cropped(columns, 0))
        }
    })
}

fn table(executions: &[Execution], now: i64) -> Table {
    let header =
        ["ID", "POLICY", "STATE", "STARTED", "ARTIFACTS", "FAILED", "COPIED", "SOURCE", "DESTINATION"];
    let mut table = Table::new(&header);
    for execution in executions {
        let Execution { artifacts, policy, .. } = execution;
        let kept = artifacts.done.saturating_add(artifacts.unchanged);
        table.row(vec![
            execution.id.to_string(),
            if policy.is_empty() { "-".to_owned() } else { policy.clone() },
            table_report::state(execution),
            human_units::age(now.saturating_sub(execution.started)),
            format!("{kept}/{}", artifacts.total),
            artifacts.failed.to_string(),
            human_units::bytes(execution.bytes.done),
            execution.source.clone(),
            execution.destination.clone(),
        ]);
    }
    table
}

pub(crate) fn show(args: &Show) -> Result<(), Failure> {
    let report = Report::request(&engine(&args.socket), args.id)?;
    output::print(&match args.format {
        ReportFormat::Json => json::line(&json_report::document(&report)) + "\n",
        ReportFormat::Table => table_report::whole(&report, args.blobs, view::columns()),
    })
}

pub(crate) fn stop(args: &Stop) -> Result<(), Failure> {
    let request = if args.cancel { ExecutionRequest::Cancel } else { ExecutionRequest::Stop };
    finish(engine(&args.socket).request(Request::Execution { id: args.id, request }, &[])?)?;
    Ok(())
}

pub(crate) fn resume(args: &Again) -> Result<(), Failure> {
    again(args, ExecutionRequest::Resume)
}

pub(crate) fn retry(args: &Again) -> Result<(), Failure> {
    again(args, ExecutionRequest::Retry)
}

/// Starts a new execution from an earlier one, and follows it.
fn again(args: &Again, request: ExecutionRequest) -> Result<(), Failure> {
    let engine = engine(&args.socket);
    let answers = engine.request(Request::Execution { id: args.id, request }, &[])?;
    if args.detach.detach {
        return detached(answers);
    }
    let mut begun = None;
    for answer in answers {
        match answer? {
            Answer::Job(job) => begun = Some(job),
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    match begun {
        Some(job) => follow(&engine, Request::Watch { job: job.id }, &job.subject, &args.report),
        // The engine has said in a note why there is nothing to do.
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::replication::{Artifacts, Bytes, State};

    #[test]
    fn an_execution_is_one_line_with_its_counts() {
        let execution = Execution {
            id: 12,
            source: "a.example/x".into(),
            destination: "oci:/usb".into(),
            state: State::Retrying,
            started: 1,
            artifacts: Artifacts { total: 10, done: 3, unchanged: 4, failed: 1 },
            bytes: Bytes { done: 2048, ..Bytes::default() },
            ..Execution::default()
        };
        let plan = Execution {
            id: 11,
            policy: "nightly".into(),
            dry_run: true,
            state: State::Finished,
            ..execution.clone()
        };
        let expected = "\
ID  POLICY   STATE           STARTED        ARTIFACTS  FAILED  COPIED    SOURCE       DESTINATION
12  -        retrying        2 seconds ago  7/10       1       2.00 KiB  a.example/x  oci:/usb
11  nightly  finished, plan  2 seconds ago  7/10       1       2.00 KiB  a.example/x  oci:/usb
";
        assert_eq!(table(&[execution, plan], 2_000_000_001).text(), expected);
    }
}
