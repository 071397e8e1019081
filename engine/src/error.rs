//! Errors as clients receive them: one line with all causes, a code, and a hint.
//!
//! Called by every module that answers a client. Turns the errors of the crates below, which do not know the engine's
//! protocol, into [`Failure`]s. Never logs and never decides whether to try again.

use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;
use sampan_ipc::text;
use sampan_registry::config::RegistriesError;
use sampan_spec::error::SpecError;
use sampan_store::StoreError;
use sampan_store::images::ImageError;
use std::error::Error;

/// Longest message, in bytes. Messages quote text from registries and programs, and one answer carries the messages
/// of all remembered jobs, which have to fit one frame.
const MESSAGE_MAX: usize = 4096;

/// Makes a failure from a code, a message and a hint, which may be empty.
pub fn new(code: Code, message: impl Into<String>, hint: &str) -> Failure {
    Failure { code, message: crop(message.into()), hint: hint.to_owned() }
}

/// Shortens a message to at most `MESSAGE_MAX` bytes.
pub fn crop(message: String) -> String {
    text::crop(message, MESSAGE_MAX)
}

/// The hint of every failure that a full disk caused.
pub const FULL_DISK_HINT: &str =
    "'sampan system df' shows what takes disk space, 'sampan image prune' frees some";

/// Makes the failure of a request that is not valid: [`Code::Usage`], without a hint.
pub fn usage(error: &dyn Error) -> Failure {
    new(Code::Usage, chain(error), "")
}

/// Makes the failure of a request about an unknown job.
pub fn no_job(job: u64) -> Failure {
    new(Code::NotFound, format!("there is no job {job}"), "'sampan jobs' lists all jobs")
}

/// An error of another crate that can be reported to a client.
///
/// A trait of ours, because neither the errors nor [`Failure`] belong to this crate, so `From` cannot be implemented.
pub trait Explain {
    /// Returns the code, message and hint that the client receives.
    fn explain(self) -> Failure;
}

/// Converts `error` into a failure; a function, to be passed to `map_err`.
pub fn explain(error: impl Explain) -> Failure {
    error.explain()
}

impl Explain for ImageError {
    fn explain(self) -> Failure {
        let message = chain(&self);
        match self {
            ImageError::NotFound(_) => {
                new(Code::NotFound, message, "'sampan images' lists the stored images")
            }
            ImageError::Ambiguous { .. } => new(Code::Conflict, message, "give more digits, or a reference"),
            ImageError::SeveralReferences { .. } => {
                new(Code::Conflict, message, "give one reference, or use --force to remove all of them")
            }
            ImageError::InUse { .. } => {
                let hint = "'sampan rm' removes containers; --force removes the image's names, and its content \
                            stays until the last container is removed";
                new(Code::Conflict, message, hint)
            }
            ImageError::Reference(_) => new(Code::Usage, message, ""),
            ImageError::Store(StoreError::Digest { .. }) | ImageError::Unreadable { .. } => new(
                Code::Failed,
                message,
                "'sampan image verify' shows what is damaged; 'sampan pull' the image again, or 'sampan rmi' it",
            ),
            ImageError::Store(StoreError::Broken { .. }) => {
                let hint = "restore the file from a good copy; or move it away and restart the engine, which then \
                            starts with no images";
                new(Code::Failed, message, hint)
            }
            ImageError::Store(_) => new(Code::Failed, message, ""),
        }
    }
}

impl Explain for SpecError {
    fn explain(self) -> Failure {
        let code = if self.is_usage() { Code::Usage } else { Code::Failed };
        new(code, chain(&self), self.hint())
    }
}

impl Explain for RegistriesError {
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
