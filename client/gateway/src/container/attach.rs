//! `POST /containers/NAME/attach`.

use super::failure;
use super::frame::{self, Takeover};
use super::log_lines::{LogLines, Shown};
use super::session::{Attachment, Options, Session, Step};
use super::settings::Settings;
use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::question::Question;
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::container_log::LogQuery;
use sampan_client::detach_keys;
use sampan_client::engine::Request;
use std::time::Instant;

/// Starts the operation. A request that is not valid is refused on the connection that was taken over, as docker does.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let query = &call.query;
    let has_logs = query.is_set("logs");
    Ok(Started::Operation(Box::new(Attach {
        container: name.to_owned(),
        takeover: Takeover::of(call),
        has_logs,
        has_stream: query.is_set("stream"),
        detach_keys: query.get("detachKeys").map(str::to_owned),
        options: Options {
            stdin: query.is_set("stdin"),
            stdout: query.is_set("stdout"),
            stderr: query.is_set("stderr"),
            ..Options::default()
        },
        stage: Stage::New,
        has_head: false,
    })))
}

enum Stage {
    New,
    /// The engine is asked about the container.
    Inspecting(Question),
    /// The past output is sent.
    Logs(Box<LogLines>),
    /// The past output is sent, if it was requested.
    Ready,
    /// The engine attaches the session.
    Attaching(Question, Box<Session>),
    Streaming(Box<Session>),
}

struct Attach {
    container: String,
    takeover: Takeover,
    has_logs: bool,
    has_stream: bool,
    detach_keys: Option<String>,
    options: Options,
    stage: Stage,
    has_head: bool,
}

impl Operation for Attach {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        match self.advance(exchange) {
            // The head was sent as an error: docker closes the connection behind the message.
            Err(refusal) if !self.has_head => {
                exchange.take_over(&frame::refusal(refusal.status, &refusal.message));
                Ok(exchange.finish())
            }
            other => other,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Logs(lines) => lines.deadline(),
            _ => None,
        }
    }
}

impl Attach {
    fn advance(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Ready) {
                Stage::New => {
                    Stage::Inspecting(Question::ask(exchange, Settings::request(&self.container), &[])?)
                }
                Stage::Inspecting(mut question) => {
                    match question.poll().map_err(|error| self.refusal(error))? {
                        None => return self.wait(Stage::Inspecting(question)),
                        Some(answers) => self.on_settings(exchange, &Settings::from_answers(&answers)?)?,
                    }
                }
                Stage::Logs(mut lines) => {
                    let progress = lines.step(exchange)?;
                    if lines.has_opened() {
                        self.send_head(exchange);
                    }
                    if progress != Progress::Ended {
                        self.stage = Stage::Logs(lines);
                        return Ok(progress);
                    }
                    Stage::Ready
                }
                Stage::Ready if !self.has_stream => {
                    self.send_head(exchange);
                    return Ok(exchange.finish());
                }
                Stage::Ready => {
                    let (session, attachment) = Session::open(&self.options)?;
                    Stage::Attaching(self.ask(exchange, &attachment)?, Box::new(session))
                }
                Stage::Attaching(mut question, session) => {
                    match question.poll().map_err(|error| self.refusal(error))? {
                        None => return self.wait(Stage::Attaching(question, session)),
                        Some(_) => {
                            self.send_head(exchange);
                            Stage::Streaming(session)
                        }
                    }
                }
                Stage::Streaming(mut session) => match session.step(exchange)? {
                    Step::Goes(progress) => {
                        self.stage = Stage::Streaming(session);
                        return Ok(progress);
                    }
                    Step::Ended(_) => return Ok(exchange.finish()),
                },
            }
        }
    }

    fn refusal(&self, error: EngineError) -> Refusal {
        failure::refusal(error, &self.container)
    }

    fn wait(&mut self, stage: Stage) -> Result<Progress, Refusal> {
        self.stage = stage;
        Ok(Progress::Waits)
    }

    fn on_settings(&mut self, exchange: &mut Exchange<'_>, settings: &Settings) -> Result<Stage, Refusal> {
        match settings.status.as_str() {
            "paused" => {
                let message =
                    format!("container {} is paused, unpause the container before attach", settings.id);
                return Err(Refusal::new(409, message));
            }
            "restarting" => {
                let message =
                    format!("container {} is restarting, wait until the container is running", settings.id);
                return Err(Refusal::new(409, message));
            }
            _ => {}
        }
        let default = match settings.detach_keys.as_str() {
            "" => detach_keys::DEFAULT,
            keys => keys,
        };
        let keys = self.detach_keys.as_deref().unwrap_or(default);
        self.options.detach_keys = detach_keys::parse(keys)
            .map_err(|_| Refusal::bad(format!("Invalid detach keys ({keys}) provided")))?;
        self.options.is_terminal = settings.is_terminal;
        self.options.stdin &= settings.open_stdin;
        // A client that attaches before the start is the one whose end docker's `StdinOnce` means: the command line and
        // SDKs set the flag for it.
        let is_first = matches!(settings.status.as_str(), "created" | "exited");
        self.options.stdin_once = self.options.stdin && (settings.stdin_once || is_first);
        // The ID cannot be taken over by another container while this operation goes on.
        self.container.clone_from(&settings.id);
        if !self.has_logs {
            return Ok(Stage::Ready);
        }
        let query = LogQuery { container: self.container.clone(), ..LogQuery::default() };
        let shown = Shown {
            stdout: self.options.stdout,
            stderr: self.options.stderr,
            is_terminal: settings.is_terminal,
            ..Shown::default()
        };
        Ok(Stage::Logs(Box::new(LogLines::open(exchange, query, shown)?)))
    }

    fn ask(&self, exchange: &Exchange<'_>, attachment: &Attachment) -> Result<Question, Refusal> {
        let request =
            Request::AttachAtStart { container: self.container.clone(), streams: attachment.streams };
        Ok(Question::ask(exchange, request, &attachment.descriptors())?)
    }

    fn send_head(&mut self, exchange: &mut Exchange<'_>) {
        if !std::mem::replace(&mut self.has_head, true) {
            exchange.take_over(&self.takeover.head(self.options.is_terminal));
        }
    }
}
