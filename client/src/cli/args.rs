//! The command line, and all its help: the one definition that man pages and completions are generated from.
//!
//! Pure description; what the commands do is in the modules beside it. `examples/generate.rs` includes this file.

use clap::{Args, Parser, Subcommand, ValueEnum};

// The paths are written out, since `examples/generate.rs` includes this file from elsewhere.
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
#[path = "args/socket.rs"]
pub(crate) mod socket;
#[path = "args/system.rs"]
pub(crate) mod system;

use lazy::Lazy;
use socket::EngineSocket;

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
pub(crate) struct Cli {
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

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print events as they happen, and past ones on request
    #[command(after_long_help = event::TIMES)]
    Events(Lazy<event::Events>),
    /// Write an event of your own
    #[command(after_long_help = event::BATCH)]
    Emit(Lazy<event::Emit>),
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
    Pull(Lazy<image::Pull>),
    /// List jobs: running ones, and those that ended lately
    Jobs(Lazy<job::Jobs>),
    /// Follow the progress of a job
    Watch(Lazy<job::Watch>),
    /// End a running job, whoever watches it
    Cancel(Lazy<job::Cancel>),
    /// List images
    Images(Lazy<image::Images>),
    /// Show containers and images in full, as JSON
    Inspect(Lazy<InspectAny>),
    /// Give an image one more reference
    Tag(Lazy<image::Tag>),
    /// Remove references, and images with their last one
    Rmi(Lazy<image::Remove>),
    /// Make an image of root file system tars
    Import(Lazy<image::Import>),
    /// Send an image to a registry
    Push(Lazy<image::Push>),
    /// Let a registry check a user name and password, and save them
    #[command(after_long_help = image::AUTH_FILES)]
    Login(Lazy<image::Login>),
    /// Forget what 'login' saved
    #[command(after_long_help = image::AUTH_FILES)]
    Logout(Lazy<image::Logout>),
    /// Take images out of an archive that docker, podman, skopeo or 'save' wrote
    Load(Lazy<image::Load>),
    /// Write images into an archive that docker, podman and skopeo read
    Save(Lazy<image::Save>),
    /// Be a read-only registry of the images in this store, until Ctrl-C
    Serve(Lazy<image::Serve>),
    /// Work on images: the commands above by the names that docker and podman have for them, and more
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Image(image::ImageGroup),
    /// Look after the host as a whole
    #[command(subcommand_required = true, arg_required_else_help = true)]
    System(system::System),
    /// Show what the engine is
    Info(Lazy<system::Info>),
    /// Print versions
    Version(Lazy<system::Version>),
    /// Look into monitord
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Monitor(system::Monitor),
    /// Run monitord and the engine in the foreground, until Ctrl-C
    Up(Lazy<system::Up>),
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectAny {
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
pub(crate) enum InspectKind {
    /// Containers
    Container,
    /// Images
    Image,
}
