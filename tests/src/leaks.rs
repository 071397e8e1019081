//! Finds what containers leave over: mounts, cgroups, directories, shims, descriptors, memory.
//!
//! Only reads; the test decides what is a leak.

use crate::containers::Containers;
use std::fs;
use std::path::Path;

/// Everything that is left over of removed containers `ids`, one line each; empty if nothing is.
pub fn left_of(containers: &Containers, ids: &[String]) -> Vec<String> {
    let mut left = left_running(containers, ids);
    for below in ["data/containers", "run/containers", "run/runtime"] {
        left.extend(names_in(&containers.host.path(below)).into_iter().map(|name| format!("{below}/{name}")));
    }
    left
}

/// Everything that is left over of running containers `ids` that have ended but are not removed; empty if nothing is.
pub fn left_running(containers: &Containers, ids: &[String]) -> Vec<String> {
    let ours = containers.host.path("data/containers").display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounted");
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(&ours)).map(|line| format!("mount: {line}")).collect();
    cgroups(Path::new("/sys/fs/cgroup"), ids, &mut left);
    left.extend(containers.shims().into_iter().map(|pid| format!("shim {pid}")));
    left.extend(
        names_in(&containers.host.path("run/runtime")).into_iter().map(|name| format!("runtime: {name}")),
    );
    left
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
}

fn cgroups(dir: &Path, ids: &[String], left: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        // A container's ID has 64 digits, so shorter names need no comparison.
        if name.len() >= 64 && ids.iter().any(|id| name.contains(id.as_str())) {
            left.push(format!("cgroup {}", entry.path().display()));
        }
        cgroups(&entry.path(), ids, left);
    }
}

/// Number of open descriptors of a process.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Number of threads of a process.
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Anonymous memory of a process that it shares with no other process, in KiB.
pub fn anonymous(pid: i32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("proc(5)");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Proportional set size of a process, in KiB.
pub fn pss(pid: i32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("proc(5)");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
