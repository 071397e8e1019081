//! The command line of the host as a whole: `system`, `info`, `version`, `monitor` and `up`.

use super::display::ListFormat;
use super::lazy::Lazy;
use super::socket::{EngineSocket, EventsSocket};
use clap::{Args, Subcommand};

/// Arguments of `system`.
#[derive(Debug, Args)]
pub(crate) struct System {
    /// What to do.
    #[command(subcommand)]
    pub command: SystemCommand,
}

/// What `system` does.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what takes room on the disk, and how much of that could go
    Df(Lazy<Df>),
}

/// Arguments of `system df`.
#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Show each image as well
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the list like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `monitor`.
#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// What to look at.
    #[command(subcommand)]
    pub command: MonitorCommand,
}

/// What `monitor` looks at.
#[derive(Debug, Subcommand)]
pub(crate) enum MonitorCommand {
    /// Show sequence number, rate, subscribers and their lag, ring, journal, and what was lost
    Status(Lazy<MonitorStatus>),
}

/// Arguments of `monitor status`.
#[derive(Debug, Args)]
pub(crate) struct MonitorStatus {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where monitord listens.
    #[command(flatten)]
    pub socket: EventsSocket,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Pass this argument to sampan-monitord; repeat it for more
    #[arg(long = "monitord-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub monitord: Vec<String>,
    /// Pass this argument to sampan-engine; repeat it for more
    #[arg(long = "engine-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub engine: Vec<String>,
    /// Start monitord alone
    #[arg(long)]
    pub no_engine: bool,
    /// Wait at most this long for both to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u32,
}
