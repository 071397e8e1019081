//! Facts about the host that `info` and `version` show.
//!
//! The only module here that reads files, all of them small files of the kernel or the distribution.

use std::fs;

/// Facts about the host. A fact that the host does not tell is empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The release of the kernel. uname(2).
    pub kernel: String,
    /// The host's name.
    pub name: String,
    /// The distribution. os-release(5), `PRETTY_NAME`.
    pub system: String,
    /// The distribution's version. os-release(5), `VERSION_ID`.
    pub system_version: String,
    /// The machine, by uname(2)'s name.
    pub machine: &'static str,
    /// Number of processors that this process may use.
    pub processors: usize,
    /// Bytes of memory. proc_meminfo(5), `MemTotal`.
    pub memory: u64,
    /// Whether the kernel forwards packets. ip(7), `ip_forward`.
    pub forwards: bool,
    /// The controllers of control groups, by their names in cgroups(7).
    pub controllers: Vec<String>,
    /// Whether the memory controller can limit swap.
    pub limits_swap: bool,
}

impl Host {
    /// Reads the facts.
    pub fn read() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let release = ["/etc/os-release", "/usr/lib/os-release"];
        let release = release.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Host {
            kernel: line("/proc/sys/kernel/osrelease"),
            name: line("/proc/sys/kernel/hostname"),
            system: os_release(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            system_version: os_release(&release, "VERSION_ID").unwrap_or_default(),
            machine: std::env::consts::ARCH,
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory: mem_total(&memory).unwrap_or(0),
            forwards: line("/proc/sys/net/ipv4/ip_forward") == "1",
            controllers: controllers(&line("/proc/self/cgroup"), &line("/sys/fs/cgroup/cgroup.controllers")),
            // Version 2 limits swap wherever the kernel has swap.
            limits_swap: [
                "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes",
                "/sys/fs/cgroup/cgroup.controllers",
            ]
            .iter()
            .any(|path| fs::exists(path).unwrap_or(false))
                && fs::exists("/proc/swaps").unwrap_or(false),
        }
    }

    /// The architecture, by Go's name.
    pub fn go_architecture(&self) -> &'static str {
        match self.machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        }
    }
}

/// Lists the controllers of version 1, which `own` names (proc_pid_cgroup(5)), and those of version 2.
fn controllers(own: &str, unified: &str) -> Vec<String> {
    let old = own.lines().filter_map(|line| line.split(':').nth(1)).flat_map(|names| names.split(','));
    let all = old.chain(unified.split_whitespace()).filter(|name| !name.is_empty() && !name.contains('='));
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

/// Reads a value of os-release(5), without its quotes.
fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Some(quoted.unwrap_or(value).replace('\\', "")).filter(|value| !value.is_empty())
}

/// Reads `MemTotal` of proc_meminfo(5), in bytes.
fn mem_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_and_the_memory_are_read() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID='12'\nEMPTY=\n";
        assert_eq!(os_release(release, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12"));
        assert_eq!(os_release(release, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release(release, "EMPTY"), None);
        assert_eq!(os_release(release, "VERSION"), None);
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:  2 kB\n"), Some(2048));
        assert_eq!(mem_total("MemTotal: x"), None);
    }

    #[test]
    fn controllers_of_both_versions_are_found() {
        let old = "12:cpu,cpuacct:/a\n5:memory:/a\n1:name=systemd:/\n0::/x";
        assert_eq!(controllers(old, "pids memory"), ["cpu", "cpuacct", "memory", "pids"]);
        assert!(controllers("0::/x", "").is_empty());
    }

    #[test]
    fn this_host_has_a_kernel_and_memory() {
        let host = Host::read();
        assert!(!host.kernel.is_empty() && host.memory > 0 && host.processors > 0);
    }
}
