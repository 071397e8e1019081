//! The progress of the jobs that a command follows: rows, bytes and rates, of each job and of all jobs together.
//!
//! [`crate::cli::job::view`] updates the rows with the engine's answers; [`crate::cli::job::bars`] and
//! [`crate::cli::job::lines`] print them. Computes all sums and rates. Does no I/O and has no clock.

use crate::cli::job::transfer_rate::TransferRate;
use sampan_client::engine::{Job, Phase, Row};
use std::collections::HashMap;
use std::time::Duration;

/// The kind of jobs that replicate. The first row of such a job is about the whole job, and its ID is the number of
/// finished artifacts and of all artifacts, such as `3/10`. The other rows are blobs in flight; when a blob is done,
/// its row is used for another blob.
const REPLICATION: &str = "replicate";
/// Most rows of a job, so that an answer cannot fill memory. No registry allows this many layers.
const ROWS_MAX: usize = 10_000;

/// The rows of all jobs that a command follows.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    entries: Vec<JobRows>,
    total: TransferRate,
}

/// The rows of one job.
#[derive(Debug)]
pub(crate) struct JobRows {
    /// The reference that the person typed, or the job's subject after the engine has sent it.
    pub name: String,
    /// The job's number; 0 before the engine has sent it.
    pub job: u64,
    pub state: JobStage,
    /// Whether the job replicates, so that its rows have the meaning of [`REPLICATION`].
    pub is_replication: bool,
    /// The rows, sorted by index.
    pub lines: Vec<RowProgress>,
    /// Whether an earlier entry shows this job.
    pub is_duplicate: bool,
}

/// The stage of a job, as far as this command knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobStage {
    /// Not started yet, since other jobs are first.
    Queued,
    Running,
    Done,
    Failed,
}

impl JobStage {
    /// Name of the stage in progress lines and JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            JobStage::Queued => "queued",
            JobStage::Running => "running",
            JobStage::Done => "done",
            JobStage::Failed => "failed",
        }
    }
}

/// One row, and its transfer rate.
#[derive(Debug)]
pub(crate) struct RowProgress {
    /// The row in the engine's last answer. `current` is never above a known `total`.
    pub row: Row,
    /// Bytes that were transferred since this command began to follow the job.
    moved: u64,
    pub meter: TransferRate,
}

/// All jobs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overall {
    /// Jobs, without duplicates.
    pub jobs: usize,
    /// Jobs that have succeeded.
    pub jobs_done: usize,
    /// Jobs that have failed.
    pub jobs_failed: usize,
    /// Rows of all jobs.
    pub layers: usize,
    /// Rows that are finished.
    pub layers_done: usize,
    /// Artifacts of a replication, and how many of them are finished.
    pub artifacts: Option<Artifacts>,
    /// Bytes that were transferred. A blob that several jobs need counts one time.
    pub current: u64,
    /// Bytes of all blobs to transfer.
    pub total: u64,
    /// Bytes per second; `None` until there are two samples.
    pub rate: Option<u64>,
    /// The time that the remaining bytes take at this rate.
    pub left: Option<Duration>,
}

/// Number of the artifacts of a replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Artifacts {
    pub done: u64,
    pub total: u64,
}

/// Whether the job replicates.
pub(crate) fn is_replication(job: &Job) -> bool {
    job.kind == REPLICATION
}

impl Rows {
    /// Adds a job by the reference that the person typed, and returns the job's index.
    pub(crate) fn open(&mut self, name: &str) -> usize {
        self.entries.push(JobRows {
            name: name.to_owned(),
            job: 0,
            state: JobStage::Queued,
            is_replication: false,
            lines: Vec::new(),
            is_duplicate: false,
        });
        self.entries.len() - 1
    }

    /// The jobs in the order of the command line, without duplicates.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &JobRows> {
        self.entries.iter().filter(|entry| !entry.is_duplicate)
    }

    /// The rows of one job.
    pub(crate) fn entry(&self, at: usize) -> Option<&JobRows> {
        self.entries.get(at)
    }

    /// Whether there are several jobs, so that each line must name its job.
    pub(crate) fn is_shared(&self) -> bool {
        self.entries.len() > 1
    }

    /// Marks job `at` as running.
    pub(crate) fn begin(&mut self, at: usize) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = JobStage::Running;
        }
    }

    /// Sets number and name of job `at`. [`Rows::update`] sets the job's rows.
    pub(crate) fn join(&mut self, at: usize, job: &Job) {
        let is_duplicate =
            self.entries.iter().enumerate().any(|(nth, other)| nth != at && other.job == job.id);
        if let Some(entry) = self.entries.get_mut(at) {
            (entry.job, entry.is_duplicate) = (job.id, is_duplicate);
            entry.is_replication = is_replication(job);
            if !job.subject.is_empty() {
                entry.name.clone_from(&job.subject);
            }
        }
    }

    /// Sets the final stage of job `at`.
    pub(crate) fn end(&mut self, at: usize, state: JobStage) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = state;
        }
    }

    /// Updates rows of job `at`, and counts the bytes that were transferred.
    pub(crate) fn update(&mut self, at: usize, rows: &[Row], now: Duration) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        for row in rows {
            let mut row = row.clone();
            if row.total > 0 {
                row.current = row.current.min(row.total);
            }
            match entry.lines.binary_search_by_key(&row.index, |line| line.row.index) {
                Ok(found) => {
                    let is_replication = entry.is_replication;
                    let Some(line) = entry.lines.get_mut(found) else { continue };
                    match is_replication {
                        true if row.index == 0 => line.update_summary(&row),
                        // The row is now about another blob.
                        true if line.row.id != row.id => *line = RowProgress::new(row),
                        _ => line.update(&row),
                    }
                }
                Err(to) if entry.lines.len() < ROWS_MAX => entry.lines.insert(to, RowProgress::new(row)),
                Err(_) => {}
            }
        }
        self.tick(now);
    }

    /// Updates the rates, which fall while nothing is transferred.
    pub(crate) fn tick(&mut self, now: Duration) {
        for line in self.entries.iter_mut().flat_map(|entry| &mut entry.lines) {
            line.meter.sample(now, line.moved);
        }
        let moved = self.blobs().values().fold(0, |sum: u64, blob| sum.saturating_add(blob.moved));
        self.total.sample(now, moved);
    }

    /// Whether a transfer is running, so that the rates change with time.
    pub(crate) fn is_moving(&self) -> bool {
        self.lines().any(|line| is_moving(line.row.phase))
    }

    /// The progress of all jobs together.
    pub(crate) fn overall(&self) -> Overall {
        let count = |state| self.entries().filter(|entry| entry.state == state).count();
        let blobs = self.blobs();
        let sum =
            |of: fn(&Blob) -> u64| blobs.values().fold(0, |sum: u64, blob| sum.saturating_add(of(blob)));
        let (current, total) = (sum(|blob| blob.current), sum(|blob| blob.total));
        Overall {
            jobs: self.entries().count(),
            jobs_done: count(JobStage::Done),
            jobs_failed: count(JobStage::Failed),
            layers: self.layers().count(),
            layers_done: self.layers().filter(|line| is_finished(line.row.phase)).count(),
            artifacts: self.entries().find_map(JobRows::summary).map(artifacts),
            current,
            total,
            rate: self.total.bytes_per_second(),
            left: self.total.time_for(total.saturating_sub(current)),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &RowProgress> {
        self.entries().flat_map(|entry| &entry.lines)
    }

    fn layers(&self) -> impl Iterator<Item = &RowProgress> {
        self.entries().flat_map(JobRows::layers)
    }

    /// The blobs of all rows. The bytes of a replication are those of its first row, which stand for all its blobs. A blob of several rows occurs one time, with the progress of its furthest row.
    fn blobs(&self) -> HashMap<(&str, u32), Blob> {
        let mut blobs: HashMap<(&str, u32), Blob> = HashMap::new();
        let replications = self.entries().filter_map(JobRows::summary);
        let others = self.entries().filter(|entry| !entry.is_replication).flat_map(JobRows::layers);
        for line in replications.chain(others) {
            let row = &line.row;
            // A row without an ID has a blob of its own.
            let key = (row.id.as_str(), if row.id.is_empty() { row.index } else { 0 });
            let blob = blobs.entry(key).or_default();
            blob.current = blob.current.max(line.current());
            blob.total = blob.total.max(row.total);
            blob.moved = blob.moved.max(line.moved);
        }
        blobs
    }
}

/// Bytes of one blob.
#[derive(Debug, Default)]
struct Blob {
    current: u64,
    total: u64,
    moved: u64,
}

/// The counts in the ID of the first row of a replication.
fn artifacts(line: &RowProgress) -> Artifacts {
    let counts = line.row.id.split_once('/').and_then(|(done, total)| {
        Some(Artifacts { done: done.trim().parse().ok()?, total: total.trim().parse().ok()? })
    });
    counts.unwrap_or_default()
}

impl JobRows {
    /// The row about a whole replication; `None` for other jobs.
    pub(crate) fn summary(&self) -> Option<&RowProgress> {
        self.lines.first().filter(|line| self.is_replication && line.row.index == 0)
    }

    /// The rows that are about one layer or blob.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &RowProgress> {
        self.lines.iter().filter(|line| !self.is_replication || line.row.index > 0)
    }

    /// The row with this index.
    pub(crate) fn line(&self, index: u32) -> Option<&RowProgress> {
        let found = self.lines.binary_search_by_key(&index, |line| line.row.index).ok()?;
        self.lines.get(found)
    }
}

impl RowProgress {
    fn new(row: Row) -> Self {
        RowProgress { row, moved: 0, meter: TransferRate::default() }
    }

    /// Updates the row about a whole replication, which goes from one phase to another without a loss of bytes.
    fn update_summary(&mut self, row: &Row) {
        self.moved = self.moved.saturating_add(row.current.saturating_sub(self.row.current));
        self.row.clone_from(row);
    }

    /// Updates the row, and counts the bytes since its last update. The bytes in the first update were transferred
    /// before, and a new attempt begins with fewer bytes; neither counts.
    fn update(&mut self, row: &Row) {
        if is_moving(self.row.phase) {
            self.moved = self.moved.saturating_add(row.current.saturating_sub(self.row.current));
        }
        self.row.clone_from(row);
    }

    /// The bytes to show. A finished row shows its total.
    pub(crate) fn current(&self) -> u64 {
        if is_finished(self.row.phase) { self.row.total } else { self.row.current }
    }

    /// The rate of a row whose bytes are being transferred.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.meter.bytes_per_second().filter(|_| is_moving(self.row.phase))
    }
}

/// Whether bytes of the row are being transferred.
pub(crate) fn is_moving(phase: Phase) -> bool {
    matches!(phase, Phase::Downloading | Phase::Uploading | Phase::Saving)
}

/// Whether the row failed only because its job was stopped: no blame on the blob.
pub(crate) fn is_stopped(row: &Row) -> bool {
    row.phase == Phase::Failed && row.note == "stopped"
}

/// Whether the row is finished.
pub(crate) fn is_finished(phase: Phase) -> bool {
    matches!(phase, Phase::Complete | Phase::Exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn row(index: u32, phase: Phase, current: u64, total: u64) -> Row {
        Row { index, id: format!("{index:012x}"), phase, current, total, attempt: 1, note: String::new() }
    }

    fn job(id: u64) -> Job {
        Job { id, subject: format!("host/image:{id}"), ..Job::default() }
    }

    #[test]
    fn bytes_that_were_there_before_make_no_rate_and_a_new_try_none_either() {
        let mut all_rows = Rows::default();
        let at = all_rows.open("x");
        all_rows.update(at, &[row(0, Phase::Waiting, 0, 100), row(1, Phase::Waiting, 0, 1000)], SECOND);
        // One layer exists already; the other continues an earlier pull that broke off.
        all_rows.update(
            at,
            &[row(0, Phase::Exists, 100, 100), row(1, Phase::Downloading, 500, 1000)],
            2 * SECOND,
        );
        assert_eq!(all_rows.overall().rate, Some(0));
        all_rows.update(at, &[row(1, Phase::Downloading, 600, 1000)], 3 * SECOND);
        let overall = all_rows.overall();
        assert_eq!((overall.current, overall.total, overall.rate), (700, 1100, Some(50)));
        assert_eq!(overall.left, Some(8 * SECOND));
        all_rows.update(at, &[row(1, Phase::Downloading, 0, 1000)], 4 * SECOND);
        assert_eq!((all_rows.overall().current, all_rows.overall().rate), (100, Some(33)));
    }

    #[test]
    fn current_is_never_over_a_total_that_is_known() {
        let mut all_rows = Rows::default();
        let at = all_rows.open("x");
        all_rows.update(
            at,
            &[row(0, Phase::Downloading, 500, 100), row(1, Phase::Downloading, 7, 0)],
            SECOND,
        );
        let current: Vec<u64> =
            all_rows.entry(at).expect("open").lines.iter().map(|line| line.row.current).collect();
        assert_eq!(current, [100, 7]);
    }

    #[test]
    fn a_replication_has_the_bytes_of_its_first_row_and_its_rows_change_blobs() {
        let mut all_rows = Rows::default();
        let at = all_rows.open("x");
        all_rows.join(at, &Job { kind: "replicate".into(), ..job(1) });
        let summary = |id: &str, current| Row { id: id.into(), ..row(0, Phase::Uploading, current, 1000) };
        let blob = |id: &str, current| Row { id: id.into(), ..row(1, Phase::Uploading, current, 100) };
        all_rows.update(at, &[summary("0/3", 0), blob("a", 0)], SECOND);
        all_rows.update(at, &[summary("1/3", 100), blob("a", 100)], 2 * SECOND);
        all_rows.update(at, &[summary("1/3", 130), blob("b", 30)], 3 * SECOND);
        let overall = all_rows.overall();
        assert_eq!(overall.artifacts, Some(Artifacts { done: 1, total: 3 }));
        assert_eq!((overall.current, overall.total, overall.layers), (130, 1000, 1));
        assert_eq!((overall.rate, overall.left), (Some(65), Some(14 * SECOND)));
        let entry = all_rows.entry(at).expect("open");
        let blob = entry.layers().next().expect("a row");
        // The bytes of the blob that had the row before make no rate of this blob.
        assert_eq!((blob.row.id.as_str(), blob.rate()), ("b", None));
    }

    #[test]
    fn a_blob_of_two_images_counts_once_and_a_job_that_is_asked_for_twice_is_one() {
        let mut all_rows = Rows::default();
        for name in ["a", "b", "b:latest"] {
            all_rows.open(name);
        }
        for (at, id) in [(0, 1), (1, 2), (2, 2)] {
            all_rows.begin(at);
            all_rows.join(at, &job(id));
            all_rows.update(at, &[row(7, Phase::Downloading, 10 * id, 100)], SECOND);
        }
        all_rows.end(0, JobStage::Done);
        let overall = all_rows.overall();
        assert_eq!((overall.jobs, overall.jobs_done, overall.layers), (2, 1, 2));
        assert_eq!((overall.current, overall.total), (20, 100));
        assert_eq!(
            all_rows.entries().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
            ["host/image:1", "host/image:2"]
        );
    }
}
