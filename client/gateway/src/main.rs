//! The program `sampan-docker-api`: reads its arguments, opens its socket, runs the event loop.
#![forbid(unsafe_code)]

use sampan_client::Engine;
use sampan_daemon::listen::Listener;
use sampan_daemon::logging;
use sampan_daemon::systemd::{self, NotifyState};
use sampan_gateway::config::{self, Config, Invocation};
use sampan_gateway::exchange::Shared;
use sampan_gateway::server::event_loop::Server;
use sampan_ipc::report;
use sampan_os::memory::{self, HeapBounds};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// Exit status of a bad command line.
const USAGE: u8 = 2;
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
            return ExitCode::from(USAGE);
        }
    };
    logging::start("sampan-docker-api");
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let listener = match systemd::passed().into_iter().find(|(name, _)| name == "docker") {
        Some((_, socket)) => Listener::adopt(socket)?,
        None => Listener::bind(&config.socket, "sampan-docker-api", None, BUSY_WAIT)?,
    };
    let engine = Engine::new(config.paths.engine_socket());
    let shared = Shared { engine, paths: config.paths };
    let server = Server::new(listener, shared, config.idle_timeout)?;
    systemd::notify(&[NotifyState::Ready]);
    Ok(server.run()?)
}
