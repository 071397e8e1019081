//! The error of this crate: why a container cannot be created or run as a client requested.

use super::rootfs_view::LookupError;
use sampan_ipc::text::excerpt;

/// Why a container cannot be created or run as a client requested.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// An option has a value that breaks a rule.
    #[error("cannot use {option} {value:?}: {why}")]
    Option {
        /// The option, in the form that people type.
        option: &'static str,
        /// The given value, shortened for the message.
        value: String,
        /// The rule that the value breaks.
        why: String,
    },
    /// The host or its OCI runtime cannot do what was requested.
    #[error("cannot {doing}: {why}")]
    Host {
        /// What was attempted.
        doing: String,
        /// The reason.
        why: String,
        /// What a person can do about the error.
        hint: &'static str,
    },
    /// The root file system cannot be read.
    #[error(transparent)]
    Root(#[from] LookupError),
}

impl SpecError {
    /// Makes the error for a `value` of `option` that breaks a rule.
    pub fn option(option: &'static str, value: &str, why: impl Into<String>) -> Self {
        SpecError::Option { option, value: excerpt(value), why: why.into() }
    }

    /// Makes the error for a request that this host cannot fulfil.
    pub fn host(doing: impl Into<String>, why: impl Into<String>, hint: &'static str) -> Self {
        SpecError::Host { doing: doing.into(), why: why.into(), hint }
    }

    /// What a person can do about the error; empty if unknown.
    pub fn hint(&self) -> &'static str {
        match self {
            SpecError::Host { hint, .. } => hint,
            SpecError::Option { .. } | SpecError::Root(_) => "",
        }
    }

    /// Whether the error is in the request, and not in the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, SpecError::Option { .. })
    }
}
