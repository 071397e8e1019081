//! From the options of a container, its image and this host to `config.json` of the OCI runtime-spec.
//!
//! [`bundle`] makes the whole from its parts: [`process`] (with [`user`], [`capabilities`] and [`security`]), [`mounts`],
//! [`devices`], [`resources`] and [`seccomp`]; [`config_json`] is the file's form. [`validate`] judges a request before
//! anything is made, [`words`] its single words, [`names`] and [`signals`] what they are called. [`settings`] is what the
//! configuration says of containers. What can be done is asked of [`host`] (with [`lsm`]), of the OCI [`runtime`] and of the
//! image's files ([`rootfs_view`]); [`relabel`] is the one that changes anything: labels of files that are mounted.
//!
//! Called by the engine. Knows no container's directory, no store and no process of a container.
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod bundle;
pub mod capabilities;
pub mod config_json;
pub mod devices;
pub mod error;
pub mod host;
pub mod lsm;
pub mod mounts;
pub mod names;
pub mod process;
pub mod relabel;
pub mod resources;
pub mod rootfs_view;
pub mod runtime;
pub mod seccomp;
pub mod security;
pub mod settings;
pub mod signals;
pub mod user;
pub mod validate;
pub mod words;
