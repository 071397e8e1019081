//! The types of `config.json`: the fields that this engine writes, with the names of the OCI runtime-spec.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Path of the small init program in a container with `--init`.
pub const INIT: &str = "/sbin/docker-init";
/// Path of the notification socket in a container with `--sdnotify=container`.
pub const NOTIFY: &str = "/run/notify.sock";

/// The whole document. OCI runtime-spec, "Configuration".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the runtime-spec.
    pub oci_version: String,
    /// The container's first process.
    pub process: Process,
    /// The root file system.
    pub root: Root,
    /// The host name.
    pub hostname: String,
    /// The mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// The part for Linux.
    pub linux: Linux,
    /// Free text about the container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A process. OCI runtime-spec, "Process".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Whether the process has a pseudo-terminal.
    pub terminal: bool,
    /// Initial size of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// The user of the process.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute path of the working directory.
    pub cwd: String,
    /// The process's capabilities.
    pub capabilities: Capabilities,
    /// The process's resource limits that differ from the engine's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Whether programs that the process executes give it no more privileges. prctl(2), PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The AppArmor profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// The SELinux label; empty if the process has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// OOM score adjustment: when memory is short, the kernel prefers to kill processes with a high score.
    /// proc_pid_oom_score_adj(5).
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

/// The user and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Ids of supplementary groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets of a process. capabilities(7), "Thread capability sets".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Capabilities that the process can gain by execve(2).
    pub bounding: Vec<String>,
    /// Capabilities that the kernel checks.
    pub effective: Vec<String>,
    /// Capabilities that the process may make effective.
    pub permitted: Vec<String>,
    /// Capabilities that the process keeps when it executes a file whose inheritable set also has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// Capabilities that the process keeps when it executes an ordinary file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// A resource limit. setrlimit(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// Name of the limit, such as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The soft limit; `u64::MAX` means no limit.
    pub soft: u64,
    /// The hard limit; `u64::MAX` means no limit.
    pub hard: u64,
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Path on the host.
    pub path: String,
    /// Whether the root file system is mounted read-only.
    pub readonly: bool,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: String,
    /// Type of the file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// The source of the mount: a path on the host, or a name.
    pub source: String,
    /// Mount options of mount(8) and of the runtime-spec.
    pub options: Vec<String>,
}

/// The part for Linux. OCI runtime-spec, "Linux Container Configuration".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// New namespaces of the container.
    pub namespaces: Vec<Namespace>,
    /// Devices in addition to the default devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// The container's control group, in the form that the runtime's cgroup manager expects.
    pub cgroups_path: String,
    /// Limits of resources and access to devices.
    pub resources: Resources,
    /// The filter of system calls. Most containers share one filter.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub seccomp: Option<Arc<Seccomp>>,
    /// Paths that the container cannot read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Paths that the container can read and not write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Mount propagation of the root file system. mount_namespaces(7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// The SELinux label of the file systems that the runtime mounts; empty if they get none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
}

/// A new namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Kind of the namespace, such as `pid`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// `c` for a character device, `b` for a block device.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Absolute path in the container.
    pub path: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
}

/// Limits of resources and access to devices. OCI runtime-spec, "Control groups".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Rules of access to devices; the last rule that matches applies.
    pub devices: Vec<DeviceRule>,
    /// Limits of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Limits of CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Limit of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
}

/// A rule of access to devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceRule {
    /// Whether the rule allows access; otherwise the rule denies access.
    pub allow: bool,
    /// `a` (all), `b` (block) or `c` (character).
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Major number; all numbers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number; all numbers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Kinds of access: some of `r` (read), `w` (write) and `m` (mknod).
    pub access: String,
}

/// Limits of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Limit of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Limit of memory and swap together; -1 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
}

/// Limits of CPU time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// CPU time in each period.
    pub quota: i64,
    /// Length of a period.
    pub period: u64,
}

/// A limit of the number of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Most processes.
    pub limit: i64,
}

/// The filter of system calls. OCI runtime-spec, "Seccomp".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// The action for calls that no rule matches.
    pub default_action: String,
    /// The errno that the default action returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Names of architectures, such as `SCMP_ARCH_X86_64`.
    pub architectures: Vec<String>,
    /// Flags of seccomp(2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The rules.
    pub syscalls: Vec<Syscall>,
}

/// A rule for some system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    /// Names of the system calls.
    pub names: Vec<String>,
    /// Name of the action, such as `SCMP_ACT_ALLOW`.
    pub action: String,
    /// The errno that the action returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions on the arguments. The rule matches if all conditions hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// A condition on an argument of a system call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Position of the argument, from 0.
    pub index: u32,
    /// The value with which the argument is compared.
    pub value: u64,
    /// The second value of `SCMP_CMP_MASKED_EQ`.
    #[serde(default)]
    pub value_two: u64,
    /// Name of the comparison, such as `SCMP_CMP_EQ`.
    pub op: String,
}

fn shared<S: Serializer>(value: &Option<Arc<Seccomp>>, to: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(to)
}
