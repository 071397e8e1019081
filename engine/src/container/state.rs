//! The state that a container has from its making to its first start, and how its making is announced.
//!
//! Called on threads: when a container is made, and when the engine finds one whose making may not have been announced.

use super::definition::Definition;
use super::directory::Directories;
use crate::context::Shared;
use sampan_ipc::report::chain;
use sampan_ipc::shim::State;
use std::time::{SystemTime, UNIX_EPOCH};

/// Says that the container was made, and writes down that it was said.
pub(super) fn announce(shared: &Shared, directories: &Directories, definition: &Definition) {
    shared.announcer.container("create", &definition.identity(), 0, &[]);
    note(directories, definition);
}

/// Writes down that it was said that the container was made.
pub(super) fn note(directories: &Directories, definition: &Definition) {
    if let Err(error) = directories.set_state(&definition.id, &announced()) {
        log::error!("{}", chain(&error));
    }
}

/// Where a container stands that was made and announced.
pub(super) fn announced() -> State {
    State { is_announced: true, ..State::default() }
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
