//! Credentials for registries: the files of containers-auth.json(5) and of docker, and credential helpers.
//!
//! Used by the engine for the host's credentials, and by the command line for those of its user: both read the same
//! files in the same order. [`mod@file`] is a credential file, [`helper`] a credential helper, [`search`] the order of
//! files and helpers, [`matching`] the rule that selects an entry for a repository. Never connects to a registry.
//! Errors, log lines and `Debug` forms never contain a secret.

pub mod file;
pub mod helper;
pub mod matching;
pub mod search;

pub use crate::engine::Credential;
pub use file::{AuthFile, FileError};
pub use helper::{Helper, HelperError};
pub use search::{Found, Search};
