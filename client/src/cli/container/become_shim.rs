//! `run --unit` and `start --unit`: this process, the main one of a unit of systemd's, becomes the container's shim.
//!
//! Called by `run`. Asks the engine for the shim's set-up, and executes the shim's program in place of this one.
//! Never returns if that goes well. docs/systemd-containers.md, in the sources.

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

/// Where systemd's sockets are.
const SYSTEMD: &str = "/run/systemd/";

/// What becomes of this process.
struct Shim {
    program: String,
    args: Vec<String>,
    stdin: OwnedFd,
}

/// Whether this process can be a unit's main one: before anything is made.
pub(crate) fn check() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("cannot be a container's unit: that takes root")
            .hint("leave User= and DynamicUser= out of the unit; --user is for the container's processes")
            .status(USAGE));
    }
    // systemd says so since version 248, and which invocation it is since 232. systemd.exec(5).
    let is_main = env::var("SYSTEMD_EXEC_PID").map_or(true, |pid| is_own(&pid));
    if env::var_os("INVOCATION_ID").is_none() || !is_main {
        return Err(Failure::new(
            "cannot be a container's unit: this is not the main process of a unit of systemd's",
        )
        .hint("--unit is for ExecStart= alone, without a shell: 'sampan generate systemd' writes such a unit")
        .status(USAGE));
    }
    Ok(())
}

/// Whether a shim that the engine starts can tell whoever listens at NOTIFY_SOCKET that the container is ready.
pub(crate) fn check_notify() -> Result<(), Failure> {
    let is_systemd = env_var("NOTIFY_SOCKET").is_some_and(|socket| socket.starts_with(SYSTEMD));
    match is_systemd && env_var("INVOCATION_ID").is_some() {
        false => Ok(()),
        true => Err(Failure::new(
            "cannot tell systemd with --sdnotify=conmon that the container is ready: its shim would be in the engine's unit",
        )
        .hint("run it with --unit, and Delegate= in the unit: 'sampan generate systemd' writes such a unit")
        .status(USAGE)),
    }
}

/// Becomes the shim of `container`; returns only if that fails.
///
/// `notify` says who tells that the unit is ready, if not the container's own choice; `streams` whether the unit's
/// standard output and error get what the container writes.
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
    // It is standard input by now, and as long as it is open, the engine waits for a shim.
    if let Ok(null) = File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(null);
    }
    drop(command);
    Failure::new(format!("cannot become {program:?}: {error}"))
        .hint("the engine names it: is it installed beside sampan-engine?")
        .status(USAGE)
}

/// Asks the engine what to become.
fn request_shim(socket: &EngineSocket, request: StartUnit) -> Result<Shim, Failure> {
    let engine = engine(socket);
    let mut answers = engine.request(Request::StartUnit(Box::new(request)), &[]).map_err(run_failure)?;
    // What it says is executed by root.
    if !getsockopt(&answers, PeerCredentials).is_ok_and(|peer| peer.uid() == 0) {
        let message = format!("the engine at {} is not run by root", engine.socket().display());
        return Err(Failure::new(message).hint("SAMPAN_RUN_DIR or --socket names another one").status(USAGE));
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
        _ => Err(Failure::new("the engine did not say what to become").status(USAGE)),
    }
}

/// How many descriptors systemd has passed on to this process, and their names. sd_listen_fds(3).
fn passed_sockets() -> (u32, Option<String>) {
    if !env_var("LISTEN_PID").is_some_and(|pid| is_own(&pid)) {
        return (0, None);
    }
    (env_var("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0), env_var("LISTEN_FDNAMES"))
}

/// How long systemd waits for a sign of life, in microseconds. sd_watchdog_enabled(3).
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
