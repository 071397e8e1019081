//! Containers: what they are, and how the OCI runtime is told.
//!
//! [`spec`] turns what a person asked for into the runtime's `config.json`. Below it: [`process`], [`mounts`],
//! [`devices`], [`resources`], [`seccomp`] and [`capabilities`] make its parts, [`user`] and [`lookup`] read the
//! root file system, [`host`] and [`runtime`] say what this host can do, and [`document`] is the file itself.
//! [`options`], [`names`] and [`signals`] judge what people type.

pub mod capabilities;
pub mod devices;
pub mod document;
pub mod host;
pub mod lookup;
pub mod mounts;
pub mod names;
pub mod options;
pub mod problem;
pub mod process;
pub mod resources;
pub mod runtime;
pub mod seccomp;
pub mod settings;
pub mod signals;
pub mod spec;
pub mod user;
