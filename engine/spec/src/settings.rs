//! The configuration's settings for containers, which apply to options that a request does not set.
//!
//! The engine's configuration reads them; `bundle`, `runtime` and `security` use them.

use super::error::SpecError;
use super::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a container's root file system is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Overlayfs over the image's layers.
    #[default]
    Overlay,
    /// A copy of the image's files.
    Copy,
}

/// The program that creates control groups: the runtime itself or systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// The runtime itself.
    Cgroupfs,
    /// systemd, at the runtime's request.
    Systemd,
}

/// A soft and a hard limit, in the form of the configuration: `1024` or `[1024, 2048]`; -1 means no limit.
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
    /// Name or path of the OCI runtime. If absent: crun or runc, whichever works on this host.
    pub runtime: Option<String>,
    /// Names of OCI runtimes that clients may request in addition to crun and runc, each with paths of programs. The
    /// first existing program is used.
    pub runtimes: BTreeMap<String, Vec<PathBuf>>,
    /// The program that creates control groups. If absent: systemd if it runs and the runtime supports it, otherwise
    /// the runtime.
    pub cgroup_manager: Option<Manager>,
    /// Path of a seccomp profile in the form of containers-common, which replaces the built-in profile.
    pub seccomp_profile: Option<PathBuf>,
    /// The default AppArmor profile. If absent: docker's or podman's profile if it is loaded.
    pub apparmor_profile: Option<String>,
    /// Whether containers get SELinux labels while SELinux is on.
    pub selinux: bool,
    /// Path of the small init program for `--init`. If absent, usual paths are searched.
    pub init_path: Option<PathBuf>,
    /// Seconds that `stop` waits before it sends SIGKILL.
    pub stop_timeout: u32,
    /// Resource limits of all containers, by docker's names.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// How root file systems are set up. If absent: by overlayfs, or as copies on a host that refuses overlayfs.
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
    /// Checks the rules for values that their types do not express.
    ///
    /// # Errors
    /// [`SpecError::Option`] if a value breaks a rule.
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
