//! Measures of a process: memory, context switches, threads, descriptors.
//!
//! Used by tests and benchmarks. Reads only /proc.

use crate::host::wait_until;
use std::fs;
use std::time::{Duration, Instant};

/// Proportional set size of `pid`, in bytes. proc_pid_smaps(5).
pub fn pss_bytes(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Resident anonymous memory of `pid`, in bytes. proc_pid_status(5).
pub fn anonymous_bytes(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Resident code of the program of `pid`, in bytes. proc_pid_smaps(5).
///
/// Without shared libraries, since the amount of their resident code depends on where the kernel loads them.
pub fn code_bytes(pid: u32) -> u64 {
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("a process that runs");
    let program = program.to_string_lossy();
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process that runs");
    let mut is_code = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some(value) = line.strip_prefix("Rss:") {
            let kib = value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB");
            bytes += if is_code { kib << 10 } else { 0 };
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_code = line.contains(" r-xp ") && line.ends_with(&*program);
        }
    }
    bytes
}

/// Number of context switches of all threads of `pid`, voluntary or not, since they started.
pub fn context_switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs");
    let switches = tasks.map(|task| {
        let path = task.expect("readable").path().join("status");
        let status = fs::read_to_string(&path).expect("a thread that runs");
        let lines = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
        lines.map(|(_, count)| count.trim().parse::<u64>().expect("a count")).sum::<u64>()
    });
    switches.sum()
}

/// Waits until `pid` has not woken up for `time`; panics with `logs` if it never rests that long.
pub fn await_rest(pid: u32, time: Duration, logs: impl Fn() -> String) {
    let (mut last, mut since) = (context_switches(pid), Instant::now());
    wait_until("a process to rest", logs, || {
        let now = context_switches(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() >= time
    });
}

/// Number of threads of `pid`.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs").count()
}

/// Number of open descriptors of `pid`. proc_pid_fd(5).
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs").count()
}

/// State letter of `pid`, such as `T` for stopped. proc_pid_stat(5).
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that runs");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    rest.chars().next().expect("a state")
}

fn kib(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).expect("a process that runs");
    let value = text.lines().find_map(|line| line.strip_prefix(key)).expect("a known key");
    value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
}
