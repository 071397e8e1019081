//! A mount of a container. Docker Engine API, "MountPoint".

use sampan_ipc::container::{Mount, MountKind};
use serde::Serialize;

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountPoint {
    /// `bind` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// The path on the host; empty for tmpfs.
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// The mount's options, joined by commas.
    pub mode: String,
    /// Whether the container may write to it.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// How mounts below it spread; empty for tmpfs. mount_namespaces(7).
    pub propagation: String,
}

impl MountPoint {
    /// Describes a mount.
    pub fn new(mount: &Mount) -> Self {
        let kind = match mount.kind {
            MountKind::Bind => "bind",
            MountKind::Tmpfs => "tmpfs",
        };
        let is_propagation =
            |option: &&String| ["private", "slave", "shared"].iter().any(|end| option.ends_with(end));
        let propagation = match mount.kind {
            MountKind::Bind => mount.options.iter().find(is_propagation).map_or("rprivate", String::as_str),
            MountKind::Tmpfs => "",
        };
        MountPoint {
            kind,
            source: mount.source.clone(),
            destination: mount.target.clone(),
            mode: mount.options.join(","),
            rw: !mount.read_only,
            propagation: propagation.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_is_private_unless_it_says_otherwise() {
        let bind = Mount {
            source: "/a".to_owned(),
            target: "/b".to_owned(),
            read_only: true,
            options: vec!["z".to_owned(), "rslave".to_owned()],
            ..Mount::default()
        };
        let point = MountPoint::new(&bind);
        assert_eq!((point.kind, point.rw, point.propagation.as_str()), ("bind", false, "rslave"));
        assert_eq!(point.mode, "z,rslave");
        let plain = Mount { options: Vec::new(), ..bind.clone() };
        assert_eq!(MountPoint::new(&plain).propagation, "rprivate");
        let tmpfs = Mount { kind: MountKind::Tmpfs, ..plain };
        assert_eq!(MountPoint::new(&tmpfs).propagation, "");
    }
}
