//! `bench docker`: the Docker API of Sampan beside dockerd.
//!
//! Tables: requests on a connection that stays open, so that the start of docker's command line hides no difference; the
//! command line; delivery of events; memory and wake-ups, idle and with 100 streams; the mean time of a call while one
//! subscriber never reads. The sides alternate, and both get the same requests. A side that does not run here is named
//! and left out.

mod side;

use crate::options::Options;
use crate::runner::succeed;
use crate::table::{median, number, print, row, with_ratio};
use sampan_tests::docker_api::http::Connection;
use sampan_tests::process;
use side::{Side, ask, run_true, tag};
use std::io::{self, BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Number of containers in lists.
const CONTAINERS: usize = 20;
/// Requests of one kind in a row.
const REQUESTS: usize = 50;
/// Streams of events that are open at the same time.
const STREAMS: usize = 100;
/// Tags while one subscriber does not read.
const TAGS: usize = 2_500;
/// Highest accepted PSS of the gateway with [`STREAMS`] streams, in MiB.
const GATEWAY_BAR: f64 = 8.0;
/// Highest accepted mean time of a call beside a subscriber that never reads, as a multiple of the time without it.
const STUCK_BAR: f64 = 1.1;
/// Time for processes to become idle.
const SETTLE: Duration = Duration::from_secs(3);
/// Time during which wake-ups are counted.
const IDLE: Duration = Duration::from_secs(30);
const MIB: f64 = 1048576.0;

/// Prints the tables.
///
/// # Errors
/// Sampan does not answer.
pub fn run(options: &Options) -> io::Result<()> {
    let dir = tempfile::Builder::new().prefix("sampan-bench.").tempdir()?;
    let mut sides = vec![Side::sampan()?];
    match Side::dockerd(dir.path()) {
        Ok(dockerd) => sides.push(dockerd),
        Err(error) => println!("not here, and so not measured: dockerd ({error})"),
    }
    // Before anything else, since a server that has worked needs more memory.
    memory(&sides)?;
    for side in &sides {
        for nth in 0..CONTAINERS {
            side.create(&format!("c{nth}"))?;
        }
    }
    requests(&sides, options.runs)?;
    command_line(&sides, options.runs)?;
    events(&sides, options.runs)?;
    stuck(&sides)
}

/// A row of a table: medians of the sides, each beside the last one's.
fn figures(name: &str, sides: Vec<f64>) -> Vec<String> {
    let last = sides.last().copied().filter(|_| sides.len() > 1).unwrap_or(f64::NAN);
    let mut cells = vec![name.to_owned()];
    cells.extend(sides.iter().map(|value| number(*value)));
    cells.push(with_ratio(sides[0], last)[1].clone());
    cells
}

fn heads(sides: &[Side], unit: &str) -> Vec<String> {
    let names = sides.iter().map(|side| format!("{} {unit}", side.name()));
    [String::new()].into_iter().chain(names).chain(["of dockerd".to_owned()]).collect()
}

/// Measures each side by turns; returns the median of each.
fn by_turns(
    sides: &[Side],
    runs: u64,
    mut measure: impl FnMut(&Side, u64) -> io::Result<Vec<f64>>,
) -> io::Result<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..=runs {
        for (side, all) in sides.iter().zip(&mut all) {
            let measured = measure(side, round)?;
            // The first round only warms caches.
            if round > 0 {
                all.extend(measured);
            }
        }
    }
    Ok(all.into_iter().map(median).collect())
}

fn timed(mut call: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64())
}

fn requests(sides: &[Side], runs: u64) -> io::Result<()> {
    let mut rows = vec![heads(sides, "µs")];
    for (name, target) in [
        ("GET /_ping", "/_ping"),
        ("GET /version", "/version"),
        ("GET /containers/json?all=1, 20 containers", "/v1.41/containers/json?all=1"),
        ("GET /containers/NAME/json", "/v1.41/containers/c7/json"),
        ("GET /images/json", "/v1.41/images/json"),
        ("GET /images/NAME/json", "/v1.41/images/box:1/json"),
        ("GET /info", "/v1.41/info"),
    ] {
        let times = by_turns(sides, runs, |side, _| {
            let mut connection = side.connect();
            let call = || timed(|| ask(&mut connection, "GET", target, None).map(|_| ()));
            std::iter::repeat_with(call).take(REQUESTS).map(|time| time.map(|time| time * 1e6)).collect()
        })?;
        rows.push(figures(name, times));
    }
    let times = by_turns(sides, runs, |side, _| {
        let mut connection = side.connect();
        (0..REQUESTS).map(|nth| timed(|| tag(&mut connection, nth)).map(|time| time * 1e6)).collect()
    })?;
    rows.push(figures("POST /images/NAME/tag", times));
    let times = by_turns(sides, runs.max(10), |side, _| {
        let mut connection = side.connect();
        Ok(vec![timed(|| run_true(side, &mut connection))? * 1e6])
    })?;
    rows.push(figures("create, attach, wait, start, end, removal of 'true'", times));
    print(&format!("Requests on a connection that stays open; median of {runs} × {REQUESTS}"), &rows);
    Ok(())
}

fn command_line(sides: &[Side], runs: u64) -> io::Result<()> {
    let mut rows = vec![heads(sides, "ms")];
    for args in [
        &["ps", "-a"][..],
        &["inspect", "c7"],
        &["images"],
        &["run", "--rm", "--network", "none", "box:1", "true"],
    ] {
        let times = by_turns(sides, runs.max(10), |side, _| {
            let mut command = side.docker(args);
            Ok(vec![timed(|| succeed(&mut command))? * 1e3])
        })?;
        rows.push(figures(&format!("docker {}", args.join(" ")), times));
    }
    print(&format!("docker's command line; median of {}", runs.max(10)), &rows);
    Ok(())
}

/// Nanoseconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_nanos() as f64)
}

/// Microseconds from the time that an event carries to now.
fn age(event: &serde_json::Value) -> f64 {
    (now() - event["timeNano"].as_f64().unwrap_or(f64::NAN)) / 1e3
}

fn stream(side: &Side) -> Connection {
    let mut connection = side.connect();
    connection.send("GET", "/v1.41/events?filters=%7B%22event%22%3A%5B%22tag%22%5D%7D", &[], b"");
    let head = connection.head();
    assert_eq!(head.status, 200, "{head:?}");
    connection
}

fn events(sides: &[Side], runs: u64) -> io::Result<()> {
    let mut rows = vec![heads(sides, "µs")];
    let mut by_stream = |name: &str, delay: fn(&serde_json::Value, Instant) -> f64| -> io::Result<()> {
        let times = by_turns(sides, runs, |side, _| {
            let (mut connection, mut events) = (side.connect(), stream(side));
            let deliver = |nth| {
                let start = Instant::now();
                tag(&mut connection, nth)?;
                Ok(delay(&events.message(), start))
            };
            (0..REQUESTS).map(deliver).collect()
        })?;
        rows.push(figures(name, times));
        Ok(())
    };
    by_stream("from the event's time to the reader", |event, _| age(event))?;
    by_stream("from the call of 'tag' to the reader", |_, start| start.elapsed().as_secs_f64() * 1e6)?;
    let times = by_turns(sides, runs, |side, _| by_command_line(side))?;
    rows.push(figures("from the event's time to the output of 'docker events'", times));
    print(&format!("Delivery of an event; median of {runs} × {REQUESTS}"), &rows);
    Ok(())
}

/// Delays until `docker events` prints an event.
fn by_command_line(side: &Side) -> io::Result<Vec<f64>> {
    // Events from now on, even if docker subscribes a little later.
    let since = format!("{:.9}", now() / 1e9);
    let filter = ["events", "--since", &since, "--format", "{{json .}}", "--filter", "event=tag"];
    let mut child = side.docker(&filter).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let mut lines = BufReader::new(stdout).lines();
    let mut connection = side.connect();
    let mut deliver = |nth| -> io::Result<f64> {
        tag(&mut connection, nth)?;
        let line = lines.next().ok_or_else(|| io::Error::other("docker events has ended"))??;
        Ok(age(&serde_json::from_str(&line)?))
    };
    // The first event waits for docker's start.
    deliver(0)?;
    let delays = (1..=REQUESTS).map(deliver).collect();
    let _ = child.kill();
    let _ = child.wait();
    delays
}

fn memory(sides: &[Side]) -> io::Result<()> {
    let head = ["", "PSS MiB, all daemons", "of dockerd's", "the one that answers", "wake-ups in 30 s"];
    let mut rows = vec![row(head)];
    let (mut gateway, mut wakeups) = (0.0, 0);
    for streams in [0, STREAMS] {
        let open: Vec<Vec<Connection>> =
            sides.iter().map(|side| (0..streams).map(|_| stream(side)).collect()).collect();
        std::thread::sleep(SETTLE);
        let pids: Vec<Vec<u32>> = sides.iter().map(Side::pids).collect::<io::Result<_>>()?;
        let switches = |pids: &[u32]| pids.iter().map(|pid| process::context_switches(*pid)).sum::<u64>();
        let before: Vec<u64> = pids.iter().map(|pids| switches(pids)).collect();
        std::thread::sleep(IDLE);
        let woken: Vec<u64> = pids.iter().zip(before).map(|(pids, before)| switches(pids) - before).collect();
        let pss = |pid: &u32| process::pss_bytes(*pid) as f64 / MIB;
        let sums: Vec<f64> = pids.iter().map(|pids| pids.iter().map(pss).sum()).collect();
        let last = sums.last().copied().filter(|_| sides.len() > 1).unwrap_or(f64::NAN);
        for (nth, side) in sides.iter().enumerate() {
            let first = pss(&pids[nth][0]);
            if nth == 0 {
                (gateway, wakeups) = (first, wakeups.max(woken[nth]));
            }
            let [sum, ratio] = with_ratio(sums[nth], last);
            let name = format!("{}, {streams} streams of events", side.name());
            rows.push(vec![name, sum, ratio, number(first), woken[nth].to_string()]);
        }
        drop(open);
    }
    print("Memory: gateway, engine and monitord; dockerd and containerd", &rows);
    println!(
        "bars: {} MiB of at most {GATEWAY_BAR} for the gateway with {STREAMS} streams; {wakeups} of 0 wake-ups",
        number(gateway)
    );
    Ok(())
}

fn stuck(sides: &[Side]) -> io::Result<()> {
    let mut rows = vec![row(["", "ms a call without", "with", "", "read later", "of"])];
    let mut ratio = f64::NAN;
    for (nth, side) in sides.iter().enumerate() {
        let mut connection = side.connect();
        let mut tag_all = || -> io::Result<f64> {
            let calls = |nth| timed(|| tag(&mut connection, nth));
            let times: Vec<f64> = (0..TAGS).map(calls).collect::<io::Result<_>>()?;
            Ok(times.iter().sum::<f64>() * 1e3 / TAGS as f64)
        };
        tag_all()?;
        let without = tag_all()?;
        let mut reader = stream(side);
        let with = tag_all()?;
        let read = received(&mut reader)?;
        let [text, times] = with_ratio(with, without);
        if nth == 0 {
            ratio = with / without;
        }
        rows.push(vec![
            side.name().to_owned(),
            number(without),
            text,
            times,
            read.to_string(),
            TAGS.to_string(),
        ]);
    }
    print(&format!("{TAGS} tags, without and with a subscriber that reads only afterwards"), &rows);
    println!("bar: {ratio:.2} of at most {STUCK_BAR} × the time without that subscriber");
    Ok(())
}

/// Number of events that arrive at a reader that has read nothing so far, until nothing has come for a second.
fn received(reader: &mut Connection) -> io::Result<usize> {
    let mut count = 0;
    while count < TAGS && reader.is_readable_within(Duration::from_secs(1))? {
        reader.message();
        count += 1;
    }
    Ok(count)
}
