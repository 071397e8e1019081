//! The engine and the host at a glance: `GET /info`. Docker Engine API, "SystemInfo".
//!
//! A key that docker has and Sampan has not is absent or has docker's empty value; `docs/docker-api.md` lists them.

use super::host::Host;
use sampan_ipc::details::EngineDetails;
use serde::Serialize;
use std::collections::BTreeMap;

/// The registry of names without a host.
const HUB: &str = "docker.io";
/// The log drivers of the engine.
const LOG_DRIVERS: [&str; 3] = ["json-file", "journald", "none"];

/// The engine and the host at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(
    missing_docs,
    reason = "docker's names and meanings; comments say where Sampan's meaning is narrower"
)]
pub struct Info {
    /// Empty: the engine has no identity of its own.
    #[serde(rename = "ID")]
    pub id: String,
    pub containers: u64,
    pub containers_running: u64,
    pub containers_paused: u64,
    pub containers_stopped: u64,
    pub images: u64,
    /// `overlay2`, or `vfs` where root file systems are copies.
    pub driver: &'static str,
    pub driver_status: Vec<[String; 2]>,
    pub plugins: Plugins,
    /// Whether the host can limit memory.
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs_period: bool,
    pub cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    pub pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    pub debug: bool,
    /// False: the engine has no option for it.
    pub oom_kill_disable: bool,
    pub system_time: String,
    pub logging_driver: String,
    pub cgroup_driver: String,
    pub cgroup_version: &'static str,
    /// Number of subscribers of monitord; absent if monitord does not answer.
    #[serde(rename = "NEventsListener", skip_serializing_if = "Option::is_none")]
    pub event_listeners: Option<u64>,
    pub kernel_version: String,
    pub operating_system: String,
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    #[serde(rename = "OSType")]
    pub os_type: &'static str,
    pub architecture: &'static str,
    pub index_server_address: &'static str,
    pub registry_config: RegistryConfig,
    #[serde(rename = "NCPU")]
    pub processors: usize,
    pub mem_total: u64,
    pub generic_resources: Option<Vec<String>>,
    pub docker_root_dir: String,
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
    pub name: String,
    pub labels: Vec<String>,
    pub experimental_build: bool,
    pub server_version: String,
    pub runtimes: BTreeMap<String, RuntimePath>,
    pub default_runtime: String,
    pub swarm: Swarm,
    /// True: containers run on while the engine restarts.
    pub live_restore_enabled: bool,
    pub isolation: &'static str,
    pub init_binary: String,
    pub containerd_commit: Commit,
    pub runc_commit: Commit,
    pub init_commit: Commit,
    pub security_options: Vec<String>,
    pub warnings: Option<Vec<String>>,
}

/// Names of plugins, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "docker's names")]
pub struct Plugins {
    pub volume: Vec<&'static str>,
    pub network: Vec<&'static str>,
    pub authorization: Option<Vec<&'static str>>,
    pub log: Vec<&'static str>,
}

/// How registries are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "docker's names")]
pub struct RegistryConfig {
    #[serde(rename = "InsecureRegistryCIDRs")]
    pub insecure_cidrs: Vec<&'static str>,
    pub index_configs: BTreeMap<String, IndexConfig>,
    pub mirrors: Vec<String>,
}

/// How one registry is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "docker's names")]
pub struct IndexConfig {
    pub name: String,
    pub mirrors: Vec<String>,
    pub secure: bool,
    pub official: bool,
}

/// An OCI runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimePath {
    /// Path of the program.
    pub path: String,
}

/// The swarm, which is always inactive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "docker's names")]
pub struct Swarm {
    #[serde(rename = "NodeID")]
    pub node_id: &'static str,
    pub node_addr: &'static str,
    pub local_node_state: &'static str,
    pub control_available: bool,
    pub error: &'static str,
    pub remote_managers: Option<Vec<String>>,
}

/// The version of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// The version; empty if the program is not used.
    #[serde(rename = "ID")]
    pub id: String,
}

impl Info {
    /// Describes the engine on `host`. `listeners` is the number of monitord's subscribers, if known; `now` is in
    /// nanoseconds since the epoch.
    pub fn new(engine: &EngineDetails, listeners: Option<u64>, host: &Host, now: i64) -> Self {
        let info = &engine.info;
        let (containers, running, paused) = info.containers;
        let has = |controller: &str| host.controllers.iter().any(|one| one == controller);
        Info {
            id: String::new(),
            containers,
            containers_running: running,
            containers_paused: paused,
            containers_stopped: engine.stopped,
            images: info.images,
            driver: if info.rootfs.starts_with("overlay") { "overlay2" } else { "vfs" },
            driver_status: vec![["Root File Systems".to_owned(), info.rootfs.clone()]],
            plugins: Plugins {
                volume: Vec::new(),
                network: vec!["host", "null"],
                authorization: None,
                log: LOG_DRIVERS.to_vec(),
            },
            memory_limit: has("memory"),
            swap_limit: has("memory") && host.limits_swap,
            cpu_cfs_period: has("cpu"),
            cpu_cfs_quota: has("cpu"),
            cpu_shares: false,
            cpu_set: false,
            pids_limit: has("pids"),
            ipv4_forwarding: host.forwards,
            debug: false,
            oom_kill_disable: false,
            system_time: sampan_ipc::time::local(now),
            logging_driver: info.log_driver.clone(),
            cgroup_driver: info.cgroup.1.clone(),
            cgroup_version: if info.cgroup.0 == "v2" { "2" } else { "1" },
            event_listeners: listeners,
            kernel_version: host.kernel.clone(),
            operating_system: host.system.clone(),
            os_version: host.system_version.clone(),
            os_type: "linux",
            architecture: host.machine,
            index_server_address: "https://index.docker.io/v1/",
            registry_config: registries(engine),
            processors: host.processors,
            mem_total: host.memory,
            generic_resources: None,
            docker_root_dir: engine.data.clone(),
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: String::new(),
            name: host.name.clone(),
            labels: Vec::new(),
            experimental_build: false,
            server_version: info.version.clone(),
            runtimes: engine
                .runtimes
                .iter()
                .map(|(name, path)| (name.clone(), RuntimePath { path: path.clone() }))
                .collect(),
            default_runtime: engine.runtime.clone(),
            swarm: Swarm {
                node_id: "",
                node_addr: "",
                local_node_state: "inactive",
                control_available: false,
                error: "",
                remote_managers: None,
            },
            live_restore_enabled: true,
            isolation: "",
            init_binary: engine.init.clone(),
            containerd_commit: Commit::default(),
            runc_commit: Commit {
                id: if engine.runtime == "runc" { engine.runtime_version.clone() } else { String::new() },
            },
            init_commit: Commit::default(),
            security_options: security(engine),
            warnings: warnings(engine),
        }
    }
}

/// How registries are reached. Sampan uses plain HTTP on loopback only where HTTPS fails, as docker does.
fn registries(engine: &EngineDetails) -> RegistryConfig {
    let hub = IndexConfig {
        name: HUB.to_owned(),
        mirrors: engine.mirrors.clone(),
        secure: !engine.insecure_registries.iter().any(|host| host == HUB),
        official: true,
    };
    let insecure = engine.insecure_registries.iter().filter(|host| *host != HUB).map(|host| {
        let config = IndexConfig { name: host.clone(), mirrors: Vec::new(), secure: false, official: false };
        (host.clone(), config)
    });
    RegistryConfig {
        insecure_cidrs: vec!["127.0.0.0/8", "::1/128"],
        index_configs: insecure.chain([(HUB.to_owned(), hub)]).collect(),
        mirrors: engine.mirrors.clone(),
    }
}

/// The kernel's security features in docker's form: `name=seccomp,profile=builtin`.
fn security(engine: &EngineDetails) -> Vec<String> {
    let profile = match engine.seccomp_profile.as_str() {
        "" => "builtin",
        path => path,
    };
    let option = |feature: &String| match feature.split_once('=') {
        None if feature == "seccomp" => format!("name=seccomp,profile={profile}"),
        Some((name, _)) => format!("name={name}"),
        None => format!("name={feature}"),
    };
    engine.info.security.iter().map(option).collect()
}

/// What keeps the engine from running containers.
fn warnings(engine: &EngineDetails) -> Option<Vec<String>> {
    let why = engine.info.runtime.strip_prefix("none: ")?;
    Some(vec![format!("WARNING: no containers can run: {why}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::engine;

    fn details() -> EngineDetails {
        let info = engine::Info {
            containers: (3, 1, 1),
            rootfs: "copy (no overlayfs)".to_owned(),
            cgroup: ("v2".to_owned(), "systemd".to_owned()),
            security: vec!["seccomp".to_owned(), "apparmor=docker-default".to_owned(), "cgroupns".to_owned()],
            runtime: "none: neither is installed".to_owned(),
            ..engine::Info::default()
        };
        EngineDetails {
            info,
            stopped: 1,
            insecure_registries: vec!["host:5000".to_owned()],
            mirrors: vec!["https://mirror.example/".to_owned()],
            ..EngineDetails::default()
        }
    }

    #[test]
    fn facts_have_docker_s_names() {
        let host = Host { controllers: vec!["memory".to_owned()], ..Host::default() };
        let info = serde_json::to_value(Info::new(&details(), Some(4), &host, 0)).expect("JSON");
        for (key, value) in [
            ("ContainersStopped", serde_json::json!(1)),
            ("Driver", "vfs".into()),
            ("CgroupVersion", "2".into()),
            ("NEventsListener", 4.into()),
            ("MemoryLimit", true.into()),
            ("PidsLimit", false.into()),
            (
                "SecurityOptions",
                serde_json::json!(["name=seccomp,profile=builtin", "name=apparmor", "name=cgroupns"]),
            ),
            ("Warnings", serde_json::json!(["WARNING: no containers can run: neither is installed"])),
        ] {
            assert_eq!(info[key], value, "{key}");
        }
        let configs = &info["RegistryConfig"]["IndexConfigs"];
        assert_eq!(
            (&configs["host:5000"]["Secure"], &configs["docker.io"]["Official"]),
            (&false.into(), &true.into())
        );
        assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    }

    #[test]
    fn a_monitord_that_does_not_answer_is_no_number() {
        let info = serde_json::to_value(Info::new(&details(), None, &Host::default(), 0)).expect("JSON");
        assert!(info.get("NEventsListener").is_none());
    }
}
