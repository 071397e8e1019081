//! Follows an execution until it ends, and prints its report.
//!
//! The execution belongs to the engine: the end of this command does not end it. The first Ctrl-C of the command that
//! started the execution asks the engine to stop it, and the command goes on until that has happened. All other signals
//! only end the command: a second Ctrl-C, SIGTERM, SIGHUP, and Ctrl-C of a command that only watches.

use crate::cli::args::display::{Progress, ProgressStyle};
use crate::cli::args::replication::{Report as Shown, ReportFormat};
use crate::cli::engine::finish;
use crate::cli::error::Failure;
use crate::cli::job::follow::{cannot_catch, watch_output};
use crate::cli::job::view::{self, View, unwritable};
use crate::cli::json;
use crate::cli::output;
use crate::cli::replication::report::Report;
use crate::cli::replication::{json_report, table_report};
use crate::cli::signals::{self, Interrupt, Signals};
use sampan_client::Engine;
use sampan_client::engine::{Answer, EngineError, Request};
use sampan_client::{Happened, Streams};
use sampan_ipc::replication::{ExecutionRequest, State};
use sampan_ipc::report::chain;
use serde_json::Value;
use signal_hook::consts::SIGINT;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Interval in which bars are redrawn without an answer of the engine.
const TICK: Duration = Duration::from_secs(1);
/// The stream of the execution itself. A later stream is of the request to stop.
const EXECUTION: usize = 0;
/// Most failures that are printed below a table, which has them too.
const PROBLEMS_MAX: usize = 20;

/// Sends a request that starts an execution, shows the progress, and prints the report. Ctrl-C stops the execution.
///
/// `name` is shown until the engine reports the subject of the job.
pub(crate) fn follow(engine: &Engine, request: Request, name: &str, shown: &Shown) -> Result<(), Failure> {
    run(engine, request, name, shown, OnInterrupt::Stop)
}

/// Shows the progress of an execution, and prints its report. Ctrl-C ends only this command.
pub(crate) fn watch(engine: &Engine, id: u64, name: &str, shown: &Shown) -> Result<(), Failure> {
    run(engine, Request::Watch { job: id }, name, shown, OnInterrupt::Leave)
}

/// What Ctrl-C does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnInterrupt {
    /// The first one stops the execution, a second one ends this command.
    Stop,
    /// It ends this command.
    Leave,
}

fn run(
    engine: &Engine,
    request: Request,
    name: &str,
    shown: &Shown,
    on_interrupt: OnInterrupt,
) -> Result<(), Failure> {
    let is_document = shown.format == ReportFormat::Json && shown.progress != ProgressStyle::Json;
    if is_document {
        // Standard output gets only the document.
        output::redirect_to_stderr();
    }
    let progress = Progress { progress: style(shown, is_document), quiet: shown.quiet };
    let mut following = Following {
        engine,
        view: View::new(&progress, &[name.to_owned()]),
        streams: Streams::new()?,
        execution: None,
        is_stopping: false,
        end: None,
    };
    let followed = following.run(request, on_interrupt);
    output::redirect_to_stdout();
    let is_interrupted = followed?;
    let Following { execution, end, .. } = following;
    match (execution, end) {
        (Some(id), Some(Err(error @ EngineError::Broken { .. }))) => Err(Failure::from(error).hint(format!(
            "the engine continues execution {id} when it runs again; sampan watch {id} follows it"
        ))),
        (Some(id), end) => {
            // The report says more than the error of the job; that error is for an engine that has no report.
            let report = Report::request(engine, id).map_err(|failure| match end {
                Some(Err(error)) => Failure::from(error),
                _ => failure,
            })?;
            close(&report, shown, is_interrupted)
        }
        (None, Some(Err(error))) => Err(error.into()),
        (None, _) => Ok(()),
    }
}

/// The style of the progress. While standard output gets a document, the default style shows progress only on a
/// terminal.
fn style(shown: &Shown, is_document: bool) -> ProgressStyle {
    match shown.progress {
        ProgressStyle::Auto if is_document && !io::stderr().is_terminal() => ProgressStyle::None,
        style => style,
    }
}

/// Prints the report. The result is the failure of the command, if there is one.
fn close(report: &Report, shown: &Shown, is_interrupted: bool) -> Result<(), Failure> {
    let document = || {
        let mut document = json_report::document(report);
        if let (Value::Object(fields), ProgressStyle::Json) = (&mut document, shown.progress) {
            fields.insert("type".to_owned(), Value::from("report"));
        }
        json::line(&document) + "\n"
    };
    let is_json = shown.format == ReportFormat::Json || shown.progress == ProgressStyle::Json;
    output::print(&match (is_json, shown.quiet) {
        (true, _) => document(),
        (false, true) => String::new(),
        (false, false) => table_report::closing(report, view::columns()),
    })
    .map_err(|failure| match is_interrupted {
        true => Failure { signal: Some(SIGINT), ..failure },
        false => failure,
    })?;
    let problems = report.problems();
    // A person with a table needs no copy of a long list.
    let count = if shown.quiet || is_json { problems.len() } else { problems.len().min(PROBLEMS_MAX) };
    for problem in problems.iter().take(count) {
        output::message("error", &format!("{}: {}", problem.subject, problem.message));
    }
    if !shown.quiet {
        if let more @ 1.. = problems.len() - count {
            output::note(&format!(
                "{more} more failed; sampan replication show {} lists them",
                report.execution.id
            ));
        }
        notes(report);
    }
    match (report.verdict(), is_interrupted) {
        (verdict, false) => verdict,
        // The signal ends this command, so that a loop of a shell ends, too.
        (Err(failure), true) => Err(Failure { signal: Some(SIGINT), ..failure }),
        (Ok(()), true) => Err(Failure { signal: Some(SIGINT), quiet: true, ..Failure::new("interrupted") }),
    }
}

fn notes(report: &Report) {
    for session in &report.execution.lost_sessions {
        output::note(&format!("the destination no longer answers for the upload {session}"));
    }
    if report.execution.state == State::Skipped {
        output::note(&format!("execution {} was skipped, since its policy is busy", report.execution.id));
    }
}

/// An execution that is being followed.
struct Following<'a> {
    engine: &'a Engine,
    view: View,
    streams: Streams,
    /// The number of the execution, which is also the number of its job; `None` before the engine has sent it.
    execution: Option<u64>,
    is_stopping: bool,
    /// The end of the job; `None` while the job runs.
    end: Option<Result<(), EngineError>>,
}

impl Following<'_> {
    /// Follows the job until it ends. Returns whether a first Ctrl-C has come; does not return after a signal that ends
    /// this command.
    fn run(&mut self, request: Request, on_interrupt: OnInterrupt) -> Result<bool, Failure> {
        // Catch before the engine gets the request, since Ctrl-C must reach an execution that has begun.
        let (wake, stop) = (self.streams.waker()?.into(), self.streams.stopper()?.into());
        let (interrupt, signals) = match on_interrupt {
            OnInterrupt::Stop => {
                let interrupt = Interrupt::catch(&wake).map_err(cannot_catch)?;
                (Some(interrupt), Signals::catch_but_interrupt(&stop))
            }
            OnInterrupt::Leave => (None, Signals::catch(&stop)),
        };
        let signals = signals.map_err(cannot_catch)?;
        let watcher = watch_output(&self.view, &self.streams)?;
        self.streams.add(self.engine.request(request, &[])?);
        let followed = self.follow(interrupt.as_ref());
        drop(watcher);
        if followed.is_err() && signals::is_interrupted() {
            // The reader accepts nothing more. Stop the execution nevertheless.
            if let Some(id) = self.execution.filter(|_| !self.is_stopping) {
                finish(self.engine.request(stop_request(id), &[])?)?;
            }
            signals::die_of(SIGINT);
        }
        if let Some(signal) = signals.caught() {
            if let Some(id) = self.execution {
                output::note(&format!("execution {id} goes on; sampan replication stop {id} stops it"));
            }
            signals::die_of(signal);
        }
        followed?;
        match self.end {
            Some(_) => Ok(interrupt.is_some_and(|interrupt| interrupt.has_come())),
            None => Err(Failure::reader_left()),
        }
    }

    fn follow(&mut self, interrupt: Option<&Interrupt>) -> Result<(), Failure> {
        self.view.begin(0).map_err(|error| unwritable(&error))?;
        while self.end.is_none() {
            if let Some(interrupt) = interrupt.filter(|interrupt| interrupt.has_come()) {
                self.stop().map_err(|error| unwritable(&error))?;
                interrupt.let_next_end();
            }
            let tick = self.view.is_moving().then_some(TICK);
            match self.streams.next_within(tick)? {
                Happened::Answer { stream: EXECUTION, answer } => self.on_answer(answer),
                Happened::Failed { stream: EXECUTION, error } => self.on_end(Err(error)),
                Happened::Answer { .. } => Ok(()),
                Happened::Failed { error, .. } => {
                    self.view.note(0, &format!("cannot stop the execution: {}", chain(&error)))
                }
                Happened::Nothing | Happened::Woken => self.view.redraw(),
                Happened::End => return Ok(()),
            }
            .map_err(|error| unwritable(&error))?;
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Done(_) => self.on_end(Ok(())),
            Answer::Job(job) => {
                self.execution = Some(job.id);
                self.view.job(0, &job)
            }
            Answer::Rows { rows, .. } => self.view.update(0, &rows),
            Answer::Note(note) => self.view.note(0, &note),
            _ => Ok(()),
        }
    }

    fn on_end(&mut self, end: Result<(), EngineError>) -> io::Result<()> {
        let is_done = end.is_ok();
        self.end = Some(end);
        self.view.end(0, is_done)
    }

    /// Asks the engine to stop the execution, once, as soon as its number is known.
    fn stop(&mut self) -> io::Result<()> {
        let Some(id) = self.execution.filter(|_| !self.is_stopping) else { return Ok(()) };
        self.is_stopping = true;
        match self.engine.request(stop_request(id), &[]) {
            Ok(answers) => {
                self.streams.add(answers);
                self.view
                    .note(0, &format!("stopping execution {id}; a second Ctrl-C does not wait for its end"))
            }
            Err(error) => self.view.note(0, &format!("cannot stop execution {id}: {}", chain(&error))),
        }
    }
}

fn stop_request(id: u64) -> Request {
    Request::Execution { id, request: ExecutionRequest::Stop }
}
