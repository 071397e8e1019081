//! A container's shim: one small process that looks after it from its start to the end of its last run.
//!
//! Started by the engine with [`sampan_ipc::shim::Setup`] on its standard input, or become by the main process of a unit of
//! systemd's (`unit`); lives on without the engine.
//! From above to below: `event_loop` owns all and waits; `starting`, `ending` and `asks` are what it does;
//! `stdio` carries bytes between the container, its log (`log`) and `attached` clients by the means of
//! `flow`; `runtime` runs the OCI runtime beside the loop. Holds no thread, and no timer while nothing is due.

mod asks;
mod attached;
mod connection;
mod console;
mod ending;
mod event_loop;
mod flow;
mod freezer;
mod journald;
mod lines;
mod log;
mod logfile;
mod notify;
mod oom;
mod process;
mod remains;
mod restart;
pub(crate) mod rootfs;
mod runtime;
mod starting;
mod state;
mod stdio;
mod unit;

use event_loop::Shim;
use std::process::ExitCode;
use unit::Unit;

/// Runs a shim; the exit status is the container's.
pub fn main() -> ExitCode {
    match process::begin() {
        Ok((setup, connection, unit)) => {
            let stderr = unit.as_ref().and_then(Unit::stderr);
            match Shim::new(setup, connection, unit) {
                Ok(shim) => {
                    drop(stderr);
                    ExitCode::from(shim.run())
                }
                Err(reason) => {
                    unit::complain(stderr, &format!("cannot begin to look after the container: {reason}"));
                    ExitCode::from(125)
                }
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("hint: sampan-shim is started by sampan-engine or 'sampan start --unit', not by hand");
            ExitCode::from(125)
        }
    }
}
