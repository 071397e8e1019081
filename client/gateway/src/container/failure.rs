//! Failures of requests about containers in docker's words, which scripts and SDKs look for.

use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::engine::{Code, Failure};

/// Parts of a message by which docker's command line chooses exit status 127 of `run`; the first is added to a message
/// that has none.
const NO_COMMAND: [&str; 2] = ["executable file not found", "no such file or directory"];
/// The same for exit status 126.
const CANNOT_RUN: [&str; 2] = ["permission denied", "is a directory"];

/// Docker's form of the failure of a request about the container `name`.
pub(crate) fn refusal(error: EngineError, name: &str) -> Refusal {
    match error {
        EngineError::Failed(failure) if failure.code == Code::NotFound => {
            Refusal::not_found(format!("No such container: {name}"))
        }
        EngineError::Failed(failure) => start_refusal(failure),
        other => other.into(),
    }
}

/// Adds to a failed start or execution the words that tell docker's command line why.
fn start_refusal(failure: Failure) -> Refusal {
    let words = match failure.code {
        Code::NoCommand => NO_COMMAND,
        Code::CannotRun => CANNOT_RUN,
        _ => return failure.into(),
    };
    let has_words = words.iter().any(|word| failure.message.contains(word));
    let message = match (has_words, words) {
        (true, _) => failure.message,
        (false, [word, _]) => format!("{}: {word}", failure.message),
    };
    Failure { message, ..failure }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: Code, message: &str) -> EngineError {
        EngineError::Failed(Failure { code, message: message.to_owned(), hint: String::new() })
    }

    #[test]
    fn a_missing_container_is_told_as_docker_tells_it() {
        let refusal = refusal(failed(Code::NotFound, "there is no container \"x\""), "x");
        assert_eq!((refusal.status, refusal.message.as_str()), (404, "No such container: x"));
    }

    #[test]
    fn a_failed_start_has_the_words_that_choose_the_exit_status() {
        let of = |code, message: &str| refusal(failed(code, message), "x");
        let crun = "executable file `/no` not found in $PATH: No such file or directory";
        let missing = of(Code::NoCommand, crun);
        assert_eq!(missing.status, 400);
        assert!(missing.message.ends_with(": executable file not found"), "{}", missing.message);
        let runc = "exec: \"no\": executable file not found in $PATH";
        assert_eq!(of(Code::NoCommand, runc).message, runc);
        let denied = of(Code::CannotRun, "open executable: Permission denied");
        assert!(denied.message.ends_with(": permission denied"), "{}", denied.message);
        assert_eq!(of(Code::Failed, "the disk is full").status, 500);
    }
}
