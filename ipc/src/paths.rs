//! Paths of an installation: its three root directories, and the sockets, FIFOs and directories below them.
//!
//! All daemons and clients find these paths by these functions, from the environment. Creates no file.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::env;
use std::path::{Path, PathBuf};

/// The three root directories of an installation.
///
/// | root | variable | as root | as an ordinary user |
/// |---|---|---|---|
/// | run | `SAMPAN_RUN_DIR` | `/run/sampan` | `$XDG_RUNTIME_DIR/sampan`, else `/tmp/sampan-UID` |
/// | state | `SAMPAN_STATE_DIR` | `/var/lib/sampan` | `$XDG_STATE_HOME/sampan`, else `~/.local/state/sampan` |
/// | data | `SAMPAN_DATA_DIR` | `/var/lib/sampan` | `$XDG_DATA_HOME/sampan`, else `~/.local/share/sampan` |
///
/// Installations with different roots can run on one host at a time. XDG Base Directory Specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Directory of sockets, FIFOs and locks, which a reboot removes.
    pub run: PathBuf,
    /// Directory of the event journal, and of the daemons' state.
    pub state: PathBuf,
    /// Directory of images, layers and containers.
    pub data: PathBuf,
}

impl Paths {
    /// Resolves the roots from this process's environment and user.
    pub fn from_env() -> Self {
        Self::resolve(nix::unistd::geteuid().as_raw(), |name| {
            env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
        })
    }

    fn resolve(uid: u32, var: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = |below: &str| match var("HOME") {
            Some(home) => home.join(below),
            None => PathBuf::from(format!("/tmp/sampan-{uid}")),
        };
        let root = |own: &str, system: &str, xdg: &str, fallback: &dyn Fn() -> PathBuf| match var(own) {
            Some(path) => path,
            None if uid == 0 => PathBuf::from(system),
            None => var(xdg).unwrap_or_else(fallback).join("sampan"),
        };
        let run = match (var("SAMPAN_RUN_DIR"), uid, var("XDG_RUNTIME_DIR")) {
            (Some(path), _, _) => path,
            (None, 0, _) => PathBuf::from("/run/sampan"),
            (None, _, Some(xdg)) => xdg.join("sampan"),
            (None, uid, None) => PathBuf::from(format!("/tmp/sampan-{uid}")),
        };
        Paths {
            run,
            state: root("SAMPAN_STATE_DIR", "/var/lib/sampan", "XDG_STATE_HOME", &|| home(".local/state")),
            data: root("SAMPAN_DATA_DIR", "/var/lib/sampan", "XDG_DATA_HOME", &|| home(".local/share")),
        }
    }

    /// The emit FIFO, into which other programs write their events. monitord marks these events.
    pub fn emit_fifo(&self) -> PathBuf {
        self.run.join("emit.fifo")
    }

    /// The monitor FIFO, into which the engine and its shims write events.
    pub fn fifo(&self) -> PathBuf {
        self.run.join("monitor.fifo")
    }

    /// monitord's socket, from which clients receive events.
    pub fn events_socket(&self) -> PathBuf {
        self.run.join("events.sock")
    }

    /// The engine's socket.
    pub fn engine_socket(&self) -> PathBuf {
        self.run.join("engine.sock")
    }

    /// The gateway's socket, on which docker's clients use the engine.
    pub fn docker_socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }

    /// monitord's journal directory.
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// Directory of the image store: an OCI image layout and the unpacked layers.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Directory of the replication's journals.
    pub fn replication(&self) -> PathBuf {
        self.data.join("replication")
    }

    /// Directory of the containers, with a directory for each.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }
}

/// A hint for a person whose process cannot write to one of `places`; `None` if it can write to all. Each place has
/// the name of the variable or option that sets the place.
/// If a place does not exist yet, checks the nearest existing directory above it, in which the place would be created.
/// created.
pub fn unwritable_hint(places: &[(&str, &Path)]) -> Option<String> {
    let (mut names, mut reasons) = (Vec::new(), Vec::new());
    for (name, place) in places {
        let there = place.ancestors().find(|path| path.symlink_metadata().is_ok());
        let Some((path, Err(errno))) = there.map(|path| (path, access(path, AccessFlags::W_OK))) else {
            continue;
        };
        let reason = match errno {
            Errno::EROFS => format!("{} is on a read-only file system", path.display()),
            Errno::EACCES => format!("this user may not write in {}", path.display()),
            _ => continue,
        };
        if !names.contains(name) {
            names.push(name);
        }
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    (!reasons.is_empty())
        .then(|| format!("{}; set {names} to a path that you can write to", reasons.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_can_be_written_needs_no_hint() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(unwritable_hint(&[("A", dir.path()), ("B", &dir.path().join("new/below"))]), None);
        // No user can write to /proc/sys, not even root.
        let hint = unwritable_hint(&[("A", Path::new("/proc/sys/new")), ("A", Path::new("/proc/sys/other"))]);
        assert!(hint.is_none_or(|hint| hint.matches("set A to a path that you can write to").count() == 1));
    }

    fn resolve(uid: u32, vars: &[(&str, &str)]) -> Paths {
        Paths::resolve(uid, |name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| PathBuf::from(v)))
    }

    #[test]
    fn each_user_has_roots_of_its_own() {
        assert_eq!(
            resolve(0, &[("XDG_RUNTIME_DIR", "/x")]).fifo(),
            PathBuf::from("/run/sampan/monitor.fifo")
        );
        let user = resolve(5, &[("XDG_RUNTIME_DIR", "/run/user/5"), ("HOME", "/h")]);
        assert_eq!(user.events_socket(), PathBuf::from("/run/user/5/sampan/events.sock"));
        assert_eq!(user.journal(), PathBuf::from("/h/.local/state/sampan/journal"));
        assert_eq!(user.store(), PathBuf::from("/h/.local/share/sampan/store"));
        let moved =
            resolve(5, &[("SAMPAN_RUN_DIR", "/a"), ("SAMPAN_STATE_DIR", "/b"), ("SAMPAN_DATA_DIR", "/c")]);
        assert_eq!((moved.run, moved.state, moved.data), ("/a".into(), "/b".into(), "/c".into()));
    }
}
