//! Why the files about registries, or a name under them, cannot be used.

use sampan_oci::reference;
use std::io;
use std::path::PathBuf;

/// Why the files, or a name under them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file makes no sense.
    #[error("cannot use {}, line {line}: {why}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// What was typed is no reference.
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
    /// A short name may stand for several images, and nobody can be asked.
    #[error(
        "short name {name:?} may be of {}, and short-name-mode in {} is \"enforcing\"",
        registries.join(" or "),
        path.display()
    )]
    Ambiguous {
        /// As typed.
        name: String,
        /// Where it may be.
        registries: Vec<String>,
        /// The file that says so.
        path: PathBuf,
    },
    /// A short name, where none is wanted.
    #[error("short name {name:?} has no alias, and unqualified-search-registries in {} is empty", path.display())]
    Unqualified {
        /// As typed.
        name: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// A registry that may not be used.
    #[error("image {name} is blocked by registry {prefix:?} in {}, line {line}", path.display())]
    Blocked {
        /// The image.
        name: String,
        /// What it matches.
        prefix: String,
        /// The file that says so.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
    },
    /// A name that no longer is one once it is rewritten.
    #[error("cannot use location {location:?} of {}, line {line}, for image {name}", path.display())]
    Rewrite {
        /// The image.
        name: String,
        /// What its beginning is replaced with.
        location: String,
        /// The file that says so.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// The rule that the result breaks.
        source: reference::ReferenceError,
    },
}

impl RegistriesError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            RegistriesError::Ambiguous { .. } | RegistriesError::Unqualified { .. } => {
                "give the name in full, as HOST/NAME, or add an alias"
            }
            RegistriesError::Parse { .. } | RegistriesError::Rewrite { .. } => {
                "see containers-registries.conf(5)"
            }
            RegistriesError::Blocked { .. } => "whoever looks after this host does not want it used",
            RegistriesError::Read { .. } | RegistriesError::Reference(_) => "",
        }
    }
}
