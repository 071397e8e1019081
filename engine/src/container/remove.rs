//! Removes a container that has no shim. Also removes its image if the image has no name and no other container.
//!
//! Called by the manager, on a thread. If a container has a shim, the shim removes it.

use super::definition::Definition;
use super::directory::Directories;
use crate::context::Shared;
use crate::error;
use crate::image::prune;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;

/// Removes the container's files and announces `destroy`. Returns the number of freed bytes.
///
/// # Errors
/// A file cannot be removed. The engine tries again at its next start.
pub fn remove(shared: &Shared, directories: &Directories, definition: &Definition) -> Result<u64, Failure> {
    let announce = || shared.announcer.container("destroy", &definition.identity(), 0, &[]);
    directories.remove(&definition.id, announce).map_err(|error| {
        let message = format!("cannot remove container {:?}: {}", definition.name, chain(&error));
        error::new(Code::Failed, message, "try again; the engine's next start removes what is left")
    })
}

/// Removes an untagged image after its last container was removed, and announces that as a prune does.
pub fn release(shared: &Shared, definition: &Definition) {
    // Only a garbage collection finds out whether content is left that only the container's pin has kept.
    let (names, freed) = shared.store.collect_garbage();
    if !names.is_empty() {
        log::info!(
            "image {} was removed after its last container, {}",
            definition.image.digest,
            definition.name
        );
        prune::announce_reclaimed(&shared.announcer, freed, "rm");
    }
}
