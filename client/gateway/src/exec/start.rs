//! `POST /exec/ID/start`.

use super::create::size;
use super::table::Execution;
use crate::call::{self, Call, Started};
use crate::container::failure;
use crate::container::frame::{self, Stream, Takeover};
use crate::container::session::{Attachment, Options, Session, Step};
use crate::container::shim_link::End;
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::question::Question;
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::detach_keys;
use sampan_client::engine::{Code, Request};
use sampan_http::answer::Answer;
use sampan_ipc::container::Exec;
use serde::Deserialize;

/// Exit codes of an execution that could not be started. podman-run(1), "Exit Status".
const FAILED: i32 = 125;
const CANNOT_RUN: i32 = 126;
const NO_COMMAND: i32 = 127;

/// The body of the request. docker's API, "ExecStart".
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    detach: Option<bool>,
    tty: Option<bool>,
    console_size: Option<Vec<u16>>,
}

/// Starts the operation.
///
/// # Errors
/// The request is not valid, there is no such execution, or it was started before.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let body: Body = match call.request.body() {
        bytes if bytes.iter().all(u8::is_ascii_whitespace) => Body::default(),
        bytes => {
            serde_json::from_slice(bytes).map_err(|error| Refusal::bad(format!("invalid JSON: {error}")))?
        }
    };
    let execution = shared.executions.find(name)?;
    if execution.was_started() {
        return Err(Refusal::new(409, format!("the execution {name} was started before")));
    }
    if body.tty.is_some_and(|tty| tty != execution.exec.tty) {
        let message = format!("the execution {name} was created with Tty={}", execution.exec.tty);
        return Err(Refusal::bad(message));
    }
    if body.console_size.is_some() {
        execution.exec.size = size(body.console_size.as_deref());
    }
    let is_detached = body.detach.unwrap_or(false);
    let options = options(execution, is_detached)?;
    let (session, attachment) = Session::open(&options)?;
    let exec = Exec { streams: attachment.streams, ..execution.exec.clone() };
    let question = Asked::New(Request::Exec(Box::new(exec)), attachment);
    // From now on another request cannot start the execution again.
    execution.run(session.link());
    let run = Run {
        id: name.to_owned(),
        container: execution.exec.container.clone(),
        takeover: Takeover::of(call),
        is_terminal: options.is_terminal,
        asked: question,
        session,
        has_head: false,
        failure: None,
    };
    Ok(match is_detached {
        true => Started::Operation(Box::new(Detached(run))),
        false => Started::Operation(Box::new(Attached(run))),
    })
}

fn options(execution: &Execution, is_detached: bool) -> Result<Options, Refusal> {
    let keys = execution.exec.detach_keys.as_deref().unwrap_or(detach_keys::DEFAULT);
    Ok(Options {
        is_terminal: execution.exec.tty,
        stdin: execution.stdin && !is_detached,
        stdout: execution.stdout && !is_detached,
        stderr: execution.stderr && !is_detached,
        stdin_once: false,
        detach_keys: detach_keys::parse(keys).map_err(|error| Refusal::bad(error.to_string()))?,
    })
}

/// The request to the engine.
enum Asked {
    New(Request, Attachment),
    Sent(Question),
    Answered,
}

struct Run {
    id: String,
    container: String,
    takeover: Takeover,
    is_terminal: bool,
    asked: Asked,
    session: Session,
    has_head: bool,
    /// Why the process could not be started.
    failure: Option<(i32, Refusal)>,
}

/// An execution whose client waits for its start only.
struct Detached(Run);

/// An execution whose client is attached.
struct Attached(Run);

impl Run {
    /// Returns whether the engine has answered.
    fn ask(&mut self, exchange: &Exchange<'_>) -> bool {
        let result = match std::mem::replace(&mut self.asked, Asked::Answered) {
            Asked::Answered => return true,
            Asked::New(request, attachment) => {
                Question::ask(exchange, request, &attachment.descriptors()).map(Some)
            }
            Asked::Sent(question) => Ok(Some(question)),
        };
        let result = result.and_then(|question| match question {
            Some(mut question) => Ok(question.poll()?.is_none().then_some(question)),
            None => Ok(None),
        });
        match result {
            Ok(Some(question)) => {
                self.asked = Asked::Sent(question);
                false
            }
            Ok(None) => true,
            Err(error) => {
                self.failure = Some((exit_code(&error), failure::refusal(error, &self.container)));
                true
            }
        }
    }
}

/// The exit code of an execution that the engine has not started.
fn exit_code(error: &EngineError) -> i32 {
    match error {
        EngineError::Failed(failure) if failure.code == Code::CannotRun => CANNOT_RUN,
        EngineError::Failed(failure) if failure.code == Code::NoCommand => NO_COMMAND,
        _ => FAILED,
    }
}

impl Operation for Detached {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        if !self.0.ask(exchange) {
            return Ok(Progress::Waits);
        }
        match self.0.failure.take() {
            None => Ok(exchange.answer(Answer::empty(200))),
            Some((code, refusal)) => {
                exchange.shared.executions.record_failure(&self.0.id, code);
                Err(refusal)
            }
        }
    }
}

impl Operation for Attached {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        let run = &mut self.0;
        if !std::mem::replace(&mut run.has_head, true) {
            exchange.take_over(&run.takeover.head(run.is_terminal));
        }
        let is_answered = run.ask(exchange);
        let end = match run.session.step(exchange)? {
            Step::Goes(progress) => return Ok(progress),
            // The engine closes the control socket before it says why it has refused the request.
            Step::Ended(End::Lost) if !is_answered => return Ok(Progress::Waits),
            Step::Ended(end) => end,
        };
        let failure = match (end, run.failure.take()) {
            (End::Failed(code, reason), _) => Some((i32::from(code), reason)),
            (End::Lost, Some((code, refusal))) => Some((code, refusal.message)),
            _ => None,
        };
        if let Some((code, reason)) = failure {
            // docker writes the reason into the stream, which has begun already.
            let text = format!("{reason}\r\n");
            let header = match run.is_terminal {
                true => [].as_slice(),
                false => &frame::header(Stream::Stdout, text.len()),
            };
            exchange.send(&[header, text.as_bytes()].concat());
            exchange.shared.executions.record_failure(&run.id, code);
        }
        // Read the exit code now: the client asks for it next.
        let _ = exchange.shared.executions.find(&run.id);
        Ok(exchange.finish())
    }
}
