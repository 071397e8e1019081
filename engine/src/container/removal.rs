//! Removes a container that has no shim. On a thread.

use super::definition::Definition;
use super::home::Homes;
use crate::failure;
use crate::work::Shared;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;

/// Removes all of the container, and says so; the bytes that became free.
///
/// # Errors
/// Something of it cannot be removed.
pub fn remove(shared: &Shared, homes: &Homes, definition: &Definition) -> Result<u64, Failure> {
    let announce = || shared.announcer.container("destroy", &definition.identity(), 0, &[]);
    homes.remove(&definition.id, announce).map_err(|error| {
        let message = format!("cannot remove container {:?}: {}", definition.name, chain(&error));
        failure::new(Code::Failed, message, "try again; what is left goes when the engine starts anew")
    })
}
