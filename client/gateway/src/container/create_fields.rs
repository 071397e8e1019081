//! What happens to each field of the body of a create: the table of `docs/docker-api.md` in code.
//!
//! A field is served, has no effect, is left out with a warning, or is refused because a container without it would be
//! less safe, less limited or connected otherwise than its creator believes. Fields that are not in the table are
//! ignored: they belong to a later version of the API.

use crate::refusal::Refusal;
use serde_json::{Map, Value};

/// What happens to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The engine gets it.
    Served,
    /// It changes nothing for a container of this engine, or only concerns the client.
    Ignored,
    /// A value other than the default is left out, and the answer has a warning. The text says why.
    Warns(&'static str),
    /// A value other than the default is refused: 501. The text is the subject of the sentence.
    Refused(&'static str),
}

/// A field of the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// The field's name, without the object that it is in.
    pub(crate) name: &'static str,
    /// What happens to it.
    pub(crate) effect: Effect,
    /// Default values besides JSON's empty ones, as JSON.
    pub(crate) defaults: &'static [&'static str],
}

const fn field(name: &'static str, effect: Effect) -> Field {
    Field { name, effect, defaults: &[] }
}

const fn field_or(name: &'static str, effect: Effect, defaults: &'static [&'static str]) -> Field {
    Field { name, effect, defaults }
}

use Effect::{Ignored, Refused, Served, Warns};

const WINDOWS: Effect = Warns("it is for Windows");
const DEVICE_LIMIT: Effect = Refused("a limit of a block device's transfers");
const RESOLVER: Effect = Refused("a setting of the container's resolver");

/// The fields of the body itself.
pub(crate) const CONFIG: [Field; 27] = [
    field("Hostname", Served),
    field("Domainname", Warns("the engine sets no domain name")),
    field("User", Served),
    field("AttachStdin", Ignored),
    field("AttachStdout", Ignored),
    field("AttachStderr", Ignored),
    field("ExposedPorts", Warns("the engine has no networks yet")),
    field("Tty", Served),
    field("OpenStdin", Served),
    field("StdinOnce", Served),
    field("Env", Served),
    field("Cmd", Served),
    field_or("Healthcheck", Warns("the engine has no health checks yet"), &[r#"{"Test":["NONE"]}"#]),
    field("ArgsEscaped", WINDOWS),
    field("Image", Served),
    field("Volumes", Refused("an anonymous volume")),
    field("WorkingDir", Served),
    field("Entrypoint", Served),
    field("NetworkDisabled", Served),
    field("MacAddress", Refused("a MAC address")),
    field("OnBuild", Ignored),
    field("Labels", Served),
    field("StopSignal", Served),
    field("StopTimeout", Served),
    field("Shell", Ignored),
    field("HostConfig", Served),
    field("NetworkingConfig", Served),
];

/// The fields of `HostConfig`.
pub(crate) const HOST: [Field; 71] = [
    field("Binds", Served),
    field("Mounts", Served),
    field("Tmpfs", Served),
    field("VolumesFrom", Refused("taking the volumes of another container")),
    field("VolumeDriver", Refused("a volume driver")),
    field("StorageOpt", Refused("an option of the storage driver, such as a limit of size")),
    field("ContainerIDFile", Ignored),
    field("LogConfig", Served),
    field("NetworkMode", Served),
    field("PortBindings", Refused("a published port")),
    field("PublishAllPorts", Refused("a published port")),
    field("Links", Refused("a link to another container")),
    field("ExtraHosts", RESOLVER),
    field("Dns", RESOLVER),
    field("DnsOptions", RESOLVER),
    field("DnsSearch", RESOLVER),
    field("RestartPolicy", Served),
    field("AutoRemove", Served),
    field("Annotations", Served),
    field("ConsoleSize", Ignored),
    field("Init", Served),
    field("Runtime", Served),
    field("ShmSize", Served),
    field("Sysctls", Served),
    field("GroupAdd", Served),
    field("CapAdd", Served),
    field("CapDrop", Served),
    field("Privileged", Served),
    field("ReadonlyRootfs", Served),
    field("SecurityOpt", Served),
    field("MaskedPaths", Served),
    field("ReadonlyPaths", Served),
    field_or("UsernsMode", Refused("a user namespace"), &["\"host\""]),
    field("PidMode", Refused("a PID namespace other than the container's own")),
    field_or(
        "IpcMode",
        Refused("an IPC namespace other than the container's own"),
        &["\"private\"", "\"shareable\""],
    ),
    field("UTSMode", Refused("a UTS namespace other than the container's own")),
    field_or("CgroupnsMode", Refused("a cgroup namespace other than the container's own"), &["\"private\""]),
    field("Cgroup", Refused("the control group of another container")),
    field("CgroupParent", Refused("a parent of the container's control group")),
    field("Devices", Served),
    field("DeviceCgroupRules", Refused("a rule for access to devices")),
    field("DeviceRequests", Refused("a request for devices of a driver, such as GPUs")),
    field("Memory", Served),
    field("MemorySwap", Served),
    field("MemoryReservation", Warns("the engine has no soft limit of memory")),
    field_or("MemorySwappiness", Warns("the engine does not set it"), &["-1"]),
    field("KernelMemory", Warns("kernels no longer have this limit")),
    field("KernelMemoryTCP", Refused("a limit of memory for TCP buffers")),
    field("OomKillDisable", Warns("the engine leaves the OOM killer on")),
    field("OomScoreAdj", Warns("the engine chooses the score")),
    field("NanoCpus", Served),
    field("CpuQuota", Served),
    field("CpuPeriod", Served),
    field("CpuShares", Warns("the engine sets no weight of CPU time")),
    field("CpuRealtimePeriod", Refused("a limit of real-time scheduling")),
    field("CpuRealtimeRuntime", Refused("a limit of real-time scheduling")),
    field("CpusetCpus", Refused("a choice of CPUs")),
    field("CpusetMems", Refused("a choice of memory nodes")),
    field("PidsLimit", Served),
    field("Ulimits", Served),
    field("BlkioWeight", Warns("the engine sets no weight of block devices")),
    field("BlkioWeightDevice", Warns("the engine sets no weight of block devices")),
    field("BlkioDeviceReadBps", DEVICE_LIMIT),
    field("BlkioDeviceWriteBps", DEVICE_LIMIT),
    field("BlkioDeviceReadIOps", DEVICE_LIMIT),
    field("BlkioDeviceWriteIOps", DEVICE_LIMIT),
    field_or("Isolation", WINDOWS, &["\"default\""]),
    field("CpuCount", WINDOWS),
    field("CpuPercent", WINDOWS),
    field("IOMaximumIOps", WINDOWS),
    field("IOMaximumBandwidth", WINDOWS),
];

/// Checks the fields that are not served. Returns the warnings.
///
/// # Errors
/// A field has a value that is refused.
pub(crate) fn check(
    object: &Map<String, Value>,
    prefix: &str,
    fields: &[Field],
) -> Result<Vec<String>, Refusal> {
    let mut warnings = Vec::new();
    for field in fields {
        if object.get(field.name).is_none_or(|value| is_default(value, field.defaults)) {
            continue;
        }
        match field.effect {
            Served | Ignored => {}
            Warns(why) => warnings.push(format!("{prefix}{} is ignored: {why}", field.name)),
            Refused(what) => {
                let message = format!("{what} is not supported by sampan: {prefix}{}", field.name);
                return Err(Refusal::new(501, message));
            }
        }
    }
    Ok(warnings)
}

/// Gives the keys of `object` the spelling of `names`: docker's daemon reads keys in any case, and a key that the
/// gateway overlooked could be a limit.
pub(crate) fn spell<'a>(object: &mut Map<String, Value>, names: impl Iterator<Item = &'a str> + Clone) {
    for (key, value) in std::mem::take(object) {
        let name = names.clone().find(|name| name.eq_ignore_ascii_case(&key));
        object.insert(name.map_or(key, str::to_owned), value);
    }
}

fn is_default(value: &Value, defaults: &[&str]) -> bool {
    let is_empty = match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    is_empty
        || defaults.iter().any(|default| serde_json::from_str(default).is_ok_and(|of: Value| of == *value))
}

/// Whether `value` and everything in it is empty.
pub(crate) fn is_empty_throughout(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.iter().all(is_empty_throughout),
        Value::Object(map) => map.values().all(is_empty_throughout),
        other => is_default(other, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PAGE: &str = include_str!("../../../../docs/docker-api.md");

    #[test]
    fn the_page_says_of_each_field_what_happens_to_it() {
        let of = |prefix: &str, field: &Field| {
            let what = match field.effect {
                Served => "served".to_owned(),
                Ignored => "no effect".to_owned(),
                Warns(why) => format!("warning: {why}"),
                Refused(what) => format!("501: {what}"),
            };
            (format!("{prefix}{}", field.name), what)
        };
        let config = CONFIG.iter().map(|field| of("", field));
        let host = HOST.iter().map(|field| of("HostConfig.", field));
        let expected: Vec<_> = config.chain(host).collect();
        let section = PAGE.split("### Fields of a create").nth(1).expect("the page has the section");
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with("| `"))
            .take_while(|line| line.starts_with('|'));
        let cells = |row: &str| {
            let mut cells =
                row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
        };
        let written: Vec<_> = rows.map(cells).collect();
        let table: String =
            expected.iter().map(|(name, what)| format!("| `{name}` | {what} | |\n")).collect();
        assert_eq!(written, expected, "the rows of the page:\n{table}");
    }

    #[test]
    fn empty_and_default_values_are_accepted() {
        for value in [json!(null), json!(false), json!(0), json!(""), json!([]), json!({})] {
            let object = json!({"PidMode": value, "PortBindings": value, "CpusetCpus": value});
            assert_eq!(check(object.as_object().expect("an object"), "", &HOST), Ok(vec![]), "{object}");
        }
        let object = json!({"MemorySwappiness": -1, "IpcMode": "private", "UsernsMode": "host"});
        assert_eq!(check(object.as_object().expect("an object"), "", &HOST), Ok(vec![]));
    }

    #[test]
    fn other_values_are_told_or_refused() {
        let object = json!({"CpuShares": 512, "MemorySwappiness": 10});
        let warnings = check(object.as_object().expect("an object"), "HostConfig.", &HOST).expect("warnings");
        assert_eq!(warnings.len(), 2);
        assert_eq!(
            warnings.last().map(String::as_str),
            Some("HostConfig.CpuShares is ignored: the engine sets no weight of CPU time")
        );
        for object in [
            json!({"PidMode": "host"}),
            json!({"IpcMode": "container:x"}),
            json!({"CpusetCpus": "0"}),
            json!({"PortBindings": {"80/tcp": []}}),
            json!({"BlkioDeviceReadBps": [{}]}),
        ] {
            let refused = check(object.as_object().expect("an object"), "", &HOST);
            assert_eq!(refused.map_err(|refusal| refusal.status), Err(501), "{object}");
        }
    }

    #[test]
    fn keys_are_read_in_any_case() {
        let mut object = json!({"pidmode": "host"}).as_object().expect("an object").clone();
        spell(&mut object, HOST.iter().map(|field| field.name));
        assert!(check(&object, "", &HOST).is_err());
    }
}
