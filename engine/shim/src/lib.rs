//! A container's shim: one small process that looks after the container from its start to the end of its last run.
//!
//! The engine starts the shim and sends a [`sampan_ipc::shim::Setup`] on the shim's standard input. For a container
//! that is a systemd unit, the unit's main process executes this program instead (`systemd_unit`). The shim keeps
//! running when the engine ends. The shim has one thread, and sets no timer without a deadline.
//!
//! | module | what it owns |
//! |---|---|
//! | `setup` | the start of the process: reads the setup, becomes subreaper, leaves the terminal |
//! | `event_loop` | all state; waits, then calls what is due |
//! | `start`, `exit`, `requests` | what happens at the start, at the end, and on requests of engines and clients |
//! | `restart_policy` | whether and when the container starts again |
//! | `runtime` | commands of the OCI runtime, as children beside the loop |
//! | `runc_leftovers` | deletes what runc left, without a process of runc |
//! | `stdio` | moves bytes between a process, its log and attached clients |
//! | `attach`, `log`, `nonblocking`, `stream` | the parts of that: a client, a log, a descriptor that must not block |
//! | `oom`, `freezer` | the kernel's control groups: out-of-memory kills, thawing |
//! | `connection`, `console` | sockets: frames from engines and clients, the terminal from the runtime |
//! | `sd_notify`, `atomic_file` | messages to systemd, files for the runtime |
//!
//! The engine uses three modules as well: [`dir`], the container's directory on the disk; [`overlay`], to try whether
//! this host can mount overlayfs; [`runtime_commands`], to clean up after a shim that was killed.
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

mod atomic_file;
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
mod requests;
mod restart_policy;
mod runc_leftovers;
mod runtime;
pub mod runtime_commands;
mod sd_notify;
mod setup;
mod start;
mod stdio;
mod stream;
mod systemd_unit;

use event_loop::Shim;
use std::process::ExitCode;
use systemd_unit::Unit;

/// Runs a shim. The exit status is the container's exit code.
pub fn main() -> ExitCode {
    match setup::begin() {
        Ok(begun) => {
            let stderr = begun.unit.as_ref().and_then(Unit::stderr);
            match Shim::new(begun) {
                Ok(shim) => {
                    drop(stderr);
                    ExitCode::from(shim.run())
                }
                Err(reason) => {
                    systemd_unit::write_error(
                        stderr,
                        &format!("cannot prepare the shim of the container: {reason}"),
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
