//! The command line of replication: `replicate` and `replication`.
//!
//! Only describes the command line. The commands parse the values.

use super::display::{ListFormat, Progress, ProgressStyle};
use super::lazy::Lazy;
use super::socket::EngineSocket;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// The end of the help of `replicate`.
pub(crate) const PLACES: &str = "\
Places:
  [docker://]HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]
      A registry. The repository of SRC may be a pattern, which selects all repositories that match, if the registry \
lists its repositories: * is any text without a slash, ** any text, {a,b} either word.
  oci:DIR[:NAME]
      An OCI image layout, in a directory of the host of the engine
  store:[REFERENCE]
      The store of the engine: one image, or all its images

The engine does the work, and goes on when this command ends. Ctrl-C asks the engine to stop, and waits until it has \
stopped; a second Ctrl-C does not wait. 'sampan replication resume' continues an execution that was stopped or has \
failed. The number of an execution is also that of its job, so 'sampan watch' follows it.

The exit status is 1 if an artifact could not be replicated.";

#[derive(Debug, Args)]
pub(crate) struct Replicate {
    /// The place to copy from
    #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub source: String,
    /// The place to copy to
    #[arg(value_name = "DST", value_hint = ValueHint::AnyPath)]
    pub destination: String,
    /// Copy all tags of each repository; SRC must then have neither tag nor digest
    #[arg(short, long)]
    pub all_tags: bool,
    /// Copy only images for this platform; repeat for more [default: all platforms]
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    pub platforms: Vec<String>,
    /// Treat an index in this way if --platform selects only some of its images
    #[arg(long, value_enum, value_name = "WAY", default_value_t, requires = "platforms")]
    pub sparse: Sparse,
    /// Also copy referrers, such as signatures and SBOMs, and cosign's tags
    #[arg(long)]
    pub referrers: bool,
    /// Never replace a tag of the destination that names another manifest
    #[arg(long)]
    pub keep_existing: bool,
    /// Then delete the destination's tags that are not at the source
    #[arg(long)]
    pub prune: bool,
    /// Delete nothing if --prune would delete more than this share of a repository's tags
    #[arg(long, value_name = "PERCENT", default_value_t = 30, requires = "prune",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub prune_max: u8,
    /// Check all blobs at the destination, even if the destination has the manifest
    #[arg(long)]
    pub verify: bool,
    /// Only print what would be copied, and what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Transfer at most this much per second: 500K, 10M/s [default: no limit]
    #[arg(long, value_name = "BYTES[K|M|G][/s]")]
    pub limit_rate: Option<String>,
    /// Send at most N requests per second to each registry [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub request_rate: Option<u32>,
    /// Verify TLS certificates of the source; 'false' also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub src_tls_verify: bool,
    /// Verify TLS certificates of the destination; 'false' also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub dest_tls_verify: bool,
    /// Read credentials only from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub detach: Detach,
    #[command(flatten)]
    pub report: Report,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sparse {
    /// Write a new index that names only the copied images; its digest differs, so signatures of the index do not count
    #[default]
    Rewrite,
    /// Copy the index unchanged, although some of its images are not copied; some registries refuse such an index
    Keep,
}

/// The option of commands that start an execution.
#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// Replicate in the background, and print the number of the execution
    #[arg(short, long, conflicts_with_all = ["quiet", "format"])]
    pub detach: bool,
}

/// How a command that follows an execution shows it.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Show progress in this style
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub progress: ProgressStyle,
    /// Print only errors; --progress=json still prints all of its lines
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the closing report in this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ReportFormat,
}

impl From<&Progress> for Report {
    fn from(progress: &Progress) -> Self {
        Report { progress: progress.progress, quiet: progress.quiet, format: ReportFormat::Table }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Columns for people
    #[default]
    Table,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ReplicationGroup {
    #[command(subcommand)]
    pub command: ReplicationCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicationCommand {
    /// List executions, the newest first
    #[command(visible_alias = "list")]
    Ls(Lazy<Ls>),
    /// Show an execution and its artifacts
    Show(Lazy<Show>),
    /// Stop an execution
    Stop(Lazy<Stop>),
    /// Continue an execution that was stopped or has failed
    Resume(Lazy<Again>),
    /// Repeat the failed artifacts of an execution
    Retry(Lazy<Again>),
    /// List the policies, and what is wrong with their files
    Policies(Lazy<Policies>),
    /// Run a policy now
    Run(Lazy<Run>),
    /// Print the state machine of replication as a Graphviz graph, for dot(1)
    Graph(Lazy<Graph>),
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// List only executions of this policy
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// List only executions that began at this time or later, in any form that 'events --since' takes
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// List at most N executions; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    /// Print the list in this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Print only numbers
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The number of the execution
    #[arg(value_name = "ID", value_parser = execution)]
    pub id: u64,
    /// Print the execution in this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ReportFormat,
    /// Also list the blobs in flight and the blobs that failed; JSON always has them
    #[arg(long)]
    pub blobs: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The number of the execution
    #[arg(value_name = "ID", value_parser = execution)]
    pub id: u64,
    /// Also delete the unfinished uploads at the destination [default: keep them, so that 'resume' continues them]
    #[arg(long)]
    pub cancel: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Again {
    /// The number of the execution
    #[arg(value_name = "ID", value_parser = execution)]
    pub id: u64,
    #[command(flatten)]
    pub detach: Detach,
    #[command(flatten)]
    pub report: Report,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Policies {
    /// Print the list in this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The name of the policy: the name of its file without '.toml'
    #[arg(value_name = "POLICY")]
    pub policy: String,
    /// Only print what would be copied, and what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub detach: Detach,
    #[command(flatten)]
    pub report: Report,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub socket: EngineSocket,
}

fn execution(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected the number of an execution; 'sampan replication ls' lists them")
}
