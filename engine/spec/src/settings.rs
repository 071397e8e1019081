//! The configuration's settings for containers: the defaults for what a request does not set.
//!
//! Read by the engine's configuration; given to `bundle`, `runtime` and `security`.

use super::error::SpecError;
use super::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a container's root file system is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Overlayfs over the image's layers.
    #[default]
    Overlay,
    /// A copy of the image's files.
    Copy,
}

/// What makes control groups: the runtime itself or systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// The runtime itself.
    Cgroupfs,
    /// systemd, on request of the runtime.
    Systemd,
}

/// A soft and a hard limit, in the form of the configuration: `1024` or `[1024, 2048]`; -1 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// Soft and hard limit are equal.
    Same(i64),
    /// The soft limit, the hard limit.
    Two(i64, i64),
}

impl Ulimit {
    /// The soft limit and the hard limit.
    pub fn both(self) -> (i64, i64) {
        match self {
            Ulimit::Same(limit) => (limit, limit),
            Ulimit::Two(soft, hard) => (soft, hard),
        }
    }
}

/// The settings for containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name or path of the OCI runtime; crun or runc, whichever works here, if absent.
    pub runtime: Option<String>,
    /// Names of OCI runtimes that clients may request, beside crun and runc, each with its possible programs. The first
    /// program that exists is used.
    pub runtimes: BTreeMap<String, Vec<PathBuf>>,
    /// What makes control groups. If absent: systemd, if it runs and the runtime supports it, else the runtime.
    pub cgroup_manager: Option<Manager>,
    /// A seccomp profile in the form of containers-common, which replaces the built-in one.
    pub seccomp_profile: Option<PathBuf>,
    /// The default AppArmor profile. If absent: docker's or podman's, if it is loaded.
    pub apparmor_profile: Option<String>,
    /// Whether containers get SELinux labels if SELinux is on.
    pub selinux: bool,
    /// The small init program of `--init`. If absent, it is searched.
    pub init_path: Option<PathBuf>,
    /// How long `stop` waits before it kills, in seconds.
    pub stop_timeout: u32,
    /// Resource limits of all containers, by docker's names.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// How root file systems are made. If absent: by overlayfs, or as copies if this host refuses overlayfs.
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
    /// Checks the values beyond their types.
    ///
    /// # Errors
    /// [`SpecError::Option`]: a value breaks a rule.
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
