//! Removes a container that has no shim, and what the last container of an image leaves. On a thread.

use super::definition::Definition;
use super::directory::Directories;
use crate::context::Shared;
use crate::error;
use crate::image::prune;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;

/// Removes all of the container, and says so; the bytes that became free.
///
/// # Errors
/// Something of it cannot be removed.
pub fn remove(shared: &Shared, directories: &Directories, definition: &Definition) -> Result<u64, Failure> {
    let announce = || shared.announcer.container("destroy", &definition.identity(), 0, &[]);
    directories.remove(&definition.id, announce).map_err(|error| {
        let message = format!("cannot remove container {:?}: {}", definition.name, chain(&error));
        error::new(Code::Failed, message, "try again; what is left goes when the engine starts anew")
    })
}

/// Lets go of the image of the last container of it that was there: an image whose names were taken away while it
/// was needed goes now, and that is told as the end of a prune.
pub fn release(shared: &Shared, definition: &Definition) {
    // Not only if its own is gone: what was held back, if anything, is known by looking alone.
    let (names, freed) = shared.store.collect_garbage();
    if !names.is_empty() {
        log::info!("image {} went with container {}", definition.image.digest, definition.name);
        prune::announce_reclaimed(&shared.announcer, freed, "rm");
    }
}
