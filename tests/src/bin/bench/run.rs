//! `bench run`: the cost of running a container, compared with the bare runtime and with peers, and the memory of
//! running containers.
//!
//! Tables: time and CPU time of a run of `true`; bytes through an attached container; memory, threads and wake-ups with
//! sleeping containers; delay of a `die` event. Runners alternate, and each round begins with another one.

use crate::options::Options;
use crate::orphans::{self, Run};
use crate::runner::{Bare, Containerd, Runner, with_docker, with_podman};
use crate::table::{median, number, print, range, row, with_ratio};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::container::Create;
use sampan_ipc::engine::{Request, Stop};
use sampan_ipc::watch::Subscribe;
use sampan_tests::containers::{Attached, Containers, IMAGE};
use sampan_tests::process;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Least number of runs for a median.
const RUNS_MIN: u64 = 10;
/// Highest accepted time of a run, as a multiple of the bare runtime's.
const WALL_BAR: f64 = 1.25;
/// Highest accepted CPU time of a run without its mounts, as a multiple of the bare runtime's.
const CPU_BAR: f64 = 1.15;
/// Lowest accepted rate through an attached container, as a share of a bare pipe pair's.
const ATTACH_BAR: f64 = 0.7;
/// Highest accepted PSS of a shim, in MiB.
const SHIM_BAR: f64 = 0.6;
/// Highest accepted PSS of an idle engine, in MiB.
const ENGINE_BAR: f64 = 3.0;
/// Highest accepted PSS of monitord, in MiB.
const MONITORD_BAR: f64 = 1.0;
/// Highest accepted time from a process's end to the `die` event, in ms.
const DIE_BAR: f64 = 5.0;
/// Number of sleeping containers.
const MANY: usize = 50;
/// Time during which wake-ups are counted.
const IDLE: Duration = Duration::from_secs(30);
/// Time for processes to become idle.
const SETTLE: Duration = Duration::from_secs(3);
/// Bytes through an attached container.
const BYTES: u64 = 1 << 30;
const MIB: f64 = 1048576.0;

/// Prints the tables.
///
/// # Errors A container or a peer does not run.
pub fn run(options: &Options) -> io::Result<()> {
    orphans::adopt()?;
    let runs = options.runs.max(RUNS_MIN);
    let containers = Containers::quiet("runtime = \"runc\"");
    run_true(&containers, options, runs)?;
    if !options.pullers.is_empty() {
        return Ok(());
    }
    die(&containers, runs)?;
    attach(&containers, runs)?;
    asleep(&containers)
}

fn command(words: &[&str]) -> Create {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    Create { image: IMAGE.to_owned(), command, ..Create::default() }
}

fn remove(containers: &Containers, id: &str) {
    containers.ok(Request::RemoveContainer { container: id.to_owned(), force: true });
}

fn run_true(containers: &Containers, options: &Options, runs: u64) -> io::Result<()> {
    // This container stays: the bundle of the bare runtime uses its configuration.
    let id = containers.create(command(&["true"]));
    containers.attach_start(&id).to_end(b"");
    containers.await_no_shim();
    let bare = Bare::like(containers, &id)?;
    let mounts = median((0..runs).map(|_| bare.mounts_cpu()).collect::<io::Result<_>>()?);
    let mut runners = vec![Runner::Bare(bare), Runner::Protocol, Runner::Cli];
    let dir = containers.host.path("peers");
    std::fs::create_dir(&dir)?;
    let tar = containers.host.path("box.tar");
    let mut add = |name: &str, runner: &dyn Fn() -> io::Result<Runner>| {
        if !options.wants(name) {
            return;
        }
        match runner() {
            Ok(runner) => runners.push(runner),
            Err(error) => println!("not here, and so not measured: {name} ({error})"),
        }
    };
    add("podman", &|| with_podman(&tar, &dir));
    add("ctr", &|| Containerd::start(&dir).map(Runner::Ctr));
    add("docker", &|| with_docker(&tar, &dir));
    let mut all: Vec<Vec<Run>> = runners.iter().map(|_| Vec::new()).collect();
    for round in 0..=runs {
        for nth in 0..runners.len() {
            let nth = (nth + usize::try_from(round).map_err(io::Error::other)?) % runners.len();
            let run = runners[nth].run(containers, round)?;
            // The first round only warms caches.
            if round > 0 {
                all[nth].push(run);
            }
        }
    }
    print_runs(&runners, &all, mounts, runs);
    remove(containers, &id);
    Ok(())
}

fn print_runs(runners: &[Runner], all: &[Vec<Run>], mounts: f64, runs: u64) {
    let wall = |nth: usize| median(all[nth].iter().map(|run| run.wall * 1e3).collect());
    let whole = |nth: usize| median(all[nth].iter().map(|run| run.whole * 1e3).collect());
    // The mean, since the CPU time of daemons is counted in ticks of 10 ms.
    let cpu = |nth: usize| all[nth].iter().map(|run| run.cpu * 1e3).sum::<f64>() / all[nth].len() as f64;
    let mut rows =
        vec![row(["", "wall ms", "", "× bare", "until all is gone", "× bare", "CPU ms", "× bare"])];
    for (nth, runner) in runners.iter().enumerate() {
        let [wall_text, wall_ratio] = with_ratio(wall(nth), wall(0));
        let [whole_text, whole_ratio] = with_ratio(whole(nth), whole(0));
        let [cpu_text, cpu_ratio] = with_ratio(cpu(nth), cpu(0));
        let range = range(all[nth].iter().map(|run| run.wall * 1e3));
        let name = runner.name().to_owned();
        rows.push(vec![name, wall_text, range, wall_ratio, whole_text, whole_ratio, cpu_text, cpu_ratio]);
    }
    print(&format!("A container that runs 'true'; wall: median of {runs}, CPU: mean"), &rows);
    for (nth, runner) in
        runners.iter().enumerate().filter(|(_, r)| matches!(r, Runner::Protocol | Runner::Cli))
    {
        println!(
            "bar, {}: wall {:.2} of at most {WALL_BAR} × runc; CPU {:.2} of at most {CPU_BAR} × without the {} ms of mounts",
            runner.name(),
            wall(nth) / wall(0),
            (cpu(nth) - mounts * 1e3) / cpu(0),
            number(mounts * 1e3),
        );
    }
}

fn die(containers: &Containers, runs: u64) -> io::Result<()> {
    let mut latencies = Vec::new();
    for _ in 0..runs {
        let id = containers.create(command(&["sleep", "1000"]));
        containers.start(&id);
        let pid = containers.summary(&id).map_or(0, |summary| summary.pid);
        let filters = vec![format!("container={id}"), "event=die".to_owned()];
        let mut events =
            containers.host.subscribe(Subscribe { filters, follow: true, ..Subscribe::default() });
        events.welcome();
        let start = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        events.event();
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
        remove(containers, &id);
    }
    let most = latencies.iter().copied().fold(0.0, f64::max);
    println!(
        "\nFrom the kill of a container's process to its 'die' at a subscriber, median of {runs}: {} ms of at most \
         {DIE_BAR} ms (most: {} ms)",
        number(median(latencies)),
        number(most)
    );
    Ok(())
}

fn attach(containers: &Containers, runs: u64) -> io::Result<()> {
    let (mut bare, mut none, mut json) = (Vec::new(), Vec::new(), Vec::new());
    // A logged container is slower: it gets fewer bytes.
    for _ in 0..runs {
        bare.push(through_cat()?);
        none.push(through_container(containers, "none", BYTES)?);
        json.push(through_container(containers, "json-file", BYTES / 16)?);
    }
    let (bare, none, json) = (median(bare), median(none), median(json));
    let mut rows = vec![row(["", "MiB/s", "× pipes"])];
    for (name, rate) in
        [("writer | cat | reader", bare), ("attached cat, no log", none), ("attached cat, json-file", json)]
    {
        let [rate, ratio] = with_ratio(rate, bare);
        rows.push(vec![name.to_owned(), rate, ratio]);
    }
    print(&format!("Bytes through an attached container; median of {runs}"), &rows);
    println!("bar: {:.2} of at least {ATTACH_BAR} × a bare pipe pair", none / bare);
    Ok(())
}

/// Rate from a writer to a reader, in MiB per second.
fn rate(mut stdin: impl Write + Send, mut stdout: impl Read, bytes: u64) -> io::Result<f64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || -> io::Result<()> {
            let block = vec![b'x'; 64 << 10];
            for _ in 0..bytes / block.len() as u64 {
                stdin.write_all(&block)?;
            }
            Ok(())
        });
        let mut block = vec![0; 64 << 10];
        let mut received = 0;
        loop {
            match stdout.read(&mut block)? {
                0 => break,
                len => received += len as u64,
            }
        }
        writer.join().map_err(|_| io::Error::other("the writer failed"))??;
        match received == bytes {
            true => Ok(bytes as f64 / MIB / start.elapsed().as_secs_f64()),
            false => Err(io::Error::other(format!("{received} bytes of {bytes} came"))),
        }
    })
}

fn through_cat() -> io::Result<f64> {
    let mut cat =
        Command::new("/bin/busybox").arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let missing = || io::Error::other("cat has no pipes");
    let (stdin, stdout) = (cat.stdin.take().ok_or_else(missing)?, cat.stdout.take().ok_or_else(missing)?);
    let rate = rate(stdin, stdout, BYTES);
    cat.wait()?;
    rate
}

fn through_container(containers: &Containers, driver: &str, bytes: u64) -> io::Result<f64> {
    let create = Create { open_stdin: true, log_driver: Some(driver.to_owned()), ..command(&["cat"]) };
    let id = containers.create(create);
    let Attached { stdin, stdout, control, stderr, .. } = containers.attach_start(&id);
    let stdin: File = stdin.ok_or_else(|| io::Error::other("no stdin"))?;
    let rate = rate(stdin, stdout, bytes);
    drop((control, stderr));
    remove(containers, &id);
    rate
}

fn asleep(containers: &Containers) -> io::Result<()> {
    let (monitord, engine) = (containers.host.pid(), containers.engine_pid().cast_unsigned());
    let mib = |pid: u32| number(process::pss_bytes(pid) as f64 / MIB);
    let mut rows = vec![row([
        "",
        "engine PSS MiB",
        "threads",
        "monitord PSS MiB",
        "a shim's PSS MiB",
        "most",
        "threads",
        "wake-ups in 30 s",
    ])];
    let mut ids = Vec::new();
    for many in [0, 1, MANY] {
        while ids.len() < many {
            let id = containers.create(command(&["sleep", "1000"]));
            containers.start(&id);
            ids.push(id);
        }
        std::thread::sleep(SETTLE);
        let shims: Vec<u32> = containers.shims().into_iter().map(i32::cast_unsigned).collect();
        let before: u64 = shims.iter().map(|pid| process::context_switches(*pid)).sum();
        let mut cells = vec![
            format!("{many} containers"),
            mib(engine),
            process::threads(engine).to_string(),
            mib(monitord),
        ];
        if !shims.is_empty() {
            std::thread::sleep(IDLE);
            let after: u64 = shims.iter().map(|pid| process::context_switches(*pid)).sum();
            let pss: Vec<f64> = shims.iter().map(|pid| process::pss_bytes(*pid) as f64 / MIB).collect();
            let threads = shims.iter().map(|pid| process::threads(*pid)).max().unwrap_or(0);
            let most = pss.iter().copied().fold(0.0, f64::max);
            cells.extend([
                number(median(pss)),
                number(most),
                threads.to_string(),
                (after - before).to_string(),
            ]);
        }
        rows.push(cells);
    }
    print("Containers that sleep", &rows);
    println!(
        "bars: PSS of at most {ENGINE_BAR} MiB for the engine, {MONITORD_BAR} for monitord, {SHIM_BAR} for a shim; no \
         wake-up"
    );
    for id in ids {
        containers.ok(Request::Stop(Stop { container: id.clone(), timeout: Some(0), signal: None }));
        remove(containers, &id);
    }
    Ok(())
}
