//! The directories that the engine works in: created, checked, and closed to other users before the engine uses them.
//!
//! Called once, by `main`, after it holds the socket (so no other engine runs) and before it opens the store and the
//! containers. [`trust`] defines which directory is trusted.

use crate::config::Config;
use sampan_ipc::trust::{self, TrustError};
use std::path::Path;

/// Creates the missing directories of `config`, checks all of them, and removes other users' access to existing ones.
///
/// # Errors
/// [`TrustError`]: another user owns one of them, or can write into it.
pub fn prepare(config: &Config) -> Result<(), TrustError> {
    trust::make_own(&config.run_dir, run_mode())?;
    let data = &config.data;
    if [&config.store, &config.containers].iter().any(|dir| dir.starts_with(data)) {
        trust::make_root(data, trust::PRIVATE)?;
    }
    // Layers hold setuid programs and files of all owners; logs and configurations may hold secrets. The OCI runtime
    // keeps the environment of each process in its directory.
    let below = ["containers", "runtime"].map(|name| config.run_dir.join(name));
    for dir in [&config.store, &config.containers].into_iter().chain(&below) {
        trust::make_own(dir, trust::PRIVATE)?;
    }
    Ok(())
}

/// Creates the parent directory of `path`, which is in the run directory, if it is missing, and checks it.
///
/// # Errors
/// [`TrustError`]: the directory cannot be created, or another user can write into it.
pub fn make_parent(path: &Path) -> Result<(), TrustError> {
    trust::make(trust::parent(path), run_mode())
}

/// The mode of the run directory. Root's lets members of Sampan's groups pass; other users' is private.
fn run_mode() -> u32 {
    if nix::unistd::geteuid().is_root() { trust::PASSABLE } else { trust::PRIVATE }
}
