//! The report of an execution as JSON: for `--format json` of the commands that show executions.
//!
//! Field names do not change. Only makes values; the commands print them.

use crate::cli::replication::report::{Report, TaskReport, plan, result};
use crate::cli::replication::table_report::to_move;
use sampan_client::time;
use sampan_ipc::replication::{
    Artifact, Artifacts, Blob, Bytes, Execution, LastError, Operation, Task, Trigger,
};
use serde_json::{Value, json};

/// An execution with its tasks and artifacts.
pub(crate) fn document(report: &Report) -> Value {
    let mut document = execution(&report.execution);
    let is_plan = report.execution.dry_run;
    let tasks: Vec<Value> = report.tasks.iter().map(|report| task(report, is_plan)).collect();
    if let Value::Object(fields) = &mut document {
        fields.insert("tasks".to_owned(), Value::Array(tasks));
    }
    document
}

/// An execution without its tasks.
pub(crate) fn execution(execution: &Execution) -> Value {
    let at = |nanos: i64| (nanos != 0).then(|| time::local(nanos));
    let (trigger, cause) = match execution.trigger {
        Trigger::Manual => ("manual", None),
        Trigger::Cron => ("cron", None),
        Trigger::Event(seq) => ("event", Some(seq)),
        Trigger::Again(id) => ("execution", Some(id)),
    };
    json!({
        "id": execution.id, "policy": execution.policy, "source": execution.source,
        "destination": execution.destination, "trigger": trigger, "cause": cause,
        "dryRun": execution.dry_run, "state": execution.state.word(),
        "started": at(execution.started), "ended": at(execution.ended), "counts": counts(execution.artifacts),
        "bytes": bytes(execution.bytes), "error": error(&execution.error),
        "lostSessions": execution.lost_sessions,
    })
}

fn task(report: &TaskReport, is_plan: bool) -> Value {
    let Task { source, destination, operation, state, attempts, .. } = &report.task;
    let operation = match operation {
        Operation::Transfer => "transfer",
        Operation::Delete => "delete",
    };
    let artifacts = report.artifacts.iter().map(|one| artifact(&report.task, one, is_plan));
    json!({
        "source": source, "destination": destination, "operation": operation, "state": state.word(),
        "attempts": attempts, "counts": counts(report.task.artifacts), "bytes": bytes(report.task.bytes),
        "error": error(&report.task.error), "artifacts": artifacts.collect::<Vec<_>>(),
    })
}

fn artifact(task: &Task, artifact: &Artifact, is_plan: bool) -> Value {
    let result = if is_plan { plan(task, artifact) } else { result(artifact) };
    json!({
        "source": artifact.source, "target": artifact.target, "state": artifact.state.word(),
        "result": result, "digest": artifact.digest, "bytes": bytes(artifact.bytes),
        "attempts": artifact.attempts, "error": error(&artifact.error), "note": artifact.note,
        "blobs": artifact.blobs.iter().map(blob).collect::<Vec<_>>(),
    })
}

fn blob(blob: &Blob) -> Value {
    json!({
        "digest": blob.digest, "size": blob.size, "sent": blob.sent, "result": blob.outcome.word(),
        "attempts": blob.attempts, "error": error(&blob.error),
    })
}

fn counts(artifacts: Artifacts) -> Value {
    let Artifacts { total, done, unchanged, failed } = artifacts;
    json!({ "total": total, "done": done, "unchanged": unchanged, "failed": failed })
}

/// `move` is what is, or would be, left for the network: everything that is neither skipped nor mounted.
fn bytes(bytes: Bytes) -> Value {
    let Bytes { total, done, skipped, mounted } = bytes;
    json!({ "total": total, "move": to_move(bytes), "done": done, "skipped": skipped, "mounted": mounted })
}

fn error(error: &LastError) -> Option<Value> {
    let LastError { class, message } = error;
    (!message.is_empty()).then(|| json!({ "class": class.word(), "message": message }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::replication::{ErrorClass, Outcome, State};

    #[test]
    fn a_document_has_every_level_down_to_the_blobs() {
        let failure = LastError { class: ErrorClass::Temporary, message: "503".into() };
        let blob = Blob { digest: "sha256:00".into(), size: 5, error: failure.clone(), ..Blob::default() };
        let artifact = Artifact {
            source: "1".into(),
            target: "2".into(),
            state: State::Finished,
            outcome: Outcome::Mounted,
            bytes: Bytes { total: 9, done: 2, skipped: 3, mounted: 4 },
            blobs: vec![blob],
            ..Artifact::default()
        };
        let task = Task { source: "a/x".into(), error: failure, ..Task::default() };
        let execution = Execution { id: 7, trigger: Trigger::Again(5), ..Execution::default() };
        let report = Report { execution, tasks: vec![TaskReport { task, artifacts: vec![artifact] }] };
        let document = document(&report);
        assert_eq!((&document["id"], &document["cause"]), (&json!(7), &json!(5)));
        let task = &document["tasks"][0];
        assert_eq!(task["error"], json!({ "class": "temporary", "message": "503" }));
        let artifact = &task["artifacts"][0];
        assert_eq!((&artifact["result"], &artifact["error"]), (&json!("mounted"), &Value::Null));
        assert_eq!(artifact["bytes"]["move"], 2);
        assert_eq!(artifact["blobs"][0]["size"], 5);
    }
}
