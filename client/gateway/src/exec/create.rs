//! `POST /containers/NAME/exec`.

use super::table::Execution;
use crate::call::{self, Call, Started};
use crate::container::failure;
use crate::container::settings::Settings;
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::detach_keys;
use sampan_http::answer::Answer;
use sampan_ipc::container::Exec;
use serde::Deserialize;
use serde_json::json;

/// The body of the request. docker's API, "ExecCreate".
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    detach_keys: Option<String>,
    tty: Option<bool>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    privileged: Option<bool>,
    working_dir: Option<String>,
    console_size: Option<Vec<u16>>,
}

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let body: Body = serde_json::from_slice(call.request.body())
        .map_err(|error| Refusal::bad(format!("invalid JSON: {error}")))?;
    let command = body.cmd.unwrap_or_default();
    if command.is_empty() {
        return Err(Refusal::bad("No exec command specified"));
    }
    let keys = body.detach_keys.filter(|keys| !keys.is_empty());
    if let Some(keys) = &keys {
        detach_keys::parse(keys)
            .map_err(|_| Refusal::bad(format!("Invalid detach keys ({keys}) provided")))?;
    }
    let exec = Exec {
        command,
        env: body.env.unwrap_or_default(),
        user: body.user.filter(|user| !user.is_empty()),
        workdir: body.working_dir.filter(|dir| !dir.is_empty()),
        tty: body.tty.unwrap_or(false),
        privileged: body.privileged.unwrap_or(false),
        size: size(body.console_size.as_deref()),
        detach_keys: keys,
        ..Exec::default()
    };
    let streams = [body.attach_stdin, body.attach_stdout, body.attach_stderr].map(|on| on.unwrap_or(false));
    let name = name.to_owned();
    let request = Settings::request(&name);
    Ok(Started::Operation(EngineCall::start_with(
        request,
        Box::new(move |answers, shared| {
            let answers = answers.map_err(|error| failure::refusal(error, &name))?;
            let settings = Settings::from_answers(&answers)?;
            check(&settings)?;
            let [stdin, stdout, stderr] = streams;
            let exec = Exec { container: settings.id, ..exec };
            let id = shared.executions.add(Execution::new(exec, stdin, stdout, stderr))?;
            let body = json!({"Id": id}).to_string() + "\n";
            Ok(Then::Answer(Answer::new(201, "application/json", body)))
        }),
    )))
}

/// Rows and columns from docker's `ConsoleSize`; (0, 0) if it is absent.
pub(super) fn size(console: Option<&[u16]>) -> (u16, u16) {
    match console {
        Some(&[rows, columns]) => (rows, columns),
        _ => (0, 0),
    }
}

/// Fails unless a process can be started in the container.
fn check(settings: &Settings) -> Result<(), Refusal> {
    let id = &settings.id;
    let message = match settings.status.as_str() {
        "running" => return Ok(()),
        "paused" => format!("container {id} is paused, unpause the container before exec"),
        "restarting" => format!("container {id} is restarting, wait until the container is running"),
        _ => format!("container {id} is not running"),
    };
    Err(Refusal::new(409, message))
}
