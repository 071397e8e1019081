//! Follows jobs in one loop until they end, and prints their results.
//!
//! Used by every command that shows progress. Each job has its own connection. Ctrl-C closes the connections, and the
//! engine then ends jobs that no other client watches. A job that fails does not end the others.

use crate::cli::args::display::Progress;
use crate::cli::error::Failure;
use crate::cli::job::view::{ResultFormat, View, unwritable};
use crate::cli::output::{self, Watcher};
use crate::cli::signals::{self, Signals};
use sampan_client::Engine;
use sampan_client::engine::{Answer, Answers, Done, EngineError, Request};
use sampan_client::{Happened, Streams};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Interval in which bars are redrawn without an answer of the engine.
const TICK: Duration = Duration::from_secs(1);
/// Most jobs at a time: the engine's own limit is not much higher, and other clients need jobs, too.
const CONCURRENT_MAX: usize = 16;

/// The result of one job.
pub(crate) type Outcome = Result<Done, Failure>;

/// Sends a request, shows the progress of its job, and prints the result.
pub(crate) fn follow(
    engine: &Engine,
    request: Request,
    fds: &[BorrowedFd<'_>],
    progress: &Progress,
) -> Result<(), Failure> {
    follow_to(engine, request, fds, progress, None)
}

/// Like [`follow`], but formats the result by `words`, unless the person requests JSON.
pub(crate) fn follow_to(
    engine: &Engine,
    request: Request,
    fds: &[BorrowedFd<'_>],
    progress: &Progress,
    words: Option<ResultFormat>,
) -> Result<(), Failure> {
    let name = subject(&request);
    let mut start = |_| engine.request(request.clone(), fds);
    let followed = Follow::new(std::slice::from_ref(&name), progress, &mut start)?.run()?;
    let outcomes = followed.finish(words, [(0, name.as_str())])?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
}

/// Watches the output of `view`: ends the wait of `streams` when the reader of a pipe or socket leaves, and interrupts
/// the wait when a terminal with bars changes its size. The caller drops the result after its last wait.
pub(crate) fn watch_output(view: &View, streams: &Streams) -> Result<Option<Watcher>, Failure> {
    let mut watcher = None;
    if view.is_shown() && !output::is_redirected() {
        // Without this thread only the next line would fail, and a stalled transfer may print no line for minutes.
        let target = output::target().try_clone_to_owned().map_err(cannot_catch)?;
        watcher = Some(output::stop_when_reader_leaves(target, streams.stopper()?).map_err(cannot_catch)?);
    }
    if view.is_bars() {
        signals::wake_on_resize(streams.waker()?.into()).map_err(cannot_catch)?;
    }
    Ok(watcher)
}

/// The failure of a command that cannot watch its signals or its output.
pub(crate) fn cannot_catch(error: io::Error) -> Failure {
    Failure::new(format!("cannot catch signals: {error}"))
}

/// The subject of a request, which is shown until the engine reports the job's subject.
fn subject(request: &Request) -> String {
    match request {
        Request::Pull(pull) => pull.reference.clone(),
        Request::Import(import) => import.reference.clone(),
        Request::Push(push) => push.target.as_ref().unwrap_or(&push.source).clone(),
        Request::Save(save) => save.names.join(" "),
        Request::Load(load) => load.reference.clone().unwrap_or_else(|| "archive".to_owned()),
        Request::Watch { job } => format!("job {job}"),
        _ => "store".to_owned(),
    }
}

/// Jobs that are started one after the other and followed together.
pub(crate) struct Follow<'a> {
    start: &'a mut dyn FnMut(usize) -> Result<Answers, EngineError>,
    view: View,
    streams: Streams,
    /// The index of the job of each stream.
    jobs: Vec<usize>,
    begun: usize,
    outcomes: Vec<Option<Outcome>>,
}

/// Jobs that have ended, or that a signal interrupted.
pub(crate) struct Followed {
    outcomes: Vec<Outcome>,
    view: View,
    signal: Option<i32>,
}

impl Followed {
    /// Prints and returns the result for each name in `asked`. Formats the results by `words` if it is given.
    ///
    /// Does not return after a signal, which ends this process. JSON output has all results even then.
    pub(crate) fn finish<'b>(
        mut self,
        words: Option<ResultFormat>,
        asked: impl IntoIterator<Item = (usize, &'b str)>,
    ) -> Result<Vec<Outcome>, Failure> {
        let outcomes = &self.outcomes;
        let asked = asked.into_iter().filter_map(|(at, name)| Some((at, name, outcomes.get(at)?)));
        let printed = match self.signal {
            Some(_) if !self.view.is_json() => Ok(()),
            _ => self.view.finish(words, asked),
        };
        if let Some(signal) = self.signal {
            signals::die_of(signal);
        }
        printed.map_err(|error| unwritable(&error))?;
        Ok(self.outcomes)
    }
}

impl<'a> Follow<'a> {
    /// Prepares the jobs `names`. `start` sends the request of the job with an index in `names`.
    pub(crate) fn new(
        names: &[String],
        progress: &Progress,
        start: &'a mut dyn FnMut(usize) -> Result<Answers, EngineError>,
    ) -> Result<Self, Failure> {
        Ok(Follow {
            start,
            view: View::new(progress, names),
            streams: Streams::new()?,
            jobs: Vec::new(),
            begun: 0,
            outcomes: names.iter().map(|_| None).collect(),
        })
    }

    /// Follows all jobs until they end, a signal comes, or the reader of the output closes it.
    pub(crate) fn run(mut self) -> Result<Followed, Failure> {
        let signals = Signals::catch(&self.streams.stopper()?.into()).map_err(cannot_catch)?;
        let watcher = watch_output(&self.view, &self.streams)?;
        let ended = self.follow();
        drop(watcher);
        // Closing the connections ends the jobs.
        drop(self.streams);
        let signal = signals.caught();
        if signal.is_none() {
            ended?;
            if self.outcomes.iter().any(Option::is_none) {
                return Err(Failure::reader_left());
            }
        }
        let cut_off = || {
            let failure = Failure::new(format!("ended by {}", signals::name(signal.unwrap_or(0))));
            Err(failure.hint("the job runs on if another client watches it; 'sampan jobs' lists all jobs"))
        };
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(cut_off)).collect();
        Ok(Followed { outcomes, view: self.view, signal })
    }

    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            self.start_more()?;
            let tick = self.view.is_moving().then_some(TICK);
            match self.streams.next_within(tick)? {
                Happened::Answer { stream, answer } => self.on_answer(stream, answer),
                Happened::Failed { stream, error } => self.on_end(self.job(stream), Err(error.into())),
                Happened::Nothing | Happened::Woken => self.view.redraw(),
                Happened::End => return Ok(()),
            }
            .map_err(|error| unwritable(&error))?;
        }
    }

    /// Starts further jobs, up to the most that may run.
    fn start_more(&mut self) -> Result<(), Failure> {
        while self.streams.running() < CONCURRENT_MAX && self.begun < self.outcomes.len() {
            let at = self.begun;
            self.begun += 1;
            match (self.start)(at) {
                Ok(answers) => {
                    self.jobs.push(at);
                    self.streams.add(answers);
                    self.view.begin(at).map_err(|error| unwritable(&error))?;
                }
                // The engine does not run, so the other requests would fail, too.
                Err(error @ EngineError::Connect { .. }) if at == 0 => return Err(error.into()),
                Err(error) => self.on_end(at, Err(error.into())).map_err(|error| unwritable(&error))?,
            }
        }
        Ok(())
    }

    fn job(&self, stream: usize) -> usize {
        self.jobs.get(stream).copied().unwrap_or(usize::MAX)
    }

    fn on_answer(&mut self, stream: usize, answer: Answer) -> io::Result<()> {
        let at = self.job(stream);
        match answer {
            Answer::Done(done) => self.on_end(at, Ok(done)),
            Answer::Job(job) => self.view.job(at, &job),
            Answer::Rows { rows, .. } => self.view.update(at, &rows),
            Answer::Note(note) => self.view.note(at, &note),
            _ => Ok(()),
        }
    }

    fn on_end(&mut self, at: usize, outcome: Outcome) -> io::Result<()> {
        let is_done = outcome.is_ok();
        if let Some(place) = self.outcomes.get_mut(at) {
            *place = Some(outcome);
        }
        self.view.end(at, is_done)
    }
}
