//! Progress of jobs on standard output: bars, plain lines, JSON lines, or nothing.
//!
//! Takes what the engine answers, keeps it on the [`Rows`], and shows what changed. Called for every answer of
//! a followed job, and once a second while bars are shown, so that rates and the time left stay true.

use crate::cli::args::display::{Progress, ProgressStyle};
use crate::cli::error::Failure;
use crate::cli::job::bars::{Bars, Screen};
use crate::cli::job::lines::{self, Printed};
use crate::cli::job::rows::{JobStage, Rows};
use crate::cli::output;
use sampan_client::engine::{Done, Job, Row};
use std::io::{self, IsTerminal};
use std::time::Instant;

/// What a command prints of its result for people.
pub(crate) type ResultFormat = fn(&Done) -> String;

/// What is shown of the jobs that a command follows.
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
    /// A view of `names`, as the arguments want it, and as standard output can show it.
    pub(crate) fn new(args: &Progress, names: &[String]) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let style = match args.progress {
            // A script that reads JSON gets it: all else that it would have to be spared is for people.
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

    /// True if the terminal's size matters.
    pub(crate) fn is_bars(&self) -> bool {
        self.style == ProgressStyle::Bars
    }

    /// True if the lines are for scripts, which look for a result of each reference.
    pub(crate) fn is_json(&self) -> bool {
        self.style == ProgressStyle::Json
    }

    /// True if something is printed before the result.
    pub(crate) fn is_shown(&self) -> bool {
        self.style != ProgressStyle::None
    }

    /// The engine was asked for number `at`.
    pub(crate) fn begin(&mut self, at: usize) -> io::Result<()> {
        self.all_rows.begin(at);
        self.redraw()
    }

    /// The job that number `at` is, with all its rows.
    pub(crate) fn job(&mut self, at: usize, job: &Job) -> io::Result<()> {
        self.all_rows.join(at, job);
        if self.style == ProgressStyle::Json {
            output::write(&self.all_rows.entry(at).map(lines::job).unwrap_or_default())?;
        }
        self.update(at, &job.rows)
    }

    /// Rows of number `at` that changed.
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

    /// True if time alone changes what is shown.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_bars() && self.all_rows.is_moving()
    }

    /// Draws the bars as they are now.
    pub(crate) fn redraw(&mut self) -> io::Result<()> {
        if !self.is_bars() {
            return Ok(());
        }
        self.all_rows.tick(self.begun.elapsed());
        let frame = self.bars.frame(&self.all_rows, screen());
        output::write(&frame)
    }

    /// Something about number `at` to be read once.
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

    /// Number `at` has ended; what of is printed by [`View::finish`].
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

    /// The last lines: what came of each thing that was asked for, as number `at` of this view; in a command's own
    /// words if it has any.
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

/// The terminal's size now; what a terminal has had for ever, if it does not say.
fn screen() -> Screen {
    match terminal_size::terminal_size_of(output::target()) {
        Some((terminal_size::Width(columns), terminal_size::Height(rows))) if columns > 0 && rows > 0 => {
            Screen { columns: columns.into(), rows: rows.into() }
        }
        _ => Screen { columns: 80, rows: 24 },
    }
}

/// What cannot be shown, as a failure.
pub(crate) fn unwritable(error: &io::Error) -> Failure {
    Failure::output(error)
}
