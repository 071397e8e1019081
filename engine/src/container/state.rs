//! The state of a container between its creation and its first start, and the announcement of its creation.
//!
//! Called on threads: when a container is created, and when the engine starts for a container whose `create` event may
//! be missing. Later states are written by the shim, or by [`super::recover`] if a shim was killed.

use super::definition::Definition;
use super::directory::Directories;
use crate::context::Shared;
use sampan_ipc::report::chain;
use sampan_ipc::shim::State;
use std::time::{SystemTime, UNIX_EPOCH};

/// Announces the container's creation, then records the announcement in the state file.
pub(super) fn announce(shared: &Shared, directories: &Directories, definition: &Definition) {
    shared.announcer.container("create", &definition.identity(), 0, &[]);
    record_announced(directories, definition);
}

/// Records in the state file that the creation is announced.
pub(super) fn record_announced(directories: &Directories, definition: &Definition) {
    if let Err(error) = directories.set_state(&definition.id, &announced()) {
        log::error!("{}", chain(&error));
    }
}

/// Returns the state of a created container whose `create` event is announced.
pub(super) fn announced() -> State {
    State { is_announced: true, ..State::default() }
}

/// Returns the current time, in nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
