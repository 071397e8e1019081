//! `GET /containers/NAME/top`.
//!
//! The engine gives the process IDs, and ps(1) the columns. ps(1) runs as an orphan: init reaps it, so that the loop
//! never waits for it.

use super::failure;
use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sampan_client::docker::top::Selection;
use sampan_client::engine::{self, Answers, Next, Request};
use sampan_http::answer::Answer;
use sampan_os::spawn::{self, Program, Relation};
use serde_json::json;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time that ps(1) may take.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes of ps(1)'s error messages that are read.
const REASON_MAX: usize = 4 << 10;
/// Directories where ps(1) may be.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let words = call.query.get("ps_args").unwrap_or("-ef");
    let words = words.split_whitespace().map(str::to_owned).collect();
    Ok(Started::Operation(Box::new(Top { name: name.to_owned(), words, stage: Stage::Begins })))
}

struct Top {
    name: String,
    words: Vec<String>,
    stage: Stage,
}

enum Stage {
    Begins,
    /// The engine tells the process IDs.
    Asks(Answers, Vec<i32>),
    /// ps(1) writes its output.
    Reads(Ps),
}

/// A running ps(1). Its pipes are closed when it has ended, or when the client has gone; ps(1) then ends.
struct Ps {
    output: Option<PipeReader>,
    errors: Option<PipeReader>,
    reason: Vec<u8>,
    selection: Selection,
    deadline: Instant,
}

impl Operation for Top {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            let next = match &mut self.stage {
                Stage::Begins => {
                    let request = Request::Top { container: self.name.clone(), columns: Vec::new() };
                    let answers = exchange.shared.engine.request(request, &[])?;
                    exchange.watch(&answers, Interest::READABLE)?;
                    Stage::Asks(answers, Vec::new())
                }
                Stage::Asks(answers, pids) => {
                    let next = answers.next_within(Duration::ZERO);
                    match next.map_err(|error| failure::refusal(error, &self.name))? {
                        Next::Nothing => return Ok(Progress::Waits),
                        Next::Answer(engine::Answer::Processes(more)) => {
                            pids.extend(more);
                            continue;
                        }
                        Next::Answer(engine::Answer::Done(_)) | Next::End => {
                            let ps = Ps::start(&self.words, std::mem::take(pids))?;
                            for pipe in ps.output.iter().chain(&ps.errors) {
                                exchange.watch(pipe, Interest::READABLE)?;
                            }
                            Stage::Reads(ps)
                        }
                        Next::Answer(_) => continue,
                    }
                }
                Stage::Reads(ps) => {
                    if !ps.read()? {
                        return ps.wait();
                    }
                    let Stage::Reads(ps) = std::mem::replace(&mut self.stage, Stage::Begins) else {
                        continue;
                    };
                    return Ok(exchange.answer(ps.answer(&self.words)?));
                }
            };
            self.stage = next;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Reads(ps) => Some(ps.deadline),
            _ => None,
        }
    }
}

impl Ps {
    fn start(words: &[String], pids: Vec<i32>) -> Result<Self, Refusal> {
        let failed = |error: io::Error| Refusal::new(500, format!("cannot run ps: {error}"));
        let (output, stdout) = pipe().map_err(failed)?;
        let (errors, stderr) = pipe().map_err(failed)?;
        let null = File::open("/dev/null").map_err(failed)?;
        let path =
            DIRECTORIES.iter().map(|directory| Path::new(directory).join("ps")).find(|path| path.exists());
        let path = path.ok_or_else(|| {
            Refusal::new(500, "cannot run ps: the host has no ps; the package procps has it")
        })?;
        let text =
            |bytes: &[u8]| CString::new(bytes).map_err(|_| Refusal::bad("ps_args has a NUL character"));
        let path = text(path.as_os_str().as_bytes())?;
        let mut args = vec![text(b"ps")?];
        for word in words {
            args.push(text(word.as_bytes())?);
        }
        spawn::spawn(&Program {
            path: &path,
            args: &args,
            environment: &[c"LC_ALL=C.UTF-8"],
            standard: [null.as_fd(), stdout.as_fd(), stderr.as_fd()],
            inherited: &[],
            relation: Relation::Orphan,
        })
        .map_err(failed)?;
        Ok(Ps {
            output: Some(output),
            errors: Some(errors),
            reason: Vec::new(),
            selection: Selection::new(pids),
            deadline: Instant::now() + TIME_MAX,
        })
    }

    /// Reads until both pipes would block. Returns whether both have ended.
    fn read(&mut self) -> Result<bool, Refusal> {
        let mut bytes = [0; 16 << 10];
        while let Some(read) = read_pipe(&mut self.errors, &mut bytes)? {
            let room = REASON_MAX.saturating_sub(self.reason.len());
            self.reason.extend(read.iter().take(room));
        }
        while let Some(read) = read_pipe(&mut self.output, &mut bytes)? {
            // The header of other output than a list of processes is an error, which `answer` tells.
            if self.selection.push(read).is_err() {
                self.output = None;
            }
        }
        Ok(self.output.is_none() && self.errors.is_none())
    }

    fn wait(&self) -> Result<Progress, Refusal> {
        match Instant::now() < self.deadline {
            true => Ok(Progress::Waits),
            false => Err(Refusal::new(500, format!("ps did not finish in {} s", TIME_MAX.as_secs()))),
        }
    }

    fn answer(self, words: &[String]) -> Result<Answer, Refusal> {
        let reason = String::from_utf8_lossy(&self.reason).into_owned();
        // After the reason, ps(1) prints its usage in many lines.
        let reason = reason.lines().map(str::trim).find(|line| !line.is_empty());
        let table = self.selection.table().map_err(|error| {
            let reason = reason
                .map_or_else(|| error.to_string(), |line| line.trim_start_matches("error: ").to_owned());
            Refusal::bad(format!("ps {} failed: {reason}", words.join(" ")))
        })?;
        let body = json!({"Titles": table.titles, "Processes": table.processes});
        Ok(Answer::new(200, "application/json", body.to_string() + "\n"))
    }
}

/// Makes a pipe whose reading end never blocks.
fn pipe() -> io::Result<(PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

/// Reads once. Returns `None`, and closes the pipe, at its end; returns `None` if there is nothing to read.
fn read_pipe<'a>(pipe: &mut Option<PipeReader>, bytes: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let Some(reader) = pipe else { return Ok(None) };
    loop {
        match reader.read(bytes) {
            Ok(0) => {
                *pipe = None;
                return Ok(None);
            }
            Ok(len) => return Ok(bytes.get(..len)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], pids: Vec<i32>) -> Result<Answer, Refusal> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut ps = Ps::start(&words, pids)?;
        while !ps.read()? {
            let mut polled = Vec::new();
            for pipe in ps.output.iter().chain(&ps.errors) {
                polled.push(nix::poll::PollFd::new(pipe.as_fd(), nix::poll::PollFlags::POLLIN));
            }
            nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE).expect("polled");
        }
        ps.answer(&words)
    }

    #[test]
    fn ps_tells_about_the_processes() {
        let own = i32::try_from(std::process::id()).expect("a process ID");
        let answer = run(&["-o", "pid,comm", "-e"], vec![own]).expect("ps runs");
        assert_eq!(answer.status, 200);
        let refused = run(&["-o", "no-such-column"], vec![own]).expect_err("no such column");
        assert!(refused.status == 400 && refused.message.contains("no-such-column"), "{refused:?}");
        let refused = run(&["-o", "comm"], vec![own]).expect_err("no column PID");
        assert!(refused.message.contains("no column PID"), "{refused:?}");
    }
}
