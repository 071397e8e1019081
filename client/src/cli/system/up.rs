//! `sampan up`: monitord and the engine in the foreground, for hosts without a service manager.
//!
//! Starts both, waits until both have said that they are ready, and stops both when a signal comes or one of
//! them ends; restarts neither. Their logs go where this process's own go. Readiness is sd_notify(3)'s READY=1
//! over a socket a child.

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

/// How long a child may take to stop before it is killed: longer than either needs to tidy up.
const STOP_TIME: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Up) -> Result<(), Failure> {
    let mut waker = Waker::new().map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
    // In the order of starting; stopped in reverse, so that the engine's last events still find a reader.
    let mut running = Vec::new();
    let mut outcome = Ok(true);
    let programs = [("sampan-monitord", &args.monitord), ("sampan-engine", &args.engine)];
    for (name, arguments) in programs.into_iter().take(if args.no_engine { 1 } else { 2 }) {
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
        // Asked to stop while starting.
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    while let Some(mut service) = running.pop() {
        service.stop(&mut waker);
    }
    outcome
}

fn announce(args: &Up) -> Result<(), Failure> {
    let paths = Paths::from_env();
    let mut text = format!("events  {}\n", paths.events_socket().display());
    text.push_str(&format!("emit    {}\n", paths.emit_fifo().display()));
    if !args.no_engine {
        text.push_str(&format!("engine  {}\n", paths.engine_socket().display()));
    }
    text.push_str("ready; Ctrl-C stops\n");
    output::print(&text)
}

/// What wakes this process: signals for it, and the end of a child.
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

    /// Waits for a ring, or until `other` is readable, or until `deadline`.
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
        // Rings are not counted: whoever is woken looks at everything.
        let mut rings = [0; 64];
        while matches!((&self.receiver).read(&mut rings), Ok(1..)) {}
    }
}

/// A child.
struct Service {
    name: &'static str,
    child: Child,
    notify: Notify,
}

/// Where a child says that it is ready; the path goes with it.
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
    // A group of its own: Ctrl-C is for this process, which stops its children in order.
    let child = command.process_group(0).spawn().map_err(|error| {
        failed(error).hint("it is looked for beside this program, then in PATH; run 'make install'")
    })?;
    Ok(Service { name, child, notify })
}

/// Beside this program, else wherever PATH says.
fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// Waits until the last service is ready; false if it was asked to stop meanwhile.
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

/// Waits until this process is asked to stop, or a child ends.
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

    /// An error if it has ended.
    fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.ended(status)),
            // It cannot be another's child; it runs.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let failure = Failure::new(format!("{} ended: {status}", self.name));
        match status.code() {
            Some(100) => {
                failure.hint("another instance is at work in this run directory; SAMPAN_RUN_DIR moves it")
            }
            _ => failure.hint("see its log above"),
        }
    }

    fn stop(&mut self, waker: &mut Waker) {
        let deadline = Instant::now() + STOP_TIME;
        self.signal(Signal::SIGTERM);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                output::note(&format!("{} does not stop: killed", self.name));
                self.signal(Signal::SIGKILL);
                let _ = self.child.wait();
                return;
            }
            waker.wait(None, Some(deadline));
        }
    }

    fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the number is still its own.
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
