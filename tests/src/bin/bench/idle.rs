//! Idle costs: memory, threads and wake-ups of the daemons, memory of a silent subscriber, and the size of the
//! programs.

use crate::options::Options;
use crate::server::{Server, beside};
use crate::system::{System, Wish};
use crate::table::{number, print, row};
use sampan_tests::process;
use sampan_tests::supernode::Supernode;
use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time during which wake-ups are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Time for a server to become idle.
const SETTLE: Duration = Duration::from_secs(3);
const MANY: usize = 1000;

/// Measures and prints.
///
/// # Errors A server failed.
pub fn run(options: &Options) -> io::Result<()> {
    idle(options)?;
    subscribers(options)?;
    sizes()
}

fn idle(options: &Options) -> io::Result<()> {
    let servers: Vec<Server> = options.systems.iter().map(|s| Server::start(*s)).collect::<Result<_, _>>()?;
    let mut watched: Vec<(&str, u32)> =
        servers.iter().map(|server| (server.system.name(), server.pid())).collect();
    let engine = if options.systems.contains(&System::Sampan) { Some(Engine::start()?) } else { None };
    if let Some(engine) = &engine {
        watched.push(("sampan-engine", engine.child.id()));
    }
    let gateway = engine.as_ref().map(Gateway::start).transpose()?;
    if let Some(gateway) = &gateway {
        watched.push(("sampan-docker-api", gateway.child.id()));
    }
    let supernode = options.systems.contains(&System::Sampan).then(quiet_supernode).transpose()?;
    if let Some((supernode, _)) = &supernode {
        watched.push(("sampan-supernode", supernode.pid()));
    }
    std::thread::sleep(SETTLE);
    let before: Vec<u64> = watched.iter().map(|(_, pid)| process::context_switches(*pid)).collect();
    std::thread::sleep(MINUTE);
    let mut rows = vec![row(["", "PSS MiB", "RSS MiB", "threads", "wake-ups a minute"])];
    for ((name, pid), before) in watched.into_iter().zip(before) {
        let wakeups = process::context_switches(pid) - before;
        rows.push(vec![
            name.to_owned(),
            mib(process::pss_bytes(pid)),
            mib(rss_bytes(pid)?),
            process::threads(pid).to_string(),
            wakeups.to_string(),
        ]);
    }
    print("Idle for 60 seconds", &rows);
    Ok(())
}

/// A supernode, and a reader of its FIFO, so that it can write its events as on a real host; nothing is read.
fn quiet_supernode() -> io::Result<(Supernode, File)> {
    let mut supernode = Supernode::new(1, &[]);
    let fifo = supernode.host().fifo();
    std::fs::create_dir_all(supernode.host().path("run"))?;
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    let reader = File::options().read(true).write(true).open(&fifo)?;
    supernode.start_again();
    Ok((supernode, reader))
}

fn subscribers(options: &Options) -> io::Result<()> {
    let mut rows = vec![row(["", "PSS MiB", "RSS MiB", "user space, bytes a subscriber"])];
    for system in options.systems.iter().copied() {
        let server = Server::start(system)?;
        std::thread::sleep(SETTLE);
        let before = process::anonymous_bytes(server.pid());
        let receivers = server.subscribers(MANY, Wish::All, 1, false)?;
        std::thread::sleep(SETTLE);
        let after = process::anonymous_bytes(server.pid());
        rows.push(vec![
            system.name().to_owned(),
            mib(process::pss_bytes(server.pid())),
            mib(rss_bytes(server.pid())?),
            (after.saturating_sub(before) / MANY as u64).to_string(),
        ]);
        drop(receivers);
    }
    print("1,000 silent subscribers", &rows);
    Ok(())
}

fn sizes() -> io::Result<()> {
    let mut rows = vec![row(["", "KiB"])];
    for name in
        ["sampan", "sampan-monitord", "sampan-engine", "sampan-docker-api", "sampan-supernode", "bare"]
    {
        rows.push(vec![name.to_owned(), (std::fs::metadata(beside(name)?)?.len() / 1024).to_string()]);
    }
    print("Sizes of the programs", &rows);
    Ok(())
}

fn mib(bytes: u64) -> String {
    number(bytes as f64 / f64::from(1 << 20))
}

fn rss_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// A private engine.
struct Engine {
    child: Child,
    dir: tempfile::TempDir,
    /// Read end of the FIFO, so that the engine can write its events as on a real host; nothing is read from it.
    _fifo: File,
}

impl Engine {
    fn start() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("sampan-bench.").tempdir()?;
        let mut command = Command::new(beside("sampan-engine")?);
        for name in ["RUN", "STATE", "DATA"] {
            let path = dir.path().join(name.to_lowercase());
            std::fs::create_dir(&path)?;
            command.env(format!("SAMPAN_{name}_DIR"), path);
        }
        let log = File::create(dir.path().join("log"))?;
        let fifo = dir.path().join("run/monitor.fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        let reader = File::options().read(true).write(true).open(&fifo)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut engine = Engine { child, dir, _fifo: reader };
        let socket = engine.dir.path().join("run/engine.sock");
        let deadline = Instant::now() + crate::receive::PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if engine.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other("sampan-engine does not come up"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(engine)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway for a private engine, which stays although nobody uses it.
struct Gateway {
    child: Child,
}

impl Gateway {
    fn start(engine: &Engine) -> io::Result<Self> {
        let mut command = Command::new(beside("sampan-docker-api")?);
        for name in ["RUN", "STATE", "DATA"] {
            command.env(format!("SAMPAN_{name}_DIR"), engine.dir.path().join(name.to_lowercase()));
        }
        command.args(["--idle-timeout", "0"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(engine.dir.path().join("gateway.log"))?);
        let mut gateway = Gateway { child: command.spawn()? };
        let socket = engine.dir.path().join("run/docker.sock");
        let deadline = Instant::now() + crate::receive::PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if gateway.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other("sampan-docker-api does not come up"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
