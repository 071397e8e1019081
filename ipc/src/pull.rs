//! The parts of the engine's protocol about pulls by clients that stand between the engine and other programs, such as
//! the gateway of the Docker API.
//!
//! See [`crate::engine`]. Enum variants are numbered by position: append, never reorder.

use crate::image::Prune;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// An image of a pull. Answer to [`Request::PullKept`](crate::engine::Request::PullKept): sent when the image's
/// manifest is known, after the progress rows of the image, and again when the image is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImage {
    /// The image's position in the pull, from 0. A pull of all tags has several images.
    pub index: u32,
    /// The canonical reference of the image.
    pub reference: String,
    /// What the reference stands for in the registry: the digest of the index, or of the manifest if there is no index.
    pub digest: String,
    /// The index of the progress row of the image's lowest layer.
    pub first_row: u32,
    /// For each layer, lowest first, whether the store had its blob when the image's pull began.
    pub stored: Vec<bool>,
    /// How far the image is.
    pub outcome: PullOutcome,
}

impl PulledImage {
    /// The indexes of the image's progress rows.
    pub fn rows(&self) -> Range<u32> {
        let count = u32::try_from(self.stored.len()).unwrap_or(u32::MAX);
        self.first_row..self.first_row.saturating_add(count)
    }
}

/// How far an image of a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullOutcome {
    /// The engine fetches the image.
    #[default]
    Running,
    /// The image is in the store, and was not there under this reference before.
    New,
    /// The store had the image under this reference before.
    Unchanged,
}

/// What a client may send after [`Request::PullKept`](crate::engine::Request::PullKept).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullMessage {
    /// Whoever the client asked for does not need the image any more. The engine cancels the pull if no other client
    /// watches it.
    Release,
}

/// Arguments of [`Request::PruneImages`](crate::engine::Request::PruneImages).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneImages {
    /// Which images to remove.
    pub prune: Prune,
    /// Keep images with one of these labels: `KEY` or `KEY=VALUE`.
    pub without_labels: Vec<String>,
}
