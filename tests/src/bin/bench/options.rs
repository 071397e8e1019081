//! What a benchmark was asked for.

use crate::puller::Puller;
use crate::registries::Registry;
use crate::system::System;

/// What was asked for.
pub struct Options {
    /// How often each figure is measured.
    pub runs: u64,
    /// Whom to measure.
    pub systems: Vec<System>,
    /// How many times longer the runs of a fan-out are.
    pub scale: u64,
    /// Which images are pulled; all if none is named.
    pub images: Vec<String>,
    /// Words in the names of those who pull; all pull if there is none.
    pub pullers: Vec<String>,
    /// Where they pull from.
    pub registry: Registry,
}

impl Options {
    /// Whether `puller` is wanted, and can be had here.
    pub fn pulls_with(&self, puller: Puller) -> bool {
        self.wants(puller.name()) && puller.is_there()
    }

    /// Whether who is called `name` is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.pullers.is_empty() || self.pullers.iter().any(|word| name.contains(word.as_str()))
    }
}
