//! Ingest: records per second that a reader takes from the FIFO, and its cost per record.

use crate::options::Options;
use crate::receive::PATIENCE;
use crate::server::{Server, beside, cpu_seconds};
use crate::system::System;
use crate::table::{median, number, print, row};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// Records of one run.
const RECORDS: u64 = 1_000_000;
/// Number of writers, and number of records in each write.
const WAYS: [(u64, u64); 3] = [(1, 1), (8, 1), (8, 20)];

/// Records per second, and seconds of the reader's CPU time per million records.
struct Run(f64, f64);

/// Measures and prints.
///
/// # Errors A server failed.
pub fn run(options: &Options) -> io::Result<()> {
    let systems: Vec<System> = options.systems.iter().copied().filter(|system| system.has_fifo()).collect();
    let mut rows = vec![row([
        "",
        "writers",
        "records a write",
        "million records/s",
        "of bare",
        "CPU s/million",
        "of bare",
    ])];
    for (writers, batch) in WAYS {
        let mut runs: Vec<Vec<Run>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.runs {
            for (system, runs) in systems.iter().zip(&mut runs) {
                runs.push(measure(*system, writers, batch)?);
            }
        }
        let mut bare = (f64::NAN, f64::NAN);
        for (system, runs) in systems.iter().zip(&runs) {
            let rate = median(runs.iter().map(|run| run.0 / 1e6).collect());
            let cpu = median(runs.iter().map(|run| run.1).collect());
            if *system == System::Bare {
                bare = (rate, cpu);
            }
            let ratio = |value: f64, bare: f64| {
                if bare.is_nan() { String::new() } else { format!("{:.2} ×", value / bare) }
            };
            rows.push(vec![
                system.name().to_owned(),
                writers.to_string(),
                batch.to_string(),
                number(rate),
                ratio(rate, bare.0),
                number(cpu),
                ratio(cpu, bare.1),
            ]);
        }
    }
    print(
        "Ingest of records from the FIFO; bare reads and forgets, sampan checks, numbers and journals",
        &rows,
    );
    Ok(())
}

/// A reader of a FIFO.
enum Reader {
    Sampan(Server),
    Bare { child: Child, _dir: TempDir },
}

impl Reader {
    fn start(system: System) -> io::Result<(Self, std::path::PathBuf)> {
        if system == System::Sampan {
            let server = Server::start_with(system, &["--sync", "interval"])?;
            let fifo = server.fifo();
            return Ok((Reader::Sampan(server), fifo));
        }
        let dir = tempfile::Builder::new().prefix("sampan-bench.").tempdir()?;
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let child = Command::new(beside("bare")?).arg(&fifo).stdin(Stdio::null()).spawn()?;
        Ok((Reader::Bare { child, _dir: dir }, fifo))
    }

    fn pid(&self) -> u32 {
        match self {
            Reader::Sampan(server) => server.pid(),
            Reader::Bare { child, .. } => child.id(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Reader::Bare { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn measure(system: System, writers: u64, batch: u64) -> io::Result<Run> {
    // Both readers get records of equal size: monitord's.
    let each = RECORDS / writers / batch;
    let shares: Vec<Vec<Vec<u8>>> = (0..writers)
        .map(|writer| {
            let first = writer * each * batch;
            let write =
                |nth: u64| (0..batch).flat_map(move |at| System::Sampan.message(first + nth * batch + at, 0));
            (0..each).map(|nth| write(nth).collect()).collect()
        })
        .collect();
    let (reader, fifo) = Reader::start(system)?;
    // Opening for writing blocks until the reader has opened the FIFO.
    let mut files: Vec<File> =
        shares.iter().map(|_| File::options().write(true).open(&fifo)).collect::<Result<_, _>>()?;
    let cpu = cpu_seconds(reader.pid())?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter_mut()
            .zip(&shares)
            .map(|(file, share)| {
                scope.spawn(move || share.iter().try_for_each(|bytes| file.write_all(bytes)))
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a writer failed"))?)
    })?;
    await_drained(&fifo)?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds(reader.pid())? - cpu;
    let records = (each * batch * writers) as f64;
    Ok(Run(records / seconds, cpu / records * 1e6))
}

/// Waits until the FIFO is empty, when its reader has taken everything.
fn await_drained(fifo: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let file = File::options().read(true).write(true).open(fifo)?;
    let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&file), nix::poll::PollFlags::POLLIN)];
    while nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO)? > 0 {
        if Instant::now() > deadline {
            return Err(io::Error::other("the FIFO is not drained"));
        }
        std::thread::yield_now();
    }
    Ok(())
}
