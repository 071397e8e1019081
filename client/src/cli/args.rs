//! The command line and all its help, from which man pages and completions are generated.
//!
//! Only describes the command line; other modules do the work. `examples/generate.rs` includes this file.

use clap::{Args, Parser, Subcommand, ValueEnum};

// Each path is given, since `examples/generate.rs` includes this file from another directory.
#[path = "args/container.rs"]
pub(crate) mod container;
#[path = "args/display.rs"]
pub(crate) mod display;
#[path = "args/event.rs"]
pub(crate) mod event;
#[path = "args/image.rs"]
pub(crate) mod image;
#[path = "args/job.rs"]
pub(crate) mod job;
#[path = "args/lazy.rs"]
pub(crate) mod lazy;
#[path = "args/replication.rs"]
pub(crate) mod replication;
#[path = "args/socket.rs"]
pub(crate) mod socket;
#[path = "args/system.rs"]
pub(crate) mod system;

use lazy::Lazy;
use socket::EngineSocket;

/// Run containers, pull images, watch events of this host, and emit your own
#[derive(Debug, Parser)]
#[command(
    name = "sampan",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = ENVIRONMENT
)]
pub(crate) struct Cli {
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

Groups that may use root's daemons, in /run/sampan:
  sampan            Members watch events, and emit their own
  sampan-facts      Members write facts to the monitor FIFO
  sampan-admin      Members use the engine, which makes them root in all
                    but name: they may mount any directory of the host

Exit status:
  0    Success
  1    Failure; the reason is on standard error
  2    'emit' got an event that is not allowed, and did not write it, or
       invalid arguments
  64   The template of --format cannot be parsed
  125  Invalid usage of another command; for 'run' and 'exec', any failure
       to start. Both otherwise exit with the exit code of their command
  130  Ctrl-C: sampan dies of the signal, which shells report as 130;
       SIGTERM is 143, and 141 says that the output lost its reader";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print events as they happen, and past events on request
    #[command(after_long_help = event::TIMES)]
    Events(Lazy<event::Events>),
    /// Write an event of your own
    #[command(after_long_help = event::BATCH)]
    Emit(Lazy<event::Emit>),
    /// Create and start a container
    #[command(disable_help_flag = true, args_override_self = true, after_long_help = container::RUN_STATUS,
        override_usage = "sampan run [OPTIONS] IMAGE [COMMAND [ARG]...]")]
    Run(Lazy<Box<container::Run>>),
    /// Create a container
    #[command(
        disable_help_flag = true,
        args_override_self = true,
        override_usage = "sampan create [OPTIONS] IMAGE [COMMAND [ARG]...]"
    )]
    Create(Lazy<Box<container::Create>>),
    /// Start containers that do not run
    Start(Lazy<container::Start>),
    /// Stop containers
    Stop(Lazy<container::Stop>),
    /// Send a signal to containers
    Kill(Lazy<container::Kill>),
    /// Stop containers that run, and start them again
    Restart(Lazy<container::Stop>),
    /// Pause containers
    Pause(Lazy<container::Containers>),
    /// Resume paused containers
    Unpause(Lazy<container::Containers>),
    /// Wait until containers stop, and print their exit codes
    Wait(Lazy<container::Wait>),
    /// Remove containers
    Rm(Lazy<container::RemoveContainers>),
    /// List containers
    Ps(Lazy<container::Ps>),
    /// Print the output of a container
    Logs(Lazy<container::Logs>),
    /// Run another command in a running container
    #[command(after_long_help = container::RUN_STATUS,
        override_usage = "sampan exec [OPTIONS] CONTAINER COMMAND [ARG]...")]
    Exec(Lazy<container::Exec>),
    /// Attach to a running container
    Attach(Lazy<container::Attach>),
    /// Rename a container
    Rename(Lazy<container::Rename>),
    /// List the processes of a container
    #[command(override_usage = "sampan top [OPTIONS] CONTAINER [PS OPTION]...")]
    Top(Lazy<container::Top>),
    /// Manage containers: docker's longer names of commands, and more
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Container(container::ContainerGroup),
    /// Generate files for other programs
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Generate(container::Generate),
    /// Pull images from registries
    Pull(Lazy<image::Pull>),
    /// List jobs that run, and jobs that ended recently
    Jobs(Lazy<job::Jobs>),
    /// Follow the progress of a job
    Watch(Lazy<job::Watch>),
    /// Cancel a running job, even if others watch it
    Cancel(Lazy<job::Cancel>),
    /// List images
    Images(Lazy<image::Images>),
    /// Show the steps in which an image was built
    History(Lazy<image::History>),
    /// Show containers and images in full, as JSON
    Inspect(Lazy<InspectAny>),
    /// Add a reference to an image
    Tag(Lazy<image::Tag>),
    /// Remove references, and images with their last one
    Rmi(Lazy<image::Remove>),
    /// Create an image from root file system tars
    Import(Lazy<image::Import>),
    /// Push an image to a registry
    Push(Lazy<image::Push>),
    /// Copy images between registries, directories and the store
    #[command(after_long_help = replication::PLACES)]
    Replicate(Lazy<Box<replication::Replicate>>),
    /// List, show, stop and repeat what 'replicate' and the policies do
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Replication(replication::ReplicationGroup),
    /// Log in to a registry, and save the credentials
    #[command(after_long_help = image::AUTH_FILES)]
    Login(Lazy<image::Login>),
    /// Log out of a registry: remove the saved credentials
    #[command(after_long_help = image::AUTH_FILES)]
    Logout(Lazy<image::Logout>),
    /// Load images from an archive of docker, podman, skopeo or 'save'
    Load(Lazy<image::Load>),
    /// Save images to an archive for docker, podman and skopeo
    Save(Lazy<image::Save>),
    /// Serve the images of this store as a read-only registry, until Ctrl-C
    Serve(Lazy<image::Serve>),
    /// Manage images: docker's longer names of commands, and more
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Image(image::ImageGroup),
    /// Manage this installation as a whole
    #[command(subcommand_required = true, arg_required_else_help = true)]
    System(system::System),
    /// Show version, paths and state of the engine
    Info(Lazy<system::Info>),
    /// Print versions
    Version(Lazy<system::Version>),
    /// Inspect monitord
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Monitor(system::Monitor),
    /// Run monitord and the engine in the foreground, until Ctrl-C
    Up(Lazy<system::Up>),
}

#[derive(Debug, Args)]
pub(crate) struct InspectAny {
    /// Containers (name, ID, or the beginning of an ID) and images (reference, digest, or the beginning of an ID)
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Look only for containers, or only for images [default: containers first, then images]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<InspectKind>,
    /// Include how much a container has written to its root file system
    #[arg(short, long)]
    pub size: bool,
    /// Print each object in this format: json (an array on one line), or a template of Go
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    /// Containers
    Container,
    /// Images
    Image,
}
