//! Progress as lines: plain lines for people and logs, JSON lines for scripts.
//!
//! Formats rows that have changed; prints nothing. `docs/progress.md` describes the JSON objects, whose field names do
//! not change.

use crate::cli::human_units;
use crate::cli::job::rows::{JobRows, RowProgress, Rows};
use crate::cli::json;
use sampan_client::engine::{Done, Phase, Row};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;

/// The rows that were printed last, by job and index.
pub(crate) type Printed = HashMap<(u64, u32), PrintedRow>;

/// The parts of a row whose changes are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrintedRow {
    id: String,
    phase: Phase,
    attempt: u32,
    note: String,
}

/// A JSON line; the field `type` names the variant.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Object<'a> {
    Job(JobObject<'a>),
    Layer(LayerObject<'a>),
    Overall(OverallObject),
    Note(NoteObject<'a>),
    Result(ResultObject<'a>),
}

#[derive(Serialize)]
struct JobObject<'a> {
    job: u64,
    reference: &'a str,
    state: &'static str,
    layers: usize,
}

#[derive(Serialize)]
struct LayerObject<'a> {
    job: u64,
    reference: &'a str,
    layer: &'a str,
    index: u32,
    state: &'static str,
    current: u64,
    total: u64,
    rate: u64,
    attempt: u32,
    note: &'a str,
}

#[derive(Serialize)]
struct OverallObject {
    jobs: usize,
    jobs_done: usize,
    jobs_failed: usize,
    layers: usize,
    layers_done: usize,
    /// Only for a replication.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts_done: Option<u64>,
    current: u64,
    total: u64,
    rate: u64,
    left: Option<u64>,
}

#[derive(Serialize)]
struct NoteObject<'a> {
    job: u64,
    reference: &'a str,
    note: &'a str,
}

#[derive(Serialize)]
struct ResultObject<'a> {
    job: u64,
    reference: &'a str,
    asked: &'a str,
    state: &'static str,
    digest: &'a str,
    unchanged: bool,
    references: &'a [String],
    error: &'a str,
    hint: &'a str,
}

fn line(object: &Object<'_>) -> String {
    json::line(object) + "\n"
}

/// The JSON line of a job that has begun or ended.
pub(crate) fn job(entry: &JobRows) -> String {
    let JobRows { name, job, state, .. } = entry;
    let layers = entry.layers().count();
    line(&Object::Job(JobObject { job: *job, reference: name, state: state.word(), layers }))
}

/// The JSON lines of the rows that have changed, then the line of all jobs together, which also has the counts of a
/// replication.
pub(crate) fn rows(all_rows: &Rows, entry: &JobRows, changed: &[Row]) -> String {
    let mut lines = String::new();
    for row in changed {
        let found = entry.line(row.index);
        if let Some(found) = found.filter(|_| !is_summary(entry, row)) {
            lines += &line(&layer(entry, found));
        }
    }
    lines + &overall(all_rows)
}

fn layer<'a>(entry: &'a JobRows, line: &'a RowProgress) -> Object<'a> {
    let row = &line.row;
    Object::Layer(LayerObject {
        job: entry.job,
        reference: &entry.name,
        layer: &row.id,
        index: row.index,
        state: row.phase.word(),
        current: row.current,
        total: row.total,
        rate: line.rate().unwrap_or(0),
        attempt: row.attempt,
        note: &row.note,
    })
}

/// The JSON line of all jobs together.
pub(crate) fn overall(all_rows: &Rows) -> String {
    let all = all_rows.overall();
    line(&Object::Overall(OverallObject {
        jobs: all.jobs,
        jobs_done: all.jobs_done,
        jobs_failed: all.jobs_failed,
        layers: all.layers,
        layers_done: all.layers_done,
        artifacts: all.artifacts.map(|artifacts| artifacts.total),
        artifacts_done: all.artifacts.map(|artifacts| artifacts.done),
        current: all.current,
        total: all.total,
        rate: all.rate.filter(|_| all_rows.is_moving()).unwrap_or(0),
        left: all.left.filter(|_| all_rows.is_moving()).map(|left| left.as_secs()),
    }))
}

/// The JSON line of a note.
pub(crate) fn note(entry: &JobRows, note: &str) -> String {
    line(&Object::Note(NoteObject { job: entry.job, reference: &entry.name, note }))
}

/// The JSON line of the result for `asked`: the digest reference, or the error and the hint.
pub(crate) fn result(entry: &JobRows, asked: &str, outcome: Result<&Done, (&str, &str)>) -> String {
    let none = Done::default();
    let (done, (error, hint)) = match outcome {
        Ok(done) => (done, ("", "")),
        Err(failure) => (&none, failure),
    };
    let reference = if done.reference.is_empty() { &entry.name } else { &done.reference };
    line(&Object::Result(ResultObject {
        job: entry.job,
        reference,
        asked,
        state: if outcome.is_ok() { "done" } else { "failed" },
        digest: &done.digest,
        unchanged: done.unchanged,
        references: &done.references,
        error,
        hint,
    }))
}

/// A plain line for each row whose state is not printed yet.
pub(crate) fn plain(entry: &JobRows, is_shared: bool, changed: &[Row], printed: &mut Printed) -> String {
    let mut lines = String::new();
    for row in changed {
        let Row { id, phase, attempt, note, .. } = row.clone();
        let state = PrintedRow { id, phase, attempt, note };
        let key = (entry.job, row.index);
        if printed.get(&key) == Some(&state) {
            continue;
        }
        let name = if is_shared { format!("{} ", entry.name) } else { String::new() };
        let line = if is_summary(entry, row) { plain_summary(row) } else { plain_line(row) };
        sampan_ipc::event::escape(&mut lines, &(name + &line));
        lines.push('\n');
        printed.insert(key, state);
    }
    lines
}

/// Whether the row is about the whole of a replication.
fn is_summary(entry: &JobRows, row: &Row) -> bool {
    entry.is_replication && row.index == 0
}

fn plain_summary(row: &Row) -> String {
    let (current, total) = (human_units::bytes(row.current), human_units::bytes(row.total));
    let note = if row.note.is_empty() { String::new() } else { format!(": {}", row.note) };
    format!("{} artifacts, {current}/{total}{note}", row.id)
}

fn plain_line(row: &Row) -> String {
    if crate::cli::job::rows::is_stopped(row) {
        return format!("{}: {}", row.id, row.note);
    }
    let mut line = format!("{}: {}", row.id, row.phase.word());
    let total = human_units::bytes(row.total);
    let is_moving = crate::cli::job::rows::is_moving(row.phase);
    let _ = match row.phase {
        _ if is_moving => write!(line, " {}/{total}", human_units::bytes(row.current)),
        Phase::Complete | Phase::Exists => write!(line, " {total}"),
        _ => Ok(()),
    };
    if row.attempt > 1 && is_moving {
        let _ = write!(line, ", attempt {}", row.attempt);
    }
    if !row.note.is_empty() {
        let _ = write!(line, ": {}", row.note);
    }
    line
}

/// The plain line of the end of one job among several.
pub(crate) fn plain_end(entry: &JobRows) -> String {
    let mut line = String::new();
    sampan_ipc::event::escape(&mut line, &format!("{}: {}", entry.name, entry.state.word()));
    line + "\n"
}

/// The result as a digest reference, `host/name@sha256:…`, or all references if there are several.
pub(crate) fn results(done: &Done) -> String {
    let mut lines = String::new();
    if done.references.len() > 1 || (done.digest.is_empty() && !done.references.is_empty()) {
        for reference in &done.references {
            sampan_ipc::event::escape(&mut lines, reference);
            lines.push('\n');
        }
        return lines;
    }
    sampan_ipc::event::escape(&mut lines, &digest_reference(done));
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines
}

/// Returns `host/name@sha256:…`, or the part of this reference that the result has.
fn digest_reference(done: &Done) -> String {
    let name = done.reference.split_once('@').map_or(done.reference.as_str(), |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match (name.is_empty(), done.digest.is_empty()) {
        (false, false) => format!("{name}@{}", done.digest),
        (true, _) => done.digest.clone(),
        (false, true) => done.reference.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn row(phase: Phase, current: u64, note: &str) -> Row {
        Row {
            index: 3,
            id: "3277ec2e57cd".into(),
            phase,
            current,
            total: 2048,
            attempt: 1,
            note: note.into(),
        }
    }

    fn all_rows() -> Rows {
        let mut all_rows = Rows::default();
        all_rows.open("image");
        all_rows.begin(0);
        all_rows
    }

    #[test]
    fn plain_progress_is_a_line_a_change_of_state() {
        let (all_rows, mut printed, mut lines) = (all_rows(), Printed::new(), String::new());
        let entry = all_rows.entry(0).expect("open");
        for (phase, current, note) in [
            (Phase::Waiting, 0, ""),
            (Phase::Downloading, 0, ""),
            (Phase::Downloading, 1024, ""),
            (Phase::Downloading, 2048, "stalled\n"),
            (Phase::Verifying, 2048, ""),
            (Phase::Complete, 2048, ""),
            (Phase::Complete, 2048, ""),
            (Phase::Failed, 1024, "stopped"),
            (Phase::Failed, 1024, "403"),
        ] {
            lines += &plain(entry, false, &[row(phase, current, note)], &mut printed);
        }
        lines += &plain(entry, true, &[row(Phase::Uploading, 0, "")], &mut printed);
        let expected = "\
3277ec2e57cd: waiting
3277ec2e57cd: downloading 0 B/2.00 KiB
3277ec2e57cd: downloading 2.00 KiB/2.00 KiB: stalled\\n
3277ec2e57cd: verifying
3277ec2e57cd: complete 2.00 KiB
3277ec2e57cd: stopped
3277ec2e57cd: failed: 403
image 3277ec2e57cd: uploading 0 B/2.00 KiB
";
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_replication_has_lines_of_its_blobs_and_of_the_whole() {
        let (mut all_rows, mut printed) = (all_rows(), Printed::new());
        all_rows.join(0, &sampan_client::engine::Job { kind: "replicate".into(), ..Default::default() });
        let summary = |id: &str| Row { index: 0, id: id.into(), ..row(Phase::Uploading, 1024, "") };
        let other = Row { id: "a".into(), ..row(Phase::Uploading, 0, "") };
        let changed =
            [summary("0/2"), row(Phase::Uploading, 1024, ""), summary("1/2"), other, summary("1/2")];
        all_rows.update(0, &changed, Duration::ZERO);
        let entry = all_rows.entry(0).expect("open");
        let expected = "\
0/2 artifacts, 1.00 KiB/2.00 KiB
3277ec2e57cd: uploading 1.00 KiB/2.00 KiB
1/2 artifacts, 1.00 KiB/2.00 KiB
a: uploading 0 B/2.00 KiB
";
        assert_eq!(plain(entry, false, &changed, &mut printed), expected);
        let json = rows(&all_rows, entry, &changed[..1]);
        let expected = r#"{"type":"overall","jobs":1,"jobs_done":0,"jobs_failed":0,"layers":1,"layers_done":0,"artifacts":2,"artifacts_done":1,"current":1024,"total":2048,"rate":0,"left":null}
"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn json_progress_is_a_line_a_change_and_one_of_the_whole() {
        let mut all_rows = all_rows();
        let changed = [row(Phase::Downloading, 5, "")];
        all_rows.update(0, &changed, Duration::ZERO);
        let lines = rows(&all_rows, all_rows.entry(0).expect("open"), &changed);
        let expected = r#"{"type":"layer","job":0,"reference":"image","layer":"3277ec2e57cd","index":3,"state":"downloading","current":5,"total":2048,"rate":0,"attempt":1,"note":""}
{"type":"overall","jobs":1,"jobs_done":0,"jobs_failed":0,"layers":1,"layers_done":0,"current":5,"total":2048,"rate":0,"left":null}
"#;
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_digest_takes_the_place_of_a_tag() {
        let done = |reference: &str, digest: &str| {
            digest_reference(&Done { reference: reference.into(), digest: digest.into(), ..Done::default() })
        };
        assert_eq!(done("host:5000/a/b:1", "sha256:0"), "host:5000/a/b@sha256:0");
        assert_eq!(done("host:5000/a/b@sha256:0", "sha256:0"), "host:5000/a/b@sha256:0");
        assert_eq!(done("", "sha256:0"), "sha256:0");
        assert_eq!(done("", ""), "");
    }
}
