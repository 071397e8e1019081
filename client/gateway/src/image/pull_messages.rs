//! The messages of a pull: the engine's answers in, docker's messages out, in docker's order. Pure: no I/O, no clock.
//!
//! The engine's answers change what is known about each layer; [`PullMessages::next`] makes the next message that the
//! client has not got yet. So a client that reads slowly gets only the newest numbers of a layer, and all words, and
//! the memory does not grow with the time.
//!
//! For each image: `Pulling from`; for each layer, lowest first, `Already exists` or `Pulling fs layer`; then the words
//! of each layer in the order of `Stage`, where extraction goes in the order of the layers; then `Digest:`. At the
//! end `Status:`, and the engine's notes as `WARNING:`.

use super::message;
use super::name::{Name, familiar};
use sampan_client::engine::{Answer, Phase, Row};
use sampan_ipc::pull::{PullOutcome, PulledImage};
use sampan_ipc::retry_note;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Least time between two messages with numbers of one layer.
const NUMBERS_EVERY: Duration = Duration::from_millis(100);
/// Most notes that are kept for the end.
const NOTES_MAX: usize = 16;

/// What the client knows about a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Unknown,
    Announced,
    Waiting,
    Downloading,
    Verified,
    Downloaded,
    Extracting,
    Complete,
}

/// One layer: what the engine has reported, and what the client has got.
#[derive(Clone, Debug, Default)]
struct Layer {
    row: Row,
    /// Whether the store had the blob, so that nothing is downloaded.
    is_stored: bool,
    /// Whether a lower layer of the image has the same blob. Both share one line.
    is_repeated: bool,
    stage: Stage,
    /// The last number that the client has got in this stage, and when.
    number: Option<(u64, Instant)>,
    /// The wait before the next attempt.
    retry: Option<Retry>,
    /// The attempt of the last wait.
    retried: u32,
    /// Whether the client must learn that the download goes on after a retry.
    resumes: bool,
}

/// A countdown to the next attempt.
#[derive(Clone, Copy, Debug)]
struct Retry {
    until: Instant,
    /// The seconds that the client has got last.
    shown: u64,
}

/// One image of the pull.
#[derive(Clone, Debug)]
struct Image {
    engine: PulledImage,
    has_begun: bool,
}

/// The messages of one pull.
pub struct PullMessages {
    /// The reference in the last message.
    requested: String,
    /// All layers, by the index of their rows.
    layers: BTreeMap<u32, Layer>,
    images: Vec<Image>,
    /// The image whose messages are made; those before it are finished.
    current: usize,
    /// Whether everything was up to date, once the pull has succeeded.
    done: Option<bool>,
    has_status: bool,
    notes: VecDeque<String>,
    /// When messages that are held back are due.
    due: Option<Instant>,
}

impl PullMessages {
    /// Messages of a pull of `requested`, a reference in docker's familiar form.
    pub fn new(requested: String) -> Self {
        PullMessages {
            requested,
            layers: BTreeMap::new(),
            images: Vec::new(),
            current: 0,
            done: None,
            has_status: false,
            notes: VecDeque::new(),
            due: None,
        }
    }

    /// Takes an answer of the engine.
    pub fn on_answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Job(job) => self.on_rows(job.rows, now),
            Answer::Rows { rows, .. } => self.on_rows(rows, now),
            Answer::PulledImage(image) => self.on_image(image),
            // A retry is over at the end, and says nothing then.
            Answer::Note(note) if !note.contains("retrying in ") => {
                self.notes.truncate(NOTES_MAX - 1);
                self.notes.push_back(note);
            }
            Answer::Done(done) => self.done = Some(done.unchanged),
            _ => {}
        }
    }

    /// When to call [`PullMessages::next`] again, even if the engine has sent nothing.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the pull has succeeded, and the client has got every message.
    pub fn is_finished(&self) -> bool {
        self.has_status && self.notes.is_empty()
    }

    /// The next message; `None` if there is none now.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        self.due = None;
        loop {
            let Some(image) = self.images.get(self.current) else { return self.end() };
            if !image.has_begun {
                return self.begin_image();
            }
            if let Some(message) = self.announce().or_else(|| self.report(now)) {
                return Some(message);
            }
            let image = self.images.get(self.current)?;
            let is_complete = image.engine.outcome != PullOutcome::Running || self.done.is_some();
            // The engine goes on with the next tag when a tag has failed. The error comes at the end.
            let has_failed = !is_complete && self.images.len() > self.current + 1;
            if !has_failed && !is_complete {
                return None;
            }
            let digest = format!("Digest: {}", image.engine.digest);
            self.current += 1;
            if is_complete {
                return Some(message::plain(&digest, ""));
            }
        }
    }

    fn end(&mut self) -> Option<String> {
        let is_unchanged = self.done?;
        if self.has_status {
            return self.notes.pop_front().map(|note| message::plain(&format!("WARNING: {note}"), ""));
        }
        self.has_status = true;
        let what = match is_unchanged {
            true => "Image is up to date",
            false => "Downloaded newer image",
        };
        Some(message::plain(&format!("Status: {what} for {}", self.requested), ""))
    }

    fn begin_image(&mut self) -> Option<String> {
        let image = self.images.get_mut(self.current)?;
        image.has_begun = true;
        let reference = &image.engine.reference;
        let (path, id) = match Name::parse(reference) {
            Ok(Name { path, tag: Some(tag), digest: None, .. }) => (path, tag),
            Ok(Name { path, .. }) => (path, reference.clone()),
            Err(_) => (familiar(reference).to_owned(), reference.clone()),
        };
        Some(message::plain(&format!("Pulling from {path}"), &id))
    }

    /// Tells the client which layers the current image has. A layer whose blob is in the store is told once the engine
    /// knows whether it must be unpacked; the layers of an image that is up to date are not told at all.
    fn announce(&mut self) -> Option<String> {
        let image = &self.images.get(self.current)?.engine;
        let (outcome, rows) = (image.outcome, image.rows());
        let has_new = image.stored.contains(&false) || outcome == PullOutcome::New;
        for (_, layer) in self.layers.range_mut(rows).filter(|(_, layer)| layer.stage == Stage::Unknown) {
            match layer.row.phase {
                _ if layer.is_repeated => layer.stage = Stage::Complete,
                Phase::Exists if outcome == PullOutcome::Unchanged => layer.stage = Stage::Complete,
                Phase::Exists if has_new => {
                    layer.stage = Stage::Complete;
                    return Some(message::layer("Already exists", &layer.row.id));
                }
                Phase::Exists => {}
                Phase::Waiting if layer.is_stored => {}
                _ => {
                    layer.stage = Stage::Announced;
                    return Some(message::layer("Pulling fs layer", &layer.row.id));
                }
            }
        }
        None
    }

    /// The next word or number about a layer of the current image.
    fn report(&mut self, now: Instant) -> Option<String> {
        let image = &self.images.get(self.current)?.engine;
        let rows = image.rows();
        let is_over = image.outcome != PullOutcome::Running || self.done.is_some();
        let has_moved = |layer: &Layer| !matches!(layer.row.phase, Phase::Waiting | Phase::Exists);
        let is_moving = self.layers.range(rows.clone()).any(|(_, layer)| has_moved(layer));
        let mut is_turn = true;
        for (_, layer) in self.layers.range_mut(rows) {
            if !matches!(layer.stage, Stage::Unknown | Stage::Complete) {
                let turn = Turn { now, is_over, is_moving, extracts: is_turn };
                let message = layer.next(turn, &mut self.due);
                if message.is_some() {
                    return message;
                }
            }
            is_turn &= layer.stage == Stage::Complete;
        }
        None
    }

    fn on_image(&mut self, image: PulledImage) {
        if let Some(known) = self.images.get_mut(image.index as usize) {
            known.engine = image;
            return;
        }
        let mut ids = Vec::new();
        for (nth, is_stored) in image.rows().zip(&image.stored) {
            let layer = self.layers.entry(nth).or_default();
            layer.is_stored = *is_stored && layer.row.phase != Phase::Downloading;
            layer.is_repeated = ids.contains(&layer.row.id);
            ids.push(layer.row.id.clone());
        }
        self.images.push(Image { engine: image, has_begun: false });
    }

    fn on_rows(&mut self, rows: Vec<Row>, now: Instant) {
        for row in rows {
            let layer = self.layers.entry(row.index).or_default();
            match retry_note::seconds(&row.note) {
                Some(seconds) if row.attempt != layer.retried => {
                    let until = now + Duration::from_secs(seconds);
                    (layer.retry, layer.retried) = (Some(Retry { until, shown: u64::MAX }), row.attempt);
                }
                Some(_) => {}
                None => layer.retry = None,
            }
            layer.resumes |= layer.row.attempt > 0 && row.attempt > layer.row.attempt;
            layer.is_stored &= row.phase != Phase::Downloading;
            layer.row = row;
        }
    }
}

/// What a layer must know of the others to go on.
#[derive(Clone, Copy)]
struct Turn {
    now: Instant,
    /// Whether the image is complete.
    is_over: bool,
    /// Whether the engine works on a layer of the image.
    is_moving: bool,
    /// Whether all lower layers are complete.
    extracts: bool,
}

impl Layer {
    /// The next message about an announced layer. Notes in `due` when a message that is held back is due.
    fn next(&mut self, turn: Turn, due: &mut Option<Instant>) -> Option<String> {
        let phase = match self.row.phase {
            Phase::Exists => Phase::Exists,
            _ if turn.is_over => Phase::Complete,
            phase => phase,
        };
        match phase {
            Phase::Waiting | Phase::Downloading if self.retry.is_some() => self.count_down(turn.now, due),
            Phase::Waiting if turn.is_moving && self.stage == Stage::Announced => {
                self.stage = Stage::Waiting;
                Some(message::layer("Waiting", &self.row.id))
            }
            Phase::Downloading if self.resumes => {
                (self.resumes, self.stage) = (false, Stage::Downloading);
                Some(message::layer("Downloading", &self.row.id))
            }
            Phase::Downloading => self.count(Stage::Downloading, "Downloading", turn.now, due),
            Phase::Verifying | Phase::Extracting | Phase::Complete | Phase::Exists => {
                self.end_download(phase, turn.now).or_else(|| self.extract(phase, turn, due))
            }
            _ => None,
        }
    }

    fn count_down(&mut self, now: Instant, due: &mut Option<Instant>) -> Option<String> {
        let retry = self.retry.as_mut()?;
        let left = retry.until.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        if seconds == 0 {
            return None;
        }
        hold(due, now + left.saturating_sub(Duration::from_secs(seconds - 1)));
        if seconds >= retry.shown {
            return None;
        }
        retry.shown = seconds;
        self.stage = Stage::Downloading;
        let unit = if seconds == 1 { "second" } else { "seconds" };
        Some(message::layer(&format!("Retrying in {seconds} {unit}"), &self.row.id))
    }

    /// A message with the newest number, unless the client has got it, or has got another one just now.
    fn count(
        &mut self,
        stage: Stage,
        status: &str,
        now: Instant,
        due: &mut Option<Instant>,
    ) -> Option<String> {
        let Row { id, current, total, .. } = &self.row;
        if *current == 0 || self.number.is_some_and(|(number, _)| number == *current) {
            return None;
        }
        if let Some(next) = self.number.map(|(_, at)| at + NUMBERS_EVERY).filter(|next| *next > now) {
            hold(due, next);
            return None;
        }
        (self.stage, self.number) = (stage, Some((*current, now)));
        Some(message::numbers(status, id, *current, *total))
    }

    /// A message with the number of all bytes, unless the client has got it.
    fn count_all(&mut self, stage: Stage, status: &str, now: Instant) -> Option<String> {
        let Row { id, total, .. } = &self.row;
        if *total == 0 || self.number.is_some_and(|(number, _)| number == *total) {
            return None;
        }
        (self.stage, self.number) = (stage, Some((*total, now)));
        Some(message::numbers(status, id, *total, *total))
    }

    /// The words between the last byte and the extraction.
    fn end_download(&mut self, phase: Phase, now: Instant) -> Option<String> {
        if !self.is_stored && self.stage < Stage::Verified {
            let last = self.count_all(Stage::Downloading, "Downloading", now);
            return last.or_else(|| self.step(Stage::Verified, "Verifying Checksum"));
        }
        let is_verified = phase != Phase::Verifying && self.stage < Stage::Downloaded;
        if is_verified { self.step(Stage::Downloaded, "Download complete") } else { None }
    }

    fn extract(&mut self, phase: Phase, turn: Turn, due: &mut Option<Instant>) -> Option<String> {
        match phase {
            _ if !turn.extracts || self.stage < Stage::Downloaded => None,
            Phase::Complete | Phase::Exists => {
                let last = self.count_all(Stage::Extracting, "Extracting", turn.now);
                last.or_else(|| self.step(Stage::Complete, "Pull complete"))
            }
            _ => self.count(Stage::Extracting, "Extracting", turn.now, due),
        }
    }

    fn step(&mut self, stage: Stage, status: &str) -> Option<String> {
        (self.stage, self.number) = (stage, None);
        Some(message::layer(status, &self.row.id))
    }
}

/// Notes that a message is due at `at`, if that is earlier than what is noted.
fn hold(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |due| due.min(at)));
}

#[cfg(test)]
mod tests;
