//! The command line of the host as a whole: `system`, `info`, `version`, `monitor` and `up`.

use super::lazy::Lazy;
use super::socket::{EngineSocket, EventsSocket};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct System {
    #[command(subcommand)]
    pub command: SystemCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show disk usage, and how much of that can be reclaimed
    Df(Lazy<Df>),
}

#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Also show each image
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the list in this format: table, json (one object per line), or a template of Go [default: table]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print one JSON object with Sampan's own keys
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Print docker's object in this format: json, or a template of Go
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Print one JSON object with Sampan's own keys
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Print docker's object in this format: json, or a template of Go
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Monitor {
    #[command(subcommand)]
    pub command: MonitorCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MonitorCommand {
    /// Show sequence number, event rate, subscribers and their lag, ring, journal, and lost events
    Status(Lazy<MonitorStatus>),
}

#[derive(Debug, Args)]
pub(crate) struct MonitorStatus {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: EventsSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Pass this argument to sampan-monitord; repeat for more
    #[arg(long = "monitord-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub monitord: Vec<String>,
    /// Pass this argument to sampan-engine; repeat for more
    #[arg(long = "engine-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub engine: Vec<String>,
    /// Pass this argument to sampan-docker-api; repeat for more
    #[arg(long = "docker-api-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub docker_api: Vec<String>,
    /// Start only monitord
    #[arg(long)]
    pub no_engine: bool,
    /// Start no gateway for docker's clients
    #[arg(long)]
    pub no_docker_api: bool,
    /// Wait at most this long for each daemon to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u32,
}
