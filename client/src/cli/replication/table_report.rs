//! The report of an execution as text for people: a line for each artifact, and the totals.
//!
//! Makes text and prints nothing. Escapes control characters, since names and errors come from registries.

use crate::cli::human_units;
use crate::cli::replication::report::{self, Report};
use crate::cli::table::Table;
use sampan_client::docker::columns;
use sampan_client::time;
use sampan_ipc::event::escape;
use sampan_ipc::replication::{Artifact, Bytes, Execution, LastError, Operation, Task, Trigger};
use std::fmt::Write as _;
use std::time::Duration;

/// Columns of a table that hold names, and come first.
const NAMES: usize = 2;
/// Fewest columns of a terminal in which messages are a column of the table.
const MESSAGES_MIN: usize = 110;
/// Before the further lines of a message.
const INDENT: &str = "  ";
/// Most repositories without a selected tag that are named.
const UNSELECTED_MAX: usize = 3;
/// Results in the order in which the totals list them.
const RESULTS: [&str; 17] = [
    "copied",
    "mounted",
    "copy",
    "unchanged",
    "skipped",
    "skip",
    "deleted",
    "delete",
    "done",
    "failed",
    "stopped",
    "canceled",
    "pending",
    "retrying",
    "pull_manifest",
    "transfer_blob",
    "push_manifest",
];

/// The closing report: the artifacts, the totals, and what was not selected. Cropped to `columns` if it is given.
///
/// A narrow terminal has no room for the messages, which then are below the table; not those of failures, which the
/// caller prints.
pub(crate) fn closing(report: &Report, columns: Option<usize>) -> String {
    listing(report, columns, false)
}

fn listing(report: &Report, columns: Option<usize>, has_failures: bool) -> String {
    let is_plan = report.execution.dry_run;
    let narrow = columns.filter(|columns| *columns < MESSAGES_MIN && has_messages(report));
    let table = if is_plan { plan(report, narrow.is_none()) } else { artifacts(report, narrow.is_none()) };
    let messages = narrow.map(|columns| messages(report, columns, has_failures)).unwrap_or_default();
    let totals = if is_plan { plan_totals(report) } else { totals(report) };
    cropped(&table, columns) + &messages + &totals + &unselected(report)
}

fn has_messages(report: &Report) -> bool {
    let has_one = |artifact: &Artifact| !message(&artifact.error, &artifact.note).is_empty();
    report.artifacts().any(|(_, artifact)| has_one(artifact)) || report.failed_tasks().next().is_some()
}

/// The messages of the artifacts and tasks, each with its name, in lines of fewer than `columns` characters.
fn messages(report: &Report, columns: usize, has_failures: bool) -> String {
    let mut text = String::new();
    let mut add = |name: &str, error: &LastError, note: &str| {
        let is_failure = !error.message.is_empty();
        let message = message(error, note);
        if !message.is_empty() && (has_failures || !is_failure) {
            let mut line = String::new();
            escape(&mut line, &format!("{name}: {message}"));
            text.push_str(&wrapped(&line, columns));
        }
    };
    for (task, artifact) in report.artifacts() {
        add(&report::subject(task, artifact), &artifact.error, &artifact.note);
    }
    for task in report.failed_tasks() {
        add(&task.source, &task.error, "");
    }
    text
}

/// Breaks a line into lines of fewer than `columns` characters, where possible between words.
fn wrapped(line: &str, columns: usize) -> String {
    let room = columns.saturating_sub(1).max(INDENT.len() + 1);
    let mut text = String::new();
    let mut rest: Vec<char> = line.chars().collect();
    let mut indent = "";
    while !rest.is_empty() {
        let width = room - indent.len();
        let end = if rest.len() <= width {
            rest.len()
        } else {
            // A blank just behind the room ends the line, too.
            let blank = rest.iter().take(width + 1).rposition(|letter| *letter == ' ');
            blank.filter(|at| *at > 0).unwrap_or(width)
        };
        let next = rest.split_off(end);
        text.push_str(indent);
        text.extend(rest);
        text.push('\n');
        rest = next.into_iter().skip_while(|letter| *letter == ' ').collect();
        indent = INDENT;
    }
    text
}

/// Lines about the repositories of which the filter leaves nothing, since the tables do not have them.
fn unselected(report: &Report) -> String {
    let empty: Vec<&str> = report.unselected().collect();
    match empty.len() {
        0 => String::new(),
        1..=UNSELECTED_MAX => {
            let mut text = String::new();
            for name in empty {
                text.push_str("no tag of ");
                escape(&mut text, name);
                text.push_str(" is selected\n");
            }
            text
        }
        count => format!("no tag of {count} repositories is selected\n"),
    }
}

/// The execution itself, then the closing report, then the blobs that the engine keeps if `has_blobs` is true.
pub(crate) fn whole(report: &Report, has_blobs: bool, columns: Option<usize>) -> String {
    let mut text = head(&report.execution) + "\n" + &listing(report, columns, true);
    if has_blobs {
        let _ = write!(text, "\n{}", cropped(&blobs(report), columns));
    }
    text
}

fn cropped(table: &Table, columns: Option<usize>) -> String {
    columns.map_or_else(|| table.text(), |columns| table.cropped(columns, NAMES))
}

/// The state of an execution; a plan is marked.
pub(crate) fn state(execution: &Execution) -> String {
    let plan = if execution.dry_run { ", plan" } else { "" };
    format!("{}{plan}", execution.state.word())
}

fn head(execution: &Execution) -> String {
    let trigger = match execution.trigger {
        Trigger::Manual => "manual".to_owned(),
        Trigger::Cron => "cron".to_owned(),
        Trigger::Event(seq) => format!("event {seq}"),
        Trigger::Again(id) => format!("execution {id}"),
    };
    let started = time::local(execution.started);
    let started = match took(execution) {
        Some(took) => format!("{started}, took {}", human_units::time(took)),
        None => started,
    };
    let lines = [
        ("execution", format!("{}, {}", execution.id, state(execution))),
        ("policy", execution.policy.clone()),
        ("source", execution.source.clone()),
        ("destination", execution.destination.clone()),
        ("trigger", trigger),
        ("started", started),
        ("error", message(&execution.error, "")),
    ];
    let mut text = String::new();
    for (word, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(text, "{word:<11}  ");
        escape(&mut text, value);
        text.push('\n');
    }
    text
}

/// The time from the request to the end; `None` for an execution that has not ended.
fn took(execution: &Execution) -> Option<Duration> {
    let nanos = execution.ended.checked_sub(execution.started).filter(|_| execution.ended != 0)?;
    Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// The error, or the note if there is no error.
fn message(error: &LastError, note: &str) -> String {
    match (error.class.word(), error.message.as_str()) {
        ("", "") => note.to_owned(),
        ("", message) => message.to_owned(),
        (class, message) => format!("{class}: {message}"),
    }
}

fn artifacts(report: &Report, has_message: bool) -> Table {
    let mut header =
        vec!["SOURCE", "DESTINATION", "RESULT", "DIGEST", "COPIED", "MOUNTED", "SKIPPED", "ATTEMPTS"];
    header.extend(has_message.then_some("MESSAGE"));
    let mut table = Table::new(&header);
    for (task, artifact) in report.artifacts() {
        let Bytes { done, mounted, skipped, .. } = artifact.bytes;
        let mut row = begin(task, artifact, report::result(artifact));
        row.extend([done, mounted, skipped].map(human_units::bytes));
        row.push(artifact.attempts.to_string());
        row.extend(has_message.then(|| message(&artifact.error, &artifact.note)));
        table.row(row);
    }
    for task in report.failed_tasks() {
        let mut row = vec![task.source.clone(), task.destination.clone(), "failed".to_owned()];
        row.extend(["-"; 4].map(str::to_owned));
        row.push(task.attempts.to_string());
        row.extend(has_message.then(|| message(&task.error, "")));
        table.row(row);
    }
    table
}

fn plan(report: &Report, has_message: bool) -> Table {
    let mut header = vec!["SOURCE", "DESTINATION", "PLAN", "DIGEST", "MOVE", "MOUNT", "SKIP"];
    header.extend(has_message.then_some("MESSAGE"));
    let mut table = Table::new(&header);
    for (task, artifact) in report.artifacts() {
        let Bytes { mounted, skipped, .. } = artifact.bytes;
        let mut row = begin(task, artifact, report::plan(task, artifact));
        row.extend([to_move(artifact.bytes), mounted, skipped].map(human_units::bytes));
        row.extend(has_message.then(|| message(&artifact.error, &artifact.note)));
        table.row(row);
    }
    for task in report.failed_tasks() {
        let mut row = vec![task.source.clone(), task.destination.clone(), "failed".to_owned()];
        row.extend(["-"; 4].map(str::to_owned));
        row.extend(has_message.then(|| message(&task.error, "")));
        table.row(row);
    }
    table
}

/// The columns that the report and the plan share.
fn begin(task: &Task, artifact: &Artifact, result: &str) -> Vec<String> {
    let digest = match artifact.digest.as_str() {
        "" => "-".to_owned(),
        digest => columns::id(digest, false),
    };
    // What is deleted is not at the source.
    let source = match task.operation {
        Operation::Transfer => report::source(task, artifact),
        Operation::Delete => String::new(),
    };
    vec![source, report::destination(task, artifact), result.to_owned(), digest]
}

/// Bytes that a plan would send to the destination.
pub(crate) fn to_move(bytes: Bytes) -> u64 {
    bytes.total.saturating_sub(bytes.skipped).saturating_sub(bytes.mounted)
}

fn blobs(report: &Report) -> Table {
    let mut table = Table::new(&["ARTIFACT", "BLOB", "SIZE", "SENT", "RESULT", "ATTEMPTS", "MESSAGE"]);
    for (task, artifact) in report.artifacts() {
        for blob in &artifact.blobs {
            let result = match (blob.outcome.word(), blob.error.message.as_str()) {
                ("", "") => "-",
                ("", _) => "failed",
                (outcome, _) => outcome,
            };
            table.row(vec![
                report::source(task, artifact),
                columns::id(&blob.digest, false),
                human_units::bytes(blob.size),
                human_units::bytes(blob.sent),
                result.to_owned(),
                blob.attempts.to_string(),
                message(&blob.error, ""),
            ]);
        }
    }
    table
}

/// The number of artifacts with each result, such as `3 artifacts: 2 copied, 1 failed`.
fn counts(report: &Report, result: impl Fn(&Task, &Artifact) -> &'static str) -> String {
    let results: Vec<&str> = report.artifacts().map(|(task, artifact)| result(task, artifact)).collect();
    let known = RESULTS.iter().map(|word| (*word, results.iter().filter(|result| *result == word).count()));
    let words: Vec<String> =
        known.filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}")).collect();
    let noun = if results.len() == 1 { "artifact" } else { "artifacts" };
    let more = if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
    format!("{} {noun}{more}", results.len())
}

fn totals(report: &Report) -> String {
    let Bytes { done, mounted, skipped, .. } = sum(report);
    let bytes = human_units::bytes;
    let took = took(&report.execution);
    let time = took.map_or_else(String::new, |took| format!(", in {}", human_units::time(took)));
    let rate = took.filter(|took| done > 0 && took.as_secs() > 0).map(|took| done / took.as_secs());
    let rate = rate.map_or_else(String::new, |rate| format!(" ({}/s)", bytes(rate)));
    format!(
        "{}; {} copied, {} mounted, {} skipped{time}{rate}\n",
        counts(report, |_, artifact| report::result(artifact)),
        bytes(done),
        bytes(mounted),
        bytes(skipped),
    )
}

fn plan_totals(report: &Report) -> String {
    let sum = sum(report);
    format!(
        "plan for {}; {} to move, {} to mount, {} to skip; nothing was changed\n",
        counts(report, report::plan),
        human_units::bytes(to_move(sum)),
        human_units::bytes(sum.mounted),
        human_units::bytes(sum.skipped),
    )
}

fn sum(report: &Report) -> Bytes {
    let mut sum = Bytes::default();
    report.artifacts().for_each(|(_, artifact)| sum.add(artifact.bytes));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replication::report::TaskReport;
    use sampan_ipc::replication::{Blob, ErrorClass, Outcome, State};

    fn artifact(tag: &str, state: State, outcome: Outcome, bytes: [u64; 4]) -> Artifact {
        let [total, done, skipped, mounted] = bytes;
        Artifact {
            source: tag.into(),
            target: tag.into(),
            state,
            outcome,
            digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            bytes: Bytes { total, done, skipped, mounted },
            attempts: 1,
            ..Artifact::default()
        }
    }

    fn report(dry_run: bool) -> Report {
        let mut failed = artifact("3", State::Error, Outcome::None, [100, 10, 0, 0]);
        failed.attempts = 5;
        failed.error =
            LastError { class: ErrorClass::Denied, message: "cannot push: 403\u{1b}[2J".to_owned() };
        failed.blobs = vec![Blob {
            digest: "sha256:ffeeddccbbaa9988".into(),
            size: 100,
            sent: 10,
            attempts: 5,
            error: failed.error.clone(),
            ..Blob::default()
        }];
        let artifacts = vec![
            artifact("1", State::Finished, Outcome::Copied, [4096, 2048, 1024, 1024]),
            artifact("2", State::Finished, Outcome::Unchanged, [4096, 0, 4096, 0]),
            failed,
        ];
        let task =
            Task { source: "a.example/x".into(), destination: "b.example/x".into(), ..Task::default() };
        let lost = Task {
            source: "a.example/y".into(),
            destination: "b.example/y".into(),
            state: State::Error,
            attempts: 2,
            error: LastError { class: ErrorClass::NotFound, message: "no such repository".into() },
            ..Task::default()
        };
        let execution = Execution {
            id: 7,
            state: State::Error,
            dry_run,
            source: "docker://a.example/*".into(),
            destination: "docker://b.example".into(),
            started: 1_000_000_000,
            ended: 5_000_000_000,
            ..Execution::default()
        };
        let tasks = vec![TaskReport { task, artifacts }, TaskReport { task: lost, artifacts: Vec::new() }];
        Report { execution, tasks }
    }

    #[test]
    fn the_report_has_a_line_for_each_artifact_and_the_totals() {
        let expected = "\
SOURCE         DESTINATION    RESULT     DIGEST        COPIED    MOUNTED   SKIPPED   ATTEMPTS  MESSAGE
a.example/x:1  b.example/x:1  copied     0123456789ab  2.00 KiB  1.00 KiB  1.00 KiB  1
a.example/x:2  b.example/x:2  unchanged  0123456789ab  0 B       0 B       4.00 KiB  1
a.example/x:3  b.example/x:3  failed     0123456789ab  10 B      0 B       0 B       5         denied: cannot push: 403\\u{1b}[2J
a.example/y    b.example/y    failed     -             -         -         -         2         not-found: no such repository
3 artifacts: 1 copied, 1 unchanged, 1 failed; 2.01 KiB copied, 1.00 KiB mounted, 5.00 KiB skipped, in 4s (514 B/s)
";
        assert_eq!(closing(&report(false), None), expected);
    }

    #[test]
    fn a_filter_that_leaves_nothing_is_told() {
        let of = |name: &str| TaskReport {
            task: Task { source: name.into(), state: State::Finished, ..Task::default() },
            artifacts: Vec::new(),
        };
        let execution = Execution { state: State::Finished, ..Execution::default() };
        let mut report = Report { execution, tasks: vec![of("a.example/x")] };
        let expected =
            "0 artifacts; 0 B copied, 0 B mounted, 0 B skipped\nno tag of a.example/x is selected\n";
        assert!(closing(&report, None).ends_with(expected), "{}", closing(&report, None));
        report.tasks.extend(["y", "z", "w"].map(of));
        assert!(closing(&report, None).ends_with("\nno tag of 4 repositories is selected\n"));
    }

    #[test]
    fn a_plan_says_what_would_be_moved_mounted_and_skipped() {
        let expected = "\
SOURCE         DESTINATION    PLAN       DIGEST        MOVE      MOUNT     SKIP      MESSAGE
a.example/x:1  b.example/x:1  copy       0123456789ab  2.00 KiB  1.00 KiB  1.00 KiB
a.example/x:2  b.example/x:2  unchanged  0123456789ab  0 B       0 B       4.00 KiB
";
        let text = closing(&report(true), None);
        assert!(text.starts_with(expected), "{text}");
        let totals = "plan for 3 artifacts: 1 copy, 1 unchanged, 1 failed; 2.10 KiB to move, 1.00 KiB to mount, 5.00 KiB to skip; nothing was changed\n";
        assert!(text.ends_with(totals), "{text}");
    }

    #[test]
    fn no_line_of_the_tables_is_wider_than_the_terminal() {
        for columns in [20, 60, 80, 100, 200] {
            let text = closing(&report(false), Some(columns));
            let (totals, table) = text.trim_end().rsplit_once('\n').expect("lines");
            assert!(totals.lines().all(|line| line.chars().count() < columns), "{text}");
            assert!(table.starts_with("3 artifacts"));
        }
    }

    #[test]
    fn a_narrow_terminal_has_the_messages_below_the_table() {
        let mut report = report(false);
        report.tasks[0].artifacts[1].note = "a note".into();
        let text = whole(&report, false, Some(60));
        let below = "\
a.example/x:2: a note
a.example/x:3: denied: cannot push: 403\\u{1b}[2J
a.example/y: not-found: no such repository
3 artifacts: ";
        assert!(text.contains(below) && !text.contains("MESSAGE"), "{text}");
        // The caller prints failures itself.
        let text = closing(&report, Some(60));
        assert!(text.contains("\na.example/x:2: a note\n3 artifacts: "), "{text}");
        assert!(whole(&report, false, Some(110)).contains("MESSAGE"));
        assert_eq!(wrapped("one two three", 8), "one two\n  three\n");
        assert_eq!(wrapped("0123456789 a", 8), "0123456\n  789 a\n");
        assert_eq!(wrapped("abc", 1), "abc\n");
    }

    #[test]
    fn an_execution_is_shown_with_its_blobs_on_request() {
        let text = whole(&report(false), true, None);
        assert!(text.starts_with("execution    7, error\nsource       docker://a.example/*\n"), "{text}");
        assert!(text.contains(", took 4s\n") && !text.contains("policy"), "{text}");
        let blob = "a.example/x:3  ffeeddccbbaa  100 B  10 B  failed  5         denied: cannot push";
        assert!(text.contains(blob), "{text}");
        assert!(!whole(&report(false), false, None).contains("ffeeddccbbaa"));
    }
}
