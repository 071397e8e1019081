//! `POST /images/load`.

use super::job_stream::{JobStream, Messages};
use super::message;
use super::name::familiar;
use super::upload::Upload;
use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::engine::{Answer, Load, Request, Row};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Starts the operation.
///
/// # Errors
/// The request is not valid, or the process has no free descriptor.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    let load = Load { platform: platform(call)?, ..Load::default() };
    let messages = LoadMessages { is_quiet: call.query.is_set("quiet"), ..LoadMessages::default() };
    let stream = JobStream::new(Request::Load(load), messages).with_upload(Upload::new()?);
    Ok(Started::Operation(Box::new(stream)))
}

/// The platform in a request: `os/arch[/variant]`, or JSON as docker sends it from API 1.48 on.
///
/// # Errors
/// Several platforms, or JSON that is no platform.
pub(super) fn platform(call: &Call<'_>) -> Result<Option<String>, Refusal> {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Platform {
        os: String,
        architecture: String,
        variant: String,
    }
    let mut given = call.query.all("platform");
    let Some(text) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(Refusal::missing("more than one platform"));
    }
    if !text.starts_with('{') {
        return Ok(Some(text.to_owned()));
    }
    let platform: Platform = serde_json::from_str(text)
        .map_err(|error| Refusal::bad(format!("platform {text:?} is not valid: {error}")))?;
    let parts = [platform.os, platform.architecture, platform.variant];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Ok(Some(parts.join("/")))
}

/// The messages of a load: numbers of each layer unless the client wants none, and the names of the images.
#[derive(Default)]
struct LoadMessages {
    is_quiet: bool,
    /// The newest rows that the client has not got.
    rows: BTreeMap<u32, Row>,
    lines: VecDeque<String>,
}

impl Messages for LoadMessages {
    fn on_answer(&mut self, answer: Answer, _: Instant) {
        match answer {
            Answer::Rows { rows, .. } if !self.is_quiet => {
                let known = rows.into_iter().filter(|row| row.current > 0);
                self.rows.extend(known.map(|row| (row.index, row)));
            }
            Answer::Note(note) if !self.is_quiet => self.lines.push_back(message::plain(&note, "")),
            Answer::Done(done) => {
                let line = |name: &String| match name.starts_with("sha256:") {
                    true => format!("Loaded image ID: {name}\n"),
                    false => format!("Loaded image: {}\n", familiar(name)),
                };
                self.lines.extend(done.references.iter().map(line).map(|line| message::stream(&line)));
            }
            _ => {}
        }
    }

    fn next(&mut self, _: Instant) -> Option<String> {
        match self.rows.pop_first() {
            Some((_, row)) => Some(message::numbers("Loading layer", &row.id, row.current, row.total)),
            None => self.lines.pop_front(),
        }
    }
}
