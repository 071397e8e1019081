//! Which containers there are and what images they are of: the table as it was at one moment, for threads that
//! remove images or say what takes how much of the disk.

use super::definition::Definition;
use super::directory::Directories;
use sampan_ipc::engine::Usage;
use sampan_oci::digest::Digest;
use std::sync::Arc;

/// All containers, as they were.
pub struct ImageUsers {
    directories: Directories,
    /// Whether it runs comes with each.
    containers: Vec<(Arc<Definition>, bool)>,
}

impl ImageUsers {
    /// Of containers below `directories`.
    pub(super) fn new(directories: Directories, containers: Vec<(Arc<Definition>, bool)>) -> Self {
        ImageUsers { directories, containers }
    }

    /// Names of the containers that need the image with this manifest, sorted.
    pub fn of(&self, manifest: &Digest) -> Vec<String> {
        let manifest = manifest.to_string();
        let of_it = self.containers.iter().filter(|(definition, _)| definition.image.digest == manifest);
        let mut names: Vec<String> = of_it.map(|(definition, _)| definition.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What they have written: of those that do not run it could go. One that goes meanwhile counts for nothing.
    pub fn usage(&self) -> Usage {
        let mut usage =
            Usage { kind: "containers".to_owned(), count: self.containers.len() as u64, ..Usage::default() };
        for (definition, is_up) in &self.containers {
            let written = self.directories.written_bytes(definition).unwrap_or(0);
            // What was copied goes with it as well.
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
