//! The program `sampan-docker-api`: reads its arguments, opens its socket, runs the event loop.
#![forbid(unsafe_code)]

use nix::unistd::Gid;
use sampan_daemon::listen::{ListenError, Listener};
use sampan_daemon::logging;
use sampan_daemon::systemd::{self, NotifyState};
use sampan_gateway::config::{self, Config, Invocation};
use sampan_gateway::exchange::Shared;
use sampan_gateway::server::event_loop::Server;
use sampan_ipc::paths::unwritable_hint;
use sampan_ipc::trust::{self, TrustError};
use sampan_ipc::{accounts, report};
use sampan_os::memory::{self, HeapBounds};
use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Exit status of a bad command line.
const USAGE: u8 = 2;
/// Exit status when another gateway has the socket.
const IN_USE: u8 = 100;
/// Longest wait for another gateway that ends.
const BUSY_WAIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    memory::bound_heap(HeapBounds { arenas: 1, mmap_threshold: 1 << 20, trim_threshold: 1 << 20 });
    let config = match config::from_args(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(config)) => config,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {}", report::chain(&error));
            eprintln!("hint: see 'sampan-docker-api --help'");
            turn_away();
            return ExitCode::from(USAGE);
        }
    };
    logging::start("sampan-docker-api");
    let socket = config.socket.clone();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::chain(error.as_ref()));
            let places = [("SAMPAN_RUN_DIR", socket.as_path())];
            let distrust = error.downcast_ref().map(TrustError::hint).filter(|hint| !hint.is_empty());
            if let Some(hint) = distrust.or_else(|| unwritable_hint(&places)) {
                log::error!("hint: {hint}");
            }
            let in_use = matches!(error.downcast_ref(), Some(ListenError::Busy { .. }));
            ExitCode::from(if in_use { IN_USE } else { 1 })
        }
    }
}

/// The socket that systemd has passed.
fn passed() -> Option<OwnedFd> {
    systemd::passed().into_iter().find(|(name, _)| name == "docker").map(|(_, socket)| socket)
}

/// Closes the connections that wait at the socket of systemd. Called before an exit after which a new start would fail,
/// too: systemd would start the gateway for these connections again and again.
fn turn_away() {
    if let Some(Ok(listener)) = passed().map(Listener::adopt) {
        while listener.accept().is_ok() {}
    }
}

/// Takes the socket from systemd, or binds it. Only the gateway's user may connect; if that is root, also the members of
/// the administrators' group, if the group exists: the rule of the engine's socket, which the gateway hands on.
fn listen(path: &Path) -> Result<Listener, Box<dyn Error>> {
    if let Some(socket) = passed() {
        return Ok(Listener::adopt(socket)?);
    }
    let is_root = nix::unistd::geteuid().is_root();
    // The run directory of root lets members of Sampan's groups pass; other users' is private.
    trust::make(trust::parent(path), if is_root { trust::PASSABLE } else { trust::PRIVATE })?;
    let group = is_root.then(|| accounts::group_id(accounts::ADMIN_GROUP)).flatten();
    Ok(Listener::bind(path, "sampan-docker-api", group.map(Gid::from_raw), BUSY_WAIT)?)
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let listener = listen(&config.socket)?;
    let idle_timeout = config.idle_timeout(listener.is_passed());
    match listener.is_passed() {
        true => log::info!("serving the socket that systemd passed"),
        false => log::info!("listening on {}", config.socket.display()),
    }
    let server = Server::new(listener, Shared::new(config.paths), idle_timeout)?;
    systemd::notify(&[NotifyState::Ready]);
    Ok(server.run()?)
}
