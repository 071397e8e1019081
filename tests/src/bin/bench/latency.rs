//! Latency: the time from just before an event is emitted until a subscriber has received it.

use crate::options::Options;
use crate::receive;
use crate::server::Server;
use crate::system::{System, Wish};
use crate::table::{median, number, print, row, with_ratio};
use std::io;
use std::time::{Duration, Instant};

const SUBSCRIBERS: usize = 10;
const PER_SECOND: u64 = 1000;
/// Length of one run, in seconds.
const SECONDS: u64 = 4;

struct Run {
    /// p50, p99 and p99.9, in microseconds.
    delays: [f64; 3],
    cpu_per_million: f64,
}

/// Measures and prints.
///
/// # Errors A server failed, or a message did not arrive.
pub fn run(options: &Options) -> io::Result<()> {
    let mut runs: Vec<Vec<Run>> = options.systems.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.runs {
        for (system, runs) in options.systems.iter().zip(&mut runs) {
            runs.push(measure(*system)?);
        }
    }
    let mut rows = vec![row(["", "p50 µs", "of bare", "p99 µs", "of bare", "p99.9 µs", "CPU s/million"])];
    let mut bare = [f64::NAN; 3];
    for (system, runs) in options.systems.iter().zip(&runs) {
        let delays = [0, 1, 2].map(|nth| median(runs.iter().map(|run| run.delays[nth]).collect()));
        if *system == System::Bare {
            bare = delays;
        }
        let [p50, of_p50] = with_ratio(delays[0], bare[0]);
        let [p99, of_p99] = with_ratio(delays[1], bare[1]);
        let cpu = median(runs.iter().map(|run| run.cpu_per_million).collect());
        rows.push(vec![system.name().to_owned(), p50, of_p50, p99, of_p99, number(delays[2]), number(cpu)]);
    }
    print("Emit to receive, 1,000 events a second, 10 subscribers", &rows);
    Ok(())
}

fn measure(system: System) -> io::Result<Run> {
    let messages = PER_SECOND * SECONDS;
    let server = Server::start(system)?;
    let mut receivers = server.subscribers(SUBSCRIBERS, Wish::All, messages, true)?;
    let mut publisher = server.publisher()?;
    let (done, _) = receivers.count();
    let cpu = server.cpu_seconds()?;
    let started = Instant::now();
    for nth in 0..messages {
        let due = started + Duration::from_nanos(nth * 1_000_000_000 / PER_SECOND);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        publisher.write_all(&system.message(nth, receive::now()))?;
    }
    let (line, _) = done.join().map_err(|_| io::Error::other("a thread failed"))??;
    let cpu = server.cpu_seconds()? - cpu;
    let nanos: Vec<f64> = line.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
    let [p50, p99, p999] = nanos[..] else { return Err(io::Error::other(line)) };
    let deliveries = (messages * SUBSCRIBERS as u64) as f64;
    Ok(Run { delays: [p50, p99, p999].map(|nanos| nanos / 1e3), cpu_per_million: cpu / deliveries * 1e6 })
}
