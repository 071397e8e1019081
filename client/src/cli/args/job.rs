//! The command line of jobs: `jobs`, `watch` and `cancel`.

use super::display::Progress;
use super::socket::EngineSocket;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Print the list in this format: table, json (one object per line), or a template of Go [default: table]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
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
