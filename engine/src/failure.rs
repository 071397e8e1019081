//! Errors as people get them: one line of causes, a kind, a hint.

use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;
use sampan_ipc::text;
use sampan_registry::config::RegistriesError;
use sampan_spec::error::SpecError;
use sampan_store::StoreError;
use sampan_store::images::ImageError;
use std::error::Error;

/// Longest message, in bytes: what strangers say is quoted in it, and an answer has to fit a frame with those of
/// all jobs that are remembered.
const MESSAGE_MAX: usize = 4096;

/// A failure of `code` that says `message`.
pub fn new(code: Code, message: impl Into<String>, hint: &str) -> Failure {
    Failure { code, message: cropped(message.into()), hint: hint.to_owned() }
}

/// A message without what nobody would read.
pub fn cropped(message: String) -> String {
    text::crop(message, MESSAGE_MAX)
}

/// What helps if the disk is full.
pub const MAKE_ROOM: &str = "'sampan system df' shows what takes room, 'sampan image prune' frees some";

/// As [`new`], of a request that makes no sense.
pub fn usage(error: &dyn Error) -> Failure {
    new(Code::Usage, chain(error), "")
}

/// An error of a crate below, which knows nothing of failures.
pub trait Explained {
    /// As a client gets it.
    fn explain(self) -> Failure;
}

/// The failure that `error` is; for `map_err`.
pub fn of(error: impl Explained) -> Failure {
    error.explain()
}

impl Explained for ImageError {
    fn explain(self) -> Failure {
        let message = chain(&self);
        match self {
            ImageError::NotFound(_) => new(Code::NotFound, message, "'sampan images' lists those that are"),
            ImageError::Ambiguous { .. } => new(Code::Conflict, message, "give more digits, or a reference"),
            ImageError::SeveralReferences { .. } => {
                new(Code::Conflict, message, "name the reference to remove, or use --force for all")
            }
            ImageError::InUse { .. } => {
                let hint = "'sampan rm' removes containers; --force takes the image's names away, and its content \
                            stays until the last container goes";
                new(Code::Conflict, message, hint)
            }
            ImageError::Reference(_) => new(Code::Usage, message, ""),
            ImageError::Store(StoreError::Digest { .. }) | ImageError::Unreadable { .. } => new(
                Code::Failed,
                message,
                "'sampan image verify' says what is broken; 'sampan pull' the image again, or 'sampan rmi' it",
            ),
            ImageError::Store(StoreError::Broken { .. }) => {
                let hint = "put a good copy in its place; or move it away and restart the engine, which then begins without \
                            images";
                new(Code::Failed, message, hint)
            }
            ImageError::Store(_) => new(Code::Failed, message, ""),
        }
    }
}

impl Explained for SpecError {
    fn explain(self) -> Failure {
        let code = if self.is_usage() { Code::Usage } else { Code::Failed };
        new(code, chain(&self), self.hint())
    }
}

impl Explained for RegistriesError {
    fn explain(self) -> Failure {
        let code = match &self {
            RegistriesError::Reference(_)
            | RegistriesError::Ambiguous { .. }
            | RegistriesError::Unqualified { .. } => Code::Usage,
            _ => Code::Failed,
        };
        new(code, chain(&self), self.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        let failure = new(Code::Failed, "ä".repeat(1 << 20), "");
        assert!(failure.message.len() <= MESSAGE_MAX + 3 && failure.message.ends_with("ä…"));
        assert_eq!(new(Code::Failed, "short", "").message, "short");
    }
}
