//! Chooses a container's root file system: overlayfs, or a copy of the image where overlayfs does not work.
//!
//! Called by `info`, and when a container is created; the container keeps this choice. Overlayfs is tried at most
//! once, when the choice is first needed, on the file system of the containers and with the shims' code for mounting.
//! The trial runs on a thread with its own mount namespace, so that the end of the thread unmounts everything. Never
//! mounts for a container.

pub mod copy;

use super::directory::Directories;
use crate::config::Config;
use sampan_ipc::report::chain;
use sampan_ipc::shim::Rootfs;
use sampan_os::remove_tree;
use sampan_shim::overlay;
use sampan_spec::settings::Form;
use sampan_store::Store;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The reason for a copy that the configuration requires.
const CONFIGURED: &str = "set in the configuration";
/// Stack size of the thread that tries overlayfs, in bytes.
const STACK: usize = 256 << 10;

/// The result of the trial of overlayfs, and whether a client has got the warning about it.
#[derive(Default)]
pub struct RootfsChoice {
    /// Why overlayfs does not work; `None` if it works.
    refusal: OnceLock<Option<String>>,
    has_warned: AtomicBool,
}

impl RootfsChoice {
    /// Returns the kind of root file system that a new container gets.
    pub fn form(&self, config: &Config, store: &Store, directories: &Directories) -> Form {
        match (config.settings.rootfs, self.refusal(config, store, directories)) {
            (Some(form), _) => form,
            (None, None) => Form::Overlay,
            (None, Some(_)) => Form::Copy,
        }
    }

    /// Returns `overlay`, or `copy: ` and the reason, for `info`.
    pub fn describe(&self, config: &Config, store: &Store, directories: &Directories) -> String {
        match (config.settings.rootfs, self.refusal(config, store, directories)) {
            (Some(Form::Copy), _) => format!("copy: {CONFIGURED}"),
            (Some(Form::Overlay), _) | (None, None) => "overlay".to_owned(),
            (None, Some(why)) => format!("copy: {why}"),
        }
    }

    /// Returns a warning for the client that creates the first copied container; `None` for all later containers.
    pub fn take_warning(&self, config: &Config, store: &Store, directories: &Directories) -> Option<String> {
        let why = self.refusal(config, store, directories)?;
        (!self.has_warned.swap(true, Ordering::Relaxed)).then(|| {
            format!("overlayfs does not work here, so each container gets a copy of its image: {why}")
        })
    }

    /// Tries overlayfs at its first call, unless the configuration decides. Returns why overlayfs does not work.
    fn refusal(&self, config: &Config, store: &Store, directories: &Directories) -> Option<&str> {
        if config.settings.rootfs.is_some() {
            return None;
        }
        let refusal = self.refusal.get_or_init(|| {
            let why = try_overlay(store, directories).err()?;
            log::warn!("overlayfs does not work, so each container gets a copy of its image: {why}");
            Some(why)
        });
        refusal.as_deref()
    }
}

fn try_overlay(store: &Store, directories: &Directories) -> Result<(), String> {
    let dir = directories.make_trial().map_err(|error| chain(&error))?;
    let target = dir.join("rootfs");
    let overlay = Rootfs::Overlay {
        lower: vec![store.root().join("layers")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        target: target.clone(),
    };
    let result = match sampan_os::thread::spawn("trial", STACK, move || mount_and_write(&overlay, &target)) {
        Ok(thread) => thread.join().unwrap_or_else(|_| Err("the trial panicked".to_owned())),
        Err(error) => Err(format!("cannot start a thread: {error}")),
    };
    if let Err(error) = remove_tree::remove(&dir) {
        log::warn!("cannot remove {}: {error}", dir.display());
    }
    result
}

/// Mounts the overlay and writes to it: on some file systems a mount succeeds but is read-only.
fn mount_and_write(overlay: &Rootfs, target: &Path) -> Result<(), String> {
    overlay::enter_namespace()?;
    overlay::set_up(overlay)?;
    let written = fs::write(target.join("trial"), b"trial")
        .map_err(|error| format!("cannot write to the overlay: {error}"));
    let torn_down = overlay::tear_down(overlay);
    written.and(torn_down)
}
