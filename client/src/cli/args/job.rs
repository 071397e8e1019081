//! The command line of jobs: `jobs`, `watch` and `cancel`.

use super::display::{ListFormat, Progress};
use super::socket::EngineSocket;
use clap::Args;

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Print the list like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Print nothing but numbers
    #[arg(short, long)]
    pub quiet: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = job)]
    pub job: u64,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// The number of a job.
fn job(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a job has a number; 'sampan jobs' lists them")
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = job)]
    pub job: u64,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}
