//! Prints the progress of jobs on standard output: bars, plain lines, JSON lines, or nothing.
//!
//! Stores the engine's answers in [`Rows`] and prints the changes. `follow` calls the view for every answer; while
//! bars are shown, it also calls the view each second, so that rates and the time left stay true.

use crate::cli::args::display::{Progress, ProgressStyle};
use crate::cli::error::Failure;
use crate::cli::job::bars::{Bars, Screen};
use crate::cli::job::lines::{self, Printed};
use crate::cli::job::rows::{JobStage, Rows};
use crate::cli::output;
use sampan_client::engine::{Done, Job, Row};
use std::io::{self, IsTerminal};
use std::time::Instant;

/// Formats the result of a command for people.
pub(crate) type ResultFormat = fn(&Done) -> String;

/// The view of the jobs that a command follows.
#[derive(Debug)]
pub(crate) struct View {
    style: ProgressStyle,
    quiet: bool,
    all_rows: Rows,
    printed: Printed,
    bars: Bars,
    begun: Instant,
}

impl View {
    /// Makes a view of the jobs `names`, in the style that the arguments request and that standard output can show.
    pub(crate) fn new(args: &Progress, names: &[String]) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let style = match args.progress {
            // --quiet omits the text for people; scripts still get all JSON.
            ProgressStyle::Json => ProgressStyle::Json,
            _ if args.quiet => ProgressStyle::None,
            ProgressStyle::Auto if output::target().is_terminal() && !dumb => ProgressStyle::Bars,
            ProgressStyle::Auto => ProgressStyle::Plain,
            style => style,
        };
        let mut all_rows = Rows::default();
        for name in names {
            all_rows.open(name);
        }
        View {
            style,
            quiet: args.quiet,
            all_rows,
            printed: Printed::new(),
            bars: Bars::default(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn is_bars(&self) -> bool {
        self.style == ProgressStyle::Bars
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == ProgressStyle::Json
    }

    /// Whether progress is printed before the result.
    pub(crate) fn is_shown(&self) -> bool {
        self.style != ProgressStyle::None
    }

    /// Marks job `at` as running.
    pub(crate) fn begin(&mut self, at: usize) -> io::Result<()> {
        self.all_rows.begin(at);
        self.redraw()
    }

    /// Stores the engine's description of job `at`, with all rows.
    pub(crate) fn job(&mut self, at: usize, job: &Job) -> io::Result<()> {
        self.all_rows.join(at, job);
        if self.style == ProgressStyle::Json {
            output::write(&self.all_rows.entry(at).map(lines::job).unwrap_or_default())?;
        }
        self.update(at, &job.rows)
    }

    /// Stores the rows of job `at` that have changed.
    pub(crate) fn update(&mut self, at: usize, rows: &[Row]) -> io::Result<()> {
        self.all_rows.update(at, rows, self.begun.elapsed());
        let Some(entry) = self.all_rows.entry(at).filter(|entry| !entry.is_duplicate) else {
            return Ok(());
        };
        match self.style {
            ProgressStyle::Bars => self.redraw(),
            ProgressStyle::None => Ok(()),
            _ if rows.is_empty() => Ok(()),
            ProgressStyle::Json => output::write(&lines::rows(&self.all_rows, entry, rows)),
            ProgressStyle::Plain | ProgressStyle::Auto => {
                output::write(&lines::plain(entry, self.all_rows.is_shared(), rows, &mut self.printed))
            }
        }
    }

    /// Whether the view changes with time.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_bars() && self.all_rows.is_moving()
    }

    /// Draws the bars again.
    pub(crate) fn redraw(&mut self) -> io::Result<()> {
        if !self.is_bars() {
            return Ok(());
        }
        self.all_rows.tick(self.begun.elapsed());
        let frame = self.bars.frame(&self.all_rows, screen());
        output::write(&frame)
    }

    /// Prints a note about job `at`.
    pub(crate) fn note(&mut self, at: usize, text: &str) -> io::Result<()> {
        let Some(entry) = self.all_rows.entry(at).filter(|entry| !entry.is_duplicate) else {
            return Ok(());
        };
        let named = match self.all_rows.is_shared() {
            true => format!("{}: {text}", entry.name),
            false => text.to_owned(),
        };
        match self.style {
            ProgressStyle::Bars => {
                let line = self.bars.above(&named, screen());
                output::write(&line)?;
                self.redraw()
            }
            ProgressStyle::Json => output::write(&lines::note(entry, text)),
            _ if self.quiet => Ok(()),
            _ => {
                output::note(&named);
                Ok(())
            }
        }
    }

    /// Marks job `at` as ended. [`View::finish`] prints its result.
    pub(crate) fn end(&mut self, at: usize, is_done: bool) -> io::Result<()> {
        self.all_rows.end(at, if is_done { JobStage::Done } else { JobStage::Failed });
        let Some(entry) = self.all_rows.entry(at).filter(|entry| !entry.is_duplicate) else {
            return Ok(());
        };
        match self.style {
            ProgressStyle::Bars => self.redraw(),
            ProgressStyle::Json => output::write(&(lines::job(entry) + &lines::overall(&self.all_rows))),
            ProgressStyle::Plain if self.all_rows.is_shared() => output::write(&lines::plain_end(entry)),
            _ => Ok(()),
        }
    }

    /// Prints the results: for each job its index, the name that the person typed, and the outcome. Formats the
    /// outcome by `words` if it is given.
    pub(crate) fn finish<'a>(
        &mut self,
        words: Option<ResultFormat>,
        outcomes: impl IntoIterator<Item = (usize, &'a str, &'a Result<Done, Failure>)>,
    ) -> io::Result<()> {
        let mut text = String::new();
        for (at, asked, outcome) in outcomes {
            let Some(entry) = self.all_rows.entry(at) else { continue };
            match (self.style, outcome) {
                (ProgressStyle::Json, outcome) => {
                    let outcome =
                        outcome.as_ref().map_err(|error| (error.message.as_str(), error.hint.as_str()));
                    text += &lines::result(entry, asked, outcome);
                }
                (_, Ok(done)) if let Some(words) = words => text += &words(done),
                (style, Ok(done)) => {
                    let is_news = style != ProgressStyle::None && !self.all_rows.is_shared();
                    text += if done.unchanged && is_news { "up to date\n" } else { "" };
                    text += &lines::results(done);
                }
                (_, Err(_)) => {}
            }
        }
        output::write(&text)
    }
}

/// Number of columns of the terminal to which [`output::write`] writes; `None` if that is no terminal.
pub(crate) fn columns() -> Option<usize> {
    output::target().is_terminal().then(|| screen().columns)
}

/// The current size of the terminal, or the traditional size if the terminal does not report one.
fn screen() -> Screen {
    match terminal_size::terminal_size_of(output::target()) {
        Some((terminal_size::Width(columns), terminal_size::Height(rows))) if columns > 0 && rows > 0 => {
            Screen { columns: columns.into(), rows: rows.into() }
        }
        _ => Screen { columns: 80, rows: 24 },
    }
}

/// Makes the failure for progress that cannot be printed.
pub(crate) fn unwritable(error: &io::Error) -> Failure {
    Failure::output(error)
}
