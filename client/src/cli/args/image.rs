//! The command line of images: docker's names and options.
//!
//! Pure description. Values are parsed by the commands.

use super::display::{ListFormat, Progress};
use super::lazy::Lazy;
use super::socket::EngineSocket;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Which files credentials are saved in, and looked for.
pub(crate) const AUTH_FILES: &str = "\
Files: credentials are saved in --authfile, else in $REGISTRY_AUTH_FILE, else in \
$XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json without XDG_RUNTIME_DIR), as podman and skopeo \
do: that is gone after a reboot. Where the file sets a credential helper for the registry (credHelpers, credsStore), \
that keeps them instead.

They are looked for in those files, then in $XDG_CONFIG_HOME/containers/auth.json ($HOME/.config/...) and in \
$DOCKER_CONFIG/config.json ($HOME/.docker/config.json). The engine has an order of its own of the same kind, behind \
the key auth-file of its configuration, for what the command line does not bring along.";

/// Arguments of `image`.
#[derive(Debug, Args)]
pub(crate) struct ImageGroup {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What `image` does.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
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

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
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

/// Arguments of `images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
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

/// Arguments of `image inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Images: reference, digest, or the beginning of an id
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Where the engine listens.
    #[command(flatten)]
    pub socket: EngineSocket,
}

/// Arguments of `tag`.
#[derive(Debug, Args)]
pub(crate) struct Tag {
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
pub(crate) struct Remove {
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
pub(crate) struct Import {
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
pub(crate) struct Push {
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
pub(crate) enum SaveFormat {
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
pub(crate) struct Save {
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
pub(crate) struct Load {
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

const VERIFY: &str = "\
A blob whose digest is wrong is taken out of the store: nobody can use it, and the next 'sampan pull' of the image \
fetches it again. With --deep, an unpacked layer that is missing or differs from its blob is replaced. What a job \
needs just now stays as it is, and is told of. Exit status 1 if something is, or was, broken.";

/// Arguments of `image verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
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
pub(crate) struct Prune {
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

/// Arguments of `login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
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
pub(crate) struct Logout {
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

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
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
