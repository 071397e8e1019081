//! Fan-out: the server's cost of a delivery, with 1 to 1,000 subscribers.

use crate::options::Options;
use crate::server::Server;
use crate::system::{System, Wish};
use crate::table::{median, number, print, row, with_ratio};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SUBSCRIBERS: [usize; 4] = [1, 10, 100, 1000];
/// Messages in one write of the publisher: the most that fit PIPE_BUF, so that the publisher is never the bottleneck.
const BATCH: usize = 20;
/// Most deliveries that a broker may lag: a broker does not slow its publishers down, and keeps undelivered messages in
/// memory.
const BEHIND_MAX: u64 = 200_000;

/// Explanation that is printed below the table.
const NOTE: &str = "\
bare holds its writer back; sampan does not, and gives what its ring no longer holds from the journal's file by
sendfile(2), which copies nothing into the socket: hence less than bare at many subscribers. Its intake (sum, number,
journal) is part of its figures, so it weighs most where subscribers are few. A delivery is one that a subscriber got:
with a filter, what was looked at and not sent is charged to those that were.";

/// A line of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Line {
    system: System,
    wish: Wish,
}

/// The result of one run.
struct Run {
    deliveries_per_second: f64,
    cpu_per_million: f64,
}

/// Measures and prints.
///
/// # Errors A server failed, or a message did not arrive.
pub fn run(options: &Options) -> io::Result<()> {
    let mut lines = Vec::new();
    for system in options.systems.iter().copied() {
        lines.push(Line { system, wish: Wish::All });
        if system == System::Sampan {
            lines.push(Line { system, wish: Wish::Half });
            lines.push(Line { system, wish: Wish::HalfEach });
        }
    }
    let mut rows = vec![row(["", "subscribers", "million deliveries/s", "CPU s/million", "of bare"])];
    for subscribers in SUBSCRIBERS {
        let mut runs: Vec<Vec<Run>> = lines.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.runs {
            for (line, runs) in lines.iter().zip(&mut runs) {
                runs.push(measure(*line, subscribers, options.scale)?);
            }
        }
        let mut bare = f64::NAN;
        for (line, runs) in lines.iter().zip(runs) {
            let rate = median(runs.iter().map(|run| run.deliveries_per_second / 1e6).collect());
            let cpu = median(runs.iter().map(|run| run.cpu_per_million).collect());
            if line.system == System::Bare {
                bare = cpu;
            }
            let [cpu, ratio] = with_ratio(cpu, bare);
            rows.push(vec![name(*line), subscribers.to_string(), number(rate), cpu, ratio]);
        }
    }
    print("Fan-out of 200-byte events, saturating; CPU of the server, user and kernel", &rows);
    println!("\n{NOTE}");
    Ok(())
}

fn name(line: Line) -> String {
    let what = match line.wish {
        Wish::All => "",
        Wish::Half => ", a filter that half pass",
        Wish::HalfEach => ", each its own such filter",
    };
    format!("{}{what}", line.system.name())
}

/// Number of messages for about a second of the server's CPU time.
fn messages(system: System, subscribers: usize) -> u64 {
    let deliveries: u64 = match (system, subscribers) {
        (System::Bare | System::Sampan, 1) => 1_000_000,
        (System::Bare | System::Sampan, _) => 10_000_000,
        (System::Redis | System::Nats, _) => 500_000,
        (System::Mosquitto, _) => 100_000,
    };
    let messages = deliveries / subscribers as u64;
    messages.next_multiple_of(2 * BATCH as u64)
}

fn measure(line: Line, subscribers: usize, scale: u64) -> io::Result<Run> {
    let Line { system, wish } = line;
    let sent = messages(system, subscribers) * scale;
    let each = if wish == Wish::All { sent } else { sent / 2 };
    let batches: Vec<Vec<u8>> = (0..sent / BATCH as u64)
        .map(|batch| {
            (0..BATCH as u64).flat_map(|nth| system.message(batch * BATCH as u64 + nth, 0)).collect()
        })
        .collect();
    let server = Server::start(system)?;
    let mut receivers = server.subscribers(subscribers, wish, each, false)?;
    let mut publisher = server.publisher()?;
    let (done, received) = receivers.count();
    let cpu = server.cpu_seconds()?;
    let started = Instant::now();
    let wire = (system.layout().len * subscribers) as u64;
    // Messages that a broker may lag: at least a few writes.
    let behind_max = (BEHIND_MAX / subscribers as u64).max(4 * BATCH as u64);
    let deadline = started + crate::receive::PATIENCE;
    for (nth, batch) in batches.iter().enumerate() {
        if !system.has_fifo() {
            let sent = (nth * BATCH) as u64;
            wait_for_room(&received, sent * wire, behind_max * wire, deadline)?;
        }
        publisher.write_all(batch)?;
    }
    let (_, ended) = done.join().map_err(|_| io::Error::other("a thread failed"))??;
    let cpu = server.cpu_seconds()? - cpu;
    let deliveries = (each * subscribers as u64) as f64;
    Ok(Run {
        deliveries_per_second: deliveries / (ended - started).as_secs_f64(),
        cpu_per_million: cpu / deliveries * 1e6,
    })
}

/// Waits until at most `behind_max` of the `sent` bytes are not received yet.
fn wait_for_room(received: &AtomicU64, sent: u64, behind_max: u64, deadline: Instant) -> io::Result<()> {
    while sent.saturating_sub(received.load(Ordering::Relaxed)) > behind_max {
        if Instant::now() > deadline {
            return Err(io::Error::other("messages do not arrive"));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}
