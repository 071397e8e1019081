//! Control groups that an OCI runtime has left, because it was killed before it wrote down that it made them.
//!
//! Called by shims after a start that failed, and by the engine for a container whose shim was killed, once the
//! runtime has deleted what it knows of. Ends what is in them. Knows groups by the container's id alone.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that processes may take to end; only ones that the kernel itself holds take that long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(2);
/// How deep groups in a group are looked for; a runtime makes none, a container may.
const DEPTH_MAX: usize = 32;

/// Removes the control groups of container `id`, in all hierarchies, and ends what is in them.
pub fn remove_cgroups(id: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups: Vec<PathBuf> = places(&mounts, id).into_iter().filter(|group| group.exists()).collect();
    let deadline = Instant::now() + PATIENCE;
    for group in groups {
        while !remove(&group, DEPTH_MAX) && Instant::now() < deadline {
            std::thread::sleep(AGAIN);
        }
    }
}

/// Where the container's groups would be, with either driver. cgroups(7), proc_pid_mountinfo(5).
fn places(mounts: &str, id: &str) -> Vec<PathBuf> {
    let hierarchy = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        let target = before.split(' ').nth(4)?.to_owned();
        matches!(kind, "cgroup" | "cgroup2").then_some(target)
    };
    let below = [format!("sampan/{id}"), format!("system.slice/sampan-{id}.scope")];
    mounts
        .lines()
        .filter_map(hierarchy)
        .flat_map(|top| below.each_ref().map(|b| Path::new(&top).join(b)))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_in_every_hierarchy_and_nowhere_else() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 25 0:28 / /tmp rw - tmpfs tmpfs rw\nnonsense\n";
        let places = places(mounts, "ab");
        let expected = [
            "/sys/fs/cgroup/memory/sampan/ab",
            "/sys/fs/cgroup/memory/system.slice/sampan-ab.scope",
            "/sys/fs/cgroup/unified/sampan/ab",
            "/sys/fs/cgroup/unified/system.slice/sampan-ab.scope",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
    }
}
