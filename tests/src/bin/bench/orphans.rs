//! What a command costs with all that it leaves behind: daemons' shims, clean-up, whatever goes on without it.
//!
//! The benchmark becomes the parent of all orphans below it (PR_SET_CHILD_SUBREAPER), so that getrusage(2) of its
//! children speaks of them as well, once they have ended. Daemons that stay are asked through their clocks.

use crate::cost::Daemon;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// How long orphans may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Seconds until its client was told the end.
    pub wall: f64,
    /// Seconds until nothing of it was left.
    pub whole: f64,
    /// Seconds of processor time of all that it took, the daemons included.
    pub cpu: f64,
}

/// Makes this process the parent of orphans.
///
/// # Errors
/// The kernel refuses.
pub fn adopt() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Measures `run`, during which nothing else may start children here; of those that are there before, `daemons`
/// work for it.
///
/// # Errors
/// It fails, or leaves processes behind that do not end.
pub fn measure(daemons: &[u32], run: impl FnOnce() -> io::Result<()>) -> io::Result<Run> {
    let stay = children()?;
    let asked = |pid: &u32| Daemon::now(*pid).map(|daemon| (*pid, daemon));
    let before = daemons.iter().map(asked).collect::<io::Result<Vec<_>>>()?;
    let children_before = children_cpu()?;
    let start = Instant::now();
    run()?;
    let wall = start.elapsed().as_secs_f64();
    reap(&stay)?;
    let whole = start.elapsed().as_secs_f64();
    let mut cpu = children_cpu()? - children_before;
    for (pid, before) in before {
        cpu += before.cpu_since(pid)?;
    }
    Ok(Run { wall, whole, cpu })
}

/// Waits until all children but those that stay have ended.
fn reap(stay: &[u32]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<u32> = children()?.into_iter().filter(|pid| !stay.contains(pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut is_idle = true;
        for pid in &left {
            let status = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
            is_idle &= matches!(status, Ok(WaitStatus::StillAlive));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("processes {left:?} do not end")));
        }
        if is_idle {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Children of all threads of this process. proc_pid_children(5).
fn children() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Ok(all)
}

fn children_cpu() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
