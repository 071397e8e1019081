//! Where the processes meet: the three roots and the files beneath them.
//!
//! Resolved from the environment by every process and by the CLI in the same way. Makes no file.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::env;
use std::path::{Path, PathBuf};

/// The three roots of one installation.
///
/// | root | variable | as root | as an ordinary user |
/// |---|---|---|---|
/// | run | `SAMPAN_RUN_DIR` | `/run/sampan` | `$XDG_RUNTIME_DIR/sampan`, else `/tmp/sampan-UID` |
/// | state | `SAMPAN_STATE_DIR` | `/var/lib/sampan` | `$XDG_STATE_HOME/sampan`, else `~/.local/state/sampan` |
/// | data | `SAMPAN_DATA_DIR` | `/var/lib/sampan` | `$XDG_DATA_HOME/sampan`, else `~/.local/share/sampan` |
///
/// Two installations with different roots live side by side on one host. XDG Base Directory Specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Sockets, the FIFO and locks: gone after a reboot.
    pub run: PathBuf,
    /// The event journal, and what daemons must remember.
    pub state: PathBuf,
    /// Images and layers.
    pub data: PathBuf,
}

impl Paths {
    /// The roots that this process's environment and user give.
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

    /// The emit FIFO: everybody else's events go in here, marked so.
    pub fn emit_fifo(&self) -> PathBuf {
        self.run.join("emit.fifo")
    }

    /// The monitor FIFO: facts of the engine and its shims go in here.
    pub fn fifo(&self) -> PathBuf {
        self.run.join("monitor.fifo")
    }

    /// monitord's socket: events come out here.
    pub fn events_socket(&self) -> PathBuf {
        self.run.join("events.sock")
    }

    /// The engine's socket.
    pub fn engine_socket(&self) -> PathBuf {
        self.run.join("engine.sock")
    }

    /// monitord's journal directory.
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// The image store: an OCI image layout, and unpacked layers beside it.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The containers, a directory each.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }
}

/// What a person may do whose process cannot write in `places`, each with the name of what moves it; `None` if it can.
///
/// A place that is not there yet is made in the nearest directory above it that is.
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
    (!reasons.is_empty()).then(|| format!("{}; set {names} to what can be written", reasons.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_can_be_written_needs_no_hint() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(unwritable_hint(&[("A", dir.path()), ("B", &dir.path().join("new/below"))]), None);
        // Nobody can write there, whoever runs the tests.
        let hint = unwritable_hint(&[("A", Path::new("/proc/sys/new")), ("A", Path::new("/proc/sys/other"))]);
        assert!(hint.is_none_or(|hint| hint.matches("set A to what can be written").count() == 1));
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
