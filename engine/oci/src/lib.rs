//! What the OCI specifications define: how content is named, and the documents that an image consists of.
//!
//! Called by every crate that handles images. Pure: reads no file, no clock and no environment, and knows no other crate of
//! the workspace. All of it takes bytes of strangers, and is fuzzed.
//!
//! | module | what it owns |
//! |---|---|
//! | [`digest`] | digests of content, and how they are computed |
//! | [`reference`] | names of images: registry, repository, tag, digest |
//! | [`platform`] | what an image was made for, and whether it runs here |
//! | `document` | index, manifest and config: read from untrusted bytes, and checked (the items below) |
//! | [`timestamp`] | the time stamps in them |
#![forbid(unsafe_code)]

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
