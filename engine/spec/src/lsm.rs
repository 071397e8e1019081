//! Linux security modules: parses the list of AppArmor's loaded profiles and SELinux's contexts for containers.
//!
//! Reads no file: [`super::host::Host`] reads them. Chooses no profile and no label: [`super::security`] chooses them.

use std::collections::BTreeSet;

/// The SELinux level of files that all containers share.
pub(crate) const SHARED_LEVEL: &str = "s0";

/// Names of the AppArmor profiles that the kernel has loaded; `None` if the list cannot be read.
pub type Loaded = Option<BTreeSet<String>>;

/// Parses `/sys/kernel/security/apparmor/profiles`, with a line `NAME (MODE)` for each profile. Skips profiles of
/// other AppArmor namespaces.
pub fn loaded(file: &str) -> BTreeSet<String> {
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    file.lines().filter_map(name).filter(|name| !name.starts_with(':')).collect()
}

/// The contexts for containers in the host's SELinux policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts {
    /// The context of processes, such as `system_u:system_r:container_t:s0`.
    pub process: Context,
    /// The context of files, such as `system_u:object_r:container_file_t:s0`.
    pub file: Context,
}

impl Contexts {
    /// Parses the policy's file `lxc_contexts`; `None` if it lacks one of the two contexts. The file has no manual
    /// page.
    pub fn parse(file: &str) -> Option<Self> {
        let value = |wanted: &str| {
            file.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == wanted).then(|| Context::parse(value.trim().trim_matches('"')))?
            })
        };
        Some(Contexts { process: value("process")?, file: value("file")? })
    }
}

/// The parts of an SELinux context (label).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub(crate) user: String,
    pub(crate) role: String,
    pub(crate) kind: String,
    pub(crate) level: String,
}

impl Context {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let context = Context {
            user: parts.next()?,
            role: parts.next()?,
            kind: parts.next()?,
            level: parts.next().unwrap_or_else(|| SHARED_LEVEL.to_owned()),
        };
        let parts = [&context.user, &context.role, &context.kind, &context.level];
        if parts.iter().all(|part| is_part(part)) { Some(context) } else { None }
    }

    /// The type, such as `container_t`.
    pub fn kind(&self) -> &str {
        &self.kind
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}:{}", self.user, self.role, self.kind, self.level)
    }
}

/// Whether `part` may be a part of a context: a name of the policy, or a range of levels.
pub(crate) fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ',' | ':');
    !part.is_empty() && part.len() <= 255 && part.chars().all(plain)
}
