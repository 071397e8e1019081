//! The command line of images: docker's names and options.
//!
//! Only describes the command line. The commands parse the values.

use super::display::Progress;
use super::lazy::Lazy;
use super::socket::EngineSocket;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// The end of the help of `login` and `logout`.
pub(crate) const AUTH_FILES: &str = "\
Files: credentials are saved in --authfile, else in $REGISTRY_AUTH_FILE, else in \
$XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json without XDG_RUNTIME_DIR), as podman and skopeo \
do. That last file is lost at a reboot. If the file names a credential helper for the registry (credHelpers, \
credsStore), the helper stores the credentials instead.

sampan looks for credentials in those files, then in $XDG_CONFIG_HOME/containers/auth.json ($HOME/.config/...) and in \
$DOCKER_CONFIG/config.json ($HOME/.docker/config.json). If a command brings no credentials along, the engine looks in \
the file of its setting auth-file, then in files of its own user.";

#[derive(Debug, Args)]
pub(crate) struct ImageGroup {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Show the steps in which an image was built [same as 'sampan history']
    History(Lazy<History>),
    /// List images [same as 'sampan images']
    #[command(visible_alias = "list")]
    Ls(Lazy<Images>),
    /// Remove references, and images with their last one [same as 'sampan rmi']
    #[command(visible_alias = "remove")]
    Rm(Lazy<Remove>),
    /// Remove images without a name, and content that no image needs
    #[command(after_long_help = PRUNE)]
    Prune(Lazy<Prune>),
    /// Read the whole store and report what is damaged
    #[command(after_long_help = VERIFY)]
    Verify(Lazy<Verify>),
    /// Add a reference to an image
    Tag(Lazy<Tag>),
    /// Pull an image from a registry
    Pull(Lazy<Pull>),
    /// Push an image to a registry
    Push(Lazy<Push>),
    /// Show images in full, as JSON
    Inspect(Lazy<Inspect>),
    /// Create an image from root file system tars
    Import(Lazy<Import>),
    /// Load images from an archive
    Load(Lazy<Load>),
    /// Save images to an archive
    Save(Lazy<Save>),
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The images: [docker://][HOST[:PORT]/]NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:NAME] or
    /// docker-archive:FILE[:REF]
    #[arg(value_name = "REF", required = true)]
    pub references: Vec<String>,
    /// Pull all tags of each repository; REF must then have neither tag nor digest
    #[arg(short, long)]
    pub all_tags: bool,
    /// Do not unpack the layers
    #[arg(long)]
    pub no_unpack: bool,
    /// Download at most this much per second, for each REF: 500K, 10M/s [default: no limit]
    #[arg(long, value_name = "BYTES[K|M|G][/s]")]
    pub limit_rate: Option<String>,
    /// Pull the image for this platform [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Pull in the background, and print the number of each job
    #[arg(short, long, conflicts_with = "quiet")]
    pub detach: bool,
    /// Verify TLS certificates; 'false' also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Read credentials only from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    /// List only images with this repository or reference [default: all]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Ignored: docker lists intermediate images with it, and there are none here
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Print the list in this format: table, json (one object per line), or a template of Go [default: table]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Also print digests
    #[arg(long)]
    pub digests: bool,
    /// Print IDs in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Images: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Print each image in this format: json (an array on one line), or a template of Go
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The image: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Print the list in this format: table, json (one object per line), or a template of Go [default: table]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    /// Print sizes in units and times as ages; 'false' prints bytes and dates
    #[arg(short = 'H', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Print IDs and commands in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// The image: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE")]
    pub source: String,
    /// References to add
    #[arg(value_name = "REF", required = true)]
    pub targets: Vec<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Images: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove an ID even if it has several references
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Reference of the new image
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Tars, plain or compressed, one per layer, lowest layer first; '-' is standard input
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Set the platform of the image [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Set a word of the default command; repeat for more
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Set a label of the image
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The image: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The destination: [docker://][HOST[:PORT]/]NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE[:NAME] or
    /// docker-archive:FILE[:REF] [default: the image's own reference]
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Push in the background, and print the number of the job
    #[arg(short, long, conflicts_with = "quiet")]
    pub detach: bool,
    /// Verify TLS certificates; 'false' also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Upload at most this much per second: 500K, 10M/s [default: no limit]
    #[arg(long, value_name = "BYTES[K|M|G][/s]")]
    pub limit_rate: Option<String>,
    /// Read credentials only from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// A tar that every version of docker and podman can load
    #[default]
    DockerArchive,
    /// A tar of an OCI image layout, with unchanged manifests and digests
    OciArchive,
    /// An OCI image layout in a directory; images that are in the directory stay
    OciDir,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Images: reference, digest, or the beginning of an ID
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Write to this file or directory. A file is replaced once the archive is complete, and keeps its owner and mode;
    /// a pipe or device is written directly [default: standard output]
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub output: Option<PathBuf>,
    /// Write this format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: SaveFormat,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Read the archive from this file [default: standard input]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input: Option<PathBuf>,
    /// Give the one image of the archive this reference instead of its own references
    #[arg(long, value_name = "REF")]
    pub name: Option<String>,
    /// Load the images for this platform from an archive with several [default: the host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Do not unpack the layers
    #[arg(long)]
    pub no_unpack: bool,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

const VERIFY: &str = "\
A blob with a wrong digest is removed from the store, and the next 'sampan pull' of the image downloads it again. \
With --deep, an unpacked layer that is missing or differs from its blob is replaced. Content that a running job needs \
is reported and stays as it is. The exit status is 1 if something is damaged, or was.";

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Also unpack the blob of each layer again, one at a time, and compare it with the layer file by file
    #[arg(long)]
    pub deep: bool,
    #[command(flatten)]
    pub progress: Progress,
    #[command(flatten)]
    pub socket: EngineSocket,
}

const PRUNE: &str = "\
Filters: an image must match all of them.
  until=TIME            Images created before this time, in any form that
                        'events --since' takes; 24h is a day ago
  label=KEY[=VALUE]     Images with this label

An image that a running job needs stays. Blobs and unpacked layers that no image needs are always removed.";

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Also remove images with a name, unless something uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask for confirmation; without a terminal, sampan never asks
    #[arg(short, long)]
    pub force: bool,
    /// Remove only images that match
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub registry: String,
    /// Set the user name [default: ask for the user name]
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Set the password; every user of this host can see it in the list of processes [default: ask for the password]
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
    /// Only print the name of the user that is logged in
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    pub get_login: bool,
    /// Verify TLS certificates; 'false' also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Save the credentials in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io", conflicts_with = "all")]
    pub registry: String,
    /// Remove the credentials of all registries
    #[arg(short, long)]
    pub all: bool,
    /// Remove the credentials only from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub socket: EngineSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Listen at this address; the kernel chooses a port for 0
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000")]
    pub listen: String,
    /// Send at most this much per second to all clients together: 500K, 10M/s [default: no limit]
    #[arg(long, visible_alias = "limit-rate", value_name = "BYTES[K|M|G][/s]")]
    pub rate: Option<String>,
    #[command(flatten)]
    pub socket: EngineSocket,
}
