//! Progress bars: a header line for each job, a row for each layer, redrawn in place.
//!
//! Computes each frame as one string, from the rows and the screen's size. Does no I/O and has no timer. Never hides
//! the cursor, so that the terminal needs no clean-up. ECMA-48, CUU, EL, ED.

use crate::cli::human_units;
use crate::cli::job::rows::{
    Artifacts, JobRows, JobStage, Overall, RowProgress, Rows, is_finished, is_moving, is_stopped,
};
use sampan_client::engine::Phase;
use std::fmt::Write as _;
use std::time::Duration;

/// Fewest columns of a row that has a bar, a rate and the time left.
const WIDE: usize = 110;
/// Columns of the widest bar, without its brackets.
const BAR_MAX: usize = 40;
/// Columns of the narrowest bar, without its brackets.
const BAR_MIN: usize = 10;
/// Columns of a wide row without its bar: ID, phase, bytes, rate, time left.
const BESIDE_BAR: usize = 80;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    pub columns: usize,
    pub rows: usize,
}

/// The bars on the screen.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    /// Number of columns of each line of the last frame.
    drawn: Vec<usize>,
}

impl Bars {
    /// Returns the frame that replaces the last frame.
    pub(crate) fn frame(&mut self, all_rows: &Rows, screen: Screen) -> String {
        let lines = lines(all_rows, screen);
        let mut out = self.home(screen);
        for line in &lines {
            // Erase the line after the text and not before it, so that nothing flickers.
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        self.drawn = lines.iter().map(String::len).collect();
        out
    }

    /// Returns a line to print above the bars; the next frame draws the bars again.
    pub(crate) fn above(&mut self, text: &str, screen: Screen) -> String {
        let mut out = self.home(screen);
        let _ = write!(out, "\x1b[J{}\r\n", plain(text));
        self.drawn.clear();
        out
    }

    /// Moves the cursor to the beginning of the last frame.
    fn home(&self, screen: Screen) -> String {
        // If the terminal became narrower, it has wrapped long lines.
        let height: usize = self.drawn.iter().map(|len| len.div_ceil(screen.columns.max(1)).max(1)).sum();
        match height.min(screen.rows.saturating_sub(1)) {
            0 => "\r".to_owned(),
            up => format!("\r\x1b[{up}A"),
        }
    }
}

/// The amount of detail, from most to least. The first variant that fits the screen is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    /// Only rows that have begun and are not finished.
    Active,
    /// Only rows that have begun and are not finished, and only of jobs that have begun and not succeeded yet.
    Running,
}

fn lines(all_rows: &Rows, screen: Screen) -> Vec<String> {
    let overall = all_rows.overall();
    let has_summary = overall.layers > 1 || overall.jobs > 1 || overall.artifacts.is_some();
    // Keep the cursor's line free, since a line feed on the last line of the screen would scroll.
    let room = screen.rows.saturating_sub(1).max(1) - usize::from(has_summary);
    let mut lines = Vec::new();
    for detail in [Detail::All, Detail::Active, Detail::Running] {
        lines =
            all_rows.entries().flat_map(|entry| job(entry, all_rows.is_shared(), detail, screen)).collect();
        if lines.len() <= room {
            break;
        }
    }
    lines.truncate(room);
    if has_summary {
        lines.push(summary(all_rows, &overall, screen));
    }
    for line in &mut lines {
        line.truncate(screen.columns.saturating_sub(1));
    }
    lines
}

/// The header line of a job, if it has one, and its rows.
fn job(entry: &JobRows, is_shared: bool, detail: Detail, screen: Screen) -> Vec<String> {
    if detail == Detail::Running && matches!(entry.state, JobStage::Queued | JobStage::Done) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    if is_shared || (entry.lines.is_empty() && entry.state == JobStage::Running) {
        lines.push(head(entry));
    }
    // Of a replication, only blobs in flight are shown: a finished row waits for its next blob.
    let shown =
        |line: &&RowProgress| is_active(line.row.phase) || (detail == Detail::All && !entry.is_replication);
    let indent = if is_shared { "  " } else { "" };
    lines.extend(entry.layers().filter(shown).map(|line| indent.to_owned() + &row(line, indent, screen)));
    lines
}

fn head(entry: &JobRows) -> String {
    let name = plain(&entry.name);
    let finished = entry.lines.iter().filter(|line| is_finished(line.row.phase)).count();
    match entry.state {
        JobStage::Running if entry.lines.is_empty() => format!("{name}: resolving"),
        JobStage::Running => format!("{name}: {finished}/{} layers", entry.lines.len()),
        state => format!("{name}: {}", state.word()),
    }
}

fn row(line: &RowProgress, indent: &str, screen: Screen) -> String {
    let phase = line.row.phase;
    let (current, total) = (human_units::bytes(line.current()), human_units::bytes(line.row.total));
    let id = plain(&line.row.id);
    let (word, note) = match is_stopped(&line.row) {
        true => ("stopped", String::new()),
        false => (phase.word(), plain(&line.row.note)),
    };
    if screen.columns < WIDE {
        return match phase {
            // The bytes of a failed layer do not count.
            Phase::Failed => format!("{id}: {word} {note}").trim_end().to_owned(),
            Phase::Verifying | Phase::Extracting => format!("{id}: {current}/{total} {word}"),
            _ => format!("{id}: {current}/{total} {note}").trim_end().to_owned(),
        };
    }
    let bar = bar(line.current(), line.row.total, bar_width(indent, screen));
    let mut text = format!("{id:<12} {word:<12} [{bar}] {current:>10} / {total:<10} ");
    match (note.is_empty(), line.rate()) {
        (false, _) => text.push_str(&note),
        (true, Some(rate)) => {
            let left = line.row.total.saturating_sub(line.row.current);
            text.push_str(&rate_words(rate, line.meter.time_for(left)));
        }
        (true, None) => {}
    }
    text.trim_end().to_owned()
}

/// The last line: the progress of all jobs together.
fn summary(all_rows: &Rows, overall: &Overall, screen: Screen) -> String {
    let Overall { jobs, jobs_done, layers, layers_done, current, total, .. } = *overall;
    let layers = match overall.artifacts {
        Some(Artifacts { done, total }) => format!("{done}/{total} artifacts"),
        None => format!("{layers_done}/{layers} layers"),
    };
    let count = if jobs > 1 { format!("{jobs_done}/{jobs} images, {layers}") } else { layers };
    let note = all_rows.entries().find_map(JobRows::summary).map_or("", |line| &line.row.note);
    let rate = overall.rate.filter(|_| all_rows.is_moving());
    let rate = match note {
        "" => rate.map(|rate| rate_words(rate, overall.left)).unwrap_or_default(),
        note => plain(note),
    };
    let (done, all) = (human_units::bytes(current), human_units::bytes(total));
    if screen.columns < WIDE {
        return format!("{count}: {done}/{all} {rate}").trim_end().to_owned();
    }
    let bar = bar(current, total, bar_width("", screen));
    format!("{count:<25} [{bar}] {done:>10} / {all:<10} {rate}").trim_end().to_owned()
}

/// Formats a rate and the time left, such as `1.50 MiB/s, 7s left`.
fn rate_words(rate: u64, left: Option<Duration>) -> String {
    let mut words = format!("{}/s", human_units::bytes(rate));
    if let Some(left) = left {
        let _ = write!(words, ", {} left", human_units::time(left));
    }
    words
}

fn is_active(phase: Phase) -> bool {
    is_moving(phase) || matches!(phase, Phase::Verifying | Phase::Extracting | Phase::Failed)
}

fn bar_width(indent: &str, screen: Screen) -> usize {
    screen.columns.saturating_sub(BESIDE_BAR + indent.len()).clamp(BAR_MIN, BAR_MAX)
}

fn bar(current: u64, total: u64, width: usize) -> String {
    let filled = match total {
        0 => 0,
        _ => usize::try_from(u128::from(current.min(total)) * width as u128 / u128::from(total))
            .unwrap_or(width),
    };
    let head = if filled < width && current > 0 { ">" } else { "" };
    format!("{:<width$}", "=".repeat(filled) + head)
}

/// Replaces characters that do not take exactly one column, and characters that control a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_client::engine::{Job, Row};

    const SECOND: Duration = Duration::from_secs(1);

    fn all_rows(rows: &[Row]) -> Rows {
        let mut all_rows = Rows::default();
        let at = all_rows.open("image");
        all_rows.begin(at);
        all_rows.update(at, rows, SECOND);
        all_rows
    }

    fn row(index: u32, phase: Phase, current: u64, total: u64) -> Row {
        let id = format!("{index:012x}");
        Row { index, id, phase, current, total, attempt: 1, note: String::new() }
    }

    fn sample() -> Vec<Row> {
        vec![
            row(0, Phase::Exists, 0, 3 << 20),
            row(1, Phase::Downloading, 1 << 20, 4 << 20),
            row(2, Phase::Waiting, 0, 512),
        ]
    }

    /// A terminal with the parts of ECMA-48 that bars use; panics instead of scrolling or wrapping.
    struct Terminal {
        screen: Screen,
        lines: Vec<Vec<char>>,
        at: (usize, usize),
    }

    impl Terminal {
        fn new(columns: usize, rows: usize) -> Self {
            let screen = Screen { columns, rows };
            Terminal { screen, lines: vec![vec![' '; columns]; rows], at: (0, 0) }
        }

        fn write(&mut self, text: &str) {
            let mut chars = text.chars().peekable();
            while let Some(c) = chars.next() {
                match c {
                    '\r' => self.at.1 = 0,
                    '\n' => self.at.0 += 1,
                    '\x1b' => {
                        assert_eq!(chars.next(), Some('['));
                        let mut number = 0;
                        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                            number = number * 10 + digit as usize;
                            chars.next();
                        }
                        match chars.next() {
                            Some('A') => {
                                self.at.0 = self.at.0.checked_sub(number).expect("within the screen")
                            }
                            Some('K') => self.lines[self.at.0][self.at.1..].fill(' '),
                            Some('J') => {
                                self.lines[self.at.0][self.at.1..].fill(' ');
                                self.lines[self.at.0 + 1..].iter_mut().for_each(|line| line.fill(' '));
                            }
                            other => panic!("unexpected sequence {other:?}"),
                        }
                    }
                    c => {
                        self.lines[self.at.0][self.at.1] = c;
                        self.at.1 += 1;
                        assert!(self.at.1 < self.screen.columns, "a line wraps");
                    }
                }
                assert!(self.at.0 < self.screen.rows, "the screen scrolls");
            }
        }

        fn text(&self) -> Vec<String> {
            let lines = self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned());
            lines.take(self.at.0).collect()
        }
    }

    fn draw(bars: &mut Bars, terminal: &mut Terminal, all_rows: &Rows) {
        let frame = bars.frame(all_rows, terminal.screen);
        terminal.write(&frame);
    }

    #[test]
    fn at_120_columns_a_row_has_phase_bar_bytes_rate_and_time_left() {
        let (mut bars, mut terminal, mut rows) = (Bars::default(), Terminal::new(120, 24), sample());
        let mut all_rows = all_rows(&rows);
        draw(&mut bars, &mut terminal, &all_rows);
        rows[1].current = 2 << 20;
        all_rows.update(0, &rows, 2 * SECOND);
        draw(&mut bars, &mut terminal, &all_rows);
        let expected = [
            "000000000000 exists       [========================================]   3.00 MiB / 3.00 MiB",
            "000000000001 downloading  [====================>                   ]   2.00 MiB / 4.00 MiB   1.00 MiB/s, 2s left",
            "000000000002 waiting      [                                        ]        0 B / 512 B",
            "1/3 layers                [============================>           ]   5.00 MiB / 7.00 MiB   1.00 MiB/s, 3s left",
        ];
        assert_eq!(terminal.text(), expected);
    }

    #[test]
    fn at_80_columns_a_row_is_id_and_bytes_and_what_a_person_should_know() {
        let (mut bars, mut terminal, mut rows) = (Bars::default(), Terminal::new(80, 24), sample());
        rows[2].phase = Phase::Failed;
        rows[2].note = "no\u{1b}[2J-such-blob-".repeat(9);
        rows.push(row(3, Phase::Extracting, 5, 5));
        rows.push(Row { note: "retrying in 3 s: reset".into(), ..row(4, Phase::Downloading, 1, 5) });
        rows.push(Row { note: "stopped".into(), ..row(5, Phase::Failed, 1, 5) });
        draw(&mut bars, &mut terminal, &all_rows(&rows));
        let text = terminal.text();
        assert_eq!(text[..2], ["000000000000: 3.00 MiB/3.00 MiB", "000000000001: 1.00 MiB/4.00 MiB"]);
        assert!(text[2].starts_with("000000000002: failed no?[2J-such-blob") && text[2].len() == 79);
        assert_eq!(text[3], "000000000003: 5 B/5 B extracting");
        assert_eq!(text[4], "000000000004: 1 B/5 B retrying in 3 s: reset");
        assert_eq!(text[5..], ["000000000005: stopped", "1/6 layers: 4.00 MiB/7.00 MiB"]);
    }

    #[test]
    fn a_replication_has_a_row_for_each_blob_in_flight_and_counts_artifacts() {
        let (mut bars, mut terminal) = (Bars::default(), Terminal::new(120, 24));
        let mut all_rows = Rows::default();
        let at = all_rows.open("a");
        all_rows.begin(at);
        all_rows.join(at, &Job { kind: "replicate".into(), ..Job::default() });
        draw(&mut bars, &mut terminal, &all_rows);
        assert_eq!(terminal.text(), ["a: resolving"]);
        let summary = Row { id: "3/10".into(), ..row(0, Phase::Uploading, 1 << 20, 4 << 20) };
        let rows = [summary, row(1, Phase::Uploading, 1 << 19, 1 << 20), row(2, Phase::Complete, 9, 9)];
        all_rows.update(at, &rows, SECOND);
        draw(&mut bars, &mut terminal, &all_rows);
        let expected = [
            "000000000001 uploading    [====================>                   ] 512.00 KiB / 1.00 MiB",
            "3/10 artifacts            [==========>                             ]   1.00 MiB / 4.00 MiB",
        ];
        assert_eq!(terminal.text(), expected);
        let waiting = Row { phase: Phase::Waiting, note: "retrying in 5 s".into(), ..rows[0].clone() };
        all_rows.update(at, &[waiting, row(1, Phase::Complete, 1, 1)], 2 * SECOND);
        draw(&mut bars, &mut terminal, &all_rows);
        let text = terminal.text();
        assert!(text.len() == 1 && text[0].ends_with("/ 4.00 MiB   retrying in 5 s"), "{text:?}");
    }

    #[test]
    fn more_layers_than_rows_leave_the_screen_whole() {
        for (screen_rows, columns) in [(1, 40), (2, 120), (3, 80), (5, 200), (10, 9)] {
            let (mut bars, mut terminal) = (Bars::default(), Terminal::new(columns, screen_rows.max(2)));
            let mut rows: Vec<Row> = (0..40).map(|nth| row(nth, Phase::Waiting, 0, 1 << 20)).collect();
            let mut all_rows = all_rows(&rows);
            for step in 0..40 {
                rows[step].phase = Phase::Downloading;
                rows[step].current = 1 << 19;
                if step > 6 {
                    rows[step - 6].phase = Phase::Complete;
                }
                all_rows.update(0, &rows, SECOND * step as u32);
                draw(&mut bars, &mut terminal, &all_rows);
            }
            let text = terminal.text();
            assert!(text.len() < screen_rows.max(2));
            assert!("33/40 layers".starts_with(&text.last().expect("a summary")[..8]), "{text:?}");
        }
    }

    #[test]
    fn several_jobs_stand_under_their_heads_at_any_width_and_height() {
        for columns in 20..=200 {
            for screen_rows in [2, 4, 9, 24] {
                let (mut bars, mut terminal) = (Bars::default(), Terminal::new(columns, screen_rows));
                let mut all_rows = Rows::default();
                for name in ["one", "two", "three"] {
                    all_rows.open(name);
                }
                draw(&mut bars, &mut terminal, &all_rows);
                for at in 0..3 {
                    all_rows.begin(at);
                    let subject = format!("host.example:5000/some/image:{at}");
                    all_rows.join(at, &Job { id: at as u64 + 1, subject, ..Job::default() });
                    draw(&mut bars, &mut terminal, &all_rows);
                    let rows: Vec<Row> =
                        (0..6).map(|n| row(n, Phase::Downloading, 1 << n, 1 << 20)).collect();
                    all_rows.update(at, &rows, SECOND);
                    draw(&mut bars, &mut terminal, &all_rows);
                }
                all_rows.end(0, JobStage::Done);
                all_rows.end(1, JobStage::Failed);
                draw(&mut bars, &mut terminal, &all_rows);
                let text = terminal.text();
                assert!(text.len() < screen_rows);
                let last = text.last().expect("a summary");
                assert!(
                    last.starts_with("1/3 images, 0/18 l") || last.starts_with("1/3 images, 0/18 "),
                    "{text:?}"
                );
                if screen_rows == 24 && columns >= 40 {
                    assert_eq!(text[0], "host.example:5000/some/image:0: done");
                    assert!(text[1].starts_with("  000000000000"));
                }
            }
        }
    }

    #[test]
    fn one_layer_has_no_summary_a_note_stands_above_and_a_job_without_layers_has_a_head() {
        let (mut bars, mut terminal) = (Bars::default(), Terminal::new(80, 24));
        let mut all_rows = all_rows(&[]);
        draw(&mut bars, &mut terminal, &all_rows);
        assert_eq!(terminal.text(), ["image: resolving"]);
        all_rows.update(0, &[row(1, Phase::Verifying, 5, 5)], SECOND);
        draw(&mut bars, &mut terminal, &all_rows);
        let note = bars.above("tag\nmoved", terminal.screen);
        terminal.write(&note);
        draw(&mut bars, &mut terminal, &all_rows);
        assert_eq!(terminal.text(), ["tag?moved", "000000000001: 5 B/5 B verifying"]);
    }

    #[test]
    fn a_narrower_screen_is_accounted_for() {
        let mut bars = Bars::default();
        bars.frame(&all_rows(&sample()), Screen { columns: 120, rows: 24 });
        let longest: usize = bars.drawn.iter().map(|len| len.div_ceil(40)).sum();
        assert!(
            bars.frame(&all_rows(&sample()), Screen { columns: 40, rows: 24 })
                .starts_with(&format!("\r\x1b[{longest}A"))
        );
    }

    #[test]
    fn a_bar_is_as_long_whatever_the_numbers() {
        for (current, total) in
            [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX)]
        {
            for width in [BAR_MIN, 33, BAR_MAX] {
                assert_eq!(bar(current, total, width).len(), width, "{current}/{total}");
            }
        }
    }
}
