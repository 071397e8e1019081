//! The directories that the engine works in: checked, and closed to other users, before anything is done in them.
//!
//! Called once, by `main`, as soon as no other engine has the socket, before it opens store and containers. The rule is
//! [`trust`]'s.

use crate::config::Config;
use sampan_ipc::paths::Paths;
use sampan_ipc::trust::{self, TrustError};
use std::path::Path;

/// Makes the roots of `config` that are not there, checks all, and takes from other users what an earlier version, or a
/// service manager, let them have.
///
/// # Errors
/// [`TrustError`]: another user may have made one, or put something into it.
pub fn prepare(config: &Config) -> Result<(), TrustError> {
    trust::make_own(&config.run_dir, run_mode())?;
    let data = Paths::from_env().data;
    if [&config.store, &config.containers].iter().any(|dir| dir.starts_with(&data)) {
        trust::make_root(&data, trust::PRIVATE)?;
    }
    // Layers hold setuid programs and files of all owners; logs and configurations hold what programs were told. The
    // OCI runtime keeps the environment of each process in its directory.
    let below = ["containers", "runtime"].map(|name| config.run_dir.join(name));
    for dir in [&config.store, &config.containers].into_iter().chain(&below) {
        trust::make_own(dir, trust::PRIVATE)?;
    }
    Ok(())
}

/// Makes the directory of `path`, which is in the run directory, if it is not there, and checks it.
///
/// # Errors
/// It cannot be made, or is not trusted.
pub fn make_parent(path: &Path) -> Result<(), TrustError> {
    trust::make(trust::parent(path), run_mode())
}

/// The mode of the run directory: the members of groups pass through root's, nobody through that of another user.
fn run_mode() -> u32 {
    if nix::unistd::geteuid().is_root() { trust::PASSABLE } else { trust::PRIVATE }
}
