//! How a container was made: the file `container.json`.
//!
//! Written by the engine when a container is made and when it gets another name, read when the engine starts. Holds
//! all that a start needs, so that the image may lose its names in the meantime. Where the container stands is not
//! here: see [`sampan_ipc::shim::State`].

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

/// How a container was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name; unique among containers.
    pub name: String,
    /// When it was made, in nanoseconds since the epoch.
    pub created: i64,
    /// What was asked for.
    pub create: Create,
    /// The image.
    pub image: ImageOf,
    /// How containers of the image run.
    pub run: Run,
    /// What is run: entrypoint and command.
    pub words: Vec<String>,
    /// The signal that stops it.
    pub stop_signal: i32,
    /// How its root file system is there.
    #[serde(default)]
    pub rootfs: Form,
    /// Bytes on the disk that a copied root file system had before the container wrote anything.
    #[serde(default)]
    pub copied: u64,
    /// Its SELinux labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub selinux: Labels,
}

/// The image that a container is of, as it was then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOf {
    /// As it was asked for; canonical where it had that name.
    pub name: String,
    /// Digest of its config: the image's id.
    pub id: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Digests of all blobs that it needs.
    pub blobs: Vec<Digest>,
    /// Chain ids of its layers, lowest first.
    pub layers: Vec<Digest>,
}

impl Definition {
    /// Labels of the image, and over them those that were asked for.
    pub fn labels(&self) -> Vec<(String, String)> {
        let mut labels = self.run.labels.clone();
        labels.extend(self.create.labels.iter().cloned());
        labels.into_iter().collect()
    }

    /// Who it is, in its events.
    pub fn identity(&self) -> Identity {
        Identity {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image.name.clone(),
            labels: self.labels(),
        }
    }

    /// What must stay in the store as long as the container is there.
    pub fn needs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.image.blobs.iter().chain(&self.image.layers).cloned()
    }
}
