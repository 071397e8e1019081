//! What runc leaves of a container whose processes have all ended: a directory with `state.json`, and cgroups.
//!
//! Takes it away without a process of the runtime's, which costs as much as half a start. Does what `runc delete`
//! does then, no more; anything that is not as expected is left to the runtime itself.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// runc's own name for its description of a container.
const STATE: &str = "state.json";
/// Where the description says which cgroups the container has, by controller.
const CGROUPS: &str = "\"cgroup_paths\":";

/// Removes what the runtime that is called by `words` has left of container `id`; false if it must do so itself.
///
/// Stops at the first thing that is not as expected. The runtime goes on from there: it minds nothing that is gone.
pub fn remove(words: &[String], id: &str) -> bool {
    let Some(dir) = home(words, id) else { return false };
    let Some(groups) = fs::read_to_string(dir.join(STATE)).ok().and_then(|text| cgroups(&text)) else {
        return false;
    };
    // A cgroup of that name is the container's alone; rmdir(2) refuses one that has a process or a cgroup in it.
    let is_its_own = |group: &PathBuf| group.is_absolute() && group.ends_with(id);
    let goes = |group: &PathBuf| match fs::remove_dir(group) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    };
    groups.iter().all(is_its_own) && groups.iter().all(goes) && fs::remove_dir_all(dir).is_ok()
}

/// The directory that runc keeps for the container; `None` for another runtime, or if systemd has the cgroups.
fn home(words: &[String], id: &str) -> Option<PathBuf> {
    let [program, "--root", root] = [words.first()?, words.get(1)?.as_str(), words.get(2)?] else {
        return None;
    };
    (words.len() == 3 && Path::new(program).ends_with("runc") && !id.is_empty())
        .then(|| Path::new(root).join(id))
}

/// The paths of its cgroups. libcontainer, `State.CgroupPaths`.
fn cgroups(text: &str) -> Option<Vec<PathBuf>> {
    // From behind: it stands after the whole configuration.
    let (_, rest) = text.rsplit_once(CGROUPS)?;
    // What follows the object is not looked at.
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

    /// A runtime's root with one container, and two directories that stand for its cgroups.
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
    fn what_runc_leaves_goes() {
        let (dir, groups) = one();
        assert!(remove(&words("/usr/sbin/runc", dir.path(), &[]), "abc"));
        assert!(groups.iter().all(|group| !group.exists()) && !dir.path().join("abc").exists());
        assert!(!remove(&words("/usr/sbin/runc", dir.path(), &[]), "abc"), "there is nothing");
    }

    #[test]
    fn another_runtime_or_driver_takes_away_its_own() {
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
