//! `POST /images/NAME/push`.

use super::job_stream::{JobStream, Messages};
use super::message;
use super::name::Name;
use super::registry_auth;
use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::engine::{Answer, Phase, Push, Request, Row};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Least time between two messages with numbers of one layer.
const NUMBERS_EVERY: Duration = Duration::from_millis(100);

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let mut name = Name::parse(name)?;
    if name.digest.is_some() {
        return Err(Refusal::bad("cannot push a digest reference: give a tag"));
    }
    if call.query.get("platform").is_some() {
        return Err(Refusal::missing("the push of one platform (platform)"));
    }
    if let Some(tag) = call.query.get("tag") {
        name.tag = Some(tag.to_owned());
    }
    let push = Push {
        insecure: name.is_on_loopback(),
        credentials: registry_auth::credentials(call.request.headers(), &name.host)?,
        ..Push::default()
    };
    let messages = PushMessages::new(push, name.repository());
    let request = match name.tag {
        Some(_) => messages.push(&name.full()),
        // All tags of the repository.
        None => Request::Images,
    };
    Ok(Started::Operation(Box::new(JobStream::new(request, messages))))
}

/// A layer of the image that is being pushed.
struct Layer {
    row: Row,
    /// The last word that the client has got.
    word: &'static str,
    number: Option<(u64, Instant)>,
}

/// The messages of a push of one tag, or of several one after the other.
struct PushMessages {
    /// The push of each tag, without its names.
    push: Push,
    repository: String,
    /// The references that are still to be pushed.
    waiting: VecDeque<String>,
    has_begun: bool,
    layers: BTreeMap<u32, Layer>,
    /// The reference and the digest of a pushed image whose last message needs the size of the manifest.
    pushed: Option<(String, String)>,
    /// Whether the image of `layers` is pushed.
    is_complete: bool,
    lines: VecDeque<String>,
    due: Option<Instant>,
}

/// The last message of a tag, for programs.
#[derive(Serialize)]
struct Aux<'a> {
    #[serde(rename = "progressDetail")]
    numbers: message::Numbers,
    aux: Pushed<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pushed<'a> {
    tag: &'a str,
    digest: &'a str,
    size: u64,
}

impl PushMessages {
    fn new(push: Push, repository: String) -> Self {
        PushMessages {
            push,
            repository,
            waiting: VecDeque::new(),
            has_begun: false,
            layers: BTreeMap::new(),
            pushed: None,
            is_complete: false,
            lines: VecDeque::new(),
            due: None,
        }
    }

    fn push(&self, reference: &str) -> Request {
        Request::Push(Push { source: reference.to_owned(), ..self.push.clone() })
    }

    fn on_rows(&mut self, rows: Vec<Row>) {
        for row in rows {
            let layer = self.layers.entry(row.index).or_insert_with(|| Layer {
                row: Row::default(),
                word: "",
                number: None,
            });
            layer.row = row;
        }
    }

    /// The last messages of a tag. `json` describes the image.
    fn end_tag(&mut self, json: &str) {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "PascalCase")]
        struct Described {
            manifest_size: u64,
        }
        let Some((reference, digest)) = self.pushed.take() else { return };
        let described: Described = serde_json::from_str(json).unwrap_or_default();
        let size = described.manifest_size;
        let tag = Name::parse(&reference).ok().and_then(|name| name.tag).unwrap_or_default();
        self.lines.push_back(message::plain(&format!("{tag}: digest: {digest} size: {size}"), ""));
        let aux = Pushed { tag: &tag, digest: &digest, size };
        self.lines.push_back(message::line(&Aux { numbers: message::Numbers::default(), aux }));
    }

    /// The next message about a layer, the uppermost layer first, as docker does it.
    fn report(&mut self, now: Instant) -> Option<String> {
        let is_complete = self.is_complete;
        if let Some(layer) = self.layers.values_mut().rev().find(|layer| layer.word.is_empty()) {
            layer.word = "Preparing";
            return Some(message::layer(layer.word, &layer.row.id));
        }
        let has_moved = self.layers.values().any(|layer| layer.row.phase != Phase::Waiting);
        for layer in self.layers.values_mut().rev() {
            let word = match layer.row.phase {
                Phase::Exists => "Layer already exists",
                Phase::Complete => "Pushed",
                Phase::Failed => continue,
                _ if is_complete => "Pushed",
                Phase::Waiting if has_moved => "Waiting",
                Phase::Waiting => continue,
                _ => "Pushing",
            };
            if word == "Pushing" || (word == "Pushed" && layer.word != word) {
                let is_last = word == "Pushed";
                if let Some(message) = layer.count(is_last, now, &mut self.due) {
                    return Some(message);
                }
            }
            if layer.word != word && word != "Pushing" {
                layer.word = word;
                return Some(message::layer(word, &layer.row.id));
            }
        }
        None
    }
}

impl Layer {
    /// A message with the newest number, or with all bytes if `is_last`, unless the client has got it.
    fn count(&mut self, is_last: bool, now: Instant, due: &mut Option<Instant>) -> Option<String> {
        let Row { id, total, .. } = &self.row;
        let current = if is_last { *total } else { self.row.current };
        if current == 0 || self.number.is_some_and(|(number, _)| number == current) {
            return None;
        }
        let next = self.number.map(|(_, at)| at + NUMBERS_EVERY);
        if let Some(next) = next.filter(|next| *next > now && !is_last) {
            *due = Some(due.map_or(next, |due| due.min(next)));
            return None;
        }
        (self.word, self.number) = ("Pushing", Some((current, now)));
        Some(message::numbers("Pushing", id, current, *total))
    }
}

impl Messages for PushMessages {
    fn on_answer(&mut self, answer: Answer, _: Instant) {
        match answer {
            Answer::Images(images) => {
                let prefix = format!("{}:", self.repository);
                let names = images.into_iter().flat_map(|image| image.references);
                self.waiting.extend(names.filter(|name| name.starts_with(&prefix)));
            }
            Answer::Job(job) => self.on_rows(job.rows),
            Answer::Rows { rows, .. } => self.on_rows(rows),
            Answer::Done(done) if !done.digest.is_empty() => {
                self.is_complete = true;
                self.pushed = Some((done.reference, done.digest));
            }
            Answer::Json(json) => self.end_tag(&json),
            _ => {}
        }
    }

    fn on_end(&mut self) -> Option<Request> {
        if let Some((_, digest)) = &self.pushed {
            return Some(Request::Inspect { name: digest.clone() });
        }
        let next = match self.waiting.pop_front() {
            Some(next) => next,
            // No image has a tag of this repository. The engine says so.
            None if !self.has_begun => self.repository.clone(),
            None => return None,
        };
        self.layers.clear();
        self.is_complete = false;
        Some(self.push(&next))
    }

    fn next(&mut self, now: Instant) -> Option<String> {
        self.due = None;
        let has_something = !self.layers.is_empty() || !self.lines.is_empty() || self.is_complete;
        if !self.has_begun && has_something {
            self.has_begun = true;
            let status = format!("The push refers to repository [{}]", self.repository);
            return Some(message::plain(&status, ""));
        }
        self.report(now).or_else(|| self.lines.pop_front())
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }
}
