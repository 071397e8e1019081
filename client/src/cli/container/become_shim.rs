//! `run --unit` and `start --unit`: this process, the main process of a systemd unit, becomes the container's shim.
//!
//! Called by `run`. Requests the shim's configuration from the engine, then executes the shim's program in this
//! process. After success this module does not return. See docs/systemd-containers.md in the sources.

use crate::cli::args::socket::EngineSocket;
use crate::cli::container::attach_session::run_failure;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::output;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sampan_client::engine::{Answer, Request, StartUnit};
use sampan_ipc::container::Notify;
use std::env;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The directory of systemd's sockets.
const SYSTEMD: &str = "/run/systemd/";

/// The program that this process becomes.
struct Shim {
    program: String,
    args: Vec<String>,
    stdin: OwnedFd,
}

/// Fails if this process cannot be the main process of a unit. Called before a container is created.
pub(crate) fn check() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("cannot use --unit: only root can")
        .hint("leave User= and DynamicUser= out of the unit; --user sets the user of the container's processes")
            .status(USAGE));
    }
    // systemd sets SYSTEMD_EXEC_PID since version 248, and INVOCATION_ID since version 232. systemd.exec(5).
    let is_main = env::var("SYSTEMD_EXEC_PID").map_or(true, |pid| is_own(&pid));
    if env::var_os("INVOCATION_ID").is_none() || !is_main {
        return Err(Failure::new(
            "cannot use --unit: this is not the main process of a systemd unit",
        )
        .hint("use --unit only in ExecStart=, without a shell: 'sampan generate systemd' writes such a unit")
        .status(USAGE));
    }
    Ok(())
}

/// Fails if NOTIFY_SOCKET is systemd's: systemd would take a message of the engine's child as one of the engine's
/// unit.
pub(crate) fn check_notify() -> Result<(), Failure> {
    let is_systemd = env_var("NOTIFY_SOCKET").is_some_and(|socket| socket.starts_with(SYSTEMD));
    match is_systemd && env_var("INVOCATION_ID").is_some() {
        false => Ok(()),
        true => Err(Failure::new(
            "cannot report readiness to systemd with --sdnotify=conmon: the shim would be in the engine's unit",
        )
        .hint("add --unit, and Delegate= to the unit: 'sampan generate systemd' writes such a unit")
        .status(USAGE)),
    }
}

/// Becomes the shim of `container`. Returns only after a failure.
///
/// `notify` replaces the container's setting for the process that reports readiness. `streams` says whether the
/// container's stdout and stderr go to those of the unit.
pub(crate) fn become_shim(
    socket: &EngineSocket,
    container: &str,
    notify: Option<Notify>,
    streams: [bool; 2],
) -> Failure {
    let (listen, listen_names) = passed_sockets();
    let request = StartUnit {
        container: container.to_owned(),
        notify,
        notify_socket: env_var("NOTIFY_SOCKET"),
        watchdog_us: watchdog(),
        listen,
        listen_names,
        streams,
        ..StartUnit::default()
    };
    let Shim { program, args, stdin } = match request_shim(socket, request) {
        Ok(shim) => shim,
        Err(failure) => return failure,
    };
    let mut command = Command::new(&program);
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let error = command.env_clear().stdin(Stdio::from(stdin)).exec();
    // The engine waits for a shim while this descriptor is open. It is standard input at this point, so replace that.
    if let Ok(null) = File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(null);
    }
    drop(command);
    Failure::new(format!("cannot become {program:?}: {error}"))
        .hint("is sampan-shim installed in the directory of sampan-engine?")
        .status(USAGE)
}

/// Requests the shim's program and configuration from the engine.
fn request_shim(socket: &EngineSocket, request: StartUnit) -> Result<Shim, Failure> {
    let engine = engine(socket);
    let mut answers = engine.request(Request::StartUnit(Box::new(request)), &[]).map_err(run_failure)?;
    // Check that the engine is root's, because root is about to execute the program that the answer names.
    if !getsockopt(&answers, PeerCredentials).is_ok_and(|peer| peer.uid() == 0) {
        let message = format!("the engine at {} is not run by root", engine.socket().display());
        return Err(Failure::new(message)
            .hint("SAMPAN_RUN_DIR or --socket selects another engine")
            .status(USAGE));
    }
    let mut named = None;
    for answer in answers.by_ref() {
        match answer.map_err(run_failure)? {
            Answer::Shim { program, words } => named = Some((program, words)),
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    match (named, answers.take_descriptors().pop()) {
        (Some((program, args)), Some(stdin)) => Ok(Shim { program, args, stdin }),
        _ => Err(Failure::new("the engine did not name the shim's program").status(USAGE)),
    }
}

/// The number and the names of the descriptors that systemd has passed to this process. sd_listen_fds(3).
fn passed_sockets() -> (u32, Option<String>) {
    if !env_var("LISTEN_PID").is_some_and(|pid| is_own(&pid)) {
        return (0, None);
    }
    (env_var("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0), env_var("LISTEN_FDNAMES"))
}

/// The watchdog timeout that systemd has set for this process, in microseconds. sd_watchdog_enabled(3).
fn watchdog() -> Option<u64> {
    let is_ours = env_var("WATCHDOG_PID").is_none_or(|pid| is_own(&pid));
    env_var("WATCHDOG_USEC").filter(|_| is_ours)?.parse().ok().filter(|us| *us > 0)
}

fn env_var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_own(pid: &str) -> bool {
    pid.parse() == Ok(std::process::id())
}
