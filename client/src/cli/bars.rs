//! Progress bars: one row a layer, redrawn in place.
//!
//! A frame is computed whole from rows, a clock and the screen's size, and goes out as one string. No I/O here,
//! no timer, and nothing a terminal must be rescued from: the cursor is never hidden. ECMA-48, CUU, EL, ED.

use crate::cli::units;
use sampan_client::engine::{Phase, Row};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// From so many columns on, a row has a bar, a rate and the time left.
const WIDE: usize = 110;
/// Columns of a bar, brackets not counted.
const BAR: usize = 40;
/// Rates are of the last seconds: steady enough to read, quick enough to notice a stall.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Samples that are kept in that window.
const SAMPLES_MAX: usize = 64;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// The rows on the screen.
#[derive(Debug, Default)]
pub struct Bars {
    /// How many columns each line of the last frame took.
    drawn: Vec<usize>,
    meters: Vec<Meter>,
    total: Meter,
}

impl Bars {
    /// The frame that replaces the last one: `rows` as they are `now`, on a screen of this size.
    ///
    /// `now` is the time since any fixed moment.
    pub fn frame(&mut self, rows: &[Row], now: Duration, screen: Screen) -> String {
        self.measure(rows, now);
        let lines = self.lines(rows, screen);
        let mut out = self.home(screen);
        for line in &lines {
            // Erased behind the text, not before it: nothing flickers.
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        self.drawn = lines.iter().map(String::len).collect();
        out
    }

    /// A line above the bars, which are drawn again by the next frame.
    pub fn above(&mut self, text: &str, screen: Screen) -> String {
        let mut out = self.home(screen);
        let _ = write!(out, "\x1b[J{}\r\n", plain(text));
        self.drawn.clear();
        out
    }

    /// Moves the cursor to where the last frame began.
    fn home(&self, screen: Screen) -> String {
        // A terminal that became narrower has broken long lines into several.
        let height: usize = self.drawn.iter().map(|len| len.div_ceil(screen.columns.max(1)).max(1)).sum();
        match height.min(screen.rows.saturating_sub(1)) {
            0 => "\r".to_owned(),
            up => format!("\r\x1b[{up}A"),
        }
    }

    fn measure(&mut self, rows: &[Row], now: Duration) {
        self.meters.resize_with(rows.len(), Meter::default);
        for (meter, row) in self.meters.iter_mut().zip(rows) {
            meter.sample(now, row.current);
        }
        self.total.sample(now, sum(rows, |row| row.current));
    }

    fn lines(&self, rows: &[Row], screen: Screen) -> Vec<String> {
        // The line of the cursor stays free: a line feed on the last one would scroll.
        let room = screen.rows.saturating_sub(1).max(1);
        let wide = screen.columns >= WIDE;
        let mut lines = Vec::new();
        if rows.len() < room {
            lines.extend(rows.iter().zip(&self.meters).map(|(row, meter)| line(row, meter, wide)));
        } else {
            let active = rows.iter().zip(&self.meters).filter(|(row, _)| is_active(row.phase));
            lines.extend(active.take(room - 1).map(|(row, meter)| line(row, meter, wide)));
        }
        if rows.len() > 1 {
            lines.push(self.summary(rows, wide));
        }
        for line in &mut lines {
            line.truncate(screen.columns.saturating_sub(1));
        }
        lines
    }

    /// The last line: how far all layers are together.
    fn summary(&self, rows: &[Row], wide: bool) -> String {
        let finished = rows.iter().filter(|row| is_finished(row.phase)).count();
        let (current, total) = (sum(rows, shown), sum(rows, |row| row.total));
        let count = format!("{finished}/{} layers", rows.len());
        let rate = self.total.words(current, total, finished < rows.len());
        if wide {
            let bar = bar(current, total);
            let line = format!(
                "{count:<25} [{bar}] {:>10} / {:<10} {rate}",
                units::bytes(current),
                units::bytes(total)
            );
            return line.trim_end().to_owned();
        }
        format!("{count}: {}/{} {rate}", units::bytes(current), units::bytes(total)).trim_end().to_owned()
    }
}

fn line(row: &Row, meter: &Meter, wide: bool) -> String {
    let (current, total) = (units::bytes(shown(row)), units::bytes(row.total));
    let id = plain(&row.id);
    if !wide {
        // Bytes say nothing about a layer that is stuck for good.
        return match row.phase {
            Phase::Failed => format!("{id}: failed {}", plain(&row.note)).trim_end().to_owned(),
            _ => format!("{id}: {current}/{total}"),
        };
    }
    let phase = row.phase.word();
    let mut line =
        format!("{id:<12} {phase:<12} [{}] {current:>10} / {total:<10} ", bar(shown(row), row.total));
    match (row.phase, row.note.is_empty()) {
        (_, false) => line.push_str(&plain(&row.note)),
        (Phase::Downloading, true) => line.push_str(&meter.words(row.current, row.total, true)),
        _ => {}
    }
    line.trim_end().to_owned()
}

fn sum(rows: &[Row], of: impl Fn(&Row) -> u64) -> u64 {
    rows.iter().fold(0, |sum, row| sum.saturating_add(of(row)))
}

/// Bytes to show for a row: one that was there before has all of them.
fn shown(row: &Row) -> u64 {
    match row.phase {
        Phase::Exists | Phase::Complete => row.total,
        _ => row.current,
    }
}

fn is_active(phase: Phase) -> bool {
    matches!(phase, Phase::Downloading | Phase::Verifying | Phase::Extracting | Phase::Failed)
}

fn is_finished(phase: Phase) -> bool {
    matches!(phase, Phase::Complete | Phase::Exists)
}

fn bar(current: u64, total: u64) -> String {
    let filled = match total {
        0 => 0,
        _ => usize::try_from(u128::from(current.min(total)) * BAR as u128 / u128::from(total)).unwrap_or(BAR),
    };
    let head = if filled < BAR && current > 0 { ">" } else { "" };
    format!("{:<BAR$}", "=".repeat(filled) + head)
}

/// Text of which every character takes one column and does nothing else.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Bytes over time.
#[derive(Debug, Default)]
struct Meter {
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    fn sample(&mut self, now: Duration, bytes: u64) {
        // A try that begins anew has fewer bytes than the last one.
        if self.samples.back().is_some_and(|(_, last)| *last > bytes) {
            self.samples.clear();
        }
        let spacing = RATE_WINDOW / SAMPLES_MAX as u32;
        match self.samples.back() {
            Some(last) if self.samples.len() > 1 && now.saturating_sub(last.0) < spacing => {}
            _ => self.samples.push_back((now, bytes)),
        }
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; `None` until there is something to compare.
    fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        let seconds = to.saturating_sub(*from).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*first) as f64 / seconds)
    }

    /// `1.50 MiB/s, 7s left`.
    fn words(&self, current: u64, total: u64, running: bool) -> String {
        let Some(rate) = self.rate().filter(|_| running) else {
            return String::new();
        };
        let mut words = format!("{}/s", units::bytes(rate as u64));
        let left = total.saturating_sub(current);
        // A day is as good as for ever.
        if rate >= 1.0 && left > 0 && (left as f64 / rate) < 86_400.0 {
            let time = units::time(Duration::from_secs_f64((left as f64 / rate).ceil()));
            let _ = write!(words, ", {time} left");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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

    /// A terminal that knows what bars need of ECMA-48; panics when it would scroll or wrap.
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

    fn draw(bars: &mut Bars, terminal: &mut Terminal, rows: &[Row], now: Duration) {
        let frame = bars.frame(rows, now, terminal.screen);
        terminal.write(&frame);
    }

    #[test]
    fn at_120_columns_a_row_has_phase_bar_bytes_rate_and_time_left() {
        let (mut bars, mut terminal, mut rows) = (Bars::default(), Terminal::new(120, 24), sample());
        draw(&mut bars, &mut terminal, &rows, SECOND);
        rows[1].current = 2 << 20;
        draw(&mut bars, &mut terminal, &rows, 2 * SECOND);
        let expected = [
            "000000000000 exists       [========================================]   3.00 MiB / 3.00 MiB",
            "000000000001 downloading  [====================>                   ]   2.00 MiB / 4.00 MiB   1.00 MiB/s, 2s left",
            "000000000002 waiting      [                                        ]        0 B / 512 B",
            "1/3 layers                [============================>           ]   5.00 MiB / 7.00 MiB   1.00 MiB/s, 3s left",
        ];
        assert_eq!(terminal.text(), expected);
    }

    #[test]
    fn at_80_columns_a_row_is_id_and_bytes() {
        let (mut bars, mut terminal, mut rows) = (Bars::default(), Terminal::new(80, 24), sample());
        rows[2].phase = Phase::Failed;
        rows[2].note = "no\u{1b}[2J-such-blob-".repeat(9);
        draw(&mut bars, &mut terminal, &rows, SECOND);
        let text = terminal.text();
        assert_eq!(text[..2], ["000000000000: 3.00 MiB/3.00 MiB", "000000000001: 1.00 MiB/4.00 MiB"]);
        assert!(text[2].starts_with("000000000002: failed no?[2J-such-blob") && text[2].len() == 79);
        assert_eq!(text[3], "1/3 layers: 4.00 MiB/7.00 MiB");
    }

    #[test]
    fn more_layers_than_rows_leave_the_screen_whole() {
        for (screen_rows, columns) in [(1, 40), (2, 120), (3, 80), (5, 200), (10, 9)] {
            let (mut bars, mut terminal) = (Bars::default(), Terminal::new(columns, screen_rows.max(2)));
            let mut rows: Vec<Row> = (0..40).map(|nth| row(nth, Phase::Waiting, 0, 1 << 20)).collect();
            for step in 0..40 {
                rows[step].phase = Phase::Downloading;
                rows[step].current = 1 << 19;
                if step > 6 {
                    rows[step - 6].phase = Phase::Complete;
                }
                draw(&mut bars, &mut terminal, &rows, SECOND * step as u32);
            }
            let text = terminal.text();
            assert!(text.len() < screen_rows.max(2));
            assert!("33/40 layers".starts_with(&text.last().expect("a summary")[..8]), "{text:?}");
        }
    }

    #[test]
    fn one_layer_has_no_summary_and_a_note_stands_above() {
        let (mut bars, mut terminal) = (Bars::default(), Terminal::new(80, 24));
        let rows = [row(1, Phase::Verifying, 5, 5)];
        draw(&mut bars, &mut terminal, &rows, SECOND);
        let note = bars.above("tag\nmoved", terminal.screen);
        terminal.write(&note);
        draw(&mut bars, &mut terminal, &rows, SECOND);
        assert_eq!(terminal.text(), ["tag?moved", "000000000001: 5 B/5 B"]);
    }

    #[test]
    fn a_narrower_screen_is_accounted_for() {
        let mut bars = Bars::default();
        bars.frame(&sample(), SECOND, Screen { columns: 120, rows: 24 });
        let longest: usize = bars.drawn.iter().map(|len| len.div_ceil(40)).sum();
        assert!(
            bars.frame(&sample(), SECOND, Screen { columns: 40, rows: 24 })
                .starts_with(&format!("\r\x1b[{longest}A"))
        );
    }

    #[test]
    fn a_stalled_download_loses_its_rate_and_a_new_try_begins_anew() {
        let mut meter = Meter::default();
        for second in 0..4 {
            meter.sample(SECOND * second, 1000 * u64::from(second));
        }
        assert_eq!(meter.rate(), Some(1000.0));
        for second in 4..20 {
            meter.sample(SECOND * second, 3000);
        }
        assert_eq!(meter.words(3000, 9000, true), "0 B/s");
        meter.sample(SECOND * 20, 10);
        assert_eq!(meter.rate(), None);
        assert!(meter.samples.len() <= SAMPLES_MAX);
    }

    #[test]
    fn a_bar_is_as_long_whatever_the_numbers() {
        for (current, total) in
            [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX)]
        {
            assert_eq!(bar(current, total).len(), BAR, "{current}/{total}");
        }
    }
}
