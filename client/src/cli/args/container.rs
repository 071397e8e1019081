//! The command line of containers: docker's names and options, docker-run(1) and its neighbours.
//!
//! Pure description, a part of [`super`]. Values are read by `cli::options` and by the commands.

use super::display::ListFormat;
use super::lazy::Lazy;
use super::socket::EngineSocket;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Makes switches of a command take `=true` and `=false` as well, as docker's do; the last one counts.
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

/// Takes a path, and also an empty one.
fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Exit status of commands that run something.
pub(crate) const RUN_STATUS: &str = "\
Exit status:
  125  The container could not be made or started, or the arguments make no sense
  126  Its command cannot be run
  127  Its command is not there
  else that of the command; 128 and the signal's number if a signal ended it";

/// How a container is to be made: options of `create` and `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The image (reference, digest, or the beginning of an id), the command that replaces its own, and arguments
    #[arg(value_name = "IMAGE [COMMAND [ARG]]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
    /// Call the container this [default: a name is made up]
    #[arg(long)]
    pub name: Option<String>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Attach only these: stdin, stdout, stderr [default: stdout and stderr, stdin with -i]
    #[arg(short, long, value_enum, ignore_case = true, value_name = "STREAM")]
    pub attach: Vec<Stream>,
    /// Set a variable; without a value it is taken from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables of this file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Mount a file or directory of the host; read-only with ':ro'
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount something: type=bind,src=PATH,dst=PATH[,ro] or type=tmpfs,dst=PATH[,tmpfs-size=SIZE]
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// Mount memory
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Do not let the root file system be written
    #[arg(long)]
    pub read_only: bool,
    /// Run this instead of the image's entry point; '' takes it away
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// The host name in it
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Its network: none (loopback alone) or host
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Give it a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Give it the labels of this file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub label_file: Vec<PathBuf>,
    /// Start it again when it ends by itself: no, on-failure[:COUNT], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: String,
    /// Most memory: 64m, 1g
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Most memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Most CPUs: 0.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Most processes; -1 is no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Limit of a process: nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Give it a device of the host
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    pub device: Vec<String>,
    /// Give it all capabilities and devices, and mask nothing
    #[arg(long)]
    pub privileged: bool,
    /// no-new-privileges[=BOOL], seccomp=FILE|unconfined, apparmor=PROFILE|unconfined, label=disable|type:T|level:L
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Run a small init as process 1, which reaps
    #[arg(long)]
    pub init: bool,
    /// The signal that 'stop' sends
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds that 'stop' waits before it kills; -1 is for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub stop_timeout: Option<i64>,
    /// Where its output is logged: json-file, journald or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of the log: max-size=10m, max-file=3
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// When the image is fetched
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub pull: PullWhen,
    /// The image must be for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Write the container's id into this file, which must not be there; '' is none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub cidfile: Option<PathBuf>,
    /// Write the id of its process into this file when it starts
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pidfile: Option<PathBuf>,
    /// Who tells the service manager that it is ready [default: ignore; conmon with --unit]
    #[arg(long, value_enum, value_name = "WHO")]
    pub sdnotify: Option<NotifyWho>,
    /// The OCI runtime: crun, runc, or a name of the configuration; for root also a path [default: the configured one]
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// The keys that detach a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Give it one more group
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Set a kernel parameter of its namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// Annotate its bundle
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Show no progress of a pull
    #[arg(short, long)]
    pub quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    pub help: Option<bool>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// A stream that can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    /// What it reads
    Stdin,
    /// What it writes
    Stdout,
    /// What it complains of
    Stderr,
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// Each time
    Always,
    /// If it is not here
    #[default]
    Missing,
    /// Not at all
    Never,
}

/// Who tells the service manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NotifyWho {
    /// Nobody
    #[default]
    Ignore,
    /// The container: it gets NOTIFY_SOCKET
    Container,
    /// The shim, when the container has started
    Conmon,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Create {
    /// How it is to be made.
    #[command(flatten)]
    pub options: Options,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Run {
    /// Print its id, and let it run by itself
    #[arg(short, long)]
    pub detach: bool,
    /// Make the systemd unit be the container: this process becomes its shim. For ExecStart= alone, with Delegate=
    #[arg(long)]
    pub unit: bool,
    /// Pass the signals that come here on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// How it is to be made.
    #[command(flatten)]
    pub options: Options,
}

/// Arguments of `start`.
#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Start {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Attach stdout and stderr, and end as it ends
    #[arg(short, long)]
    pub attach: bool,
    /// Attach stdin
    #[arg(short, long)]
    pub interactive: bool,
    /// Make the systemd unit be the container: this process becomes its shim. For ExecStart= alone, with Delegate=
    #[arg(long)]
    pub unit: bool,
    /// Pass the signals that come here on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// The keys that detach a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Attach {
    /// The container: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Do not attach stdin
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass the signals that come here on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// The keys that detach a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(mut_args(switches))]
pub(crate) struct Exec {
    /// The container (name, id, or the beginning of an id), the command, and arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
    /// Print nothing, and let it run by itself
    #[arg(short, long)]
    pub detach: bool,
    /// Attach stdin
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; without a value it is taken from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables of this file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give it all capabilities
    #[arg(long)]
    pub privileged: bool,
    /// The keys that detach a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `stop` and `restart`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Seconds to wait before it is killed; -1 is for ever [default: the container's]
    #[arg(
        short,
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub time: Option<i64>,
    /// Send this signal [default: the container's]
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Send this signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `pause` and `unpause`.
#[derive(Debug, Args)]
pub(crate) struct Containers {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Wait for this
    #[arg(long, value_enum, value_name = "CONDITION", default_value_t)]
    pub condition: WaitFor,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// It does not run (now is enough)
    #[default]
    #[value(alias = "stopped", alias = "exited")]
    NotRunning,
    /// It ends the next time
    NextExit,
    /// It is gone
    Removed,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveContainers {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Also if it runs: it is killed. One that is not there is no failure
    #[arg(short, long)]
    pub force: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// List also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// List the container that was made last, running or not
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// List the so many that were made last, running or not
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub last: Option<u32>,
    /// Print nothing but ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the bytes that each has written into its root file system
    #[arg(short, long)]
    pub size: bool,
    /// Print ids and commands in full
    #[arg(long)]
    pub no_trunc: bool,
    /// List only those that match: id, name (a regular expression), label, exited, status, ancestor, before, since,
    /// volume, network
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Print the list like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The container: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Wait for more, until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Print lines of this time and later, in any form that 'events --since' takes
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Print lines of this time and before
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Begin so many lines before the end, or with 'all'
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", allow_hyphen_values = true)]
    pub tail: String,
    /// Print when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `rename`.
#[derive(Debug, Args)]
pub(crate) struct Rename {
    /// The container: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
    /// The container (name, id, or the beginning of an id), and options of ps(1) [default: -ef]
    #[arg(value_name = "CONTAINER [PS OPTION]", required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
}

/// Arguments of `container inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectContainers {
    /// Containers: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// With the bytes of what was written into the root file system
    #[arg(short, long)]
    pub size: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `container prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneContainers {
    /// Do not ask; it asks only at a terminal
    #[arg(short, long)]
    pub force: bool,
    /// Remove only containers that match: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `container`.
#[derive(Debug, Args)]
pub(crate) struct ContainerGroup {
    /// What to do.
    #[command(subcommand)]
    pub command: ContainerCommand,
}

/// What `container` does; the first five make or start one, the rest look after it.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Attach to a running container
    Attach(Lazy<Attach>),
    /// Make a container
    #[command(disable_help_flag = true, args_override_self = true)]
    Create(Lazy<Box<Create>>),
    /// Run one more command in a running container
    #[command(after_long_help = RUN_STATUS)]
    Exec(Lazy<Exec>),
    /// Show containers in full, as JSON
    Inspect(Lazy<InspectContainers>),
    /// Send containers a signal
    Kill(Lazy<Kill>),
    /// Print what a container has written
    Logs(Lazy<Logs>),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Lazy<Ps>),
    /// Freeze containers
    Pause(Lazy<Containers>),
    /// Remove containers that do not run
    Prune(Lazy<PruneContainers>),
    /// Give a container another name
    Rename(Lazy<Rename>),
    /// Stop containers that run, and start them
    Restart(Lazy<Stop>),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(Lazy<RemoveContainers>),
    /// Make a container, and start it
    #[command(disable_help_flag = true, args_override_self = true, after_long_help = RUN_STATUS)]
    Run(Lazy<Box<Run>>),
    /// Start containers that do not run
    Start(Lazy<Start>),
    /// Stop containers
    Stop(Lazy<Stop>),
    /// List the processes of a container
    Top(Lazy<Top>),
    /// Thaw containers
    Unpause(Lazy<Containers>),
    /// Wait for the ends of containers, and print their exit codes
    Wait(Lazy<Wait>),
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// What is made.
    #[command(subcommand)]
    pub command: GenerateCommand,
}

/// What `generate` makes.
#[derive(Debug, Subcommand)]
pub(crate) enum GenerateCommand {
    /// A unit for systemd that runs a container as a service
    Systemd(Lazy<GenerateSystemd>),
}

/// Arguments of `generate systemd`.
#[derive(Debug, Args)]
pub(crate) struct GenerateSystemd {
    /// The container: name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The unit makes a container of its own each time, as this one was made with 'run' or 'create'
    #[arg(long)]
    pub new: bool,
    /// When systemd starts it again
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub restart_policy: UnitRestart,
    /// Write the unit into a file here, and print its path
    #[arg(short, long)]
    pub files: bool,
    /// Where the engine listens.
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
    /// After any other end
    #[default]
    OnFailure,
    /// After a signal, a time-out, or the watchdog
    OnAbnormal,
    /// After the watchdog's time-out
    OnWatchdog,
    /// After a signal
    OnAbort,
    /// In any case
    Always,
}
