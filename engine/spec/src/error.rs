//! Why a container cannot be made, or run, as it was asked for. Below all that makes parts of `config.json`.

use super::rootfs_view::LookupError;
use sampan_ipc::text::excerpt;

/// Why a container cannot be made as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// An option makes no sense.
    #[error("cannot use {option} {value:?}: {why}")]
    Option {
        /// Which, as people type it.
        option: &'static str,
        /// What was given; shortened.
        value: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The host, or its runtime, cannot give what was asked for.
    #[error("cannot {doing}: {why}")]
    Host {
        /// What was attempted.
        doing: String,
        /// Why not.
        why: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The root file system cannot be read.
    #[error(transparent)]
    Root(#[from] LookupError),
}

impl SpecError {
    /// `option` with `value` breaks a rule.
    pub fn option(option: &'static str, value: &str, why: impl Into<String>) -> Self {
        SpecError::Option { option, value: excerpt(value), why: why.into() }
    }

    /// The host cannot do it.
    pub fn host(doing: impl Into<String>, why: impl Into<String>, hint: &'static str) -> Self {
        SpecError::Host { doing: doing.into(), why: why.into(), hint }
    }

    /// What to do about it; empty if there is nothing to say.
    pub fn hint(&self) -> &'static str {
        match self {
            SpecError::Host { hint, .. } => hint,
            SpecError::Option { .. } | SpecError::Root(_) => "",
        }
    }

    /// True if the person who asked can put it right by asking otherwise.
    pub fn is_usage(&self) -> bool {
        matches!(self, SpecError::Option { .. })
    }
}
