//! Names and documents that the OCI specifications define: digests, references, platforms, manifests and configs.
//!
//! Called by every crate that handles images. Pure: reads no file, no clock and no environment, and depends on no other
//! crate of the workspace. Every parser here takes untrusted bytes and is fuzzed.
//!
//! | module | what it owns |
//! |---|---|
//! | [`digest`] | parses and computes digests of content |
//! | [`mod@reference`] | parses names of images: registry, repository, tag, digest |
//! | [`platform`] | the platform that an image was built for, and how well it fits another one |
//! | `document` | parses and checks index, manifest and config (the items below) |
//! | [`timestamp`] | the timestamps in these documents |
#![forbid(unsafe_code)]
// Untrusted bytes must never cause a panic.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing))]

pub mod digest;
mod document;
pub mod platform;
pub mod reference;
pub mod timestamp;

pub use document::{
    ACCEPT, CONFIG, CONFIG_MAX, Config, DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document,
    History, INDEX, Index, LAYER, LAYERS_MAX, MANIFEST, MANIFEST_MAX, Manifest, OciError, PlatformField,
    RootFs, Run, check_platform, choose, parse_config, parse_document, to_oci_manifest,
};
