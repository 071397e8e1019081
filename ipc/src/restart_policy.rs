//! Restart policies: whether a container starts again when it has ended, and when the engine starts.
//!
//! The shim decides when its container has ended; the engine decides when a shim was killed, and when the engine
//! starts. Both must come to one decision, so both call these functions, which do no I/O. docs/run.md, "Restart
//! policies".

use serde::{Deserialize, Serialize};

/// A restart policy. docker-run(1), "--restart".
///
/// Part of the protocols of `engine.sock` and of a shim's socket: append variants, never reorder them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// The container does not start again.
    #[default]
    No,
    /// The container starts again if its exit code is not 0, at most this many times; 0 means without limit.
    OnFailure(u32),
    /// The container starts again when it has ended, and starts when the engine starts.
    Always,
    /// Like `Always`, except that a container that a person stopped does not start when the engine starts.
    UnlessStopped,
}

impl Restart {
    /// Whether a container that has ended starts again at once. No policy starts one that a person stopped.
    ///
    /// `exit_code` is the code of the run that has ended; `restarts` counts the starts by policy since the last start
    /// by a person.
    pub fn starts_again(self, exit_code: i32, restarts: u32, is_stopped_by_hand: bool) -> bool {
        match self {
            _ if is_stopped_by_hand => false,
            Restart::No => false,
            Restart::OnFailure(most) => exit_code != 0 && (most == 0 || restarts < most),
            Restart::Always | Restart::UnlessStopped => true,
        }
    }

    /// Whether a container that has ended starts when the engine starts.
    pub fn starts_with_engine(self, is_stopped_by_hand: bool) -> bool {
        match self {
            Restart::Always => true,
            Restart::UnlessStopped => !is_stopped_by_hand,
            Restart::No | Restart::OnFailure(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_counts_failures_and_obeys_a_persons_stop() {
        assert!(Restart::OnFailure(0).starts_again(1, 1000, false));
        assert!(Restart::OnFailure(2).starts_again(1, 1, false));
        assert!(!Restart::OnFailure(2).starts_again(1, 2, false));
        assert!(!Restart::OnFailure(0).starts_again(0, 0, false));
        for policy in [Restart::Always, Restart::UnlessStopped] {
            assert!(policy.starts_again(0, 9, false));
            assert!(!policy.starts_again(1, 0, true));
            assert!(policy.starts_with_engine(false));
        }
        assert!(!Restart::No.starts_again(1, 0, false));
    }

    #[test]
    fn a_start_of_the_engine_starts_what_is_always_to_run() {
        assert!(Restart::Always.starts_with_engine(true));
        assert!(!Restart::UnlessStopped.starts_with_engine(true));
        assert!(!Restart::OnFailure(0).starts_with_engine(false) && !Restart::No.starts_with_engine(false));
    }
}
