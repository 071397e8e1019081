//! The data from which a container's bundle is made: its image's layers, its files, the host, the runtime.
//!
//! Called on threads by create, start and exec. Reads files and writes none.

use super::definition::Definition;
use super::directory::Directories;
use super::{etc_files, inspect, log_driver};
use crate::config::Config;
use crate::context::Shared;
use crate::error;
use sampan_ipc::container::{Exec, Network};
use sampan_ipc::engine::Failure;
use sampan_spec::bundle::{self, Input};
use sampan_spec::host::Host;
use sampan_spec::mounts::Files;
use sampan_spec::rootfs_view::{self, Root};
use sampan_spec::runtime::Runtime;
use sampan_spec::settings::Form;
use sampan_store::Store;
use std::path::PathBuf;
use std::sync::Arc;

/// Checks, as far as possible before a start, that the container can be started; returns warnings for the client.
///
/// # Errors
/// An option is not valid on this host, or no OCI runtime is found.
pub fn check(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
) -> Result<Vec<String>, Failure> {
    let context = Context::of(shared, directories, definition)?;
    let bundle = bundle::bundle(&context.input()).map_err(error::explain)?;
    log_driver::log(&shared.config, directories, definition)?;
    Ok(bundle.warnings)
}

/// The data from which a bundle, or another process in the container, is made.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) definition: &'a Definition,
    pub(super) runtime: Arc<Runtime>,
    pub(super) host: Host,
    pub(super) network: Network,
    pub(super) root: Root,
    /// Directories of the image's layers, uppermost first.
    pub(super) layers: Vec<PathBuf>,
    pub(super) rootfs: PathBuf,
    pub(super) files: Files,
}

impl<'a> Context<'a> {
    pub(super) fn of(
        shared: &'a Shared,
        directories: &Directories,
        definition: &'a Definition,
    ) -> Result<Self, Failure> {
        let layers = layers(&shared.store, definition);
        let written = directories.written(definition);
        let root = match definition.rootfs {
            // A copy contains all files of the image. A file that was deleted in the copy must not be found in a
            // layer.
            Form::Copy if written.exists() => Root::new([written]),
            // A copy that is not made yet will have the files of the layers.
            Form::Copy | Form::Overlay => Root::new([written].into_iter().chain(layers.iter().cloned())),
        };
        Ok(Context {
            shared,
            definition,
            runtime: Runtime::find(&shared.config.settings, definition.create.runtime.as_deref())
                .map_err(error::explain)?,
            host: Host::now(),
            network: network(&shared.config, definition),
            root,
            layers,
            rootfs: directories.dir(&definition.id).join("rootfs"),
            files: etc_files::files(directories, definition),
        })
    }

    pub(super) fn input(&self) -> Input<'_> {
        Input {
            id: &self.definition.id,
            create: &self.definition.create,
            run: &self.definition.run,
            host: &self.host,
            runtime: &self.runtime,
            settings: &self.shared.config.settings,
            network: self.network,
            root: &self.root,
            rootfs: &self.rootfs,
            files: &self.files,
            labels: &self.definition.selinux,
        }
    }
}

/// Returns the directories of the image's unpacked layers, uppermost first.
pub fn layers(store: &Store, definition: &Definition) -> Vec<PathBuf> {
    let layers = definition.image.layers.iter().rev();
    rootfs_view::visible(layers.map(|layer| store.layer_path(layer).join("diff")).collect())
}

/// Returns the container's network: the requested network, otherwise the configured one.
pub fn network(config: &Config, definition: &Definition) -> Network {
    match definition.create.network {
        Network::Default => config.network,
        chosen => chosen,
    }
}

/// Describes the process of an `exec` as JSON. OCI runtime-spec, "Process".
///
/// # Errors
/// An option is not valid, or the container's files cannot be read.
#[expect(clippy::expect_used, reason = "serde_json fails only on map keys that are no strings")]
pub fn describe(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
    exec: Exec,
) -> Result<(Box<Exec>, String), Failure> {
    let context = Context::of(shared, directories, definition)?;
    let mut process = bundle::exec_process(&context.input(), &exec).map_err(error::explain)?;
    // Another AppArmor profile may have been loaded since the container started. The new process gets the profile of
    // the container's first process.
    if let Some(profile) = inspect::profile(directories, definition) {
        process.apparmor_profile = Some(profile).filter(|profile| !profile.is_empty());
    }
    let json = serde_json::to_string(&process).expect("a process has no shape that JSON cannot hold");
    Ok((Box::new(exec), json))
}
