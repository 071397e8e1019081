//! The cost of a command and of the daemons that serve it: time, CPU time, memory, bytes written.
//!
//! A command runs under `bench measure`, a separate process whose only child is that command, so that getrusage(2) of
//! children counts nothing else. The cost of daemons is the difference of /proc before and after.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Bytes in a unit of ru_oublock. getrusage(2).
const BLOCK: f64 = 512.0;
/// Bytes in a MiB.
const MIB: f64 = 1048576.0;

/// The cost of a command, and of the daemons that serve it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Elapsed time in seconds.
    pub wall: f64,
    /// CPU time in seconds, user and system, of all processes and threads.
    pub cpu: f64,
    /// Peak of resident memory in MiB: of the command's largest process, plus the daemon's.
    pub rss: f64,
    /// MiB written to files; the kernel counts them when a page becomes dirty.
    pub written: f64,
}

/// `bench measure COMMAND...`: runs the command, with its output on standard error, and prints its cost.
///
/// # Errors The command cannot be started, or fails.
pub fn run(args: &[String]) -> io::Result<()> {
    let [program, args @ ..] = args else { return Err(io::Error::other("usage: bench measure COMMAND...")) };
    let start = Instant::now();
    let mut child = Command::new(program).args(args).stdin(Stdio::null()).stdout(io::stderr()).spawn()?;
    let status = child.wait()?;
    let wall = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(io::Error::other(format!("{program} ended: {status}")));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    // ru_maxrss is in KiB.
    let rss = usage.max_rss() as f64 / 1024.0;
    println!("{wall} {cpu} {rss} {}", usage.block_writes() as f64 * BLOCK / MIB);
    Ok(())
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// Runs `command` and returns its cost.
///
/// # Errors The command fails; the error has its output.
pub fn of(command: &Command) -> io::Result<Cost> {
    let mut measure = Command::new(std::env::current_exe()?);
    measure.arg("measure").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => measure.env(name, value),
            None => measure.env_remove(name),
        };
    }
    let out = measure.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [wall, cpu, rss, written] if out.status.success() => {
            Ok(Cost { wall: *wall, cpu: *cpu, rss: *rss, written: *written })
        }
        _ => Err(io::Error::other(format!(
            "{} failed: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&out.stderr).trim()
        ))),
    }
}

/// The cost of a daemon until a moment.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    cpu: f64,
    written: f64,
}

impl Daemon {
    /// Reads the present cost of process `pid` and of the children that it has waited for.
    ///
    /// # Errors The process has ended.
    pub fn now(pid: u32) -> io::Result<Self> {
        let waited: f64 = stat_ticks(pid)? / ticks_per_second();
        let written = number(&fs::read_to_string(format!("/proc/{pid}/io"))?, "write_bytes:")? / MIB;
        Ok(Daemon { cpu: crate::server::cpu_seconds(pid)? + waited, written })
    }

    /// Adds to `cost` what process `pid` has used since this moment, and its peak of memory.
    ///
    /// # Errors The process has ended.
    pub fn add_to(self, cost: &mut Cost, pid: u32) -> io::Result<()> {
        let now = Daemon::now(pid)?;
        cost.cpu += now.cpu - self.cpu;
        cost.written += now.written - self.written;
        cost.rss += peak_mib(pid)?;
        Ok(())
    }
}

impl Daemon {
    /// CPU time in seconds that process `pid` has used since this moment.
    ///
    /// # Errors The process has ended.
    pub fn cpu_since(self, pid: u32) -> io::Result<f64> {
        Ok(Daemon::now(pid)?.cpu - self.cpu)
    }
}

/// Peak of resident memory (VmHWM) of `pid`, in MiB. proc_pid_status(5).
///
/// # Errors The process has ended.
pub fn peak_mib(pid: u32) -> io::Result<f64> {
    Ok(number(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:")? / 1024.0)
}

/// cutime and cstime. proc_pid_stat(5).
fn stat_ticks(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    Ok(fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum())
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.map_or(100.0, |ticks| ticks as f64)
}

fn number(text: &str, key: &str) -> io::Result<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    value.ok_or_else(|| io::Error::other(format!("/proc says no {key}")))
}
