//! Facts that docker's API shows, and that the older messages of `engine.sock` lack.
//!
//! [`Image`], [`Summary`] and [`Info`] keep the form that they had in the first release. A detail holds one of them, and
//! adds facts. postcard numbers fields by position: append, never reorder.

use crate::container::{Mount, Summary};
use crate::image::Image;
use serde::{Deserialize, Serialize};

/// The state of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Program version.
    pub version: String,
    /// Process ID.
    pub pid: u32,
    /// Time since the engine's start, in milliseconds.
    pub uptime_ms: u64,
    /// Directory of the store.
    pub store: String,
    /// Number of images.
    pub images: u64,
    /// Number of running jobs.
    pub jobs: u64,
    /// Number of events that wait to be written to the monitor FIFO.
    pub events_spooled: u64,
    /// Number of events that the engine has dropped since its start.
    pub events_lost: u64,
    /// The OCI runtime and its version, or why there is none.
    pub runtime: String,
    /// Number of all containers, of running containers, and of paused containers.
    pub containers: (u64, u64, u64),
    /// Version of control groups (`v1`, `v2` or `hybrid`), and the driver (`cgroupfs` or `systemd`).
    pub cgroup: (String, String),
    /// How the engine makes root file systems: `overlay`, or `copy` and the reason.
    pub rootfs: String,
    /// The default log driver.
    pub log_driver: String,
    /// Kernel security features that containers use: `seccomp`, `apparmor=PROFILE`, `selinux=TYPE`, `cgroupns`.
    pub security: Vec<String>,
}

/// An image with its labels and users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetail {
    /// The image.
    pub image: Image,
    /// Digest of the index that the image was chosen from, as its registry has it; `None` if there was no index.
    pub index: Option<String>,
    /// The image's labels. Labels that do not fit into a frame are left out.
    pub labels: Vec<(String, String)>,
    /// Number of containers that were created from the image.
    pub containers: u32,
}

/// A step in which an image was built. OCI image-spec, "history".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When the step was made, in nanoseconds since the epoch; `None` if the image does not say.
    pub created: Option<i64>,
    /// The command of the step; empty if the image does not say.
    pub created_by: String,
    /// Bytes on the disk of the layer that the step made, unpacked; 0 if the step made no layer.
    pub size: u64,
    /// The step's comment; empty if there is none.
    pub comment: String,
}

/// A container with its mounts and names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDetail {
    /// The container.
    pub summary: Summary,
    /// The image as the request that created the container named it, `alpine` for example.
    pub requested: String,
    /// Whether the name in [`Summary::image`] stands for another image now, or for none.
    pub has_moved: bool,
    /// The container's mounts.
    pub mounts: Vec<Mount>,
    /// The container's annotations.
    pub annotations: Vec<(String, String)>,
    /// Ports that the image exposes, `80/tcp` for example.
    pub exposed: Vec<String>,
    /// Bytes of all files of the root file system; `None` if the request did not include sizes.
    pub root_size: Option<u64>,
}

/// The engine's state and settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDetails {
    /// The state.
    pub info: Info,
    /// Number of containers that have no process.
    pub stopped: u64,
    /// The engine's data directory.
    pub data: String,
    /// Names and paths of the OCI runtimes that a request may choose.
    pub runtimes: Vec<(String, String)>,
    /// Name of the runtime that is used by default; empty if there is none.
    pub runtime: String,
    /// The output of the default runtime's `--version`, its first line; empty if there is none.
    pub runtime_version: String,
    /// Path of the small init for containers with that option; empty if there is none.
    pub init: String,
    /// Path of the configured seccomp profile; empty for the built-in one.
    pub seccomp_profile: String,
    /// Hosts, with port, for which plain HTTP or a certificate that cannot be verified is accepted.
    pub insecure_registries: Vec<String>,
    /// The mirrors of Docker Hub, in order.
    pub mirrors: Vec<String>,
}
