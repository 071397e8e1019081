//! Removes what runc leaves of a container whose processes have all ended: a directory with `state.json`, and control
//! groups.
//!
//! Runs no process of runc, which would cost half the time of a start. Does exactly what `runc delete` does for such a
//! container. If a file or group is not as expected, the caller runs the runtime's `delete` instead.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Name of the file in which runc keeps its state of a container.
const STATE: &str = "state.json";
/// The key in `state.json` whose value maps each controller to the path of the container's control group.
const CGROUPS: &str = "\"cgroup_paths\":";

/// Removes the runtime's leftovers of container `id`. Returns false if the caller must run the runtime's `delete`.
///
/// `words` are the runtime's program and global arguments. Stops at the first file or group that is not as expected,
/// when other files may be removed already. The runtime's `delete` then removes the rest.
pub(crate) fn remove(words: &[String], id: &str) -> bool {
    let Some(dir) = state_dir(words, id) else { return false };
    let Some(groups) = fs::read_to_string(dir.join(STATE)).ok().and_then(|text| cgroups(&text)) else {
        return false;
    };
    // Only this container has a control group whose name is its ID. rmdir(2) refuses a group that contains a process
    // or a group.
    let is_its_own = |group: &PathBuf| group.is_absolute() && group.ends_with(id);
    let is_removed = |group: &PathBuf| match fs::remove_dir(group) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    };
    groups.iter().all(is_its_own) && groups.iter().all(is_removed) && fs::remove_dir_all(dir).is_ok()
}

/// runc's directory for the container; `None` for another runtime, or if systemd manages the control groups.
fn state_dir(words: &[String], id: &str) -> Option<PathBuf> {
    let [program, "--root", root] = [words.first()?, words.get(1)?.as_str(), words.get(2)?] else {
        return None;
    };
    (words.len() == 3 && Path::new(program).ends_with("runc") && !id.is_empty())
        .then(|| Path::new(root).join(id))
}

/// The paths of the container's control groups, from the text of `state.json`. libcontainer, `State.CgroupPaths`.
fn cgroups(text: &str) -> Option<Vec<PathBuf>> {
    // Search from the end: the container's configuration, which comes before the key, may contain the same text.
    let (_, rest) = text.rsplit_once(CGROUPS)?;
    // The deserializer stops at the end of the object, and ignores the text after it.
    let mut object = serde_json::Deserializer::from_str(rest);
    let paths = BTreeMap::<String, PathBuf>::deserialize(&mut object).ok()?;
    (!paths.is_empty()).then(|| paths.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(program: &str, root: &Path, more: &[&str]) -> Vec<String> {
        let root = root.display().to_string();
        [&[program, "--root", root.as_str()], more].concat().into_iter().map(str::to_owned).collect()
    }

    /// A root directory of the runtime with one container, and two directories instead of its control groups.
    fn one() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().expect("a directory");
        let groups = ["cpu", "pids"].map(|name| dir.path().join(name).join("abc"));
        groups.iter().for_each(|group| fs::create_dir_all(group).expect("made"));
        fs::create_dir(dir.path().join("abc")).expect("made");
        let paths = serde_json::json!({ "cpu": groups[0], "pids": groups[1] });
        let text = format!("{{\"id\":\"abc\",\"cgroup_paths\":{paths},\"namespace_paths\":{{}}}}");
        fs::write(dir.path().join("abc").join(STATE), text).expect("written");
        (dir, groups.into())
    }

    #[test]
    fn what_runc_leaves_is_removed() {
        let (dir, groups) = one();
        assert!(remove(&words("/usr/sbin/runc", dir.path(), &[]), "abc"));
        assert!(groups.iter().all(|group| !group.exists()) && !dir.path().join("abc").exists());
        assert!(!remove(&words("/usr/sbin/runc", dir.path(), &[]), "abc"), "there is nothing");
    }

    #[test]
    fn another_runtime_or_cgroup_driver_must_remove_its_own() {
        let (dir, groups) = one();
        assert!(!remove(&words("/usr/bin/crun", dir.path(), &[]), "abc"));
        assert!(!remove(&words("/usr/sbin/runc", dir.path(), &["--systemd-cgroup"]), "abc"));
        assert!(!remove(&words("/usr/sbin/runc", dir.path(), &[]), ""));
        assert!(groups.iter().all(|group| group.exists()) && dir.path().join("abc").join(STATE).exists());
    }

    #[test]
    fn a_cgroup_that_is_in_use_or_another_s_is_left_to_the_runtime() {
        let (dir, groups) = one();
        fs::create_dir(groups[1].join("nested")).expect("made");
        assert!(!remove(&words("runc", dir.path(), &[]), "abc"));
        assert!(dir.path().join("abc").join(STATE).exists());
        let (dir, _) = one();
        let (state, other) = (dir.path().join("abc").join(STATE), dir.path().join("other"));
        fs::create_dir(&other).expect("made");
        for text in [format!("{{\"cgroup_paths\":{{\"cpu\":{other:?}}}}}"), "{\"cgroup_paths\":[1".to_owned()]
        {
            fs::write(&state, text).expect("written");
            assert!(!remove(&words("runc", dir.path(), &[]), "abc"));
            assert!(other.exists() && state.exists());
        }
    }
}
