//! The control groups of a container, in all hierarchies: found, thawed, emptied and removed. cgroups(7).
//!
//! Called by shims after a start that failed and at a container's end, and by the engine for a container whose shim was
//! killed. Knows groups by the container's id and, for a container that is a unit of systemd, by the unit's group.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that processes may take to end; only ones that the kernel itself holds take that long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(2);
/// How deep groups in a group are looked for; a runtime makes none, a container may.
const DEPTH_MAX: usize = 32;

/// The control groups that container `id` has, in all hierarchies; `unit` is the group of the unit that it is, if any.
pub fn groups(id: &str, unit: Option<&str>) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    places(&mounts, id, unit).into_iter().filter(|group| group.exists()).collect()
}

/// Removes the control groups of container `id`, in all hierarchies, and ends what is in them; `unit` as for [`groups`].
pub fn remove_groups(id: &str, unit: Option<&str>) {
    let deadline = Instant::now() + PATIENCE;
    let groups = groups(id, unit);
    // What one hierarchy has frozen is in the groups of all.
    groups.iter().for_each(|group| thaw(group, DEPTH_MAX));
    for group in groups {
        while !remove(&group, DEPTH_MAX) && Instant::now() < deadline {
            std::thread::sleep(AGAIN);
        }
    }
}

/// Removes the empty group that an OCI runtime has made for a unit in hierarchies that systemd does not manage, so that
/// nobody else would.
pub fn remove_unit_groups(unit: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for group in unmanaged(&mounts, unit) {
        // Refused where there is a process or a group in it.
        let _ = fs::remove_dir(group);
    }
}

/// A hierarchy of control groups: where it is mounted, of which kind, and its options. cgroups(7),
/// proc_pid_mountinfo(5).
fn hierarchy(line: &str) -> Option<(&Path, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, target) = (after.next()?, before.split(' ').nth(4)?);
    let options = after.nth(1).unwrap_or_default();
    matches!(kind, "cgroup" | "cgroup2").then_some((Path::new(target), kind, options))
}

/// Where the container's groups would be, with either driver, and below the unit's.
fn places(mounts: &str, id: &str, unit: Option<&str>) -> Vec<PathBuf> {
    let mut below = vec![format!("sampan/{id}"), format!("system.slice/sampan-{id}.scope")];
    below.extend(unit.map(|group| format!("{}/{id}", group.trim_start_matches('/'))));
    let tops = mounts.lines().filter_map(hierarchy);
    tops.flat_map(|(top, ..)| below.iter().map(|below| top.join(below)).collect::<Vec<_>>()).collect()
}

/// Where the unit's group would be in hierarchies of version 1 with none of the controllers that systemd knows.
/// systemd.resource-control(5).
fn unmanaged(mounts: &str, unit: &str) -> Vec<PathBuf> {
    // cpuacct is another name of cpu where both are mounted together, and else needed by nothing.
    const MANAGED: [&str; 6] = ["name=systemd", "cpu", "blkio", "memory", "devices", "pids"];
    let is_free = |options: &str| !options.split(',').any(|option| MANAGED.contains(&option));
    let free = mounts
        .lines()
        .filter_map(hierarchy)
        .filter(|(_, kind, options)| *kind == "cgroup" && is_free(options));
    free.map(|(top, ..)| top.join(unit.trim_start_matches('/'))).collect()
}

/// Kills what is in a group and tries to remove it; true if it is gone.
fn remove(group: &Path, depth: usize) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path(), depth - 1);
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        // 0 stands for a process of another namespace, and for our own group in kill(2).
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Lets what is frozen in a group go on: before that SIGKILL does not end it, with version 1. cgroups(7).
fn thaw(group: &Path, depth: usize) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw(&entry.path(), depth - 1);
        }
    }
    for (switch, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        // Only where there is one: it must not be made.
        let file = fs::OpenOptions::new().write(true).open(group.join(switch));
        let _ = file.and_then(|mut file| file.write_all(word.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_in_every_hierarchy_and_nowhere_else() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 25 0:28 / /tmp rw - tmpfs tmpfs rw\nnonsense\n";
        let places = places(mounts, "ab", None);
        let expected = [
            "/sys/fs/cgroup/memory/sampan/ab",
            "/sys/fs/cgroup/memory/system.slice/sampan-ab.scope",
            "/sys/fs/cgroup/unified/sampan/ab",
            "/sys/fs/cgroup/unified/system.slice/sampan-ab.scope",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
        let of_unit = super::places(mounts, "ab", Some("/system.slice/web.service"));
        assert_eq!(of_unit.len(), 6);
        assert!(of_unit.contains(&PathBuf::from("/sys/fs/cgroup/memory/system.slice/web.service/ab")));
    }

    #[test]
    fn the_groups_of_a_unit_that_systemd_manages_are_left_to_it() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 25 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                      33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let free = unmanaged(mounts, "/system.slice/web.service");
        assert_eq!(free, [PathBuf::from("/sys/fs/cgroup/freezer/system.slice/web.service")]);
    }
}
