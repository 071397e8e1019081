//! `config.json` of a bundle: the fields that are written, by the names of the OCI runtime-spec. Plain data.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the small init lies in a container that has one.
pub const INIT: &str = "/sbin/docker-init";
/// Where a container that says itself that it is ready finds the socket.
pub const NOTIFY: &str = "/run/notify.sock";

/// The whole file. OCI runtime-spec, "Configuration".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the runtime-spec.
    pub oci_version: String,
    /// What is run.
    pub process: Process,
    /// The root file system.
    pub root: Root,
    /// Host name.
    pub hostname: String,
    /// Mounted in this order.
    pub mounts: Vec<Mount>,
    /// What Linux alone has.
    pub linux: Linux,
    /// Words about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A process. OCI runtime-spec, "Process".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// With a pseudo-terminal.
    pub terminal: bool,
    /// Its size at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Whose it is.
    pub user: User,
    /// Its words.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Limits that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// No program that it runs can give it more rights.
    pub no_new_privileges: bool,
    /// AppArmor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// SELinux's label; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// Who the kernel kills first when memory is short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Whose a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// User id in the container.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// More groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// Sets of capabilities(7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What no program can go beyond.
    pub bounding: Vec<String>,
    /// What counts.
    pub effective: Vec<String>,
    /// What may count.
    pub permitted: Vec<String>,
    /// What programs inherit that have it too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// What programs inherit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// A limit. setrlimit(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// Soft.
    pub soft: u64,
    /// Hard.
    pub hard: u64,
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Where it is.
    pub path: String,
    /// It cannot be written.
    pub readonly: bool,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: String,
    /// Kind of file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// mount(8)'s.
    pub options: Vec<String>,
}

/// What Linux alone has.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Namespaces of its own.
    pub namespaces: Vec<Namespace>,
    /// Devices beside the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Its control group.
    pub cgroups_path: String,
    /// What it may use.
    pub resources: Resources,
    /// Which system calls it may make; most containers share it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub seccomp: Option<Arc<Seccomp>>,
    /// What it cannot see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// What it can see and not write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// Kernel parameters of its namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// How mounts of the host go on in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// SELinux's label of what the runtime mounts; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
}

/// A namespace of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// `pid`, ….
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// `c` or `b`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Absolute path in the container.
    pub path: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permissions.
    pub file_mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What it may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Who may do what with which device; the last rule that fits counts.
    pub devices: Vec<DeviceRule>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
}

/// A rule about devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceRule {
    /// It may.
    pub allow: bool,
    /// `a`, `b` or `c`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// All if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// All if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Of `rwm`.
    pub access: String,
}

/// Limits of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Memory and swap together; -1 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
}

/// Limits of processors, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// So much of each period.
    pub quota: i64,
    /// The period.
    pub period: u64,
}

/// A limit of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// At most so many.
    pub limit: i64,
}

/// Which system calls it may make. OCI runtime-spec, "Seccomp".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// For calls that no rule is about.
    pub default_action: String,
    /// The errno of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_X86_64`, ….
    pub architectures: Vec<String>,
    /// Of seccomp(2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The rules.
    pub syscalls: Vec<Syscall>,
}

/// A rule about system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    /// Their names.
    pub names: Vec<String>,
    /// `SCMP_ACT_ALLOW`, ….
    pub action: String,
    /// The errno of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// If all of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// A condition on an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Which, from 0.
    pub index: u32,
    /// Compared with this.
    pub value: u64,
    /// The second value of `SCMP_CMP_MASKED_EQ`.
    #[serde(default)]
    pub value_two: u64,
    /// `SCMP_CMP_EQ`, ….
    pub op: String,
}

fn shared<S: Serializer>(value: &Option<Arc<Seccomp>>, to: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(to)
}
