//! The command line of containers: docker's names and options, as in docker-run(1) and its neighbours.
//!
//! Only describes the command line. `cli::container::options` and the commands parse the values.

use super::lazy::Lazy;
use super::socket::EngineSocket;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Lets the switches of a command also accept `=true` and `=false`, as docker's do. The last value counts.
pub(crate) fn switches(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_name("BOOL")
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Parses a path, and accepts an empty path.
fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Exit status of commands that run something.
pub(crate) const RUN_STATUS: &str = "\
Exit status:
  125  The container could not be created or started, or the arguments are invalid
  126  The command cannot be executed
  127  The command was not found
  else the command's own exit code; 128 plus the signal's number if a signal ended the
  command";

/// The options of `create` and `run`: what the new container is like.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The image (reference, digest, or the beginning of an ID), then the command to run instead of the image's own
    #[arg(value_name = "IMAGE [COMMAND [ARG]]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
    /// Name the container [default: a generated name]
    #[arg(long)]
    pub name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal for the container
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when its process ends
    #[arg(long)]
    pub rm: bool,
    /// Attach only to this stream; repeat for more [default: stdout and stderr, and stdin with -i]
    #[arg(short, long, value_enum, ignore_case = true, value_name = "STREAM")]
    pub attach: Vec<Stream>,
    /// Set an environment variable; without a value, copy the variable of this process
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set the environment variables that this file lists, one per line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Mount a file or directory of the host; ':ro' makes the mount read-only
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Add a mount: type=bind,src=PATH,dst=PATH[,ro] or type=tmpfs,dst=PATH[,tmpfs-size=SIZE]
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Replace the image's entry point; '' removes the entry point
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Set the container's host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Connect the container to this network: none (only the loopback interface) or host
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Set the labels that this file lists, one per line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub label_file: Vec<PathBuf>,
    /// Restart the container when its process ends by itself: no, on-failure[:COUNT], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: String,
    /// Limit memory: 64m, 1g
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Limit memory plus swap; -1 means no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Limit CPU time to this many CPUs: 0.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Limit the number of processes; -1 means no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Set the size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Set a resource limit of the process: nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Add a capability; ALL adds all
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability; ALL drops all
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Add a device of the host
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    pub device: Vec<String>,
    /// Give the container all capabilities and devices, and mask no paths
    #[arg(long)]
    pub privileged: bool,
    /// Set a security option: no-new-privileges[=BOOL], seccomp=FILE|unconfined, apparmor=PROFILE|unconfined,
    /// label=disable|type:T|level:L
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Run a small init as process 1, which forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Set the signal that 'stop' sends
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Set how long 'stop' waits before it kills the container; -1 means without limit
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub stop_timeout: Option<i64>,
    /// Log the container's output with this driver: json-file, journald or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Set an option of the log driver: max-size=10m, max-file=3
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// Pull the image at these times
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub pull: PullWhen,
    /// Require an image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Write the container's ID to this file, which must not exist; '' writes none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub cidfile: Option<PathBuf>,
    /// Write the process ID of the container's process to this file at each start
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pidfile: Option<PathBuf>,
    /// Choose who reports readiness to the service manager [default: ignore; conmon with --unit]
    #[arg(long, value_enum, value_name = "WHO")]
    pub sdnotify: Option<NotifyWho>,
    /// Use this OCI runtime: crun, runc, or a name from the configuration; root may also give a path [default: the
    /// configured one]
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// Set the keys that detach from the terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Add a supplementary group
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Set a kernel parameter of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// Add an annotation to the OCI bundle
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Do not show the progress of a pull
    #[arg(short, long)]
    pub quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    pub help: Option<bool>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// A stream that can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    /// Standard input
    Stdin,
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// Before every run
    Always,
    /// Only if the image is not in the local store
    #[default]
    Missing,
    /// Never
    Never,
}

/// Who reports readiness to the service manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NotifyWho {
    /// Nobody
    #[default]
    Ignore,
    /// The container, which gets NOTIFY_SOCKET
    Container,
    /// The shim, once the container has started
    Conmon,
}

#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Create {
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Run {
    /// Run the container in the background and print its ID
    #[arg(short, long)]
    pub detach: bool,
    /// Become the container's shim, so that the systemd unit is the container; only for ExecStart= of a unit with Delegate=
    #[arg(long)]
    pub unit: bool,
    /// Forward signals that this process receives to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Start {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Attach to standard output and standard error, and exit with the container's exit code
    #[arg(short, long)]
    pub attach: bool,
    /// Attach to standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Become the container's shim, so that the systemd unit is the container; only for ExecStart= of a unit with Delegate=
    #[arg(long)]
    pub unit: bool,
    /// Forward signals that this process receives to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// Set the keys that detach from the terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Attach {
    /// The container: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Do not attach to standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Forward signals that this process receives to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// Set the keys that detach from the terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Exec {
    /// The container (name, ID, or the beginning of an ID), then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
    /// Run the command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Attach to standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal for the command
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; without a value, copy the variable of this process
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set the environment variables that this file lists, one per line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the command all capabilities
    #[arg(long)]
    pub privileged: bool,
    /// Set the keys that detach from the terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Wait this long before killing the container; -1 means without limit [default: the container's stop timeout]
    #[arg(
        short,
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub time: Option<i64>,
    /// Send this signal [default: the container's stop signal]
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Send this signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Containers {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Wait for this condition
    #[arg(long, value_enum, value_name = "CONDITION", default_value_t)]
    pub condition: WaitFor,
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// The container does not run, or stops running
    #[default]
    #[value(alias = "stopped", alias = "exited")]
    NotRunning,
    /// The container's process ends after this command began to wait
    NextExit,
    /// The container was removed
    Removed,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveContainers {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Kill running containers first; do not fail for a container that does not exist
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// List all containers, not only running ones
    #[arg(short, long)]
    pub all: bool,
    /// List only the container that was created last, running or not
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// List only this number of containers, those that were created last, running or not
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub last: Option<u32>,
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Print how much each container has written to its root file system
    #[arg(short, long)]
    pub size: bool,
    /// Print IDs and commands in full
    #[arg(long)]
    pub no_trunc: bool,
    /// List only containers that match; KEY is id, name (a regular expression), label, exited, status, ancestor, before,
    /// since, volume or network
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Print the list in this format: table, json (one object per line), or a template of Go [default: table]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The container: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Print new lines as they are written, until the container's process ends
    #[arg(short, long)]
    pub follow: bool,
    /// Print only lines of this time and later, in any form that 'events --since' takes
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Print only lines of this time and earlier
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Begin this number of lines before the end, or print 'all'
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", allow_hyphen_values = true)]
    pub tail: String,
    /// Print the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Rename {
    /// The container: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The new name
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub socket: EngineSocket,
    /// The container (name, ID, or the beginning of an ID), then options of ps(1) [default: -ef]
    #[arg(value_name = "CONTAINER [PS OPTION]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectContainers {
    /// Containers: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Include how much was written to the root file system
    #[arg(short, long)]
    pub size: bool,
    /// Print each container in this format: json (an array on one line), or a template of Go
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct PruneContainers {
    /// Do not ask for confirmation; without a terminal, sampan never asks
    #[arg(short, long)]
    pub force: bool,
    /// Remove only containers that match: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct ContainerGroup {
    #[command(subcommand)]
    pub command: ContainerCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Attach to a running container
    Attach(Lazy<Attach>),
    /// Create a container
    #[command(
        disable_help_flag = true,
        args_override_self = true,
        override_usage = "sampan container create [OPTIONS] IMAGE [COMMAND [ARG]...]"
    )]
    Create(Lazy<Box<Create>>),
    /// Run another command in a running container
    #[command(after_long_help = RUN_STATUS,
        override_usage = "sampan container exec [OPTIONS] CONTAINER COMMAND [ARG]...")]
    Exec(Lazy<Exec>),
    /// Show containers in full, as JSON
    Inspect(Lazy<InspectContainers>),
    /// Send a signal to containers
    Kill(Lazy<Kill>),
    /// Print the output of a container
    Logs(Lazy<Logs>),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Lazy<Ps>),
    /// Pause containers
    Pause(Lazy<Containers>),
    /// Remove containers that do not run
    Prune(Lazy<PruneContainers>),
    /// Rename a container
    Rename(Lazy<Rename>),
    /// Stop containers that run, and start them again
    Restart(Lazy<Stop>),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(Lazy<RemoveContainers>),
    /// Create and start a container
    #[command(disable_help_flag = true, args_override_self = true, after_long_help = RUN_STATUS,
        override_usage = "sampan container run [OPTIONS] IMAGE [COMMAND [ARG]...]")]
    Run(Lazy<Box<Run>>),
    /// Start containers that do not run
    Start(Lazy<Start>),
    /// Stop containers
    Stop(Lazy<Stop>),
    /// List the processes of a container
    #[command(override_usage = "sampan container top [OPTIONS] CONTAINER [PS OPTION]...")]
    Top(Lazy<Top>),
    /// Resume paused containers
    Unpause(Lazy<Containers>),
    /// Wait until containers stop, and print their exit codes
    Wait(Lazy<Wait>),
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(subcommand)]
    pub command: GenerateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GenerateCommand {
    /// Print a systemd unit that runs a container as a service
    Systemd(Lazy<GenerateSystemd>),
}

#[derive(Debug, Args)]
pub(crate) struct GenerateSystemd {
    /// The container: name, ID, or the beginning of an ID
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Write a unit that creates a new container at each start, with the options that this container was created with
    #[arg(long)]
    pub new: bool,
    /// Set when systemd restarts the unit
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub restart_policy: UnitRestart,
    /// Write the unit to a file in this directory, and print the path of that file
    #[arg(short, long)]
    pub files: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Values of systemd's `Restart=`. systemd.service(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnitRestart {
    /// Never
    No,
    /// After an exit code of 0
    OnSuccess,
    /// After any exit code but 0, a signal, a timeout, or the watchdog
    #[default]
    OnFailure,
    /// After a signal, a timeout, or the watchdog
    OnAbnormal,
    /// After the watchdog's timeout
    OnWatchdog,
    /// After a signal
    OnAbort,
    /// In any case
    Always,
}
