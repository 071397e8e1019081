//! A job's progress map: a row a layer, in manifest order, and notes on what has no row.
//!
//! Workers change rows as bytes arrive; the event loop asks which rows changed since it last looked. No timer,
//! no I/O; milestones (25, 50, 75 %) are told once, by whoever crosses them.

use sampan_ipc::engine::{Phase, Row};
use sampan_os::mutex::lock;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Most notes that are kept; whoever watches has had the older ones, or comes too late for them.
const NOTES_MAX: usize = 16;
/// Most characters of a note.
const NOTE_MAX: usize = 500;

/// Called with 25, 50 and 75 as the job gets there.
pub type OnMilestone = Box<dyn Fn(u8) + Send + Sync>;

/// The rows of one job.
pub struct Progress {
    inner: Mutex<Inner>,
    on_milestone: OnMilestone,
}

#[derive(Default)]
struct Inner {
    /// Each row with the version that it last changed in.
    rows: Vec<(Row, u64)>,
    /// What was noted, with the version that it came in.
    notes: VecDeque<(String, u64)>,
    version: u64,
    total: u64,
    /// Bytes that are here, with those that were before: what milestones are of.
    done: u64,
    milestone: u8,
}

impl Progress {
    /// No rows yet.
    pub fn new(on_milestone: OnMilestone) -> Self {
        Progress { inner: Mutex::default(), on_milestone }
    }

    /// Adds rows: id and total of each, in manifest order, before the first byte of any. Returns where they begin.
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

    /// Adds a row behind the others, where they become known one after the other; returns its index. A `total` of
    /// 0 is an unknown one.
    pub fn append(&self, id: String, total: u64) -> usize {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let (version, index) = (inner.version, inner.rows.len());
        let row = Row { index: u32::try_from(index).unwrap_or(u32::MAX), id, total, ..Row::default() };
        inner.rows.push((row, version));
        inner.total = inner.total.saturating_add(total);
        index
    }

    /// Row `index` enters `phase`. The rows that end count all their bytes, and what was noted of them is over.
    pub fn phase(&self, index: usize, phase: Phase) {
        self.change(index, |row| {
            row.phase = phase;
            if matches!(phase, Phase::Downloading | Phase::Uploading) {
                row.attempt = row.attempt.max(1);
            }
            if matches!(phase, Phase::Complete | Phase::Exists) {
                // A total of 0 is an unknown one: what came is the total.
                row.total = if row.total == 0 { row.current } else { row.total };
                row.current = row.total;
                row.note.clear();
            }
        });
    }

    /// `current` bytes of row `index` are here.
    pub fn set(&self, index: usize, current: u64) {
        self.change(index, |row| {
            if row.current != current {
                row.note.clear();
            }
            row.current = if row.total == 0 { current } else { current.min(row.total) };
        });
    }

    /// Another job fetches the blob of row `index`, and has `current` bytes of it.
    pub fn follow(&self, index: usize, current: u64) {
        self.change(index, |row| {
            row.phase = Phase::Downloading;
            row.current = current.min(row.total);
            row.note = "another job fetches it".to_owned();
        });
    }

    /// `bytes` more of row `index` are here.
    pub fn add(&self, index: usize, bytes: u64) {
        self.change(index, |row| {
            let max = if row.total == 0 { u64::MAX } else { row.total };
            row.current = row.current.saturating_add(bytes).min(max);
            row.note.clear();
        });
    }

    /// Row `index` is tried again, and when and why; told until bytes come again.
    pub fn retry(&self, index: usize, note: &str) {
        self.change(index, |row| {
            row.attempt += 1;
            row.note = note.chars().take(NOTE_MAX).collect();
        });
    }

    /// Row `index` failed, and why.
    pub fn fail(&self, index: usize, why: &str) {
        self.change(index, |row| {
            row.phase = Phase::Failed;
            row.note = why.chars().take(NOTE_MAX).collect();
        });
    }

    /// Something about the job that no row tells: why its manifest is asked for again. Watchers read it once.
    pub fn note(&self, text: &str) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let version = inner.version;
        if inner.notes.len() >= NOTES_MAX {
            inner.notes.pop_front();
        }
        inner.notes.push_back((text.chars().take(NOTE_MAX).collect(), version));
    }

    /// So many entries of `layer` were not unpacked: what nobody would otherwise notice.
    pub fn passed_over(&self, layer: &str, entries: u64) {
        if entries > 0 {
            let why = "devices that this user may not make, or of unknown type";
            self.note(&format!("layer {layer}: entries passed over: {entries}; {why}"));
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
            inner.version = version;
            inner.done = (inner.done + after).saturating_sub(before.current);
            inner.cross()
        };
        if let Some(milestone) = crossed {
            (self.on_milestone)(milestone);
        }
    }

    /// All rows, and the version that they are of.
    pub fn all(&self) -> (Vec<Row>, u64) {
        let inner = lock(&self.inner);
        (inner.rows.iter().map(|(row, _)| row.clone()).collect(), inner.version)
    }

    /// Rows that changed behind version `since`, and the version that this is.
    pub fn since(&self, since: u64) -> (Vec<Row>, u64) {
        let inner = lock(&self.inner);
        let changed = inner.rows.iter().filter(|(_, version)| *version > since);
        (changed.map(|(row, _)| row.clone()).collect(), inner.version)
    }

    /// Notes that came behind version `since`, up to version `until`.
    pub fn notes(&self, since: u64, until: u64) -> Vec<String> {
        let inner = lock(&self.inner);
        let new = inner.notes.iter().filter(|(_, version)| (since + 1..=until).contains(version));
        new.map(|(note, _)| note.clone()).collect()
    }
}

impl Inner {
    /// The highest milestone that was passed just now.
    fn cross(&mut self) -> Option<u8> {
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
    fn a_note_is_told_once_and_only_the_last_ones_are_kept() {
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
    fn only_rows_that_changed_are_told_and_milestones_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
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
        assert_eq!(*lock(&told), [25, 75]);
    }

    #[test]
    fn what_was_noted_of_a_row_is_over_when_the_row_ends() {
        for end in [Phase::Exists, Phase::Complete] {
            let progress = Progress::new(Box::new(|_| {}));
            progress.begin([("a".to_owned(), 100)]);
            progress.follow(0, 40);
            assert_eq!(progress.since(0).0[0].note, "another job fetches it");
            progress.phase(0, end);
            assert_eq!(progress.since(0).0[0].note, "");
        }
    }
}
