//! How containers get their root file system: by overlayfs, or by a copy where this host refuses that.
//!
//! Asked for each container that is made, which then keeps what it got. Overlayfs is tried once, when somebody first
//! wants to know, on the file system that containers are on, with the code that shims mount by; a thread's own mount
//! namespace takes the trial with it.

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

/// What is said of a copy that the configuration asks for.
const CONFIGURED: &str = "the configuration says so";
/// Stack of the thread that tries.
const STACK: usize = 256 << 10;

/// What was found out about overlayfs, and who was told.
#[derive(Default)]
pub struct RootfsChoice {
    /// Why it is refused, if it is.
    refusal: OnceLock<Option<String>>,
    is_told: AtomicBool,
}

impl RootfsChoice {
    /// What a container that is made now gets.
    pub fn form(&self, config: &Config, store: &Store, directories: &Directories) -> Form {
        match (config.settings.rootfs, self.refusal(config, store, directories)) {
            (Some(form), _) => form,
            (None, None) => Form::Overlay,
            (None, Some(_)) => Form::Copy,
        }
    }

    /// `overlay`, or `copy: ` and why.
    pub fn describe(&self, config: &Config, store: &Store, directories: &Directories) -> String {
        match (config.settings.rootfs, self.refusal(config, store, directories)) {
            (Some(Form::Copy), _) => format!("copy: {CONFIGURED}"),
            (Some(Form::Overlay), _) | (None, None) => "overlay".to_owned(),
            (None, Some(why)) => format!("copy: {why}"),
        }
    }

    /// What the person who makes the first container that is copied for want of overlayfs should know.
    pub fn take_warning(&self, config: &Config, store: &Store, directories: &Directories) -> Option<String> {
        let why = self.refusal(config, store, directories)?;
        (!self.is_told.swap(true, Ordering::Relaxed)).then(|| {
            format!("overlayfs cannot be used here, so each container gets a copy of its image: {why}")
        })
    }

    /// Nothing is tried where the configuration has decided.
    fn refusal(&self, config: &Config, store: &Store, directories: &Directories) -> Option<&str> {
        if config.settings.rootfs.is_some() {
            return None;
        }
        let refusal = self.refusal.get_or_init(|| {
            let why = try_overlay(store, directories).err()?;
            log::warn!("overlayfs cannot be used, containers get copies of their images: {why}");
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
    let trial = std::thread::Builder::new().name("trial".into()).stack_size(STACK);
    let result = match trial.spawn(move || mount_and_write(&overlay, &target)) {
        Ok(thread) => thread.join().unwrap_or_else(|_| Err("the trial panicked".to_owned())),
        Err(error) => Err(format!("cannot start a thread: {error}")),
    };
    if let Err(error) = remove_tree::remove(&dir) {
        log::warn!("cannot remove {}: {error}", dir.display());
    }
    result
}

/// Mounted alone says little: some file systems make it read-only.
fn mount_and_write(overlay: &Rootfs, target: &Path) -> Result<(), String> {
    overlay::enter_namespace()?;
    overlay::set_up(overlay)?;
    let written =
        fs::write(target.join("trial"), b"trial").map_err(|error| format!("it cannot be written: {error}"));
    let torn_down = overlay::tear_down(overlay);
    written.and(torn_down)
}
