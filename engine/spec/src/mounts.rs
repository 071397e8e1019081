//! The mounts of a container: the kernel's file systems, the container's own files in /etc, the requested mounts.
//!
//! Called by `bundle`. Reads the sources of mounts on the host; creates nothing.

use super::config_json::Mount as Line;
use super::config_json::{INIT, NOTIFY};
use super::error::SpecError;
use super::host::Host;
use super::relabel::Relabel;
use super::runtime::Runtime;
use super::security;
use super::security::Labels;
use super::words;
use sampan_ipc::container::{Create, Mount, MountKind, Notify};
use std::path::{Path, PathBuf};

/// Default size of /dev/shm, in bytes.
const SHM: u64 = 64 << 20;
/// Most requested mounts.
const COUNT_MAX: usize = 1024;
/// Paths that a container cannot read: their files tell about the host, or can be used to harm it.
pub const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
/// Paths that a container can read and not write.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Options of mount(8) that the runtime gets unchanged.
const FLAGS: [&str; 20] = [
    "async",
    "atime",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "sync",
    "nosymfollow",
];
const PROPAGATION: [&str; 6] = ["private", "rprivate", "slave", "rslave", "unbindable", "runbindable"];
/// Options of docker and podman that have no meaning for this engine: for other systems, or for named volumes.
const IGNORED: [&str; 6] = ["consistent", "cached", "delegated", "nocopy", "defaults", "notmpcopyup"];

/// Paths on the host of the container's own files in /etc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// All mounts of a container, and the preparations that they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// The mounts, in the order in which the runtime makes them.
    pub lines: Vec<Line>,
    /// Mount propagation of the root file system; the runtime's default if absent.
    pub propagation: Option<String>,
    /// Directories of the host that must be created before the mounts.
    pub make: Vec<PathBuf>,
    /// Files of the host that get another SELinux label before the mounts.
    pub relabel: Vec<Relabel>,
    /// Warnings for a person.
    pub warnings: Vec<String>,
}

/// Which containers may use the files of a mount, according to SELinux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// Option `z`: all containers.
    All,
    /// Option `Z`: only this container.
    Own,
}

/// Checks the requested mounts, without reading the host's files.
///
/// # Errors
/// [`SpecError::Option`] if a mount breaks a rule.
pub fn check(mounts: &[Mount]) -> Result<(), SpecError> {
    if mounts.len() > COUNT_MAX {
        return Err(SpecError::option(
            "--mount",
            &format!("{} times", mounts.len()),
            "more than 1024 are too many",
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for mount in mounts {
        let option = option_name(mount);
        words::absolute(option, &mount.target)?;
        let target = clean(&mount.target);
        if target == "/" {
            return Err(SpecError::option(
                option,
                &mount.target,
                "nothing can be mounted on the root directory",
            ));
        }
        if mount.kind == MountKind::Bind {
            words::absolute(option, &mount.source)?;
        }
        translate(mount, &mut Vec::new())?;
        if !seen.insert(target) {
            return Err(SpecError::option(option, &mount.target, "another mount has the same target"));
        }
    }
    Ok(())
}

fn option_name(mount: &Mount) -> &'static str {
    match mount.kind {
        MountKind::Bind if mount.make_source => "--volume",
        MountKind::Bind => "--mount",
        MountKind::Tmpfs => "--tmpfs",
    }
}

/// Makes the list of all mounts of a container.
///
/// # Errors
/// [`SpecError`] if an option breaks a rule, a source is missing, or no small init program was found.
pub fn all(
    create: &Create,
    host: &Host,
    runtime: &Runtime,
    files: &Files,
    init: Option<&Path>,
    labels: &Labels,
) -> Result<Mounts, SpecError> {
    check(&create.mounts)?;
    let mut mounts = Mounts { lines: kernel_mounts(create, host), ..Mounts::default() };
    add_own_files(create, files, &mut mounts)?;
    if create.init {
        mounts.lines.push(bind(&small_init(init)?.to_string_lossy(), INIT, &["ro"]));
    }
    let mut requested = Vec::new();
    for mount in &create.mounts {
        requested.push(requested_mount(mount, host, runtime, labels, &mut mounts)?);
    }
    // A requested mount replaces a default mount on the same target.
    mounts.lines.retain(|line| requested.iter().all(|other| other.destination != line.destination));
    mounts.lines.extend(requested);
    // Mount a directory before the mounts below it, in whatever order the options are.
    mounts.lines.sort_by_key(|line| line.destination.matches('/').count());
    Ok(mounts)
}

/// The mounts of the kernel's file systems.
fn kernel_mounts(create: &Create, host: &Host) -> Vec<Line> {
    let shm = format!("size={}", create.shm_size.unwrap_or(SHM));
    let access = if create.privileged { "rw" } else { "ro" };
    let mut lines = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    if host.cgroups != super::host::Cgroups::None {
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        lines.push(mount("cgroup", "cgroup", "/sys/fs/cgroup", &options));
    }
    lines
}

/// Adds the mounts of the container's own files in /etc, and of the notification socket.
fn add_own_files(create: &Create, files: &Files, mounts: &mut Mounts) -> Result<(), SpecError> {
    let three = [
        (&files.hostname, "/etc/hostname"),
        (&files.hosts, "/etc/hosts"),
        (&files.resolv_conf, "/etc/resolv.conf"),
    ];
    for (source, target) in three.into_iter().filter(|(source, _)| !source.as_os_str().is_empty()) {
        let access: &[&str] = if create.read_only { &["ro"] } else { &[] };
        mounts.lines.push(bind(&source.to_string_lossy(), target, access));
    }
    if let (Notify::Container, Some(socket)) = (create.sdnotify, &create.notify_socket) {
        match socket.starts_with('/') {
            true => mounts.lines.push(bind(socket, NOTIFY, &[])),
            // An abstract socket belongs to a network namespace, and has no file to mount. unix(7).
            false => {
                return Err(SpecError::host(
                    "pass NOTIFY_SOCKET on into the container",
                    "it is an abstract socket, which has no file",
                    "use --sdnotify=conmon",
                ));
            }
        }
    }
    Ok(())
}

fn small_init(init: Option<&Path>) -> Result<&Path, SpecError> {
    init.ok_or_else(|| {
        SpecError::host(
            "run the container with --init",
            "no small init program was found: catatonit, docker-init, tini-static",
            "install the package catatonit or tini, or set init-path in the table [engine]",
        )
    })
}

fn requested_mount(
    mount: &Mount,
    host: &Host,
    runtime: &Runtime,
    labels: &Labels,
    mounts: &mut Mounts,
) -> Result<Line, SpecError> {
    let destination = clean(&mount.target);
    let mut words = Vec::new();
    if let Some(share) = translate(mount, &mut words)? {
        relabel(mount, share, host, labels, mounts);
    }
    if mount.read_only && !words.iter().any(|word| word == "ro") {
        words.push("ro".to_owned());
    }
    if mount.kind == MountKind::Tmpfs {
        for (default, other) in [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")] {
            if !words.iter().any(|word| word == other || word == default) {
                words.push(default.to_owned());
            }
        }
        return Ok(Line { destination, kind: "tmpfs".into(), source: "tmpfs".into(), options: words });
    }
    check_source(mount, mounts)?;
    if !words.iter().any(|word| word == "bind" || word == "rbind") {
        words.insert(0, "rbind".to_owned());
    }
    // Use the recursive option if possible: otherwise the container could write to file systems mounted below the
    // source.
    if words.iter().any(|word| word == "ro") && runtime.mounts_with("rro") && host.kernel >= (5, 12) {
        words.push("rro".to_owned());
    }
    set_propagation(&mut words, mounts);
    Ok(Line { destination, kind: "bind".into(), source: mount.source.clone(), options: words })
}

/// Records that the source of `mount` gets a label. If it does not, adds a warning with the reason.
fn relabel(mount: &Mount, share: Share, host: &Host, labels: &Labels, mounts: &mut Mounts) {
    let label = match share {
        Share::All => labels.shared(),
        Share::Own => Some(labels.mount.clone()).filter(|label| !label.is_empty()),
    };
    let why = match label {
        _ if !host.selinux => "SELinux is off on this host",
        // A tmpfs needs no entry: the runtime mounts it with the container's label.
        _ if mount.kind == MountKind::Tmpfs => return,
        Some(label) => {
            return mounts.relabel.push(Relabel { source: PathBuf::from(&mount.source), label });
        }
        None => "the container has no label",
    };
    mounts.warnings.push(format!("the mount on {} is not relabelled ('z'): {why}", clean(&mount.target)));
}

fn check_source(mount: &Mount, mounts: &mut Mounts) -> Result<(), SpecError> {
    match std::fs::metadata(&mount.source) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && mount.make_source => {
            mounts.make.push(PathBuf::from(&mount.source));
            Ok(())
        }
        Err(error) => {
            Err(SpecError::option(option_name(mount), &mount.source, format!("cannot mount it: {error}")))
        }
    }
}

/// Adds the default propagation, unless the mount has an option for it. For a slave mount, also makes the root file
/// system a slave: otherwise later mounts of the host would not reach the container.
fn set_propagation(words: &mut Vec<String>, mounts: &mut Mounts) {
    let Some(requested) = words.iter().find(|word| PROPAGATION.contains(&word.as_str())) else {
        words.push("rprivate".to_owned());
        return;
    };
    if requested.ends_with("slave") {
        mounts.propagation = Some("rslave".to_owned());
    }
}

/// Appends the options of `mount` to `to`, in the runtime's form. Returns which containers may use the files; `None`
/// if the files keep their labels.
fn translate(mount: &Mount, to: &mut Vec<String>) -> Result<Option<Share>, SpecError> {
    let mut share = None;
    for word in &mount.options {
        let bad = |why: &str| {
            Err(SpecError::option(option_name(mount), word, format!("on {}: {why}", mount.target)))
        };
        words::printable(option_name(mount), word)?;
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let is_tmpfs = mount.kind == MountKind::Tmpfs;
        match key {
            "" => {}
            "z" => share = Some(Share::All),
            "Z" => share = Some(Share::Own),
            "U" | "idmap" => return bad("owners of files are not changed"),
            "readonly" => to.push("ro".to_owned()),
            // The shim's mount namespace gets mounts of the host, but the host never gets mounts of that namespace.
            _ if !is_tmpfs && [key, value].iter().any(|word| word.ends_with("shared")) => {
                return bad(
                    "what a container mounts does not reach the host; rslave lets what the host mounts in",
                );
            }
            "bind-propagation" if !is_tmpfs && PROPAGATION.contains(&value) => to.push(value.to_owned()),
            "bind-nonrecursive" if !is_tmpfs => to.push("bind".to_owned()),
            "bind" | "rbind" if !is_tmpfs => to.push(key.to_owned()),
            _ if !is_tmpfs && PROPAGATION.contains(&key) => to.push(key.to_owned()),
            _ if IGNORED.contains(&key) => {}
            _ if FLAGS.contains(&word.as_str()) => to.push(word.clone()),
            "size" | "tmpfs-size" if is_tmpfs && is_size(value) => to.push(format!("size={value}")),
            "mode" | "tmpfs-mode" if is_tmpfs && is_number(value, 8) => to.push(format!("mode={value}")),
            "uid" | "gid" if is_tmpfs && is_number(value, 10) => to.push(word.clone()),
            "nr_inodes" | "nr_blocks" if is_tmpfs && is_size(value) => to.push(word.clone()),
            _ => return bad("there is no such mount option"),
        }
    }
    Ok(share)
}

fn is_number(word: &str, radix: u32) -> bool {
    !word.is_empty() && word.len() <= 10 && word.chars().all(|c| c.is_digit(radix))
}

/// Whether `word` is a size: bytes, `64m` or `50%`. tmpfs(5).
fn is_size(word: &str) -> bool {
    let digits = word.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%']);
    word.len() - digits.len() <= 1
        && !digits.is_empty()
        && digits.len() <= 18
        && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Removes `.`, `..` and redundant slashes from `path`. The runtime follows symbolic links in the path, inside the
/// container.
fn clean(path: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    format!("/{}", words.join("/"))
}

/// The masked paths and the read-only paths. The lists are empty for a privileged container and with
/// `systempaths=unconfined`.
///
/// # Errors
/// [`SpecError::Option`] if `systempaths` has another value.
pub fn hidden(create: &Create) -> Result<(Vec<String>, Vec<String>), SpecError> {
    let own = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
    match security::option(create, "systempaths") {
        _ if create.privileged => Ok(Default::default()),
        None => Ok((own(&MASKED), own(&READ_ONLY))),
        Some("unconfined") => Ok(Default::default()),
        Some(other) => Err(SpecError::option("--security-opt systempaths", other, "expected unconfined")),
    }
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> Line {
    let options = options.iter().map(ToString::to_string).collect();
    Line { destination: target.into(), kind: kind.into(), source: source.into(), options }
}

fn bind(source: &str, target: &str, more: &[&str]) -> Line {
    let mut options = vec!["rbind", "rprivate"];
    options.extend(more);
    mount("bind", source, target, &options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(target: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(ToString::to_string).collect();
        Mount { kind: MountKind::Tmpfs, target: target.into(), options, ..Mount::default() }
    }

    fn volume(source: &str, target: &str, options: &[&str]) -> Mount {
        Mount { kind: MountKind::Bind, source: source.into(), make_source: true, ..tmpfs(target, options) }
    }

    fn make(mounts: Vec<Mount>) -> Result<Mounts, SpecError> {
        let create = Create { mounts, ..Create::default() };
        all(&create, &Host::default(), &Runtime::default(), &Files::default(), None, &Labels::default())
    }

    #[test]
    fn invalid_mounts_are_refused() {
        for mount in [
            tmpfs("relative", &[]),
            tmpfs("/", &[]),
            tmpfs("/a/..", &[]),
            tmpfs("/a", &["size=x"]),
            tmpfs("/a", &["size="]),
            tmpfs("/a", &["mode=9"]),
            tmpfs("/a", &["rslave"]),
            tmpfs("/a\n", &[]),
            volume("relative", "/a", &[]),
            volume("/tmp", "/a", &["size=1"]),
            volume("/tmp", "/a", &["U"]),
            volume("/tmp", "/a", &["rshared"]),
            volume("/tmp", "/a", &["bind-propagation=shared"]),
            volume("/tmp", "/a", &["lowerdir=/etc"]),
            volume("/tmp\0", "/a", &[]),
        ] {
            assert!(check(std::slice::from_ref(&mount)).is_err(), "{mount:?}");
        }
        assert!(check(&[tmpfs("/a", &[]), volume("/tmp", "/a/", &[])]).is_err(), "twice");
        assert!(check(&vec![tmpfs("/a", &[]); 1025]).is_err());
        assert!(check(&[tmpfs("/a", &["size=50%", "mode=1777", "exec", "uid=5"])]).is_ok());
    }

    #[test]
    fn a_requested_mount_replaces_a_default_one_and_parents_come_first() {
        let mounts = make(vec![tmpfs("/x/y", &[]), tmpfs("/x", &["exec"]), tmpfs("/dev/shm", &["size=1m"])])
            .expect("made");
        let at =
            |target: &str| mounts.lines.iter().position(|line| line.destination == target).expect("there");
        assert!(at("/x") < at("/x/y"));
        assert_eq!(mounts.lines.iter().filter(|line| line.destination == "/dev/shm").count(), 1);
        assert_eq!(mounts.lines[at("/x")].options, ["exec", "nosuid", "nodev"]);
    }

    #[test]
    fn a_missing_source_is_made_or_an_error_and_relabelling_gives_a_warning() {
        let missing = "/nonexistent-sampan/a";
        let mounts = make(vec![volume(missing, "/a", &["z", "ro"])]).expect("made");
        assert_eq!((mounts.make.len(), mounts.warnings.len()), (1, 1));
        assert!(make(vec![Mount { make_source: false, ..volume(missing, "/a", &[]) }]).is_err());
        let slave = make(vec![volume("/tmp", "/a", &["rslave"]), volume("/tmp", "/b", &[])]).expect("made");
        assert_eq!(slave.propagation.as_deref(), Some("rslave"));
        let create = Create { init: true, ..Create::default() };
        let error =
            all(&create, &Host::default(), &Runtime::default(), &Files::default(), None, &Labels::default());
        assert!(error.is_err_and(|error| error.to_string().contains("catatonit")));
    }
}
