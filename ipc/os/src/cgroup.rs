//! Finds, thaws, empties and removes a container's control groups, in all hierarchies. cgroups(7).
//!
//! Called by shims after a failed start and at a container's end, and by the engine for a container whose shim was
//! killed. Finds groups by the container's id and, if a systemd unit runs the container, below the unit's group. Never
//! creates a group: the OCI runtime does.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to end. Only a process in an uninterruptible sleep (state D) takes longer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts to remove a group.
const RETRY_DELAY: Duration = Duration::from_millis(2);
/// Deepest level of nested groups that is searched. A runtime nests none, but a container may.
const DEPTH_MAX: usize = 32;

/// The existing control groups of container `id`, in all hierarchies.
///
/// `unit` is the control group of the systemd unit that runs the container, if there is one.
pub fn groups(id: &str, unit: Option<&str>) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    candidates(&mounts, id, unit).into_iter().filter(|group| group.exists()).collect()
}

/// Kills all processes in the control groups of container `id` and removes the groups, in all hierarchies.
///
/// Gives up after 2 seconds. For `unit`, see [`groups`].
pub fn remove_groups(id: &str, unit: Option<&str>) {
    let deadline = Instant::now() + WAIT_MAX;
    let groups = groups(id, unit);
    // Thaw in all hierarchies first: a process that one hierarchy froze is a member of groups in the others too.
    groups.iter().for_each(|group| thaw(group, DEPTH_MAX));
    for group in groups {
        while !kill_and_remove(&group, DEPTH_MAX) && Instant::now() < deadline {
            std::thread::sleep(RETRY_DELAY);
        }
    }
}

/// Removes the empty groups that an OCI runtime made for a systemd unit in hierarchies that systemd does not manage.
///
/// Neither systemd nor the runtime removes these groups.
pub fn remove_unit_groups(unit: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for group in unmanaged(&mounts, unit) {
        // Fails for a group that still holds a process or another group: that group is in use and stays.
        let _ = fs::remove_dir(group);
    }
}

/// Parses a line of mountinfo: mount point, file system type and options, if it is a hierarchy of control groups.
/// cgroups(7), proc_pid_mountinfo(5).
fn hierarchy(line: &str) -> Option<(&Path, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, target) = (after.next()?, before.split(' ').nth(4)?);
    let options = after.nth(1).unwrap_or_default();
    matches!(kind, "cgroup" | "cgroup2").then_some((Path::new(target), kind, options))
}

/// The paths that the container's groups may have: with the cgroupfs driver, with the systemd driver, below the unit's
/// group.
fn candidates(mounts: &str, id: &str, unit: Option<&str>) -> Vec<PathBuf> {
    let mut below = vec![format!("sampan/{id}"), format!("system.slice/sampan-{id}.scope")];
    below.extend(unit.map(|group| format!("{}/{id}", group.trim_start_matches('/'))));
    let tops = mounts.lines().filter_map(hierarchy);
    tops.flat_map(|(top, ..)| below.iter().map(|below| top.join(below)).collect::<Vec<_>>()).collect()
}

/// The paths that the unit's group may have in version 1 hierarchies without any controller that systemd manages.
/// systemd.resource-control(5).
fn unmanaged(mounts: &str, unit: &str) -> Vec<PathBuf> {
    // cpuacct is not listed: if it is mounted together with cpu, `cpu` matches; mounted alone, it is not needed.
    const MANAGED: [&str; 6] = ["name=systemd", "cpu", "blkio", "memory", "devices", "pids"];
    let is_free = |options: &str| !options.split(',').any(|option| MANAGED.contains(&option));
    let free = mounts
        .lines()
        .filter_map(hierarchy)
        .filter(|(_, kind, options)| *kind == "cgroup" && is_free(options));
    free.map(|(top, ..)| top.join(unit.trim_start_matches('/'))).collect()
}

/// Kills all processes in a group and in the groups nested in it, and tries to remove it. True if it no longer exists.
fn kill_and_remove(group: &Path, depth: usize) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_and_remove(&entry.path(), depth - 1);
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        // The file shows 0 for a process of another PID namespace, but kill(2) with 0 would signal our own group.
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Thaws a group and the groups nested in it. In version 1, SIGKILL does not end a frozen process. cgroups(7).
fn thaw(group: &Path, depth: usize) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw(&entry.path(), depth - 1);
        }
    }
    for (switch, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        // Without O_CREAT: each version of control groups has only one of the two files.
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
        let found = candidates(mounts, "ab", None);
        let expected = [
            "/sys/fs/cgroup/memory/sampan/ab",
            "/sys/fs/cgroup/memory/system.slice/sampan-ab.scope",
            "/sys/fs/cgroup/unified/sampan/ab",
            "/sys/fs/cgroup/unified/system.slice/sampan-ab.scope",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let of_unit = candidates(mounts, "ab", Some("/system.slice/web.service"));
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
