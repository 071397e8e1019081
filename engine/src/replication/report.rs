//! The report of an ended execution, and the policy's command that receives it.
//!
//! Called by the job's thread at its end.

use sampan_ipc::replication::{Artifact, Execution, Task};
use sampan_replication::command::{Wanted, full_name};
use sampan_replication::record::Order;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the `on-done` command of the execution's policy, if it has one, with the report on its standard input. Waits
/// for its end; a failure is logged.
pub fn run_on_done(order: &Order, execution: &Execution, tasks: &[(Task, Vec<Artifact>)]) {
    let Ok(wanted) = Wanted::of(order) else { return };
    let Some(command) = wanted.policy().map(|policy| policy.on_done.clone()) else { return };
    let Some((program, arguments)) = command.split_first() else { return };
    if let Err(why) = feed(program, arguments, &to_json(execution, tasks)) {
        log::error!("replication {}: on-done command {program:?} failed: {why}", execution.id);
    }
}

fn feed(program: &str, arguments: &[String], report: &Value) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start: {error}"))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| {
        serde_json::to_writer(&mut stdin, report).map_err(std::io::Error::from).and_then(|()| stdin.flush())
    });
    let status = child.wait().map_err(|error| format!("cannot wait: {error}"))?;
    match written {
        // A command need not read its input.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the report: {error}"))
        }
        _ if !status.success() => Err(status.to_string()),
        _ => Ok(()),
    }
}

/// The report as one JSON document.
pub fn to_json(execution: &Execution, tasks: &[(Task, Vec<Artifact>)]) -> Value {
    let artifacts = tasks.iter().flat_map(|(task, artifacts)| {
        artifacts.iter().map(move |artifact| {
            json!({
                "source": named(&full_name(&execution.source, &task.source), &artifact.source),
                "destination": named(&full_name(&execution.destination, &task.destination), &artifact.target),
                "state": artifact.state.word(),
                "outcome": artifact.outcome.word(),
                "digest": artifact.digest,
                "bytes": {
                    "total": artifact.bytes.total,
                    "done": artifact.bytes.done,
                    "skipped": artifact.bytes.skipped,
                    "mounted": artifact.bytes.mounted,
                },
                "attempts": artifact.attempts,
                "errorClass": artifact.error.class.word(),
                "error": artifact.error.message,
                "note": artifact.note,
            })
        })
    });
    json!({
        "execution": execution.id,
        "policy": execution.policy,
        "source": execution.source,
        "destination": execution.destination,
        "state": execution.state.word(),
        "dryRun": execution.dry_run,
        "started": execution.started,
        "ended": execution.ended,
        "error": execution.error.message,
        "artifacts": artifacts.collect::<Vec<_>>(),
    })
}

fn named(repository: &str, target: &str) -> String {
    let joint = if target.contains(':') { '@' } else { ':' };
    format!("{repository}{joint}{target}")
}
