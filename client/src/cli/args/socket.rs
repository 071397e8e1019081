//! The option `--socket` of the commands that connect to a daemon.

use clap::{Args, ValueHint};
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(crate) struct EngineSocket {
    /// Connect to the engine at this socket [default: RUN/engine.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsSocket {
    /// Connect to monitord at this socket [default: RUN/events.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}
