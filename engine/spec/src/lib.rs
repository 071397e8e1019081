//! Makes `config.json` of the OCI runtime-spec from a container's options, its image and this host.
//!
//! | module | what it owns |
//! |---|---|
//! | [`bundle`] | the whole document, made from the parts below |
//! | [`config_json`] | the types of the document |
//! | [`process`], [`user`], [`capabilities`] | the process: arguments, environment, user, capabilities, limits |
//! | [`security`], [`lsm`] | AppArmor profiles and SELinux labels |
//! | [`mounts`], [`devices`], [`resources`], [`seccomp`] | mounts, devices, limits of resources, system calls |
//! | [`validate`], [`words`] | checks of a request before a container is created: the whole request, single values |
//! | [`names`], [`signals`] | containers' names and ids; names of signals |
//! | [`settings`] | the settings for containers in the configuration |
//! | [`host`], [`runtime`], [`rootfs_view`] | features of this host and the OCI runtime; files of the image |
//! | [`relabel`] | SELinux labels of mounted files: the only module that changes existing files |
//! | [`error`] | why a container cannot be created |
//!
//! Called by the engine. Knows no container's directory, no store and no running process.
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
