//! Images in the protocol of `engine.sock`: the data of requests and answers.
//!
//! The types are plain data. postcard numbers fields by position: append, never reorder.

use serde::{Deserialize, Serialize};

/// One image of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image's canonical references; none if the last one was removed or moved to another image.
    pub references: Vec<String>,
    /// Digest of the image's manifest.
    pub digest: String,
    /// Digest of the image's config, which is the image's ID.
    pub id: String,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Bytes on the disk of the image's blobs and unpacked layers, including those that other images share.
    pub size: u64,
    /// Number of layers.
    pub layers: u32,
    /// When the image was created, in nanoseconds since the epoch; `None` if its config does not say.
    pub created: Option<i64>,
}

/// Disk usage of one kind of data in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `images` (blobs and unpacked layers), `layers` (the unpacked layers, a part of `images`), `partials`,
    /// `containers`.
    pub kind: String,
    /// Number of objects of this kind.
    pub count: u64,
    /// Number of objects that a reference names or that something uses.
    pub active: u64,
    /// Bytes that all objects take on the disk.
    pub size: u64,
    /// Bytes on the disk that a prune would free.
    pub reclaimable: u64,
}

/// Disk usage of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// Bytes that the image's blobs and unpacked layers take on the disk.
    pub size: u64,
    /// The part of `size` that no other image shares.
    pub unique: u64,
    /// Whether a job uses the image at this moment.
    pub in_use: bool,
}

/// Arguments of [`Request::Prune`](crate::engine::Request::Prune).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Also remove images that have a reference, if nothing uses them.
    pub all: bool,
    /// Only images created before this time, in nanoseconds since the epoch.
    pub until: Option<i64>,
    /// Only images with these labels: `KEY` or `KEY=VALUE`.
    pub labels: Vec<String>,
}
