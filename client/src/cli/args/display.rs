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
    /// One row per layer and one for all layers, redrawn in place
    Bars,
    /// One line per change of state
    Plain,
    /// One JSON object per change
    Json,
    /// Only the result
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Progress {
    /// Show progress in this style
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub progress: ProgressStyle,
    /// Print only the digest reference; --progress=json still prints all of its lines
    #[arg(short, long)]
    pub quiet: bool,
}
