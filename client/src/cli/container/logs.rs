//! `sampan logs`: prints the output of a container from docker's json-file log.

use crate::cli::args::container::Logs;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::output;
use crate::cli::signals;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_client::container_log::{Line, LogError, LogNote, LogQuery, LogSink, LogStep, LogStream};
use sampan_client::time;
use sampan_ipc::report::chain;
use signal_hook::consts::SIGPIPE;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Number of bytes after which lines are printed.
const BLOCK: usize = 64 << 10;

pub(crate) fn run(args: &Logs) -> Result<(), Failure> {
    let now = time::now();
    let at = |text: &Option<String>| {
        text.as_deref().map(|text| time::parse(text, now)).transpose().map_err(Failure::usage)
    };
    let (since, until) = (at(&args.since)?, at(&args.until)?);
    time::in_order(since, until).map_err(Failure::usage)?;
    let query = LogQuery {
        container: args.container.clone(),
        since,
        until,
        tail: tail(&args.tail)?,
        follow: args.follow,
    };
    let mut printer = Printer { timestamps: args.timestamps, ..Printer::default() };
    let mut stream = LogStream::open(&engine(&args.socket), query, &mut printer).map_err(failure)?;
    loop {
        let step = stream.step(&mut printer).map_err(failure)?;
        if let Some(failure) = printer.failure.take() {
            return Err(failure);
        }
        match step {
            LogStep::Again => printer.flush_if_full()?,
            LogStep::Waits => {
                printer.flush()?;
                stream.wait(io::stdout().as_fd());
                die_with_reader();
            }
            LogStep::Ended => return printer.flush(),
        }
    }
}

/// Ends this process if the reader of standard output has closed it.
fn die_with_reader() {
    // poll(2) always reports when the reader has closed the pipe, even with an empty set of events.
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    if fds.iter().any(|fd| fd.any() == Some(true)) {
        signals::die_of(SIGPIPE);
    }
}

/// Parses `--tail`: a number of lines, or `None` for all. As in docker, a negative number means all.
fn tail(text: &str) -> Result<Option<u64>, Failure> {
    match text.parse::<i64>() {
        _ if text == "all" => Ok(None),
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err(Failure::new(format!("--tail {text:?} is not a number of lines"))
            .hint("write a number, or 'all'")
            .status(USAGE)),
    }
}

fn failure(error: LogError) -> Failure {
    match error {
        LogError::Engine(error) => error.into(),
        LogError::Driver { ref container, ref driver } if driver == "journald" => {
            Failure::new(chain(&error)).hint(format!("journalctl CONTAINER_NAME={container}"))
        }
        error => Failure::new(chain(&error)),
    }
}

/// Prints lines to standard output and standard error, as the container wrote them.
#[derive(Default)]
struct Printer {
    timestamps: bool,
    out: Vec<u8>,
    err: Vec<u8>,
    damaged: u64,
    is_missing: bool,
    /// Why a line could not be printed.
    failure: Option<Failure>,
}

impl LogSink for Printer {
    fn line(&mut self, line: &Line<'_>) {
        let text = if line.is_stderr { &mut self.err } else { &mut self.out };
        if self.timestamps && !line.is_continuation {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text.as_bytes());
        // Print the other stream first, to keep the order if both streams go to one file.
        let has_other = if line.is_stderr { !self.out.is_empty() } else { !self.err.is_empty() };
        if has_other && let Err(failure) = self.flush_first(!line.is_stderr) {
            self.failure.get_or_insert(failure);
        }
    }

    fn note(&mut self, note: LogNote) {
        match note {
            LogNote::Damaged(count) => self.damaged += count,
            LogNote::Missing => self.is_missing = true,
        }
    }
}

impl Printer {
    fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.out.len() + self.err.len() < BLOCK { Ok(()) } else { self.flush() }
    }

    /// Writes one of the streams.
    fn flush_first(&mut self, err: bool) -> Result<(), Failure> {
        let written = match err {
            true => io::stderr().write_all(&std::mem::take(&mut self.err)),
            false => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&std::mem::take(&mut self.out)).and_then(|()| stdout.flush())
            }
        };
        match written {
            Err(error) if !err && error.kind() == io::ErrorKind::BrokenPipe => signals::die_of(SIGPIPE),
            Err(error) if !err => Err(Failure::output(&error)),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.flush_first(false)?;
        self.flush_first(true)?;
        match std::mem::take(&mut self.damaged) {
            0 => {}
            count => output::note(&format!("{count} damaged lines of the log were skipped")),
        }
        if std::mem::take(&mut self.is_missing) {
            output::note("the log was rotated faster than this command reads: lines are missing");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_comes_before_the_first_part_of_a_line_only() {
        let mut printer = Printer { timestamps: true, ..Printer::default() };
        for (text, is_continuation) in [("lo", false), ("ng\n", true)] {
            printer.line(&Line { text, is_stderr: false, time: "1970-01-01T00:00:02Z", is_continuation });
        }
        assert_eq!(String::from_utf8_lossy(&printer.out), "1970-01-01T00:00:02Z long\n");
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(
            (tail("all").expect("good"), tail("-1").expect("good"), tail("5").expect("good")),
            (None, None, Some(5))
        );
        assert_eq!(tail("five").expect_err("refused").status, USAGE);
    }
}
