//! How a container was created: the file `container.json`.
//!
//! The engine writes the file when a container is created or renamed, and reads it when the engine starts. The file
//! contains all data that a start needs, so that the image may lose its names after the creation. The container's
//! state is in another file: see [`sampan_ipc::shim::State`].

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
    /// The container's name, which is unique among containers.
    pub name: String,
    /// When the container was created, in nanoseconds since the epoch.
    pub created: i64,
    /// The request that created the container.
    pub create: Create,
    /// The image.
    pub image: ImageOf,
    /// The image's defaults for containers. OCI image-spec, "config".
    pub run: Run,
    /// The command line: entrypoint and command.
    pub words: Vec<String>,
    /// Number of the signal that stops the container.
    pub stop_signal: i32,
    /// Whether the container's root file system is an overlay or a copy.
    #[serde(default)]
    pub rootfs: Form,
    /// Size on disk, in bytes, of a copied root file system before the container wrote anything.
    #[serde(default)]
    pub copied: u64,
    /// The container's SELinux labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub selinux: Labels,
}

/// A container's image, as it was when the container was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOf {
    /// The image's full reference if the request named a reference of the image; otherwise the name in the request.
    pub name: String,
    /// Digest of the image's config, which is the image's ID.
    pub id: String,
    /// Digest of the image's manifest.
    pub digest: String,
    /// Digests of all blobs of the image.
    pub blobs: Vec<Digest>,
    /// Chain IDs of the image's layers, lowest first.
    pub layers: Vec<Digest>,
}

/// Number of digits of an ID that people see.
const SHORT_DIGITS: usize = 12;

/// Returns the first digits of an ID, or a shorter ID as a whole: `container.json` may contain anything.
pub fn short(id: &str) -> &str {
    id.get(..SHORT_DIGITS).unwrap_or(id)
}

impl Definition {
    /// Returns the labels of the image and the container. The container's label wins if both have the key.
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
