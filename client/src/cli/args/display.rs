//! How results are shown: lists, and the progress of jobs.

use clap::{Args, ValueEnum};

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for people
    #[default]
    Table,
    /// One JSON array
    Json,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// Bars on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// One row a layer and one for all, redrawn in place
    Bars,
    /// One line a change of state
    Plain,
    /// One JSON object a change
    Json,
    /// Nothing but the result
    None,
}

/// How progress is shown, for commands that show it.
#[derive(Debug, Args)]
pub(crate) struct Progress {
    /// Show progress like this
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub progress: ProgressStyle,
    /// Print nothing but the digest reference; --progress=json prints all of its lines nevertheless
    #[arg(short, long)]
    pub quiet: bool,
}
