//! What AppArmor and SELinux of a host are: profiles that are loaded, contexts that its policy has for containers.
//!
//! Reads no file: [`super::host::Host`] does. Decides nothing: [`super::security`] does.

use std::collections::BTreeSet;

/// The level of files that all containers share.
pub(crate) const SHARED_LEVEL: &str = "s0";

/// Profiles of AppArmor that the kernel has; `None` where that cannot be read.
pub type Loaded = Option<BTreeSet<String>>;

/// Reads `/sys/kernel/security/apparmor/profiles`: `NAME (MODE)` a line. Profiles of other namespaces are left out.
pub fn loaded(file: &str) -> BTreeSet<String> {
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    file.lines().filter_map(name).filter(|name| !name.starts_with(':')).collect()
}

/// What the host's SELinux policy says of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts {
    /// Of processes: `system_u:system_r:container_t:s0`.
    pub process: Context,
    /// Of files: `system_u:object_r:container_file_t:s0`.
    pub file: Context,
}

impl Contexts {
    /// Reads `lxc_contexts`, a file of the policy; `None` if it does not say both. selabel(5) has no page of it.
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

/// A label of SELinux in its parts.
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

/// True for a part of a label: what stands in one is a word of the policy, or a range of levels.
pub(crate) fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ',' | ':');
    !part.is_empty() && part.len() <= 255 && part.chars().all(plain)
}
