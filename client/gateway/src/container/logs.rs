//! `GET /containers/NAME/logs`.

use super::failure;
use super::frame;
use super::log_lines::{LogLines, Shown, details};
use super::settings::Settings;
use crate::api_version::Version;
use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::query::{Query, unix_time};
use crate::question::Question;
use crate::refusal::Refusal;
use sampan_client::container_log::LogQuery;
use sampan_http::answer::Answer;
use std::time::Instant;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let query = &call.query;
    let shown = Shown {
        stdout: query.is_set("stdout"),
        stderr: query.is_set("stderr"),
        timestamps: query.is_set("timestamps"),
        ..Shown::default()
    };
    if !shown.stdout && !shown.stderr {
        return Err(Refusal::bad("Bad parameters: you must choose at least one stream"));
    }
    let log = LogQuery {
        container: name.to_owned(),
        since: time(query, "since")?,
        until: time(query, "until")?,
        tail: tail(query),
        follow: query.is_set("follow"),
    };
    Ok(Started::Operation(Box::new(Logs {
        log,
        shown,
        has_details: query.is_set("details"),
        version: call.version,
        stage: Stage::New,
    })))
}

/// The time in `key`; 0 means none, as SDKs send it.
fn time(query: &Query, key: &str) -> Result<Option<i64>, Refusal> {
    let Some(text) = query.get(key) else { return Ok(None) };
    match unix_time(text) {
        Some(0) => Ok(None),
        Some(at) => Ok(Some(at)),
        None => Err(Refusal::bad(format!("invalid value for \"{key}\": {text:?} is no time in seconds"))),
    }
}

/// The number of lines. As in docker, anything that is no such number means all lines.
fn tail(query: &Query) -> Option<u64> {
    query.get("tail").and_then(|text| text.parse().ok())
}

enum Stage {
    New,
    /// The engine is asked about the container.
    Inspecting(Question),
    Sending(Box<LogLines>),
}

struct Logs {
    log: LogQuery,
    shown: Shown,
    has_details: bool,
    version: Version,
    stage: Stage,
}

impl Operation for Logs {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            match &mut self.stage {
                Stage::New => {
                    let request = Settings::request(&self.log.container);
                    self.stage = Stage::Inspecting(Question::ask(exchange, request, &[])?);
                }
                Stage::Inspecting(question) => {
                    let answers =
                        question.poll().map_err(|error| failure::refusal(error, &self.log.container))?;
                    let Some(answers) = answers else { return Ok(Progress::Waits) };
                    let settings = Settings::from_answers(&answers)?;
                    self.shown.is_terminal = settings.is_terminal;
                    self.shown.details = self.has_details.then(|| details(&settings));
                    let lines = LogLines::open(exchange, self.log.clone(), self.shown.clone())?;
                    self.stage = Stage::Sending(Box::new(lines));
                }
                Stage::Sending(lines) => {
                    let progress = lines.step(exchange)?;
                    if !exchange.has_begun() && lines.has_opened() {
                        let content_type = frame::content_type(self.version, self.shown.is_terminal);
                        exchange.begin(&Answer::new(200, content_type, ""));
                    }
                    if progress == Progress::Ended {
                        return Ok(exchange.finish());
                    }
                    return Ok(progress);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Sending(lines) => lines.deadline(),
            _ => None,
        }
    }
}
