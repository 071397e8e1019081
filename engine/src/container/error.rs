//! Failures that several requests about containers share.

use super::definition::short;
use super::entry::Entry;
use crate::error;
use sampan_ipc::container::Phase;
use sampan_ipc::engine::{Code, Failure};

/// Most names that an error lists.
const LISTED_MAX: usize = 10;

/// Makes the failure of a request that names a container that does not exist.
pub(super) fn no_container(typed: &str) -> Failure {
    let typed: String = typed.chars().take(300).collect();
    let message = format!("there is no container {typed:?}");
    error::new(Code::NotFound, message, "'sampan ps --all' lists all containers")
}

/// Makes the failure of a request that needs a running container. `phase` is the container's phase.
pub(super) fn not_running(name: &str, phase: Phase) -> Failure {
    if phase == Phase::Restarting {
        let hint = "its restart policy starts it again soon; 'sampan logs' shows why it ended, 'sampan stop' stops it first";
        return error::new(Code::Conflict, format!("container {name:?} is restarting"), hint);
    }
    error::new(Code::Conflict, format!("container {name:?} is not running"), "'sampan start' starts it")
}

/// Makes the failure of a request that the container's shim does not know.
pub(super) fn old_shim(name: &str) -> Failure {
    let message =
        format!("the shim of container {name:?} is older than the engine, and does not know the request");
    error::new(Code::Failed, message, "a container that is stopped and started again gets a new shim")
}

/// Makes the failure of a request whose prefix of an id matches several containers.
pub(super) fn ambiguous(typed: &str, meant: &[&Entry]) -> Failure {
    let some = meant.iter().take(LISTED_MAX);
    let mut list: Vec<String> =
        some.map(|e| format!("{} ({})", short(&e.definition.id), e.definition.name)).collect();
    if meant.len() > LISTED_MAX {
        list.push("…".to_owned());
    }
    let message = format!("{typed:?} matches {} containers: {}", meant.len(), list.join(", "));
    error::new(Code::Conflict, message, "give more digits, or a name")
}
