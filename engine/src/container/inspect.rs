//! All details of a container as JSON, in the format of `docker inspect`. Docker Engine API, "ContainerInspect".
//!
//! Called by the manager, on a thread. Reads the container's files and changes nothing.

use super::definition::{self, Definition, short};
use super::directory::Directories;
use super::{details, list, log_driver, systemd_unit};
use crate::config::Config;
use crate::context::Shared;
use sampan_ipc::container::{Create, FOR_EVER, Mount, MountKind, Notify, Phase, Restart, STDIN_ONCE};
use sampan_ipc::image_name;
use sampan_ipc::shim::State;
use sampan_oci::timestamp;
use sampan_os::small_file;
use sampan_spec::settings::Form;
use sampan_spec::{devices, mounts, process, signals};
use serde::Deserialize;
use serde_json::{Value, json};

/// Docker's value for a time that is not set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Returns a JSON array with one container. With `size`, counts the bytes that the container has written.
pub fn json(
    shared: &Shared,
    definition: &Definition,
    state: &State,
    directories: &Directories,
    size: bool,
) -> String {
    let (create, config) = (&definition.create, &shared.config);
    let dir = directories.dir(&definition.id);
    let mut document = json!({
        "Id": definition.id,
        "Created": timestamp::format(definition.created),
        "Path": definition.words.first(),
        "Args": definition.words.get(1..).unwrap_or_default(),
        "State": state_json(state, directories.unit_group(&definition.id)),
        "Image": definition.image.id,
        "ResolvConfPath": dir.join("resolv.conf"),
        "HostnamePath": dir.join("hostname"),
        "HostsPath": dir.join("hosts"),
        "LogPath": dir.join(format!("{}-json.log", definition.id)),
        "Name": format!("/{}", definition.name),
        "RestartCount": state.restarts,
        "Driver": driver(definition),
        "Platform": "linux",
        "MountLabel": definition.selinux.mount,
        "ProcessLabel": definition.selinux.process,
        "AppArmorProfile": profile(directories, definition).unwrap_or_default(),
        "ExecIDs": Value::Null,
        "HostConfig": host_config(config, definition),
        "GraphDriver": {"Name": driver(definition), "Data": match definition.rootfs {
            Form::Overlay => json!({
                "UpperDir": dir.join("upper"), "WorkDir": dir.join("work"), "MergedDir": dir.join("rootfs"),
            }),
            Form::Copy => json!({"RootDir": dir.join("rootfs")}),
        }},
        "Mounts": create.mounts.iter().map(mount_json).collect::<Vec<_>>(),
        "Config": config_json(definition),
        "NetworkSettings": network_settings(list::network(create.network)),
        "ImageDigest": definition.image.digest,
        "Layers": definition.image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    if size && let Some(fields) = document.as_object_mut() {
        let written = directories.written_bytes(definition).unwrap_or(0);
        fields.insert("SizeRw".to_owned(), json!(written));
        let total = details::root_size(&shared.store, definition, written);
        fields.insert("SizeRootFs".to_owned(), json!(total));
    }
    Value::Array(vec![document]).to_string()
}

/// Returns the AppArmor profile of the last start, or an empty string without a profile; `None` if the container never
/// started.
pub fn profile(directories: &Directories, definition: &Definition) -> Option<String> {
    #[derive(Deserialize)]
    struct Bundle {
        process: Process,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Process {
        #[serde(default)]
        apparmor_profile: String,
    }
    let file = small_file::open(&directories.dir(&definition.id).join("config.json")).ok()?;
    let bundle: Bundle = serde_json::from_slice(&small_file::read(file, definition::FILE_MAX).ok()?).ok()?;
    Some(bundle.process.apparmor_profile)
}

/// Returns docker's name for the kind of the root file system.
fn driver(definition: &Definition) -> &'static str {
    match definition.rootfs {
        Form::Overlay => "overlay2",
        Form::Copy => "vfs",
    }
}

fn state_json(state: &State, unit_group: Option<String>) -> Value {
    let time = |at: i64| if at == 0 { NEVER.to_owned() } else { timestamp::format(at) };
    json!({
        "Status": state.phase.word(),
        "Running": state.phase.is_alive(),
        "Paused": state.phase == Phase::Paused,
        "Restarting": state.phase == Phase::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.phase == Phase::Dead,
        "Pid": state.pid,
        // The exit code of the last run. While the container runs, docker reports 0.
        "ExitCode": if state.phase.is_alive() { 0 } else { state.exit_code },
        "Error": state.error,
        "StartedAt": time(state.started),
        "FinishedAt": time(state.finished),
        "ShimPid": state.shim,
        // The name of the systemd unit that runs the container.
        "Unit": unit_group.as_deref().map(systemd_unit::name).unwrap_or_default(),
    })
}

fn restart(restart: Restart) -> Value {
    let (name, most) = match restart {
        Restart::No => ("no", 0),
        Restart::OnFailure(most) => ("on-failure", most),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
    };
    json!({"Name": name, "MaximumRetryCount": most})
}

/// Returns the options of the request. Docker's options that Sampan does not have are at docker's defaults.
fn host_config(config: &Config, definition: &Definition) -> Value {
    let mut options = own_options(config, definition);
    if let Some(all) = options.as_object_mut() {
        for (key, value) in option_defaults(&definition.create) {
            all.entry(key).or_insert(value);
        }
    }
    options
}

/// Docker's options that are 0 for every container of Sampan.
const ZERO: [&str; 14] = [
    "OomScoreAdj",
    "CpuShares",
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "MemoryReservation",
    "CpuCount",
    "CpuPercent",
    "IOMaximumIOps",
    "IOMaximumBandwidth",
    "KernelMemory",
    "KernelMemoryTCP",
];
/// Docker's options that are an empty text for every container of Sampan.
const EMPTY: [&str; 10] = [
    "ContainerIDFile",
    "VolumeDriver",
    "Cgroup",
    "PidMode",
    "UTSMode",
    "UsernsMode",
    "Isolation",
    "CgroupParent",
    "CpusetCpus",
    "CpusetMems",
];
/// Docker's options that are null for every container of Sampan.
const NULL: [&str; 7] = [
    "VolumesFrom",
    "ExtraHosts",
    "Links",
    "DeviceCgroupRules",
    "DeviceRequests",
    "MemorySwappiness",
    "OomKillDisable",
];
/// Docker's options that are an empty list for every container of Sampan.
const NONE: [&str; 8] = [
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
];

/// Returns the values of options that a container of Sampan cannot have otherwise.
fn option_defaults(create: &Create) -> serde_json::Map<String, Value> {
    let (masked, readonly) = mounts::hidden(create).unwrap_or_default();
    let with = |keys: &[&str], value: Value| {
        keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect::<Vec<_>>()
    };
    let others = [
        ("PortBindings", json!({})),
        ("ConsoleSize", json!([0, 0])),
        ("CgroupnsMode", json!("private")),
        ("IpcMode", json!("private")),
        ("PublishAllPorts", json!(false)),
        ("MaskedPaths", json!(masked)),
        ("ReadonlyPaths", json!(readonly)),
    ];
    let others = others.into_iter().map(|(key, value)| (key.to_owned(), value));
    let lists =
        [with(&ZERO, json!(0)), with(&EMPTY, json!("")), with(&NULL, Value::Null), with(&NONE, json!([]))];
    lists.into_iter().flatten().chain(others).collect()
}

fn own_options(config: &Config, definition: &Definition) -> Value {
    let create = &definition.create;
    let options: serde_json::Map<String, Value> =
        create.log_options.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let ulimits: Vec<Value> = create
        .ulimits
        .iter()
        .map(|(name, soft, hard)| json!({"Name": name, "Soft": soft, "Hard": hard}))
        .collect();
    let tmpfs: serde_json::Map<String, Value> = create
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Tmpfs)
        .map(|mount| (mount.target.clone(), json!(mount.options.join(","))))
        .collect();
    let annotations: serde_json::Map<String, Value> = create
        .annotations
        .iter()
        .filter(|(key, _)| key != STDIN_ONCE)
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let binds = create.mounts.iter().filter(|mount| mount.kind == MountKind::Bind && mount.make_source);
    json!({
        "Binds": binds.map(bind).collect::<Vec<_>>(),
        "LogConfig": {"Type": log_driver::driver(config, definition), "Config": options},
        "NetworkMode": list::network(create.network),
        "RestartPolicy": restart(create.restart),
        "AutoRemove": create.auto_remove,
        "CapAdd": or_null(&create.cap_add),
        "CapDrop": or_null(&create.cap_drop),
        "GroupAdd": or_null(&create.group_add),
        "Privileged": create.privileged,
        "ReadonlyRootfs": create.read_only,
        "SecurityOpt": create.security.iter().map(|option| shorten(option)).collect::<Vec<_>>(),
        "ShmSize": create.shm_size.unwrap_or(64 << 20),
        "Runtime": create.runtime.as_ref().or(config.settings.runtime.as_ref()),
        "Memory": create.memory.unwrap_or(0),
        "MemorySwap": create.memory_swap.unwrap_or(0),
        "NanoCpus": create.nano_cpus.unwrap_or(0),
        "PidsLimit": create.pids,
        "Ulimits": ulimits,
        "Devices": create.devices.iter().filter_map(|option| device(option)).collect::<Vec<_>>(),
        "Init": create.init,
        "Tmpfs": tmpfs,
        "Annotations": annotations,
        "Sysctls": create.sysctls.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// Shortens a seccomp profile, which is a long JSON document.
fn shorten(option: &str) -> &str {
    if option.starts_with("seccomp={") { "seccomp={…}" } else { option }
}

fn bind(mount: &Mount) -> String {
    let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    if mount.read_only {
        options.insert(0, "ro");
    }
    match options.is_empty() {
        true => format!("{}:{}", mount.source, mount.target),
        false => format!("{}:{}:{}", mount.source, mount.target, options.join(",")),
    }
}

/// Returns the network's end in docker's form. The networks `none` and `host` have no addresses and no ports.
fn network_settings(network: &str) -> Value {
    let endpoint = json!({
        "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "NetworkID": "",
        "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
    });
    json!({
        "Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": {}, "HairpinMode": false,
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null, "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0, "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
        "Networks": {network: endpoint},
    })
}

fn mount_json(mount: &Mount) -> Value {
    json!({
        "Type": match mount.kind { MountKind::Bind => "bind", MountKind::Tmpfs => "tmpfs" },
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": mount.options.join(","),
        "RW": !mount.read_only,
        "Propagation": match mount.kind { MountKind::Bind => propagation(mount), MountKind::Tmpfs => "" },
    })
}

/// Returns the mount's propagation option. mount_namespaces(7).
fn propagation(mount: &Mount) -> &str {
    let is_propagation =
        |option: &&String| ["private", "slave", "shared"].iter().any(|end| option.ends_with(end));
    mount.options.iter().find(is_propagation).map_or("rprivate", String::as_str)
}

/// Splits a device option, `HOST[:CONTAINER[:rwm]]`.
fn device(option: &str) -> Option<Value> {
    let (host, container, access) = devices::parts(option).ok()?;
    Some(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": access}))
}

/// Docker's null for an empty list.
fn or_null(list: &[String]) -> Option<&[String]> {
    Some(list).filter(|list| !list.is_empty())
}

/// Returns the image as the request named it.
fn requested_image(definition: &Definition) -> &str {
    match definition.create.image.as_str() {
        "" => image_name::familiar(&definition.image.name),
        requested => requested,
    }
}

fn config_json(definition: &Definition) -> Value {
    let (create, run) = (&definition.create, &definition.run);
    let labels: serde_json::Map<String, Value> =
        definition.labels().into_iter().map(|(key, value)| (key, json!(value))).collect();
    json!({
        "Hostname": create.hostname.as_deref().unwrap_or(short(&definition.id)),
        "Domainname": "",
        "User": create.user.as_ref().or(run.user.as_ref()).map_or("", String::as_str),
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "ExposedPorts": run.exposed_ports,
        "Tty": create.tty,
        "OpenStdin": create.open_stdin,
        "StdinOnce": create.annotations.iter().any(|(key, value)| key == STDIN_ONCE && value == "true"),
        "Env": process::own_environment(run, create),
        "Cmd": if create.command.is_empty() && create.entrypoint.is_none() { &run.cmd } else { &create.command },
        "Entrypoint": or_null(create.entrypoint.as_ref().unwrap_or(&run.entrypoint)),
        "Image": requested_image(definition),
        "Volumes": Some(&run.volumes).filter(|volumes| !volumes.is_empty()),
        "OnBuild": null,
        "WorkingDir": create.workdir.as_ref().or(run.working_dir.as_ref()).map_or("", String::as_str),
        "Labels": labels,
        "StopSignal": signals::name(definition.stop_signal),
        "StopTimeout": create.stop_timeout.map(|seconds| if seconds == FOR_EVER { -1 } else { i64::from(seconds) }),
        "CreateCommand": create.command_line,
        // A field of podman, which docker does not have.
        "SdNotifyMode": match create.sdnotify {
            Notify::Ignore => "ignore",
            Notify::Container => "container",
            Notify::Conmon => "conmon",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_that_of_the_last_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let directories = Directories::open(&dir.path().join("data"), &dir.path().join("run")).expect("made");
        let definition = Definition { id: "a".repeat(64), ..Definition::default() };
        assert_eq!(profile(&directories, &definition), None, "never started");
        let home = directories.dir(&definition.id);
        std::fs::create_dir_all(&home).expect("made");
        for (bundle, expected) in [
            (r#"{"process":{"args":["x"],"apparmorProfile":"docker-default"}}"#, Some("docker-default")),
            (r#"{"process":{"args":["x"]}}"#, Some("")),
            ("{", None),
        ] {
            std::fs::write(home.join("config.json"), bundle).expect("written");
            assert_eq!(profile(&directories, &definition).as_deref(), expected, "{bundle}");
        }
    }
}
