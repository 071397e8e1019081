//! sampan-monitord: events come in by two FIFOs and go out to every subscriber.
//!
//! Parses, opens, runs, and turns the outcome into an exit code: 0 asked to stop, 1 failed, 2 bad arguments,
//! 100 another instance is at work.
#![forbid(unsafe_code)]

mod checker;
mod client;
mod clients;
mod config;
mod counters;
mod event_loop;
mod fifo;
mod hold;
mod intake;
mod journal;
mod numbering;
mod request;
mod ring;
mod segment;
mod setup;
mod store;
mod syncer;

use event_loop::EventLoop;
use sampan_daemon::logging;
use sampan_ipc::paths::unwritable_hint;
use sampan_os::memory::{self, HeapBounds};
use setup::SetupError;
use std::process::ExitCode;

fn main() -> ExitCode {
    // One heap for three threads that hardly allocate, and none of the pages of a large buffer once that is freed.
    memory::bound_heap(HeapBounds { arenas: 1, mmap_threshold: 32 << 10, trim_threshold: 32 << 10 });
    let settings = match config::Settings::from_args(std::env::args_os().skip(1)) {
        Ok(config::Asked::Run(settings)) => settings,
        Ok(config::Asked::GiveBack(path, mode)) => return between_lives(|| hold::give_back(&path, mode)),
        Ok(config::Asked::HandOver(settings)) => {
            let fifos = [("fifo", settings.fifo.as_path()), ("emit", settings.emit_fifo.as_path())];
            return between_lives(|| hold::hand_over(&fifos));
        }
        Ok(config::Asked::Hold(path)) => return between_lives(|| hold::hold(&path)),
        Ok(config::Asked::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {}", sampan_ipc::report::chain(&error));
            eprintln!("hint: see 'sampan-monitord --help'");
            return ExitCode::from(2);
        }
    };
    logging::start("sampan-monitord");
    let (fifo, socket) = (settings.fifo.clone(), settings.socket.clone());
    match EventLoop::open(*settings).map(EventLoop::run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            log::error!("cannot go on: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            let run = "SAMPAN_RUN_DIR";
            log::error!("{}", sampan_ipc::report::chain(&error));
            let distrust = Some(error.hint()).filter(|hint| !hint.is_empty());
            if let Some(hint) = distrust.or_else(|| unwritable_hint(&[(run, fifo.as_path()), (run, &socket)]))
            {
                log::error!("hint: {hint}");
            }
            ExitCode::from(if matches!(error, SetupError::Busy { .. }) { 100 } else { 1 })
        }
    }
}

/// Does what a unit asks for before and after a process that serves.
fn between_lives(work: impl FnOnce() -> Result<(), hold::HoldError>) -> ExitCode {
    logging::start("sampan-monitord");
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", sampan_ipc::report::chain(&error));
            ExitCode::FAILURE
        }
    }
}
