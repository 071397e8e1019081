//! The command line of jobs: `jobs`, `watch` and `cancel`.

use super::display::{ListFormat, Progress};
use super::socket::EngineSocket;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Print the list in this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Print only job numbers
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The number of the job
    #[arg(value_name = "JOB", value_parser = job)]
    pub job: u64,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

fn job(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected the number of a job; 'sampan jobs' lists them")
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The number of the job
    #[arg(value_name = "JOB", value_parser = job)]
    pub job: u64,
    #[command(flatten)]
    pub socket: EngineSocket,
}
