//! Real processes for tests: registries, images, engines.

pub mod registry;
