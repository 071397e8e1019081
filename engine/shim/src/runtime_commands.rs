//! Removes what the runtime's own `delete` leaves: commands of the runtime that still run, and the runtime's state on
//! the disk.
//!
//! A killed runtime may not have recorded what it had created, and its `delete` may hang. Shims call this module after
//! a start that failed; the engine calls it for a container whose shim was killed. `sampan_os::cgroup` removes control
//! groups.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time to wait until killed processes have ended. Only a process that is blocked in the kernel needs that
/// long.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two searches for processes.
const RETRY_DELAY: Duration = Duration::from_millis(2);

/// Kills the runtime's commands for container `id` that a killed shim has left running, and waits until they are gone.
///
/// `home` is the container's directory, `root` is the runtime's state directory. A command that kept running could
/// create files and groups that no process removes.
///
/// A pidfd reports a shim's end before the kernel has killed the shim's children. A child that has not executed the
/// runtime yet has the shim's command line, and for an instant in execve(2) no command line at all. Therefore this
/// function returns only after two consecutive searches without a process.
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
            // A command leads its own process group, unless the shim was killed before it could create the group.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(RETRY_DELAY);
    }
}

/// The processes with the command line of a runtime's command for the container, or with the shim's command line.
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

/// Removes the runtime's state of container `id` from its state directory `root`, so that the runtime accepts the ID
/// again. For a container that the runtime's `delete` could not delete.
pub fn remove_state(root: &Path, id: &str) {
    // runc and crun keep a container's state in ROOT/ID.
    if !id.is_empty() {
        let _ = fs::remove_dir_all(root.join(id));
    }
}
