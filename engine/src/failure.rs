//! Errors as people get them: one line of causes, a kind, a hint.

use crate::container::problem::SpecError;
use crate::images::ImageError;
use crate::registries::RegistriesError;
use crate::store::StoreError;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;
use std::error::Error;

/// A failure of `code` that says `message`.
pub fn new(code: Code, message: impl Into<String>, hint: &str) -> Failure {
    Failure { code, message: message.into(), hint: hint.to_owned() }
}

/// As [`new`], of a request that makes no sense.
pub fn usage(error: &dyn Error) -> Failure {
    new(Code::Usage, chain(error), "")
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let message = chain(&error);
        match error {
            ImageError::NotFound(_) => new(Code::NotFound, message, "'sampan images' lists those that are"),
            ImageError::Ambiguous { .. } => new(Code::Conflict, message, "give more digits, or a reference"),
            ImageError::SeveralReferences { .. } => {
                new(Code::Conflict, message, "name the reference to remove, or use --force for all")
            }
            ImageError::Reference(_) => new(Code::Usage, message, ""),
            ImageError::Store(StoreError::Digest { .. }) | ImageError::Unreadable { .. } => new(
                Code::Failed,
                message,
                "'sampan image verify' says what is broken; 'sampan pull' the image again, or 'sampan rmi' it",
            ),
            ImageError::Store(_) => new(Code::Failed, message, ""),
        }
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        let code = if error.is_usage() { Code::Usage } else { Code::Failed };
        new(code, chain(&error), error.hint())
    }
}

impl From<RegistriesError> for Failure {
    fn from(error: RegistriesError) -> Self {
        let code = match &error {
            RegistriesError::Reference(_)
            | RegistriesError::Ambiguous { .. }
            | RegistriesError::Unqualified { .. } => Code::Usage,
            _ => Code::Failed,
        };
        new(code, chain(&error), error.hint())
    }
}
