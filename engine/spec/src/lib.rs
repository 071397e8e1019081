//! Makes `config.json` of the OCI runtime-spec from a container's options, its image and this host.
//!
//! | module | what it owns |
//! |---|---|
//! | [`bundle`] | the whole document, made from the parts below |
//! | [`config_json`] | the types of the document |
//! | [`process`], [`user`], [`capabilities`] | the process: arguments, environment, user, capabilities, limits |
//! | [`security`], [`lsm`] | AppArmor profiles and SELinux labels |
//! | [`mounts`], [`devices`], [`resources`], [`seccomp`] | the other parts |
//! | [`validate`], [`words`] | checks of a request before anything is made: the whole, and single values |
//! | [`names`], [`signals`] | containers' names and ids; names of signals |
//! | [`settings`] | what the configuration says about containers |
//! | [`host`], [`runtime`], [`rootfs_view`] | what this host, the OCI runtime and the image's files can do or have |
//! | [`relabel`] | SELinux labels of mounted files: the only module that changes existing files |
//! | [`error`] | why a container cannot be made |
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
