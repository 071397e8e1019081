//! The body of `POST /containers/create` → the engine's options of a new container. Pure.
//!
//! Missing keys and null mean zero values. [`super::create_fields`] tells what happens to each field; this module
//! reads the served ones.

use super::create_fields::{self, CONFIG, HOST};
use super::create_mounts::{self, MountBody};
use crate::refusal::Refusal;
use sampan_ipc::container::{Create, FOR_EVER, Network, Restart, STDIN_ONCE};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// One processor, in the unit of `NanoCpus`.
const CPU: i128 = 1_000_000_000;
/// The period of CPU time for a quota without one, in microseconds, as in docker.
const PERIOD: i64 = 100_000;
/// The periods that the kernel accepts, in microseconds.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Names in nested objects, whose keys are read in any case as well.
const NESTED: [&str; 24] = [
    "BindOptions",
    "CgroupPermissions",
    "Config",
    "Consistency",
    "CreateMountpoint",
    "Hard",
    "ImageOptions",
    "MaximumRetryCount",
    "Mode",
    "Name",
    "NonRecursive",
    "Options",
    "PathInContainer",
    "PathOnHost",
    "Propagation",
    "ReadOnly",
    "ReadOnlyForceRecursive",
    "ReadOnlyNonRecursive",
    "SizeBytes",
    "Soft",
    "Source",
    "Target",
    "TmpfsOptions",
    "Type",
];

/// The body's own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    hostname: String,
    user: String,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Vec<String>,
    cmd: Option<Words>,
    image: String,
    working_dir: String,
    entrypoint: Option<Words>,
    network_disabled: bool,
    labels: BTreeMap<String, String>,
    stop_signal: String,
    stop_timeout: Option<i64>,
    host_config: Host,
    networking_config: Networking,
}

/// The fields of `HostConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Host {
    binds: Vec<String>,
    mounts: Vec<MountBody>,
    tmpfs: BTreeMap<String, String>,
    log_config: LogConfig,
    network_mode: String,
    restart_policy: RestartPolicy,
    auto_remove: bool,
    annotations: BTreeMap<String, String>,
    init: bool,
    runtime: String,
    shm_size: i64,
    sysctls: BTreeMap<String, String>,
    group_add: Vec<String>,
    cap_add: Vec<String>,
    cap_drop: Vec<String>,
    privileged: bool,
    readonly_rootfs: bool,
    security_opt: Vec<String>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    devices: Vec<Device>,
    memory: i64,
    memory_swap: i64,
    nano_cpus: i64,
    cpu_quota: i64,
    cpu_period: i64,
    pids_limit: i64,
    ulimits: Vec<Ulimit>,
}

/// A command: docker accepts a single string for a list of one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    List(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LogConfig {
    r#type: String,
    config: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RestartPolicy {
    name: String,
    maximum_retry_count: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Device {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Networking {
    endpoints_config: BTreeMap<String, Value>,
}

/// A body that can be served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The options.
    pub(crate) create: Create,
    /// What the container will not have.
    pub(crate) warnings: Vec<String>,
}

/// Parses the body of a create. `name` and `platform` are parameters of the request.
///
/// # Errors
/// The body is not valid, or has a field that Sampan does not serve and that must not be left out.
pub(crate) fn parse(body: &[u8], name: Option<&str>, platform: Option<&str>) -> Result<Parsed, Refusal> {
    let mut object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(Refusal::bad("the body of a create is a JSON object")),
        Err(error) if error.is_eof() && body.trim_ascii().is_empty() => {
            return Err(Refusal::bad("invalid JSON: got EOF while reading request body"));
        }
        Err(error) => return Err(Refusal::bad(format!("invalid JSON: {error}"))),
    };
    let mut warnings = check_fields(&mut object)?;
    let config: Config = serde_json::from_value(Value::Object(object))
        .map_err(|error| Refusal::bad(format!("the body of the create is not valid: {error}")))?;
    let create = create(config, name, platform, &mut warnings)?;
    Ok(Parsed { create, warnings })
}

/// Gives the keys their spelling, removes null, and checks the fields that are not served.
fn check_fields(object: &mut Map<String, Value>) -> Result<Vec<String>, Refusal> {
    create_fields::spell(object, CONFIG.iter().map(|field| field.name));
    let mut host_warnings = Vec::new();
    if let Some(Value::Object(host)) = object.get_mut("HostConfig") {
        create_fields::spell(host, HOST.iter().map(|field| field.name));
        for (key, value) in host.iter_mut() {
            if ["Mounts", "Devices", "Ulimits", "RestartPolicy", "LogConfig"].contains(&key.as_str()) {
                spell_nested(value);
            }
        }
        host_warnings = create_fields::check(host, "HostConfig.", &HOST)?;
    }
    remove_covered_volumes(object);
    let mut warnings = create_fields::check(object, "", &CONFIG)?;
    warnings.append(&mut host_warnings);
    object.values_mut().for_each(remove_null);
    object.retain(|_, value| !value.is_null());
    Ok(warnings)
}

/// Removes the anonymous volumes at whose paths something else is mounted, as docker's daemon does: docker-py names the
/// target of each bind in `Volumes`, too.
fn remove_covered_volumes(object: &mut Map<String, Value>) {
    let list = |key: &str| match object.get("HostConfig").and_then(|host| host.get(key)) {
        Some(Value::Array(list)) => list.clone(),
        Some(Value::Object(of)) => of.keys().map(|key| Value::String(key.clone())).collect(),
        _ => Vec::new(),
    };
    let path = |path: &str| path.trim_end_matches('/').to_owned();
    let binds = list("Binds");
    let binds = binds.iter().filter_map(|bind| bind.as_str()?.split(':').nth(1).map(path));
    let mounts = list("Mounts");
    let mounts = mounts.iter().filter_map(|mount| mount.get("Target")?.as_str().map(path));
    let tmpfs = list("Tmpfs");
    let tmpfs = tmpfs.iter().filter_map(|target| target.as_str().map(path));
    let targets: BTreeSet<String> = binds.chain(mounts).chain(tmpfs).collect();
    if let Some(Value::Object(volumes)) = object.get_mut("Volumes") {
        volumes.retain(|target, _| !targets.contains(&path(target)));
    }
}

fn spell_nested(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(spell_nested),
        Value::Object(object) => {
            create_fields::spell(object, NESTED.into_iter());
            // The keys of a log driver's options are its own.
            object.iter_mut().filter(|(key, _)| *key != "Config").for_each(|(_, value)| spell_nested(value));
        }
        _ => {}
    }
}

/// Removes the keys whose value is null, which means the same as no key.
fn remove_null(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(remove_null),
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(remove_null);
        }
        _ => {}
    }
}

fn create(
    config: Config,
    name: Option<&str>,
    platform: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Create, Refusal> {
    let host = config.host_config;
    let stdin_once = config.stdin_once.then(|| (STDIN_ONCE.to_owned(), "true".to_owned()));
    let mut mounts = Vec::new();
    for bind in &host.binds {
        mounts.push(create_mounts::bind(bind)?);
    }
    for mount in host.mounts {
        mounts.push(create_mounts::mount(mount)?);
    }
    mounts.extend(host.tmpfs.into_iter().map(|(target, options)| create_mounts::tmpfs(target, &options)));
    let network = match config.network_disabled {
        true => Network::None,
        false => network(&host.network_mode, &config.networking_config, warnings)?,
    };
    let mut security = security(host.security_opt)?;
    security.extend(system_paths(host.masked_paths, host.readonly_paths)?);
    Ok(Create {
        name: name.map(|name| name.trim_start_matches('/').to_owned()),
        image: config.image,
        command: words(config.cmd).unwrap_or_default(),
        entrypoint: words(config.entrypoint).map(|words| match words.as_slice() {
            // A list with one empty word resets the image's entrypoint.
            [word] if word.is_empty() => Vec::new(),
            _ => words,
        }),
        env: config.env,
        user: some(config.user),
        workdir: some(config.working_dir),
        hostname: some(config.hostname),
        tty: config.tty,
        open_stdin: config.open_stdin,
        labels: config.labels.into_iter().collect(),
        mounts,
        read_only: host.readonly_rootfs,
        network,
        restart: restart(&host.restart_policy)?,
        auto_remove: host.auto_remove,
        init: host.init,
        privileged: host.privileged,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        devices: host.devices.iter().map(device).collect::<Result<_, _>>()?,
        security,
        ulimits: host.ulimits.into_iter().map(|limit| (limit.name, limit.soft, limit.hard)).collect(),
        memory: size("Memory", host.memory, true)?,
        memory_swap: Some(host.memory_swap).filter(|swap| *swap != 0),
        nano_cpus: processors(host.nano_cpus, host.cpu_quota, host.cpu_period)?,
        pids: Some(host.pids_limit).filter(|pids| *pids != 0),
        shm_size: size("ShmSize", host.shm_size, false)?,
        stop_signal: some(config.stop_signal),
        stop_timeout: config.stop_timeout.map(stop_timeout).transpose()?,
        log_driver: some(host.log_config.r#type),
        log_options: host.log_config.config.into_iter().collect(),
        runtime: runtime(host.runtime)?,
        platform: platform.map(str::to_owned),
        group_add: host.group_add,
        sysctls: host.sysctls.into_iter().collect(),
        annotations: host.annotations.into_iter().chain(stdin_once).collect(),
        ..Create::default()
    })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn words(words: Option<Words>) -> Option<Vec<String>> {
    words.map(|words| match words {
        Words::One(word) => vec![word],
        Words::List(list) => list,
    })
}

/// The network. Until the engine has networks, docker's default network is none.
fn network(mode: &str, networking: &Networking, warnings: &mut Vec<String>) -> Result<Network, Refusal> {
    for (name, endpoint) in &networking.endpoints_config {
        if !["", "default", "bridge", "none", "host"].contains(&name.as_str()) {
            return Err(Refusal::missing(&format!("the network {name:?}")));
        }
        if !create_fields::is_empty_throughout(endpoint) {
            return Err(Refusal::missing("a setting of a network's endpoint"));
        }
    }
    match mode {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        "" | "default" | "bridge" => {
            let name = if mode.is_empty() { "default" } else { mode };
            warnings.push(format!(
                "network {name:?} has only a loopback interface: sampan has no networks yet; network \"host\" is the host's"
            ));
            Ok(Network::None)
        }
        other => Err(Refusal::missing(&format!("the network {other:?}"))),
    }
}

fn restart(policy: &RestartPolicy) -> Result<Restart, Refusal> {
    let count = u32::try_from(policy.maximum_retry_count)
        .map_err(|_| Refusal::bad("invalid restart policy: maximum retry count cannot be negative"))?;
    match policy.name.as_str() {
        "on-failure" => Ok(Restart::OnFailure(count)),
        name if count > 0 && !name.is_empty() => Err(Refusal::bad(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure', not with '{name}'"
        ))),
        "" | "no" => Ok(Restart::No),
        "always" => Ok(Restart::Always),
        "unless-stopped" => Ok(Restart::UnlessStopped),
        name => Err(Refusal::bad(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// The engine's form of a size; 0 means none, as -1 does if `has_none` is true.
fn size(field: &str, bytes: i64, has_none: bool) -> Result<Option<u64>, Refusal> {
    match bytes {
        0 => Ok(None),
        -1 if has_none => Ok(None),
        bytes => u64::try_from(bytes)
            .map(Some)
            .map_err(|_| Refusal::bad(format!("HostConfig.{field} is {bytes}: a size is not negative"))),
    }
}

/// The limit of CPU time, from processors or from docker's older form: a quota in each period.
fn processors(nanos: i64, quota: i64, period: i64) -> Result<Option<u64>, Refusal> {
    if nanos != 0 && (quota != 0 || period != 0) {
        let other = if quota != 0 { "CPU Quota" } else { "CPU Period" };
        return Err(Refusal::bad(format!("Conflicting options: Nano CPUs and {other} cannot both be set.")));
    }
    if period != 0 && !PERIODS.contains(&period) {
        return Err(Refusal::bad(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    let nanos = match (nanos, quota) {
        // A quota of -1 is no limit.
        (0, ..=0) => return Ok(None),
        (0, quota) => i128::from(quota) * CPU / i128::from(if period == 0 { PERIOD } else { period }),
        (nanos, _) => i128::from(nanos),
    };
    u64::try_from(nanos).map(Some).map_err(|_| Refusal::bad(format!("{nanos} is no limit of CPU time")))
}

fn stop_timeout(seconds: i64) -> Result<u32, Refusal> {
    match seconds {
        ..0 => Ok(FOR_EVER),
        seconds => {
            u32::try_from(seconds).map_err(|_| Refusal::bad(format!("StopTimeout {seconds} is too long")))
        }
    }
}

/// The name of the OCI runtime. The gateway runs as root, so that the engine would execute any file for its clients.
fn runtime(name: String) -> Result<Option<String>, Refusal> {
    match name.contains('/') {
        true => Err(Refusal::bad(format!("unknown or invalid runtime name: {name}"))),
        false => Ok(some(name)),
    }
}

fn device(device: &Device) -> Result<String, Refusal> {
    let paths = [&device.path_on_host, &device.path_in_container];
    if let Some(path) = paths.into_iter().find(|path| path.contains(':')) {
        return Err(Refusal::bad(format!("the path {path:?} of a device has a colon")));
    }
    let inside =
        if device.path_in_container.is_empty() { &device.path_on_host } else { &device.path_in_container };
    let permissions = if device.cgroup_permissions.is_empty() { "rwm" } else { &device.cgroup_permissions };
    Ok(format!("{}:{inside}:{permissions}", device.path_on_host))
}

/// The engine's form of the security options. The value of `seccomp` is the profile itself, not a file's name.
fn security(options: Vec<String>) -> Result<Vec<String>, Refusal> {
    let mut security = Vec::new();
    for option in options {
        let profile = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        match profile {
            None => security.push(option),
            // The engine's default is its own profile.
            Some("builtin" | "default") => {}
            Some("unconfined") => security.push("seccomp=unconfined".to_owned()),
            Some(profile) => {
                let profile: Map<String, Value> = serde_json::from_str(profile)
                    .map_err(|error| Refusal::bad(format!("Decoding seccomp profile failed: {error}")))?;
                security.push(format!("seccomp={}", Value::Object(profile)));
            }
        }
    }
    Ok(security)
}

/// The engine masks its own list of paths, or none. docker's command line sends two empty lists for the security option
/// `systempaths=unconfined`.
fn system_paths(
    masked: Option<Vec<String>>,
    read_only: Option<Vec<String>>,
) -> Result<Option<String>, Refusal> {
    match (masked.as_deref(), read_only.as_deref()) {
        (None, None) => Ok(None),
        (Some([]), Some([])) => Ok(Some("systempaths=unconfined".to_owned())),
        _ => Err(Refusal::missing("a list of masked or read-only paths")),
    }
}

#[cfg(test)]
mod tests;
