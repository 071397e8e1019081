//! The command line, and all its help: the one definition that man pages and completions are generated from.
//!
//! Pure description; what the commands do is in the modules beside it. `examples/generate.rs` includes this file.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

// Said in full, since `examples/generate.rs` includes this file from elsewhere.
#[path = "args/container.rs"]
pub mod container;
#[path = "args/lazy.rs"]
pub mod lazy;

use lazy::Lazy;

/// Run containers, pull images, watch what happens on this host, and tell others what happens
#[derive(Debug, Parser)]
#[command(
    name = "sampan",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = ENVIRONMENT
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ENVIRONMENT: &str = "\
Environment:
  SAMPAN_RUN_DIR    Directory of the sockets and FIFOs [default:
                    /run/sampan for root, else $XDG_RUNTIME_DIR/sampan]
  SAMPAN_STATE_DIR  Directory of the event journal [default:
                    /var/lib/sampan for root, else $XDG_STATE_HOME/sampan]
  SAMPAN_DATA_DIR   Directory of the image store [default:
                    /var/lib/sampan for root, else $XDG_DATA_HOME/sampan]

Groups that root's daemons, in /run/sampan, let in:
  sampan            Watches events, and emits its own
  sampan-facts      Writes facts into the monitor FIFO
  sampan-admin      Uses the engine, and is root in all but name: it may
                    mount any directory of the host

Exit status:
  0    Done
  1    Failed; the reason is on standard error
  2    'emit' was given an event that is not allowed; it was not written
  125  Bad usage; of 'run' and 'exec' any failure to start. Else these
       two end as what they run
  130  Ended by Ctrl-C: it dies of the signal, which shells report so;
       143 by SIGTERM, and 141 when the reader of the output has left";

const TIMES: &str = "\
Times: RFC 3339 with any offset, as events are printed (2024-05-06T15:04:05.123456789+08:00); local time, whole or \
shortened (2024-05-06, 2024-05-06T15, T15:04, T15:04:05.5); unix seconds (1714979045.5); a duration back from now \
(10m, 1h30m, 7d, 2w); now. Both ends are included.

Filters: values of one key are OR, keys are AND.
  type=WORD             Events of this type: container, image, job, daemon, or any producer's word
  event=ACTION          This action; exec_start matches 'exec_start: sh'
  container=ID|NAME     Events of containers whose id begins with this, or whose name is this
  image=REFERENCE       Events about this image or of its containers, with or without tag
  label=KEY[=VALUE]     Events with this label
  name=NAME             Events whose attribute name, or whose id, is this
  id=PREFIX             Events whose id begins with this
  daemon=ID|NAME        Events of this daemon
  origin=facts|emit     Facts that the engine tells, or events that others emitted
  attr.KEY=VALUE        Events whose attribute KEY is VALUE";

const BATCH: &str = "\
A program may keep the standard input of --batch open for as long as it runs. While monitord is away or busy, events \
wait here, and once 256 of them wait, no more input is read: the pipe makes the producer wait, and nothing is dropped. \
At the end of the input, the command ends when monitord's FIFO has taken all events. With --timeout it gives up \
instead, and says how many events were written and from which line the last one was; so it does when a signal ends \
it.

Lines of --batch: one JSON object a line, as 'events --format json' prints them. type, action and id are required; \
attributes and labels are objects of strings, numbers and booleans. Numbers are taken as they stand in the line. A \
field that is null counts as absent. seq is ignored: monitord gives the event a new number.

The time of an event is its field time, in any form that --time takes, or a number of unix seconds. timeNano counts \
only where there is no time, even if time has fewer digits: programs that keep numbers as doubles, such as jq, change \
timeNano.

A line that is no event is told on standard error with its number and passed over; the exit status is 2 at the end. \
What 'events --format json' says beside events, an object with lost or journal and without type, is passed over with \
a note.";

const AUTH_FILES: &str = "\
Files: credentials are saved in --authfile, else in $REGISTRY_AUTH_FILE, else in \
$XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json without XDG_RUNTIME_DIR), as podman and skopeo \
do: that is gone after a reboot. Where the file sets a credential helper for the registry (credHelpers, credsStore), \
that keeps them instead.

They are looked for in those files, then in $XDG_CONFIG_HOME/containers/auth.json ($HOME/.config/...) and in \
$DOCKER_CONFIG/config.json ($HOME/.docker/config.json). The engine has an order of its own of the same kind, behind \
the key auth-file of its configuration, for what the command line does not bring along.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print events as they happen, and past ones on request
    #[command(after_long_help = TIMES)]
    Events(Lazy<Events>),
    /// Write an event of your own
    #[command(after_long_help = BATCH)]
    Emit(Lazy<Emit>),
    /// Make a container, and start it
    #[command(disable_help_flag = true, args_override_self = true, after_long_help = container::RUN_STATUS)]
    Run(Lazy<Box<container::Run>>),
    /// Make a container
    #[command(disable_help_flag = true, args_override_self = true)]
    Create(Lazy<Box<container::Create>>),
    /// Start containers that do not run
    Start(Lazy<container::Start>),
    /// Stop containers
    Stop(Lazy<container::Stop>),
    /// Send containers a signal
    Kill(Lazy<container::Kill>),
    /// Stop containers that run, and start them
    Restart(Lazy<container::Stop>),
    /// Freeze containers
    Pause(Lazy<container::Containers>),
    /// Thaw containers
    Unpause(Lazy<container::Containers>),
    /// Wait for the ends of containers, and print their exit codes
    Wait(Lazy<container::Wait>),
    /// Remove containers
    Rm(Lazy<container::RemoveContainers>),
    /// List containers
    Ps(Lazy<container::Ps>),
    /// Print what a container has written
    Logs(Lazy<container::Logs>),
    /// Run one more command in a running container
    #[command(after_long_help = container::RUN_STATUS)]
    Exec(Lazy<container::Exec>),
    /// Attach to a running container
    Attach(Lazy<container::Attach>),
    /// Give a container another name
    Rename(Lazy<container::Rename>),
    /// List the processes of a container
    Top(Lazy<container::Top>),
    /// Work on containers: the commands above by the names that docker and podman have for them, and more
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Container(container::ContainerGroup),
    /// Make files for other programs
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Generate(container::Generate),
    /// Fetch images from registries
    Pull(Lazy<Pull>),
    /// List jobs: running ones, and those that ended lately
    Jobs(Lazy<Jobs>),
    /// Follow the progress of a job
    Watch(Lazy<Watch>),
    /// End a running job, whoever watches it
    Cancel(Lazy<Cancel>),
    /// List images
    Images(Lazy<Images>),
    /// Show containers and images in full, as JSON
    Inspect(Lazy<InspectAny>),
    /// Give an image one more reference
    Tag(Lazy<Tag>),
    /// Remove references, and images with their last one
    Rmi(Lazy<Remove>),
    /// Make an image of root file system tars
    Import(Lazy<Import>),
    /// Send an image to a registry
    Push(Lazy<Push>),
    /// Let a registry check a user name and password, and save them
    #[command(after_long_help = AUTH_FILES)]
    Login(Lazy<Login>),
    /// Forget what 'login' saved
    #[command(after_long_help = AUTH_FILES)]
    Logout(Lazy<Logout>),
    /// Take images out of an archive that docker, podman, skopeo or 'save' wrote
    Load(Lazy<Load>),
    /// Write images into an archive that docker, podman and skopeo read
    Save(Lazy<Save>),
    /// Be a read-only registry of the images in this store, until Ctrl-C
    Serve(Lazy<Serve>),
    /// Work on images: the commands above by the names that docker and podman have for them, and more
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Image(ImageGroup),
    /// Look after the host as a whole
    #[command(subcommand_required = true, arg_required_else_help = true)]
    System(System),
    /// Show what the engine is
    Info(Lazy<Info>),
    /// Print versions
    Version(Lazy<Version>),
    /// Look into monitord
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Monitor(Monitor),
    /// Run monitord and the engine in the foreground, until Ctrl-C
    Up(Lazy<Up>),
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Print only events of this name or id [same as --filter name=NAME]
    #[arg(short, long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Begin with past events of this time and later
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// End with events of this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Begin behind the event with this sequence number; 0 is all there is
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Print only events that match
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// End when the past is through, instead of waiting for more; without --since and --after, print all of it
    #[arg(long)]
    pub no_follow: bool,
    /// Fail when monitord goes away, instead of waiting for it to return
    #[arg(long)]
    pub no_reconnect: bool,
    /// Print each event like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: EventFormat,
    /// Remember in this file how far the output has come, and go on from there next time
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cursor_file: Option<PathBuf>,
    /// Write the cursor file at most this often
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "cursor_file")]
    pub cursor_interval: String,
    /// Run this command with 'sh -c' for each event, with the event as a line of JSON on its standard input and in
    /// SAMPAN_EVENT_TYPE, _ACTION, _ID, _SEQ; go on when it ends with status 0
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString, conflicts_with_all = ["format", "ack_fd"], requires = "cursor_file")]
    pub exec: Option<String>,
    /// Give the command up to N events at a time, a line each
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub exec_batch: u32,
    /// Run a command that fails up to N times again, then set its events aside
    #[arg(long, value_name = "N", default_value_t = 5, requires = "exec")]
    pub exec_retries: u32,
    /// Append events that are set aside to this file [default: the cursor file's name and '.failed']
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "exec")]
    pub exec_failed: Option<PathBuf>,
    /// Read from this descriptor up to which number the consumer has finished the events, a line each; only that moves
    /// the cursor
    #[arg(long, value_name = "N", requires = "cursor_file")]
    pub ack_fd: Option<i32>,
    /// Where monitord listens.
    #[command(flatten)]
    pub socket: EventsSocket,
}

/// How an event is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// TIME TYPE ACTION ID (KEY=VALUE, …)
    #[default]
    Line,
    /// One JSON object a line
    Json,
    /// KEY=VALUE words
    Logfmt,
}

/// Where monitord listens.
#[derive(Debug, Args)]
pub struct EventsSocket {
    /// Ask the monitord that listens here [default: RUN/events.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Where the engine listens.
#[derive(Clone, Debug, Args)]
pub struct EngineSocket {
    /// Ask the engine that listens here [default: RUN/engine.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Arguments of `emit`.
#[derive(Debug, Args)]
pub struct Emit {
    /// What sort of thing it happened to, in a word of your own: [a-z0-9][a-z0-9_.-]*
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    pub kind: Option<String>,
    /// What happened: [a-z0-9][a-z0-9_.-]*, then nothing or ': ' and text
    #[arg(value_name = "ACTION", required_unless_present = "batch")]
    pub action: Option<String>,
    /// What it happened to
    #[arg(value_name = "ID", required_unless_present = "batch")]
    pub id: Option<String>,
    /// Facts
    #[arg(value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// A word of the owner
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// When it happened, in any form that 'events --since' takes [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "batch")]
    pub time: Option<String>,
    /// Read events from standard input for as long as it is open, one JSON object a line, as 'events --format json'
    /// writes them
    #[arg(long, conflicts_with_all = ["kind", "labels"])]
    pub batch: bool,
    /// Give up once monitord has taken nothing for this long [default: 5; with --batch, never]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// End at the first line of --batch that is no event, instead of passing over it
    #[arg(long, requires = "batch")]
    pub strict: bool,
    /// Write into this FIFO; root and members of the group sampan-facts may name RUN/monitor.fifo [default: RUN/emit.fifo]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub fifo: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
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
pub struct Progress {
    /// Show progress like this
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub progress: ProgressStyle,
    /// Print nothing but the digest reference; --progress=json prints all of its lines nevertheless
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The images: [docker://][HOST[:PORT]/]NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:NAME] or
    /// docker-archive:FILE[:REF]
    #[arg(value_name = "REF", required = true)]
    pub references: Vec<String>,
    /// Fetch all tags of each repository; REF then has neither tag nor digest
    #[arg(short, long)]
    pub all_tags: bool,
    /// Keep the layers as they are packed, and do not unpack them
    #[arg(long)]
    pub no_unpack: bool,
    /// Take at most this much per second from the network, for each REF: 500K, 10M/s [default: no limit]
    #[arg(long, value_name = "BYTES[K|M|G][/s]")]
    pub limit_rate: Option<String>,
    /// Fetch the image for this platform [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Return at once, print the number of each job, and let the pulls go on
    #[arg(short, long, conflicts_with = "quiet")]
    pub detach: bool,
    /// With 'false', take plain HTTP, and HTTPS whose certificate nobody vouches for
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Take credentials from this file alone
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Columns for people
    #[default]
    Table,
    /// One JSON array
    Json,
}

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
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
pub struct Watch {
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
pub struct Cancel {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = job)]
    pub job: u64,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `images`.
#[derive(Debug, Args)]
pub struct Images {
    /// List only images of this repository, or of this reference [default: all]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Nothing more is listed: there are no images between others. Scripts for docker say it.
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Print the list like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ListFormat,
    /// Print nothing but ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Print digests as well
    #[arg(long)]
    pub digests: bool,
    /// Print ids in full
    #[arg(long)]
    pub no_trunc: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectAny {
    /// Containers (name, id, or the beginning of an id) and images (reference, digest, or the beginning of an id)
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Look only among these [default: containers, then images]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<InspectKind>,
    /// Of containers, with the bytes of what was written into the root file system
    #[arg(short, long)]
    pub size: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// What `inspect` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectKind {
    /// Containers
    Container,
    /// Images
    Image,
}

/// Arguments of `image inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Images: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// The image: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    pub source: String,
    /// References that it gets
    #[arg(value_name = "REF", required = true)]
    pub targets: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `rmi`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Images: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Also if an id has several references
    #[arg(short, long)]
    pub force: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Reference that the image gets
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Tars, plain or compressed, one a layer, the lowest first; '-' is standard input
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// The image is for this platform [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// One word of the default command; repeat it for more
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// A variable of the environment
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// A label of the image
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct Push {
    /// The image: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes: [docker://][HOST[:PORT]/]NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE[:NAME] or
    /// docker-archive:FILE[:REF] [default: the image's own reference]
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Return at once, print the job's number, and let the push go on
    #[arg(short, long, conflicts_with = "quiet")]
    pub detach: bool,
    /// With 'false', take plain HTTP, and HTTPS whose certificate nobody vouches for
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Send at most this much per second: 500K, 10M/s [default: no limit]
    #[arg(long, value_name = "BYTES[K|M|G][/s]")]
    pub limit_rate: Option<String>,
    /// Take credentials from this file alone
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// What `save` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SaveFormat {
    /// A tar for docker and podman, of every version
    #[default]
    DockerArchive,
    /// A tar of an OCI image layout: manifests and digests stay as they are
    OciArchive,
    /// A directory that is an OCI image layout; images that are there stay
    OciDir,
}

/// Arguments of `save`.
#[derive(Debug, Args)]
pub struct Save {
    /// Images: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Write into this file, or directory, which is replaced when all is written and keeps owner and mode; a pipe or a
    /// device is written as it is [default: standard output]
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub output: Option<PathBuf>,
    /// Write this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: SaveFormat,
    /// How progress is shown; not at all if the archive goes to standard output.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Read the archive from this file [default: standard input]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input: Option<PathBuf>,
    /// Call the one image this, instead of the names that it has there
    #[arg(long, value_name = "REF")]
    pub name: Option<String>,
    /// Of an archive with several platforms, take the images for this one [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Keep the layers as they are and do not unpack them
    #[arg(long)]
    pub no_unpack: bool,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub registry: String,
    /// The user's name [default: asked for]
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// The password; every user of this host may see it in the list of processes [default: asked for]
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin",
        allow_hyphen_values = true
    )]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Print the name of the user that is logged in, and do nothing else
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    pub get_login: bool,
    /// With 'false', take plain HTTP, and HTTPS whose certificate nobody vouches for
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Save in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io", conflicts_with = "all")]
    pub registry: String,
    /// Forget all registries
    #[arg(short, long)]
    pub all: bool,
    /// Remove from this file alone
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct ImageGroup {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What `image` does.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images [same as 'sampan images']
    #[command(visible_alias = "list")]
    Ls(Lazy<Images>),
    /// Remove references, and images with their last one [same as 'sampan rmi']
    #[command(visible_alias = "remove")]
    Rm(Lazy<Remove>),
    /// Remove images that have no name, and content that no image needs
    #[command(after_long_help = PRUNE)]
    Prune(Lazy<Prune>),
    /// Read all of the store again and say what is broken
    #[command(after_long_help = VERIFY)]
    Verify(Lazy<Verify>),
    /// Give an image one more reference
    Tag(Lazy<Tag>),
    /// Fetch an image from a registry
    Pull(Lazy<Pull>),
    /// Send an image to a registry
    Push(Lazy<Push>),
    /// Show images in full, as JSON
    Inspect(Lazy<Inspect>),
    /// Make an image of root file system tars
    Import(Lazy<Import>),
    /// Take images out of an archive
    Load(Lazy<Load>),
    /// Write images into an archive
    Save(Lazy<Save>),
}

const VERIFY: &str = "\
A blob whose digest is wrong is taken out of the store: nobody can use it, and the next 'sampan pull' of the image \
fetches it again. With --deep, an unpacked layer that is missing or differs from its blob is replaced. What a job \
needs just now stays as it is, and is told of. Exit status 1 if something is, or was, broken.";

/// Arguments of `image verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Also unpack each layer's blob again, one at a time beside the store, and compare file by file
    #[arg(long)]
    pub deep: bool,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: Progress,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

const PRUNE: &str = "\
Filters: all must hold.
  until=TIME            Images made before this time, in any form that
                        'events --since' takes; 24h is a day ago
  label=KEY[=VALUE]     Images with this label

An image that a job needs just now stays. What blobs and unpacked layers no image needs goes in any case.";

/// Arguments of `image prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove also images that have a name, as long as nothing uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask; it asks only at a terminal
    #[arg(short, long)]
    pub force: bool,
    /// Remove only images that match
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `system`.
#[derive(Debug, Args)]
pub struct System {
    /// What to do.
    #[command(subcommand)]
    pub command: SystemCommand,
}

/// What `system` does.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show what takes room on the disk, and how much of that could go
    Df(Lazy<Df>),
}

/// Arguments of `system df`.
#[derive(Debug, Args)]
pub struct Df {
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

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Listen here; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000")]
    pub listen: String,
    /// Send at most this much per second, all clients together: 500K, 10M/s [default: no limit]
    #[arg(long, visible_alias = "limit-rate", value_name = "BYTES[K|M|G][/s]")]
    pub rate: Option<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
pub struct Info {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `version`.
#[derive(Debug, Args)]
pub struct Version {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `monitor`.
#[derive(Debug, Args)]
pub struct Monitor {
    /// What to look at.
    #[command(subcommand)]
    pub command: MonitorCommand,
}

/// What `monitor` looks at.
#[derive(Debug, Subcommand)]
pub enum MonitorCommand {
    /// Show sequence number, rate, subscribers and their lag, ring, journal, and what was lost
    Status(Lazy<MonitorStatus>),
}

/// Arguments of `monitor status`.
#[derive(Debug, Args)]
pub struct MonitorStatus {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where monitord listens.
    #[command(flatten)]
    pub socket: EventsSocket,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
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
