//! `sampan up`: runs monitord, the engine and the gateway for docker's clients in the foreground, for hosts without a
//! service manager.
//!
//! Starts the daemons, waits until each reports that it is ready, and stops all when a signal comes or when one of them
//! ends. Restarts none. The daemons log to this process's standard error. Each daemon reports READY=1 of
//! sd_notify(3) over a socket of its own.

use crate::cli::args::system::Up;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::signals::Signals;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_client::{Paths, time};
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Longest time that a daemon may take to stop. All need less; a daemon that takes longer is killed.
const STOP_TIME: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Up) -> Result<(), Failure> {
    let mut waker = Waker::new().map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
    // The daemons in the order of their start. They stop in reverse order, so that monitord gets the engine's last events.
    let mut running = Vec::new();
    let mut outcome = Ok(true);
    let programs = [
        ("sampan-monitord", &args.monitord),
        ("sampan-engine", &args.engine),
        ("sampan-docker-api", &args.docker_api),
    ];
    for (name, arguments) in programs.into_iter().take(count(args)) {
        outcome = start(name, arguments).and_then(|service| {
            running.push(service);
            await_ready(&mut running, &mut waker, deadline)
        });
        if !matches!(outcome, Ok(true)) {
            break;
        }
    }
    let outcome = match outcome {
        Ok(true) => announce(args).and_then(|()| await_end(&mut running, &mut waker)),
        // A signal came during the start.
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    while let Some(mut service) = running.pop() {
        service.stop(&mut waker);
    }
    outcome
}

/// Number of daemons to start. The gateway is of no use without the engine.
fn count(args: &Up) -> usize {
    match (args.no_engine, args.no_docker_api) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 3,
    }
}

fn announce(args: &Up) -> Result<(), Failure> {
    let paths = Paths::from_env();
    let mut text = format!("events  {}\n", paths.events_socket().display());
    text.push_str(&format!("emit    {}\n", paths.emit_fifo().display()));
    if !args.no_engine {
        text.push_str(&format!("engine  {}\n", paths.engine_socket().display()));
    }
    if count(args) == 3 {
        text.push_str(&format!("docker  {}\n", paths.docker_socket().display()));
    }
    text.push_str("ready; Ctrl-C stops\n");
    output::print(&text)
}

/// Wakes this process when a signal comes and when a child ends.
struct Waker {
    receiver: UnixStream,
    signals: Signals,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        let signals = Signals::catch(&sender)?;
        low_level::pipe::register(SIGCHLD, sender)?;
        Ok(Waker { receiver, signals })
    }

    /// Waits until a signal comes, a child ends, `other` becomes readable, or `deadline` has passed.
    fn wait(&mut self, other: Option<&UnixDatagram>, deadline: Option<Instant>) {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left =
                    at.saturating_duration_since(Instant::now()).saturating_add(Duration::from_millis(1));
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
        fds.extend(other.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, timeout);
        // Drop all bytes: their number does not matter, since the caller checks everything.
        let mut bytes = [0; 64];
        while matches!((&self.receiver).read(&mut bytes), Ok(1..)) {}
    }
}

/// A running daemon.
struct Service {
    name: &'static str,
    child: Child,
    notify: Notify,
}

/// The socket on which a daemon reports that it is ready. A drop removes the socket's path.
struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    fn open(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!(".{name}-{}-{}", std::process::id(), time::now()));
        let socket = UnixDatagram::bind(&path)?;
        let notify = Notify { socket, path };
        notify.socket.set_nonblocking(true)?;
        Ok(notify)
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn start(name: &'static str, arguments: &[String]) -> Result<Service, Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot start {name}: {error}"));
    let notify = Notify::open(name).map_err(failed)?;
    let mut command = Command::new(program(name));
    command.args(arguments).env("NOTIFY_SOCKET", &notify.path).env_remove("WATCHDOG_USEC");
    // The child gets its own process group, so that Ctrl-C reaches only this process, which stops the daemons in
    // order.
    let child = command.process_group(0).spawn().map_err(|error| {
        failed(error).hint("sampan looks in its own directory, then in PATH; run 'make install'")
    })?;
    Ok(Service { name, child, notify })
}

/// The path of the program: in the directory of this program, or else in PATH.
fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// Waits until the last daemon is ready. Returns false if a signal came first.
fn await_ready(running: &mut [Service], waker: &mut Waker, deadline: Instant) -> Result<bool, Failure> {
    loop {
        if waker.signals.caught().is_some() {
            return Ok(false);
        }
        for service in running.iter_mut() {
            service.check()?;
        }
        let Some(last) = running.last() else {
            return Ok(true);
        };
        if last.is_ready() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Err(
                Failure::new(format!("{} was not ready in time", last.name)).hint("see its log above")
            );
        }
        waker.wait(Some(&last.notify.socket), Some(deadline));
    }
}

/// Waits for a signal, or until a daemon ends.
fn await_end(running: &mut [Service], waker: &mut Waker) -> Result<(), Failure> {
    while waker.signals.caught().is_none() {
        for service in running.iter_mut() {
            service.check()?;
        }
        waker.wait(None, None);
    }
    Ok(())
}

impl Service {
    fn is_ready(&self) -> bool {
        let mut message = [0; 4096];
        while let Ok(len) = self.notify.socket.recv(&mut message) {
            let text = message.get(..len).unwrap_or_default();
            if text.split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return true;
            }
        }
        false
    }

    /// Fails if the daemon has ended.
    fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.ended(status)),
            // An error could only mean that another process is the parent, so the daemon counts as running.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let failure = Failure::new(format!("{} ended: {status}", self.name));
        match status.code() {
            Some(100) => failure
                .hint("another instance uses this run directory; SAMPAN_RUN_DIR selects another directory"),
            _ => failure.hint("see its log above"),
        }
    }

    fn stop(&mut self, waker: &mut Waker) {
        let deadline = Instant::now() + STOP_TIME;
        self.signal(Signal::SIGTERM);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                output::note(&format!("{} did not stop in time; killing it", self.name));
                self.signal(Signal::SIGKILL);
                let _ = self.child.wait();
                return;
            }
            waker.wait(None, Some(deadline));
        }
    }

    fn signal(&mut self, signal: Signal) {
        // The daemon is not reaped yet, so its process ID is valid.
        let Ok(None) = self.child.try_wait() else { return };
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => output::note(&format!("cannot send {signal} to {}: {errno}", self.name)),
        }
    }
}
