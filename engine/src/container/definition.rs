//! How a container was created: the file `container.json`.
//!
//! Written by the engine when a container is created or renamed, read when the engine starts. Holds all that a start
//! needs, so that the image may lose its names in the meantime. The container's state is not here: see
//! [`sampan_ipc::shim::State`].

use sampan_ipc::container::Create;
use sampan_ipc::shim::Identity;
use sampan_oci::Run;
use sampan_oci::digest::Digest;
use sampan_spec::security::Labels;
use sampan_spec::settings::Form;
use serde::{Deserialize, Serialize};

/// Longest `container.json` that is read, in bytes.
pub const FILE_MAX: u64 = 16 << 20;
/// The file's name in the container's directory.
pub const FILE: &str = "container.json";

/// How a container was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name; unique among containers.
    pub name: String,
    /// When it was created, in nanoseconds since the epoch.
    pub created: i64,
    /// The request that created it.
    pub create: Create,
    /// The image.
    pub image: ImageOf,
    /// The image's defaults for containers. OCI image-spec, "config".
    pub run: Run,
    /// The command line: entrypoint and command.
    pub words: Vec<String>,
    /// Number of the signal that stops it.
    pub stop_signal: i32,
    /// Whether its root file system is an overlay or a copy.
    #[serde(default)]
    pub rootfs: Form,
    /// Size on disk, in bytes, of a copied root file system before the container wrote anything.
    #[serde(default)]
    pub copied: u64,
    /// Its SELinux labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub selinux: Labels,
}

/// A container's image, as it was when the container was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOf {
    /// The image's full reference if the request named one that it has, else the name in the request.
    pub name: String,
    /// Digest of its config: the image's id.
    pub id: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Digests of all blobs of the image.
    pub blobs: Vec<Digest>,
    /// Chain ids of its layers, lowest first.
    pub layers: Vec<Digest>,
}

/// Digits of an id that are shown to people.
const SHORT_DIGITS: usize = 12;

/// Returns the first digits of an id, or all of an id that is shorter: `container.json` may hold anything.
pub fn short(id: &str) -> &str {
    id.get(..SHORT_DIGITS).unwrap_or(id)
}

impl Definition {
    /// Returns the image's labels, overridden by the container's own.
    pub fn labels(&self) -> Vec<(String, String)> {
        let mut labels = self.run.labels.clone();
        labels.extend(self.create.labels.iter().cloned());
        labels.into_iter().collect()
    }

    /// Returns the fields that identify the container in its events.
    pub fn identity(&self) -> Identity {
        Identity {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image.name.clone(),
            labels: self.labels(),
        }
    }

    /// Returns the digests of all blobs and layers that must stay in the store while the container exists.
    pub fn needs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.image.blobs.iter().chain(&self.image.layers).cloned()
    }
}
