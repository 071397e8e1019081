//! The report of an ended execution, and the policy's command that receives it.
//!
//! Called by the job's thread at its end.

use sampan_ipc::replication::{Artifact, Execution, Task, artifact_name};
use sampan_job::cancel::Cancel;
use sampan_replication::command::{Wanted, full_name};
use sampan_replication::record::Order;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest time that the command may run.
const COMMAND_MAX: Duration = Duration::from_secs(300);
/// How often the thread checks whether the command has ended.
const COMMAND_CHECK: Duration = Duration::from_millis(100);

/// Runs the `on-done` command of the execution's policy, if it has one, with the report on its standard input; `dir` is
/// where the report is written before. Waits for the command's end; a failure is logged.
pub fn run_on_done(
    order: &Order,
    execution: &Execution,
    tasks: &[(Task, Vec<Artifact>)],
    dir: &Path,
    stop: &Cancel,
) {
    let Ok(wanted) = Wanted::of(order) else { return };
    let Some(command) = wanted.policy().map(|policy| policy.on_done.clone()) else { return };
    let Some((program, arguments)) = command.split_first() else { return };
    if let Err(why) = feed(program, arguments, &to_json(execution, tasks), (dir, execution.id), stop) {
        log::error!("replication {}: on-done command {program:?} failed: {why}", execution.id);
    }
}

fn feed(
    program: &str,
    arguments: &[String],
    report: &Value,
    (dir, id): (&Path, u64),
    stop: &Cancel,
) -> Result<(), String> {
    let report = spool(report, &dir.join(format!("report-{id}.json")))
        .map_err(|error| format!("cannot write the report: {error}"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(report)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start: {error}"))?;
    let status = wait(&mut child, stop)?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Writes the report into a file without a name: a pipe would block if the command does not read it.
fn spool(report: &Value, path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    fs::remove_file(path)?;
    serde_json::to_writer(&mut file, report)?;
    file.rewind()?;
    Ok(file)
}

/// Waits for the command; ends it after [`COMMAND_MAX`], or when the engine stops.
fn wait(child: &mut Child, stop: &Cancel) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + COMMAND_MAX;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| format!("cannot wait: {error}"))? {
            return Ok(status);
        }
        if stop.wait(COMMAND_CHECK).is_err() || Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("ended, because it ran for {} s or the engine stops", COMMAND_MAX.as_secs()));
        }
    }
}

/// The report as one JSON document.
pub fn to_json(execution: &Execution, tasks: &[(Task, Vec<Artifact>)]) -> Value {
    let artifacts = tasks.iter().flat_map(|(task, artifacts)| {
        artifacts.iter().map(move |artifact| {
            json!({
                "source": artifact_name(&full_name(&execution.source, &task.source), &artifact.source),
                "destination": artifact_name(&full_name(&execution.destination, &task.destination), &artifact.target),
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
