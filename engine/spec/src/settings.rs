//! What the configuration says about containers that do not say otherwise.

use super::error::SpecError;
use super::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a container has its root file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Overlayfs over the image's layers.
    #[default]
    Overlay,
    /// A copy of what that would show.
    Copy,
}

/// Who makes control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// The runtime itself.
    Cgroupfs,
    /// systemd, asked by the runtime.
    Systemd,
}

/// A soft and a hard limit, as they are written: `1024`, `[1024, 2048]`; -1 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// Both.
    Same(i64),
    /// Soft and hard.
    Two(i64, i64),
}

impl Ulimit {
    /// Soft and hard.
    pub fn both(self) -> (i64, i64) {
        match self {
            Ulimit::Same(limit) => (limit, limit),
            Ulimit::Two(soft, hard) => (soft, hard),
        }
    }
}

/// What the configuration says about containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name or path of the OCI runtime; crun or runc, whichever works here, if absent.
    pub runtime: Option<String>,
    /// OCI runtimes that clients may name, beside crun and runc: for each its program, or several of which the first
    /// that is there is taken.
    pub runtimes: BTreeMap<String, Vec<PathBuf>>,
    /// Who makes control groups; systemd where it runs and the runtime can ask it, if absent.
    pub cgroup_manager: Option<Manager>,
    /// A profile in the form of containers-common, instead of this program's own.
    pub seccomp_profile: Option<PathBuf>,
    /// The AppArmor profile of containers that do not ask for another; one that others have loaded, if absent.
    pub apparmor_profile: Option<String>,
    /// Containers get SELinux labels where SELinux is on.
    pub selinux: bool,
    /// The small init of `--init`, instead of one that is found.
    pub init_path: Option<PathBuf>,
    /// How long `stop` waits, in seconds.
    pub stop_timeout: u32,
    /// Limits of all containers, by docker's names.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// How root file systems are made; by overlayfs unless this host refuses it, if absent.
    pub rootfs: Option<Form>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            runtime: None,
            runtimes: BTreeMap::new(),
            cgroup_manager: None,
            seccomp_profile: None,
            apparmor_profile: None,
            selinux: true,
            init_path: None,
            stop_timeout: 10,
            default_ulimits: BTreeMap::new(),
            rootfs: None,
        }
    }
}

impl Settings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`SpecError::Option`].
    pub fn check(&self) -> Result<(), SpecError> {
        for (name, limit) in &self.default_ulimits {
            let (soft, hard) = limit.both();
            words::ulimit("default-ulimits", name, soft, hard)?;
        }
        for (name, paths) in &self.runtimes {
            words::printable("runtimes", name)?;
            if name.is_empty() || name.contains('/') {
                return Err(SpecError::option("runtimes", name, "expected a name without a slash"));
            }
            if paths.is_empty() || !paths.iter().all(|path| path.is_absolute()) {
                return Err(SpecError::option("runtimes", name, "expected the absolute path of a program"));
            }
        }
        if let Some(profile) = &self.apparmor_profile {
            words::printable("apparmor-profile", profile)?;
            if profile.is_empty() {
                return Err(SpecError::option(
                    "apparmor-profile",
                    "",
                    "expected a profile's name, or unconfined",
                ));
            }
        }
        for (key, path) in [("seccomp-profile", &self.seccomp_profile), ("init-path", &self.init_path)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(SpecError::option(key, &path.to_string_lossy(), "expected an absolute path"));
            }
        }
        Ok(())
    }
}
