//! Thaws a container without its runtime, because the runtime may hang. Ignores errors.
//!
//! Called before a frozen container is killed: with version 1 of control groups, SIGKILL does not end a frozen
//! process.

use std::fs;
use std::path::{Path, PathBuf};

/// Thaws the control group of process `pid`.
pub(crate) fn thaw(pid: i32) {
    if pid <= 1 {
        return;
    }
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let (groups, mounts) = (read(format!("/proc/{pid}/cgroup")), read("/proc/self/mountinfo".to_owned()));
    for (file, word) in thaw_files(&groups, &mounts) {
        // Open without O_CREAT, so that no file is created in a group that cannot be frozen.
        let _ = fs::OpenOptions::new().write(true).open(file).and_then(|mut file| {
            use std::io::Write;
            file.write_all(word.as_bytes())
        });
    }
}

/// The files that thaw a control group, each with the word to write into it. cgroups(7), proc_pid_mountinfo(5).
fn thaw_files(groups: &str, mounts: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        // Skip the root group of a hierarchy, which contains the host's own processes.
        let below = group.trim_start_matches('/');
        if below.is_empty() || below.split('/').any(|part| part == "..") {
            continue;
        }
        let (kind, option, file, word) = match controllers {
            "" => ("cgroup2", "", "cgroup.freeze", "0"),
            _ if controllers.split(',').any(|one| one == "freezer") => {
                ("cgroup", "freezer", "freezer.state", "THAWED")
            }
            _ => continue,
        };
        let is_it = |line: &&str| {
            let Some((_, after)) = line.split_once(" - ") else { return false };
            let mut words = after.split(' ');
            words.next() == Some(kind)
                && (option.is_empty() || words.nth(1).is_some_and(|o| o.split(',').any(|one| one == option)))
        };
        let top = mounts.lines().find(is_it).and_then(|line| line.split(' ').nth(4));
        found.extend(top.map(|top| (Path::new(top).join(below).join(file), word)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_s_own_switch_is_found_in_both_versions_and_never_the_host_s() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = thaw_files("5:memory:/a/b\n4:freezer:/a/b\n0::/a/c\n", mounts);
        let expected = [
            ("/sys/fs/cgroup/freezer/a/b/freezer.state", "THAWED"),
            ("/sys/fs/cgroup/unified/a/c/cgroup.freeze", "0"),
        ];
        assert_eq!(found, expected.map(|(path, word)| (PathBuf::from(path), word)));
        assert!(thaw_files("4:freezer:/\n0::/\n1:freezer:/../x\nnonsense\n", mounts).is_empty());
    }
}
