//! Where the daemons listen: the option `--socket` of every command that asks one.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Where the engine listens.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineSocket {
    /// Ask the engine that listens here [default: RUN/engine.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Where monitord listens.
#[derive(Debug, Args)]
pub(crate) struct EventsSocket {
    /// Ask the monitord that listens here [default: RUN/events.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}
