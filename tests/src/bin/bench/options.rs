//! The options of a run of the benchmark.

use crate::puller::Puller;
use crate::registries::Registry;
use crate::system::System;

/// The options of a run.
pub struct Options {
    /// Number of runs for each figure.
    pub runs: u64,
    /// The systems to be measured.
    pub systems: Vec<System>,
    /// Factor by which the runs of `fanout` are longer.
    pub scale: u64,
    /// Names of the images to be pulled; empty for all.
    pub images: Vec<String>,
    /// Words of which a puller's name must contain one; empty for all pullers.
    pub pullers: Vec<String>,
    /// The registry that images are pulled from.
    pub registry: Registry,
    /// Number of layers of the image that is replicated.
    pub layers: u64,
    /// Bytes of each of these layers.
    pub layer_bytes: u64,
}

impl Options {
    /// True if `puller` is selected, and installed on this host.
    pub fn pulls_with(&self, puller: Puller) -> bool {
        self.wants(puller.name()) && puller.is_there()
    }

    /// True if the puller or runner `name` is selected.
    pub fn wants(&self, name: &str) -> bool {
        self.pullers.is_empty() || self.pullers.iter().any(|word| name.contains(word.as_str()))
    }
}
