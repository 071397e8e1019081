//! `GET /exec/ID/json`.

use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_http::answer::Answer;
use serde_json::json;

/// Answers with the state of an execution.
///
/// # Errors
/// There is no such execution.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = call;
    let execution = shared.executions.find(name)?;
    let exec = &execution.exec;
    let (program, arguments) = exec
        .command
        .split_first()
        .ok_or_else(|| Refusal::new(500, format!("the execution {name} has no command")))?;
    let body = json!({
        "ID": name,
        "Running": execution.is_running(),
        "ExitCode": execution.exit_code(),
        "ProcessConfig": {
            "tty": exec.tty,
            "entrypoint": program,
            "arguments": arguments,
            "privileged": exec.privileged,
            "user": exec.user,
        },
        "OpenStdin": execution.stdin,
        "OpenStdout": execution.stdout,
        "OpenStderr": execution.stderr,
        "CanRemove": execution.exit_code().is_some(),
        "ContainerID": exec.container,
        "DetachKeys": exec.detach_keys.as_deref().unwrap_or_default(),
        "Pid": execution.pid(),
    });
    Ok(Started::Answer(Answer::new(200, "application/json", body.to_string() + "\n")))
}
