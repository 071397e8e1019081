//! A job's progress: one row for each layer, in manifest order, and notes about the job as a whole.
//!
//! The job's threads update rows as bytes arrive. The event loop asks which rows changed since its last look. The
//! thread that passes a milestone (25, 50, 75 %) reports it, once. Has no timer and does no I/O.

use sampan_ipc::engine::{Phase, Row};
use sampan_ipc::pull::{PullOutcome, PulledImage};
use sampan_os::mutex::lock;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Most notes that are kept. Clients that watch the job have received the older ones already.
const NOTES_MAX: usize = 16;
/// Most characters of a note.
const NOTE_MAX: usize = 500;

/// Called with 25, 50 or 75 when the job has passed that percentage.
pub type OnMilestone = Box<dyn Fn(u8) + Send + Sync>;

/// The rows of one job.
pub struct Progress {
    inner: Mutex<Inner>,
    on_milestone: OnMilestone,
}

#[derive(Default)]
struct Inner {
    /// Each row with the version of its last change.
    rows: Vec<(Row, u64)>,
    /// Each note with the version in which it was added.
    notes: VecDeque<(String, u64)>,
    /// Each image of a pull with the version of its last change.
    images: Vec<(PulledImage, u64)>,
    /// The HTTP status with which a registry refused what the job needs.
    registry_status: Option<u16>,
    /// Grows with every change.
    version: u64,
    /// The sum of all rows' totals, in bytes.
    total: u64,
    /// The sum of all rows' current bytes, including layers that were there before. Milestones compare it with `total`.
    done: u64,
    /// The last milestone reported.
    milestone: u8,
    /// Whether the first row sums up the others, so that milestones follow it alone.
    has_summary: bool,
}

impl Progress {
    /// Makes a progress without rows.
    pub fn new(on_milestone: OnMilestone) -> Self {
        Progress { inner: Mutex::default(), on_milestone }
    }

    /// Adds rows for `layers` (ID and total bytes of each) in manifest order, before the first byte of any arrives.
    /// Returns the index of the first.
    pub fn begin(&self, layers: impl IntoIterator<Item = (String, u64)>) -> usize {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let (version, first) = (inner.version, inner.rows.len());
        for ((id, total), index) in layers.into_iter().zip(u32::try_from(first).unwrap_or(u32::MAX)..) {
            inner.rows.push((Row { index, id, total, ..Row::default() }, version));
        }
        inner.total = inner.rows.iter().map(|(row, _)| row.total).sum();
        first
    }

    /// Adds an image of a pull, with rows for its `layers` as [`Progress::begin`] does. Sets the image's index and first
    /// row, and returns both.
    pub fn begin_image(
        &self,
        image: PulledImage,
        layers: impl IntoIterator<Item = (String, u64)>,
    ) -> (usize, usize) {
        let first = self.begin(layers);
        let mut inner = lock(&self.inner);
        let (version, nth) = (inner.version, inner.images.len());
        let first_row = u32::try_from(first).unwrap_or(u32::MAX);
        let image = PulledImage { index: u32::try_from(nth).unwrap_or(u32::MAX), first_row, ..image };
        inner.images.push((image, version));
        (nth, first)
    }

    /// Records how image `index` ended.
    pub fn end_image(&self, index: usize, outcome: PullOutcome) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let version = inner.version;
        if let Some((image, changed)) = inner.images.get_mut(index) {
            image.outcome = outcome;
            *changed = version;
        }
    }

    /// The images that were added or have ended after version `since`, up to and including version `until`.
    pub fn images(&self, since: u64, until: u64) -> Vec<PulledImage> {
        let inner = lock(&self.inner);
        let changed = inner.images.iter().filter(|(_, version)| (since + 1..=until).contains(version));
        changed.map(|(image, _)| image.clone()).collect()
    }

    /// Records the HTTP status with which a registry refused what the job needs.
    pub fn set_registry_status(&self, status: u16) {
        lock(&self.inner).registry_status = Some(status);
    }

    /// The HTTP status with which a registry refused what the job needs; `None` if no registry refused.
    pub fn registry_status(&self) -> Option<u16> {
        lock(&self.inner).registry_status
    }

    /// Adds a row after the others, for jobs that learn of their layers one by one. Returns its index. A `total` of 0
    /// means that it is unknown.
    pub fn append(&self, id: String, total: u64) -> usize {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let (version, index) = (inner.version, inner.rows.len());
        let row = Row { index: u32::try_from(index).unwrap_or(u32::MAX), id, total, ..Row::default() };
        inner.rows.push((row, version));
        if !inner.has_summary {
            inner.total = inner.total.saturating_add(total);
        }
        index
    }

    /// Adds a first row that sums up the others, which [`Progress::replace`] changes. Milestones follow this row.
    pub fn begin_with_summary(&self, id: String) {
        self.append(id, 0);
        lock(&self.inner).has_summary = true;
    }

    /// Gives row `index` to another blob, or changes the summary row.
    pub fn replace(&self, index: usize, id: String, total: u64, current: u64, phase: Phase, note: &str) {
        self.change(index, |row| {
            let attempt = if row.id == id { row.attempt } else { 1 };
            *row = Row {
                index: row.index,
                id,
                phase,
                current,
                total,
                attempt,
                note: note.chars().take(NOTE_MAX).collect(),
            };
        });
    }

    /// Sets the phase of row `index`. A row that ends counts all its bytes and loses its note.
    pub fn phase(&self, index: usize, phase: Phase) {
        self.change(index, |row| {
            row.phase = phase;
            if matches!(phase, Phase::Downloading | Phase::Uploading) {
                row.attempt = row.attempt.max(1);
            }
            if matches!(phase, Phase::Complete | Phase::Exists) {
                // The total was unknown: it is the number of bytes that came.
                row.total = if row.total == 0 { row.current } else { row.total };
                row.current = row.total;
                row.note.clear();
            }
        });
    }

    /// Sets the number of bytes of row `index` that have arrived.
    pub fn set(&self, index: usize, current: u64) {
        self.change(index, |row| {
            if row.current != current {
                row.note.clear();
            }
            row.current = if row.total == 0 { current } else { current.min(row.total) };
        });
    }

    /// Records that another job fetches the blob of row `index` and has `current` bytes of it.
    pub fn set_from_other_job(&self, index: usize, current: u64) {
        self.change(index, |row| {
            row.phase = Phase::Downloading;
            row.current = current.min(row.total);
            row.note = "another job fetches it".to_owned();
        });
    }

    /// Records that `bytes` more bytes of row `index` have arrived.
    pub fn add(&self, index: usize, bytes: u64) {
        self.change(index, |row| {
            let max = if row.total == 0 { u64::MAX } else { row.total };
            row.current = row.current.saturating_add(bytes).min(max);
            row.note.clear();
        });
    }

    /// Records that row `index` is retried. `note` says when and why; it stays until bytes arrive again.
    pub fn retry(&self, index: usize, note: &str) {
        self.change(index, |row| {
            row.attempt += 1;
            row.note = note.chars().take(NOTE_MAX).collect();
        });
    }

    /// Records that row `index` failed, and why.
    pub fn fail(&self, index: usize, why: &str) {
        self.change(index, |row| {
            row.phase = Phase::Failed;
            row.note = why.chars().take(NOTE_MAX).collect();
        });
    }

    /// Adds a note about the job as a whole, for example why it requests the manifest again. Each client that watches
    /// receives it once.
    pub fn note(&self, text: &str) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let version = inner.version;
        if inner.notes.len() >= NOTES_MAX {
            inner.notes.pop_front();
        }
        inner.notes.push_back((text.chars().take(NOTE_MAX).collect(), version));
    }

    /// Notes that `entries` entries of `layer` were not unpacked, if any: no error would show it.
    pub fn note_skipped(&self, layer: &str, entries: u64) {
        if entries > 0 {
            let why = "devices that this user may not create, or entries of unknown type";
            self.note(&format!("layer {layer}: entries skipped: {entries}; {why}"));
        }
    }

    fn change(&self, index: usize, edit: impl FnOnce(&mut Row)) {
        let crossed = {
            let mut inner = lock(&self.inner);
            let version = inner.version + 1;
            let Some((row, changed)) = inner.rows.get_mut(index) else {
                return;
            };
            let before = row.clone();
            edit(row);
            if *row == before {
                return;
            }
            *changed = version;
            let after = row.current;
            let total = row.total;
            inner.version = version;
            if inner.has_summary && index == 0 {
                (inner.done, inner.total) = (after, total);
            } else if !inner.has_summary {
                inner.done = (inner.done + after).saturating_sub(before.current);
            }
            inner.pass_milestone()
        };
        if let Some(milestone) = crossed {
            (self.on_milestone)(milestone);
        }
    }

    /// All rows, and the current version.
    pub fn all(&self) -> (Vec<Row>, u64) {
        let inner = lock(&self.inner);
        (inner.rows.iter().map(|(row, _)| row.clone()).collect(), inner.version)
    }

    /// The rows that changed after version `since`, and the current version.
    pub fn since(&self, since: u64) -> (Vec<Row>, u64) {
        let inner = lock(&self.inner);
        let changed = inner.rows.iter().filter(|(_, version)| *version > since);
        (changed.map(|(row, _)| row.clone()).collect(), inner.version)
    }

    /// The notes added after version `since`, up to and including version `until`.
    pub fn notes(&self, since: u64, until: u64) -> Vec<String> {
        let inner = lock(&self.inner);
        let new = inner.notes.iter().filter(|(_, version)| (since + 1..=until).contains(version));
        new.map(|(note, _)| note.clone()).collect()
    }
}

impl Inner {
    /// Returns the highest milestone that the last change passed, and records it as reported.
    fn pass_milestone(&mut self) -> Option<u8> {
        let percent = self.done.saturating_mul(100).checked_div(self.total)?;
        let reached = [75, 50, 25].into_iter().find(|m| u64::from(*m) <= percent)?;
        (reached > self.milestone && percent < 100).then(|| {
            self.milestone = reached;
            reached
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_note_is_returned_once_and_only_the_last_ones_are_kept() {
        let progress = Progress::new(Box::new(|_| {}));
        progress.note("a");
        let (_, seen) = progress.since(0);
        assert_eq!(progress.notes(0, seen), ["a"]);
        for _ in 0..NOTES_MAX {
            progress.note("b");
        }
        assert_eq!(progress.notes(seen, progress.since(seen).1), ["b"; NOTES_MAX]);
        assert_eq!(progress.notes(0, u64::MAX).len(), NOTES_MAX);
    }

    #[test]
    fn only_changed_rows_are_returned_and_milestones_once() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reported);
        let progress = Progress::new(Box::new(move |m| lock(&sink).push(m)));
        progress.begin([("a".to_owned(), 100), ("b".to_owned(), 100)]);
        let (rows, version) = progress.since(0);
        assert_eq!(rows.len(), 2);
        assert_eq!(progress.since(version), (vec![], version));
        progress.phase(1, Phase::Downloading);
        progress.add(1, 60);
        let (rows, version) = progress.since(version);
        assert_eq!(rows.iter().map(|r| (r.index, r.current, r.attempt)).collect::<Vec<_>>(), [(1, 60, 1)]);
        progress.add(1, 1);
        progress.phase(0, Phase::Exists);
        assert_eq!(progress.since(version).0.len(), 2);
        progress.phase(1, Phase::Complete);
        assert_eq!(*lock(&reported), [25, 75]);
    }

    #[test]
    fn a_row_that_ends_loses_its_note() {
        for end in [Phase::Exists, Phase::Complete] {
            let progress = Progress::new(Box::new(|_| {}));
            progress.begin([("a".to_owned(), 100)]);
            progress.set_from_other_job(0, 40);
            assert_eq!(progress.since(0).0[0].note, "another job fetches it");
            progress.phase(0, end);
            assert_eq!(progress.since(0).0[0].note, "");
        }
    }
}
