//! The features of this host that containers need: control groups, security modules, limits, the engine's
//! capabilities.
//!
//! [`Host::get`] reads the features from /proc and /sys at its first call. The other modules get a [`Host`] and do not
//! read these files. Reading never fails: a feature whose file cannot be read counts as missing.

use super::capabilities::Set;
use super::lsm::{self, Contexts, Loaded};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Paths at which the small init program is searched. These programs are statically linked, and need no library in the
/// container.
pub const INITS: [&str; 9] = [
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
    "/usr/local/bin/catatonit",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/sbin/docker-init",
    "/usr/bin/tini-static",
    "/usr/sbin/tini-static",
    "/usr/local/bin/tini-static",
];

/// The directory of the control groups. If only version 2 is in use, its hierarchy is mounted directly here.
const UNIFIED: &str = "/sys/fs/cgroup";

/// The versions of control groups that are mounted. cgroups(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// Control groups are not mounted.
    #[default]
    None,
    /// Version 1: a hierarchy for each controller.
    V1,
    /// Version 1, with an additional hierarchy of version 2 that has no controllers.
    Hybrid,
    /// Version 2: one hierarchy.
    V2,
}

impl Cgroups {
    /// The name of the mode, for people: `none`, `v1`, `hybrid` or `v2`.
    pub fn word(self) -> &'static str {
        match self {
            Cgroups::None => "none",
            Cgroups::V1 => "v1",
            Cgroups::Hybrid => "hybrid",
            Cgroups::V2 => "v2",
        }
    }
}

/// The features of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The versions of control groups that are mounted.
    pub cgroups: Cgroups,
    /// Controllers of the control groups: `memory`, `pids`, `cpu`, ….
    pub controllers: BTreeSet<String>,
    /// Number of processors that the engine may run on; 0 if unknown.
    pub processors: u32,
    /// Whether swap can be limited.
    pub swap: bool,
    /// The engine's own capabilities: the engine can give a container only these.
    pub capabilities: Set,
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
    /// The processor architecture, by the name that Go and images use, such as `amd64`.
    pub arch: String,
    /// Whether the kernel has seccomp filters.
    pub seccomp: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// The loaded AppArmor profiles; `None` if the list cannot be read.
    pub profiles: Loaded,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// The contexts of SELinux's policy for containers, if it has any.
    pub contexts: Option<Contexts>,
    /// Whether the kernel has cgroup namespaces.
    pub cgroup_namespaces: bool,
    /// Whether systemd is process 1.
    pub systemd: bool,
    /// The host's name.
    pub hostname: String,
    /// The engine's own soft and hard limits, by docker's names; `u64::MAX` means no limit.
    pub limits: BTreeMap<String, (u64, u64)>,
    /// The engine's own OOM score adjustment.
    pub oom_score_adj: i32,
    /// Whether the kernel has the parameter `net.ipv4.ip_unprivileged_port_start`; see [`crate::resources`].
    pub unprivileged_ports: bool,
    /// Path of the small init program, if one was found.
    pub init: Option<PathBuf>,
}

impl Host {
    /// The features at the first call of [`Host::get`], but with the AppArmor profiles that are loaded now.
    pub fn now() -> Host {
        let host = Host::get();
        Host { profiles: profiles(host.apparmor), ..host.clone() }
    }

    /// The features of this host at the first call.
    pub fn get() -> &'static Host {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Host::probe)
    }

    /// Reads the features of this host.
    pub fn probe() -> Self {
        let (cgroups, controllers, memory) = cgroups();
        let swap = match cgroups {
            Cgroups::V2 => Path::new("/proc/swaps").exists(),
            _ => memory.is_some_and(|dir| dir.join("memory.memsw.limit_in_bytes").exists()),
        };
        let status = text("/proc/self/status");
        let apparmor = text("/sys/module/apparmor/parameters/enabled").starts_with('Y');
        // A kernel may have SELinux without a loaded policy. The contexts of processes then have fewer than three
        // parts.
        let selinux = Path::new("/sys/fs/selinux/enforce").exists()
            && text("/proc/self/attr/current").split(':').count() >= 3;
        Host {
            cgroups,
            controllers,
            processors: processors(),
            swap,
            capabilities: permitted(&status).unwrap_or_default(),
            kernel: kernel(&text("/proc/sys/kernel/osrelease")),
            arch: arch(std::env::consts::ARCH).to_owned(),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            apparmor,
            profiles: profiles(apparmor),
            selinux,
            contexts: contexts(selinux),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
            systemd: Path::new("/run/systemd/system").is_dir(),
            hostname: text("/proc/sys/kernel/hostname").trim().to_owned(),
            limits: limits(&text("/proc/self/limits")),
            oom_score_adj: text("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
            unprivileged_ports: Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists(),
            init: INITS.iter().map(PathBuf::from).find(|path| is_program(path)),
        }
    }

    /// Whether the control groups have the controller `controller`.
    pub fn controls(&self, controller: &str) -> bool {
        self.controllers.contains(controller)
    }
}

fn profiles(apparmor: bool) -> Loaded {
    let file = apparmor.then(|| fs::read_to_string("/sys/kernel/security/apparmor/profiles"));
    file?.ok().map(|file| lsm::loaded(&file))
}

/// The contexts of SELinux's policy for containers, from the file of container-selinux; if there is none, from the
/// policy's own directory.
fn contexts(selinux: bool) -> Option<Contexts> {
    if !selinux {
        return None;
    }
    let config = text("/etc/selinux/config");
    let policy =
        config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    let of_policy = format!("/etc/selinux/{}/contexts/lxc_contexts", policy.trim());
    ["/usr/share/containers/selinux/contexts", &of_policy]
        .into_iter()
        .find_map(|path| Contexts::parse(&text(path)))
}

/// Whether `path` is an executable file.
pub fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The versions of control groups, the controllers, and the mount point of version 1's memory controller.
fn cgroups() -> (Cgroups, BTreeSet<String>, Option<PathBuf>) {
    let (hierarchies, memory, unified) = mounted(&text("/proc/self/mountinfo"));
    // Version 2 may be mounted over hierarchies of version 1, which are hidden then. Runtimes also check only this
    // path.
    let is_v2 = statfs(UNIFIED).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let unified = if is_v2 { Some(PathBuf::from(UNIFIED)) } else { unified };
    match (hierarchies.is_empty() || is_v2, unified) {
        (true, Some(root)) => {
            let controllers = text(&format!("{}/cgroup.controllers", root.display()));
            (Cgroups::V2, controllers.split_whitespace().map(str::to_owned).collect(), None)
        }
        (false, Some(_)) => (Cgroups::Hybrid, hierarchies, memory),
        (false, None) => (Cgroups::V1, hierarchies, memory),
        (true, None) => (Cgroups::None, hierarchies, None),
    }
}

/// The controllers of version 1, the mount point of its memory controller, and the mount point of version 2.
/// proc_pid_mountinfo(5).
fn mounted(mountinfo: &str) -> (BTreeSet<String>, Option<PathBuf>, Option<PathBuf>) {
    const KNOWN: [&str; 11] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "perf_event",
        "pids",
    ];
    let (mut controllers, mut memory, mut unified) = (BTreeSet::new(), None, None);
    for line in mountinfo.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let Some(target) = place.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut words = kind.split(' ');
        match (words.next(), words.nth(1)) {
            (Some("cgroup2"), _) => unified = unified.or(Some(target)),
            (Some("cgroup"), Some(options)) => {
                for name in options.split(',').filter(|name| KNOWN.contains(name)) {
                    if name == "memory" {
                        memory = memory.or_else(|| Some(target.clone()));
                    }
                    controllers.insert(name.to_owned());
                }
            }
            _ => {}
        }
    }
    (controllers, memory, unified)
}

/// Number of processors that this process may run on, as docker counts them. Limits of CPU time do not matter.
fn processors() -> u32 {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return 0 };
    let is_in = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    u32::try_from((0..CpuSet::count()).filter(is_in).count()).unwrap_or(u32::MAX)
}

fn permitted(status: &str) -> Option<Set> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let set = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
    // A capability outside the bounding set is lost when the engine executes the runtime.
    Some(Set(set("CapPrm:")? & set("CapBnd:")?))
}

fn kernel(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Parses `/proc/self/limits`, with lines such as `Max open files  1024  4096  files`.
fn limits(table: &str) -> BTreeMap<String, (u64, u64)> {
    const TITLES: [(&str, &str); 16] = [
        ("Max cpu time", "cpu"),
        ("Max file size", "fsize"),
        ("Max data size", "data"),
        ("Max stack size", "stack"),
        ("Max core file size", "core"),
        ("Max resident set", "rss"),
        ("Max processes", "nproc"),
        ("Max open files", "nofile"),
        ("Max locked memory", "memlock"),
        ("Max address space", "as"),
        ("Max file locks", "locks"),
        ("Max pending signals", "sigpending"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
    ];
    let number = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
    let read = |(title, name): &(&str, &str)| {
        let rest = table.lines().find_map(|line| line.strip_prefix(title))?;
        let mut words = rest.split_whitespace();
        Some(((*name).to_owned(), (number(words.next()?)?, number(words.next()?)?)))
    };
    TITLES.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_told_apart_by_what_is_mounted() {
        let v1 = "30 29 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                  31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let (controllers, memory, unified) = mounted(v1);
        assert_eq!(controllers.into_iter().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
        assert_eq!((memory.as_deref(), unified), (Some(Path::new("/sys/fs/cgroup/memory")), None));
        let (controllers, _, unified) =
            mounted("30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(controllers.is_empty() && unified.is_some_and(|root| root == Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn the_kernels_files_are_parsed_and_nonsense_is_ignored() {
        assert_eq!((kernel("6.1.0-13-amd64\n"), kernel("5.10"), kernel("")), ((6, 1), (5, 10), (0, 0)));
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max cpu time              unlimited            unlimited            seconds   \n\
                     Max open files            1024                 4096                 files     \n";
        let limits = limits(table);
        assert_eq!(
            (limits.get("nofile"), limits.get("cpu")),
            (Some(&(1024, 4096)), Some(&(u64::MAX, u64::MAX)))
        );
        assert_eq!(permitted("CapPrm:\t00000000000000ff\nCapBnd:\t000000000000000f\n"), Some(Set(15)));
        assert_eq!(permitted("CapPrm:\tzz\n"), None);
    }

    #[test]
    fn this_host_can_be_probed() {
        let host = Host::probe();
        assert!(
            host.kernel >= (4, 0) && host.seccomp && !host.limits.is_empty() && !host.hostname.is_empty()
        );
    }
}
