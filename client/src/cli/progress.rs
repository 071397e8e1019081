//! Progress of a job on standard output: bars, plain lines, JSON lines, or nothing.
//!
//! Keeps the rows as the engine told them last, and shows what changed. Called for every answer of a watched
//! job, and once a second while bars are shown, so that rates and the time left stay true.

use crate::cli::args::{Progress, ProgressStyle};
use crate::cli::bars::{Bars, Screen};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::{format, units};
use sampan_client::engine::{Done, Job, Phase, Row};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Instant;

/// Most rows that are kept: more layers than any registry allows, so an answer cannot fill memory.
const ROWS_MAX: usize = 10_000;

/// What is shown of a job.
#[derive(Debug)]
pub struct View {
    style: ProgressStyle,
    quiet: bool,
    job: u64,
    rows: Vec<Row>,
    /// Phase, try and note that a plain line told of, by row.
    told: HashMap<u32, (Phase, u32, String)>,
    bars: Bars,
    begun: Instant,
}

/// A row as JSON.
#[derive(Serialize)]
struct JsonRow<'a> {
    job: u64,
    layer: u32,
    id: &'a str,
    phase: &'static str,
    current: u64,
    total: u64,
    attempt: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
}

/// The result as JSON.
#[derive(Serialize)]
struct JsonDone<'a> {
    job: u64,
    done: bool,
    reference: &'a str,
    digest: &'a str,
    unchanged: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    references: &'a [String],
}

impl View {
    /// A view as the arguments want it, and as standard output can show it.
    pub fn new(args: &Progress) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let style = match args.progress {
            _ if args.quiet => ProgressStyle::None,
            ProgressStyle::Auto if io::stdout().is_terminal() && !dumb => ProgressStyle::Bars,
            ProgressStyle::Auto => ProgressStyle::Plain,
            style => style,
        };
        View {
            style,
            quiet: args.quiet,
            job: 0,
            rows: Vec::new(),
            told: HashMap::new(),
            bars: Bars::default(),
            begun: Instant::now(),
        }
    }

    /// The job, with all its rows.
    pub fn job(&mut self, job: Job) -> io::Result<()> {
        self.job = job.id;
        self.update(job.rows)
    }

    /// Rows that changed.
    pub fn update(&mut self, rows: Vec<Row>) -> io::Result<()> {
        for row in &rows {
            match self.rows.binary_search_by_key(&row.index, |row| row.index) {
                Ok(at) => self.rows[at] = row.clone(),
                Err(at) if self.rows.len() < ROWS_MAX => self.rows.insert(at, row.clone()),
                Err(_) => {}
            }
        }
        match self.style {
            ProgressStyle::Bars => self.redraw(),
            ProgressStyle::Json => output::print(&self.json(&rows)),
            ProgressStyle::Plain | ProgressStyle::Auto => {
                let lines = self.plain(&rows);
                output::print(&lines)
            }
            ProgressStyle::None => Ok(()),
        }
    }

    /// True if time alone changes what is shown.
    pub fn is_moving(&self) -> bool {
        self.style == ProgressStyle::Bars && self.rows.iter().any(|row| row.phase == Phase::Downloading)
    }

    /// Draws the bars as they are now.
    pub fn redraw(&mut self) -> io::Result<()> {
        if self.style != ProgressStyle::Bars || self.rows.is_empty() {
            return Ok(());
        }
        let frame = self.bars.frame(&self.rows, self.begun.elapsed(), screen());
        output::print(&frame)
    }

    /// Something to be read once.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        match self.style {
            ProgressStyle::Bars => {
                let line = self.bars.above(text, screen());
                output::print(&line)?;
                self.redraw()
            }
            _ if self.quiet => Ok(()),
            _ => {
                output::note(text);
                Ok(())
            }
        }
    }

    /// The last line: what there is now, as a digest reference, or in `words`.
    pub fn done(&mut self, done: &Done, words: Option<&str>) -> io::Result<()> {
        if self.style == ProgressStyle::Json {
            let Done { reference, digest, unchanged, references, .. } = done;
            let line =
                JsonDone { job: self.job, done: true, reference, digest, unchanged: *unchanged, references };
            return output::print(&(format::json(&line) + "\n"));
        }
        self.redraw()?;
        if let Some(words) = words {
            return output::print(words);
        }
        if done.unchanged && self.style != ProgressStyle::None {
            output::print("up to date\n")?;
        }
        let mut line = digest_reference(done);
        if !line.is_empty() {
            line.push('\n');
        }
        output::print(&line)
    }

    fn json(&self, rows: &[Row]) -> String {
        let mut lines = String::new();
        for Row { index, id, phase, current, total, attempt, note } in rows {
            let row = JsonRow {
                job: self.job,
                layer: *index,
                id,
                phase: phase.word(),
                current: *current,
                total: *total,
                attempt: *attempt,
                note,
            };
            lines.push_str(&format::json(&row));
            lines.push('\n');
        }
        lines
    }

    /// A line for each row that is not in the state that was told of last.
    fn plain(&mut self, rows: &[Row]) -> String {
        let mut lines = String::new();
        for row in rows {
            let state = (row.phase, row.attempt, row.note.clone());
            if self.told.get(&row.index) == Some(&state) {
                continue;
            }
            plain_line(&mut lines, row);
            self.told.insert(row.index, state);
        }
        lines
    }
}

fn plain_line(lines: &mut String, row: &Row) {
    let mut line = format!("{}: {}", row.id, row.phase.word());
    let total = units::bytes(row.total);
    let _ = match row.phase {
        Phase::Downloading => write!(line, " {}/{total}", units::bytes(row.current)),
        Phase::Complete | Phase::Exists => write!(line, " {total}"),
        _ => Ok(()),
    };
    if row.attempt > 1 && row.phase == Phase::Downloading {
        let _ = write!(line, ", attempt {}", row.attempt);
    }
    if !row.note.is_empty() {
        let _ = write!(line, ": {}", row.note);
    }
    sampan_ipc::event::escape(lines, &line);
    lines.push('\n');
}

/// `host/name@sha256:…`; what there is of it, if not all is.
pub fn digest_reference(done: &Done) -> String {
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

/// The terminal's size now; what a terminal has had for ever, if it does not say.
fn screen() -> Screen {
    match terminal_size::terminal_size_of(io::stdout().as_fd()) {
        Some((terminal_size::Width(columns), terminal_size::Height(rows))) if columns > 0 && rows > 0 => {
            Screen { columns: columns.into(), rows: rows.into() }
        }
        _ => Screen { columns: 80, rows: 24 },
    }
}

/// What cannot be shown, as a failure.
pub fn unwritable(error: &io::Error) -> Failure {
    Failure::output(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(style: ProgressStyle) -> View {
        View::new(&Progress { progress: style, quiet: false })
    }

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

    #[test]
    fn plain_progress_is_a_line_a_change_of_state() {
        let mut view = view(ProgressStyle::Plain);
        let mut lines = String::new();
        for (phase, current, note) in [
            (Phase::Waiting, 0, ""),
            (Phase::Downloading, 0, ""),
            (Phase::Downloading, 1024, ""),
            (Phase::Downloading, 2048, "stalled\n"),
            (Phase::Verifying, 2048, ""),
            (Phase::Complete, 2048, ""),
            (Phase::Complete, 2048, ""),
        ] {
            lines += &view.plain(&[row(phase, current, note)]);
        }
        let expected = "\
3277ec2e57cd: waiting
3277ec2e57cd: downloading 0 B/2.00 KiB
3277ec2e57cd: downloading 2.00 KiB/2.00 KiB: stalled\\n
3277ec2e57cd: verifying
3277ec2e57cd: complete 2.00 KiB
";
        assert_eq!(lines, expected);
    }

    #[test]
    fn json_progress_is_a_line_a_change() {
        let view = view(ProgressStyle::Json);
        let line = view.json(&[row(Phase::Downloading, 5, "")]);
        let expected = r#"{"job":0,"layer":3,"id":"3277ec2e57cd","phase":"downloading","current":5,"total":2048,"attempt":1}"#;
        assert_eq!(line.trim_end(), expected);
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
