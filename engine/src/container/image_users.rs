//! Which containers use which images: a snapshot of the manager's table, for threads that remove images or report disk
//! usage.
//!
//! The event loop makes a snapshot, and one thread uses it. A snapshot is never updated.

use super::definition::Definition;
use super::directory::Directories;
use sampan_ipc::engine::Usage;
use sampan_oci::digest::Digest;
use std::sync::Arc;

/// A snapshot of all containers.
pub struct ImageUsers {
    directories: Directories,
    /// The definition of each container, and whether the container was running.
    containers: Vec<(Arc<Definition>, bool)>,
}

impl ImageUsers {
    /// Makes the snapshot from `containers`, whose files are in `directories`.
    pub(super) fn new(directories: Directories, containers: Vec<(Arc<Definition>, bool)>) -> Self {
        ImageUsers { directories, containers }
    }

    /// Returns the names of the containers that use the image with this manifest, sorted.
    pub fn of(&self, manifest: &Digest) -> Vec<String> {
        let manifest = manifest.to_string();
        let of_it = self.containers.iter().filter(|(definition, _)| definition.image.digest == manifest);
        let mut names: Vec<String> = of_it.map(|(definition, _)| definition.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Adds up the disk usage of the containers; the part of stopped containers is reclaimable. A container that was
    /// removed after the snapshot counts as 0 bytes.
    pub fn usage(&self) -> Usage {
        let mut usage =
            Usage { kind: "containers".to_owned(), count: self.containers.len() as u64, ..Usage::default() };
        for (definition, is_up) in &self.containers {
            let written = self.directories.written_bytes(definition).unwrap_or(0);
            // Removing a container also frees its copy of the image.
            let size = written.saturating_add(definition.copied);
            usage.size = usage.size.saturating_add(size);
            match is_up {
                true => usage.active += 1,
                false => usage.reclaimable = usage.reclaimable.saturating_add(size),
            }
        }
        usage
    }
}
