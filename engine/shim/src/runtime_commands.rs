//! What an OCI runtime has left, because it was killed before it wrote down that it made it, or does not delete it:
//! commands of it, its own state.
//!
//! Called by shims after a start that failed, and by the engine for a container whose shim was killed, once the
//! runtime has deleted what it knows of. Control groups are in `sampan_os::cgroup`.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest that processes may take to end; only ones that the kernel itself holds take that long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(2);

/// Ends the runtime's commands for container `id`, with its directory `home` and the runtime's state in `root`, that a
/// killed shim has left running, and waits until they are gone: what they would still make, nobody would take away.
///
/// The kernel tells of a shim's end before it kills what the shim had started, which may be about to execute the
/// runtime: it looks like a shim then, and for an instant like nothing. So nothing is to be there twice.
pub fn end_commands(root: &Path, home: &Path, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut was_empty = false;
    loop {
        let commands = commands(root, home, id);
        if commands.is_empty() && was_empty || Instant::now() >= deadline {
            return;
        }
        was_empty = commands.is_empty();
        for pid in commands {
            // Most have a process group of their own.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(AGAIN);
    }
}

/// Processes whose arguments are a runtime's for that container, or its shim's.
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

/// Removes what a runtime knows of container `id` in its directory `root`, so that it takes that id again: for one that
/// does not do so itself.
pub fn forget(root: &Path, id: &str) {
    // runc and crun keep a container's state in ROOT/ID.
    if !id.is_empty() {
        let _ = fs::remove_dir_all(root.join(id));
    }
}
