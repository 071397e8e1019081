//! A container's shim: one small process that looks after it from its start to the end of its last run.
//!
//! Started by the engine with [`sampan_ipc::shim::Setup`] on its standard input, or become by the main process of a unit of
//! systemd's (`systemd_unit`); lives on without the engine. Holds no thread, and no timer while nothing is due.
//!
//! From above to below: `setup` reads what the shim has to know; `event_loop` owns all and waits; `start`, `exit` and
//! `requests` are what it does; `stdio` carries bytes between the container, its log (`log`) and attached clients
//! (`attach`) by the means of `nonblocking`; `runtime` runs the OCI runtime beside the loop; `oom`, `freezer` and `overlay`
//! are what it asks of the kernel; `pid_file`, `sd_notify` and `connection` are how others hear of it.
//!
//! The engine uses what both do: [`dir`], the container's directory on the disk; [`overlay`], which it tries before it
//! relies on it; [`runtime_commands`], for a container whose shim was killed.

mod attach;
mod connection;
mod console;
pub mod dir;
mod event_loop;
mod exit;
mod freezer;
mod log;
mod nonblocking;
mod oom;
pub mod overlay;
mod pid_file;
mod requests;
mod restart_policy;
mod runc_leftovers;
mod runtime;
pub mod runtime_commands;
mod sd_notify;
mod setup;
mod start;
mod stdio;
mod systemd_unit;

use event_loop::Shim;
use std::process::ExitCode;
use systemd_unit::Unit;

/// Runs a shim; the exit status is the container's.
pub fn main() -> ExitCode {
    match setup::begin() {
        Ok((setup, connection, unit)) => {
            let stderr = unit.as_ref().and_then(Unit::stderr);
            match Shim::new(setup, connection, unit) {
                Ok(shim) => {
                    drop(stderr);
                    ExitCode::from(shim.run())
                }
                Err(reason) => {
                    systemd_unit::complain(
                        stderr,
                        &format!("cannot begin to look after the container: {reason}"),
                    );
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
