//! The error of this crate: why a container cannot be made or run as it was requested.

use super::rootfs_view::LookupError;
use sampan_ipc::text::excerpt;

/// Why a container cannot be made or run as it was requested.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// An option has a value that breaks a rule.
    #[error("cannot use {option} {value:?}: {why}")]
    Option {
        /// The option, as people type it.
        option: &'static str,
        /// The given value, shortened.
        value: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The host or its OCI runtime cannot do what was requested.
    #[error("cannot {doing}: {why}")]
    Host {
        /// What was attempted.
        doing: String,
        /// The reason.
        why: String,
        /// What a person can do about it.
        hint: &'static str,
    },
    /// The root file system cannot be read.
    #[error(transparent)]
    Root(#[from] LookupError),
}

impl SpecError {
    /// Makes the error that `value` of `option` breaks a rule.
    pub fn option(option: &'static str, value: &str, why: impl Into<String>) -> Self {
        SpecError::Option { option, value: excerpt(value), why: why.into() }
    }

    /// Makes the error that this host cannot do something.
    pub fn host(doing: impl Into<String>, why: impl Into<String>, hint: &'static str) -> Self {
        SpecError::Host { doing: doing.into(), why: why.into(), hint }
    }

    /// What a person can do about the error; empty if there is no advice.
    pub fn hint(&self) -> &'static str {
        match self {
            SpecError::Host { hint, .. } => hint,
            SpecError::Option { .. } | SpecError::Root(_) => "",
        }
    }

    /// Whether the request itself is wrong, rather than the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, SpecError::Option { .. })
    }
}
