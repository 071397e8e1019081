//! Facts that docker's API shows: about containers in a list, and about the engine.
//!
//! Called on threads. Reads the store's index, sizes of directories and configuration files, and changes nothing.

use super::definition::Definition;
use super::directory::Directories;
use crate::config::Config;
use crate::context::Shared;
use sampan_ipc::container::Summary;
use sampan_ipc::details::{ContainerDetail, EngineDetails};
use sampan_ipc::engine::Info;
use sampan_oci::reference::Reference;
use sampan_spec::host::Host;
use sampan_spec::runtime::{self, Runtime};
use sampan_store::{Store, images};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The runtimes that are searched without configuration.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// The name by which the mirrors of Docker Hub are found.
const HUB_IMAGE: &str = "docker.io/library/any:latest";

/// Adds the facts to each container of a list; with `size`, the bytes of its files, too.
pub fn containers(
    store: &Store,
    directories: &Directories,
    all: Vec<(Arc<Definition>, Summary)>,
    size: bool,
) -> Vec<ContainerDetail> {
    let names = named_images(store);
    let detail = |(definition, mut summary): (Arc<Definition>, Summary)| {
        let written = if size { directories.written_bytes(&definition).ok() } else { None };
        summary.size = written;
        ContainerDetail {
            requested: definition.create.image.clone(),
            has_moved: has_moved(&definition, &names),
            mounts: definition.create.mounts.clone(),
            annotations: definition.create.annotations.clone(),
            exposed: definition.run.exposed_ports.keys().cloned().collect(),
            root_size: written.map(|written| root_size(store, &definition, written)),
            summary,
        }
    };
    all.into_iter().map(detail).collect()
}

/// The digest of the manifest that each reference stands for.
fn named_images(store: &Store) -> HashMap<String, String> {
    let entries = images::entries(store).unwrap_or_else(|error| {
        log::warn!(
            "cannot tell which containers have an image whose name has moved: {}",
            sampan_ipc::report::chain(&error)
        );
        Vec::new()
    });
    let names = entries.into_iter().flat_map(|(entry, names)| {
        let digest = entry.digest.to_string();
        names.into_iter().map(move |name| (name, digest.clone()))
    });
    names.collect()
}

/// Whether the request named the image by a reference that stands for another image now, or for none.
fn has_moved(definition: &Definition, names: &HashMap<String, String>) -> bool {
    let image = &definition.image;
    // A request may also name an image by a digest, or by the first digits of its ID, which never move.
    let is_name = image.name.contains('/') && !image.name.contains('@');
    is_name && names.get(&image.name) != Some(&image.digest)
}

/// The bytes of all files of the root file system: those of the image's layers, and `written` ones.
pub fn root_size(store: &Store, definition: &Definition, written: u64) -> u64 {
    let layers = definition.image.layers.iter().map(|chain_id| store.layer_size(chain_id).unwrap_or(0));
    layers.fold(written, u64::saturating_add)
}

/// The engine's state and settings. `stopped` is the number of containers without a process.
pub fn engine(shared: &Shared, info: Info, stopped: u64) -> EngineDetails {
    let config = &shared.config;
    let default = Runtime::find(&config.settings, None).ok();
    let text = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    EngineDetails {
        info,
        stopped,
        data: text(Some(&config.data)),
        runtimes: runtimes(config),
        runtime: default.as_ref().map(|runtime| runtime.name.clone()).unwrap_or_default(),
        runtime_version: default.as_ref().map(|runtime| runtime.version.clone()).unwrap_or_default(),
        init: text(config.settings.init_path.as_deref().or(Host::get().init.as_deref())),
        seccomp_profile: text(config.settings.seccomp_profile.as_deref()),
        insecure_registries: config.insecure_registries.clone(),
        mirrors: mirrors(config),
    }
}

/// The OCI runtimes that a request may choose by name.
fn runtimes(config: &Config) -> Vec<(String, String)> {
    let settings = &config.settings;
    let found = RUNTIMES.iter().filter_map(|name| Some(((*name).to_owned(), runtime::search(name)?)));
    let configured = settings.runtimes.iter().filter_map(|(name, paths)| {
        let path = paths.iter().find(|path| path.exists())?;
        Some((name.clone(), path.clone()))
    });
    let mut all: Vec<(String, String)> =
        configured.chain(found).map(|(name, path)| (name, path.display().to_string())).collect();
    // A configured program takes the place of the one that is found by its name.
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.dedup_by(|(a, _), (b, _)| a == b);
    all
}

/// The mirrors of Docker Hub, as URLs.
fn mirrors(config: &Config) -> Vec<String> {
    let Ok(hub) = Reference::parse(HUB_IMAGE) else { return Vec::new() };
    let endpoints = config.registries.load().map(|registries| registries.endpoints(&hub));
    let Ok(Ok(endpoints)) = endpoints else { return Vec::new() };
    let scheme = |insecure| if insecure { "http" } else { "https" };
    let mirrors = endpoints.iter().filter(|endpoint| endpoint.mirror);
    mirrors.map(|endpoint| format!("{}://{}/", scheme(endpoint.insecure), endpoint.host)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_moved_if_it_stands_for_another_image_or_none() {
        let mut definition = Definition::default();
        definition.image.name = "docker.io/library/a:1".to_owned();
        definition.image.digest = "sha256:01".to_owned();
        let names = |digest: &str| HashMap::from([(definition.image.name.clone(), digest.to_owned())]);
        assert!(!has_moved(&definition, &names("sha256:01")));
        assert!(has_moved(&definition, &names("sha256:02")));
        assert!(has_moved(&definition, &HashMap::new()));
        definition.image.name = "0123456789ab".to_owned();
        assert!(!has_moved(&definition, &HashMap::new()), "an ID never moves");
    }
}
