//! Real processes for tests: registries, images, engines; monitord, subscribers, what the kernel says of them.

pub mod host;
pub mod process;
pub mod random;
pub mod registry;
pub mod subscriber;
