//! Cleans up what the runtime's own `delete` does not: commands of the runtime that still run, and its state on the
//! disk.
//!
//! The runtime may have been killed before it recorded what it had made, or its `delete` may hang. Called by shims
//! after a start that failed, and by the engine for a container whose shim was killed. Control groups are removed by
//! `sampan_os::cgroup`.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for killed processes to end. Only a process that is blocked in the kernel takes that long.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(2);

/// Kills the runtime's commands for container `id` that a killed shim has left running, and waits until they are gone.
///
/// `home` is the container's directory, `root` the runtime's state directory. A command that ran on could make things
/// that nobody removes afterwards.
///
/// A pidfd reports a shim's end before the kernel has killed the shim's children. A child that is about to execute the
/// runtime has the shim's command line, and none at all for an instant in execve(2). So this function returns only
/// after two searches in a row have found no process.
pub fn end_commands(root: &Path, home: &Path, id: &str) {
    let deadline = Instant::now() + WAIT_MAX;
    let mut was_empty = false;
    loop {
        let commands = commands(root, home, id);
        if commands.is_empty() && was_empty || Instant::now() >= deadline {
            return;
        }
        was_empty = commands.is_empty();
        for pid in commands {
            // A command leads its own process group, unless the shim was killed before the command could make one.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(RETRY_DELAY);
    }
}

/// Processes whose command line is a runtime's command for the container, or its shim's.
fn commands(root: &Path, home: &Path, id: &str) -> Vec<i32> {
    let (root, home) = (root.as_os_str().as_encoded_bytes(), home.as_os_str().as_encoded_bytes());
    let is_one = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |wanted: &[u8]| words.split(|byte| *byte == 0).any(|word| word == wanted);
        let of_runtime = has(b"--root") && has(root) && has(id.as_bytes());
        let mut words = words.split(|byte| *byte == 0);
        of_runtime
            || words.next().is_some_and(|first| first.ends_with(b"sampan-shim")) && words.next() == Some(home)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

/// Removes the runtime's state of container `id` from its state directory `root`, so that the runtime accepts the id
/// again. For a runtime whose `delete` failed.
pub fn remove_state(root: &Path, id: &str) {
    // runc and crun keep a container's state in ROOT/ID.
    if !id.is_empty() {
        let _ = fs::remove_dir_all(root.join(id));
    }
}
