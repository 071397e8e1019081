//! sampan-monitord: reads events from two FIFOs, keeps them, and sends them to every subscriber.
//!
//! `main` parses the arguments, opens FIFOs, socket and journal, runs the event loop and returns an exit status: 0
//! after a signal to stop, 1 after a failure, 2 for bad arguments, 100 if another instance is running.
//!
//! [`fifo`] → [`intake`] → [`store`] ([`ring`] in memory, [`journal`] of [`segment`]s on disk) → [`clients`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`], [`setup`] | the settings; opening FIFOs, socket and journal at the start |
//! | [`event_loop`] | the thread that owns the intake, the listener and all clients |
//! | [`fifo`], [`intake`] | reading a FIFO without loss; taking its records into the store |
//! | [`store`], [`ring`] | events as one sequence; the newest ones in memory |
//! | [`journal`], [`segment`], [`numbering`] | events on disk; one file of them; lineages of sequence numbers |
//! | [`syncer`] | the thread that syncs the journal to the disk |
//! | [`clients`], [`client`], [`request`] | serving all clients; one client; its request |
//! | [`until`], [`deadlines`] | where a subscription ends; the thread that wakes the loop at that time |
//! | [`counters`] | numbers for the status and the log |
//! | [`hold`] | tasks of systemd units while this program does not read the FIFOs |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

mod client;
mod clients;
mod config;
mod counters;
mod deadlines;
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
mod until;

use event_loop::EventLoop;
use sampan_daemon::logging;
use sampan_ipc::paths::unwritable_hint;
use sampan_os::memory::{self, HeapBounds};
use setup::SetupError;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The three threads hardly allocate, so one arena is enough. A large buffer is mapped, so that its pages return to
    // the kernel when it is freed. mallopt(3).
    memory::bound_heap(HeapBounds { arenas: 1, mmap_threshold: 32 << 10, trim_threshold: 32 << 10 });
    let settings = match config::Settings::from_args(std::env::args_os().skip(1)) {
        Ok(config::Command::Run(settings)) => settings,
        Ok(config::Command::GiveBack(path, mode)) => return run_unit_helper(|| hold::give_back(&path, mode)),
        Ok(config::Command::HandOver(settings)) => {
            let fifos = [("fifo", settings.fifo.as_path()), ("emit", settings.emit_fifo.as_path())];
            return run_unit_helper(|| hold::hand_over(&fifos));
        }
        Ok(config::Command::Hold(path)) => return run_unit_helper(|| hold::hold(&path)),
        Ok(config::Command::Print(text)) => {
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
            log::error!("stopped serving: polling or reading a FIFO failed: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            let run = "SAMPAN_RUN_DIR";
            log::error!("{}", sampan_ipc::report::chain(&error));
            let own_hint = Some(error.hint()).filter(|hint| !hint.is_empty());
            if let Some(hint) = own_hint.or_else(|| unwritable_hint(&[(run, fifo.as_path()), (run, &socket)]))
            {
                log::error!("hint: {hint}");
            }
            ExitCode::from(if matches!(error, SetupError::Busy { .. }) { 100 } else { 1 })
        }
    }
}

/// Runs a task of [`hold`], which systemd units start while no process reads the FIFOs.
fn run_unit_helper(work: impl FnOnce() -> Result<(), hold::HoldError>) -> ExitCode {
    logging::start("sampan-monitord");
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", sampan_ipc::report::chain(&error));
            ExitCode::FAILURE
        }
    }
}
