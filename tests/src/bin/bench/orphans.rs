//! The cost of a command, including the processes that outlive it: shims of daemons, clean-up, and other orphans.
//!
//! The benchmark becomes the parent of all orphans among its descendants (PR_SET_CHILD_SUBREAPER), so that getrusage(2)
//! of children includes them once they have ended. The cost of daemons is read from their CPU clocks.

use crate::cost::Daemon;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Longest wait for orphans to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two checks of the children.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The cost of one run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Seconds until the client received the end.
    pub wall: f64,
    /// Seconds until all processes of the run had ended.
    pub whole: f64,
    /// CPU time in seconds of all processes of the run, and of the daemons.
    pub cpu: f64,
}

/// Makes this process the parent of orphans.
///
/// # Errors The kernel refuses.
pub fn adopt() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Measures `run`, during which nothing else may start children of this process. Children that exist already are not
/// waited for; `daemons` are those that work for the run.
///
/// # Errors The run fails, or leaves processes that do not end.
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

/// Waits until all children except `stay` have ended.
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
