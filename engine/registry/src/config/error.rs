//! The error of reading registries.conf, or of resolving a name with it.

use sampan_oci::reference;
use std::io;
use std::path::PathBuf;

/// Why registries.conf cannot be used, or why a name cannot be resolved with it.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A file is not valid.
    #[error("cannot use {}, line {line}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// What is wrong in that line.
        why: String,
    },
    /// The name that a person typed is not a valid reference.
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
    /// A short name has several candidates, and `short-name-mode` forbids to try them.
    #[error(
        "short name {name:?} may be of {}, and short-name-mode in {} is \"enforcing\"",
        registries.join(" or "),
        path.display()
    )]
    Ambiguous {
        /// The name as typed.
        name: String,
        /// The registries that may have it.
        registries: Vec<String>,
        /// The file that sets `short-name-mode`.
        path: PathBuf,
    },
    /// A short name has no alias, and there is no registry to search.
    #[error("short name {name:?} has no alias, and unqualified-search-registries in {} is empty", path.display())]
    Unqualified {
        /// The name as typed.
        name: String,
        /// The file that sets `unqualified-search-registries`.
        path: PathBuf,
    },
    /// The image is at a blocked registry.
    #[error("image {name} is blocked by registry {prefix:?} in {}, line {line}", path.display())]
    Blocked {
        /// The reference of the image.
        name: String,
        /// The prefix that matches the reference.
        prefix: String,
        /// The file that blocks the prefix.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
    },
    /// A reference is no longer valid after its prefix is replaced by a location.
    #[error("cannot use location {location:?} of {}, line {line}, for image {name}", path.display())]
    Rewrite {
        /// The reference of the image.
        name: String,
        /// The location that replaces the prefix.
        location: String,
        /// The file that contains the location.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// The rule that the rewritten reference breaks.
        source: reference::ReferenceError,
    },
}

impl RegistriesError {
    /// A suggestion for the person who reads the error; empty if there is none.
    pub fn hint(&self) -> &'static str {
        match self {
            RegistriesError::Ambiguous { .. } | RegistriesError::Unqualified { .. } => {
                "give the name in full, as HOST/NAME, or add an alias"
            }
            RegistriesError::Parse { .. } | RegistriesError::Rewrite { .. } => {
                "see containers-registries.conf(5)"
            }
            RegistriesError::Blocked { .. } => "the administrator of this host has blocked the registry",
            RegistriesError::Read { .. } | RegistriesError::Reference(_) => "",
        }
    }
}
