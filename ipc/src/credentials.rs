//! Who somebody is to a registry: the files of containers-auth.json(5) and of docker, and credential helpers.
//!
//! Used by the engine for what this host is to registries, and by the command line for what its user is: both
//! read the same files in the same order. [`mod@file`] is one file, [`helper`] one program, [`search`] the order,
//! [`matching`] the rule which entry a repository gets. Never talks to a registry; no secret is ever part of an
//! error, a log line or a `Debug` form.

pub mod file;
pub mod helper;
pub mod matching;
pub mod search;

pub use crate::engine::Credential;
pub use file::{AuthFile, FileError};
pub use helper::{Helper, HelperError};
pub use search::{Found, Search};
