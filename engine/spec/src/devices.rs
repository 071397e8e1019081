//! Device nodes and access rules: the devices of every container, the devices of `--device`, and all devices of the
//! host for a privileged container.
//!
//! The runtime itself creates nodes such as /dev/null in every container (OCI runtime-spec, "Default Devices").

use super::config_json::{Device, DeviceRule};
use super::error::SpecError;
use super::words;
use nix::sys::stat::{FileStat, SFlag, major, minor, stat};
use sampan_ipc::container::Create;
use std::fs;
use std::path::{Path, PathBuf};

/// Most devices of one container.
const COUNT_MAX: usize = 4096;
/// Most levels of directories in which devices are searched.
const DEPTH_MAX: usize = 8;
/// Major and minor numbers of the devices that every container may use: null, zero, full, tty, random, urandom,
/// console, ptmx and pseudo-terminals.
const USABLE: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (5, Some(0)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// A parsed `--device`: `HOST[:CONTAINER[:rwm]]`.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    host: &'a str,
    container: &'a str,
    access: &'a str,
}

/// Checks the form of each `--device`, without reading the host's devices.
///
/// # Errors
/// [`SpecError::Option`] if a `--device` does not have the form `HOST[:CONTAINER[:rwm]]`.
pub fn check(devices: &[String]) -> Result<(), SpecError> {
    devices.iter().try_for_each(|device| parse(device).map(drop))
}

/// Splits a `--device` into the path on the host, the path in the container, and the access (some of `rwm`).
///
/// # Errors
/// [`SpecError::Option`] if `device` does not have the form `HOST[:CONTAINER[:rwm]]`.
pub fn parts(device: &str) -> Result<(&str, &str, &str), SpecError> {
    parse(device).map(|request| (request.host, request.container, request.access))
}

/// Returns the nodes that the runtime must create, and the access rules.
///
/// # Errors
/// [`SpecError::Option`] if a device does not exist, or if there are more than 4096 devices.
pub fn all(create: &Create) -> Result<(Vec<Device>, Vec<DeviceRule>), SpecError> {
    let mut nodes = Vec::new();
    if create.privileged {
        devices_below(Path::new("/dev"), "/dev", &mut nodes, 0);
        nodes.sort_by(|a, b| a.path.cmp(&b.path));
    }
    let mut rules = match create.privileged {
        true => vec![rule(true, "a", None, None, "rwm")],
        false => default_rules(),
    };
    for device in &create.devices {
        let request = parse(device)?;
        for node in find(device, &request)? {
            if !create.privileged {
                rules.push(rule(true, node.kind, Some(node.major), Some(node.minor), request.access));
            }
            nodes.retain(|known: &Device| known.path != node.path);
            nodes.push(node);
        }
        if nodes.len() > COUNT_MAX {
            return Err(SpecError::option("--device", device, "a container has at most 4096 devices"));
        }
    }
    Ok((nodes, rules))
}

/// The access rules of a container without `--device`.
pub fn default_rules() -> Vec<DeviceRule> {
    let mut rules = vec![rule(false, "a", None, None, "rwm")];
    // The container may create any node (mknod), as in docker; it still cannot open the node.
    rules.extend(["c", "b"].map(|kind| rule(true, kind, None, None, "m")));
    rules.extend(USABLE.map(|(major, minor)| rule(true, "c", Some(major), minor, "rwm")));
    rules
}

fn parse(device: &str) -> Result<Request<'_>, SpecError> {
    let bad = |why: &str| SpecError::option("--device", device, why);
    let mut words = device.split(':');
    let host = words.next().unwrap_or_default();
    let (container, access) = match (words.next(), words.next()) {
        (None, _) => (host, "rwm"),
        (Some(access), None) if is_access(access) => (host, access),
        (Some(container), None) => (container, "rwm"),
        (Some(container), Some(access)) => (container, access),
    };
    if words.next().is_some() {
        return Err(bad("expected HOST[:CONTAINER[:rwm]]"));
    }
    if !is_access(access) {
        return Err(bad("the access is made of r, w and m"));
    }
    words::absolute("--device", host)?;
    words::absolute("--device", container)?;
    if container.split('/').any(|word| word == "..") {
        return Err(bad("'..' cannot be in a device's path in the container"));
    }
    Ok(Request { host, container, access })
}

fn is_access(word: &str) -> bool {
    let count = |letter: char| word.matches(letter).count();
    !word.is_empty() && word.chars().all(|c| "rwm".contains(c) && count(c) == 1)
}

/// The requested device. If the path is a directory, all devices below it.
fn find(device: &str, request: &Request<'_>) -> Result<Vec<Device>, SpecError> {
    // Follow symbolic links of the host: /dev/disk/by-id consists of symbolic links.
    let status = stat(request.host).map_err(|errno| {
        SpecError::option("--device", device, format!("cannot stat {}: {}", request.host, errno.desc()))
    })?;
    if let Some(node) = node(&status, request.container) {
        return Ok(vec![node]);
    }
    let mut nodes = Vec::new();
    if Path::new(request.host).is_dir() {
        devices_below(Path::new(request.host), request.container, &mut nodes, 0);
    }
    match nodes.is_empty() {
        true => Err(SpecError::option("--device", device, format!("{} is not a device", request.host))),
        false => Ok(nodes),
    }
}

/// Adds all devices below `dir` of the host, except devices of which each container has an instance of its own.
fn devices_below(dir: &Path, target: &str, nodes: &mut Vec<Device>, depth: usize) {
    const OWN: [&str; 6] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx"];
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        let (Ok(kind), Some(name)) = (entry.file_type(), entry.file_name().to_str().map(str::to_owned))
        else {
            continue;
        };
        if OWN.iter().any(|own| path == Path::new(own))
            || nodes.len() > COUNT_MAX
            || name.contains(char::is_control)
        {
            continue;
        }
        let inside = format!("{}/{name}", target.trim_end_matches('/'));
        if kind.is_dir() && depth < DEPTH_MAX {
            devices_below(&path, &inside, nodes, depth + 1);
        } else if !kind.is_symlink() {
            nodes.extend(stat(&path).ok().and_then(|status| node(&status, &inside)));
        }
    }
}

fn node(status: &FileStat, path: &str) -> Option<Device> {
    let kind = match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFCHR => "c",
        SFlag::S_IFBLK => "b",
        _ => return None,
    };
    Some(Device {
        kind,
        path: path.to_owned(),
        major: i64::try_from(major(status.st_rdev)).ok()?,
        minor: i64::try_from(minor(status.st_rdev)).ok()?,
        file_mode: status.st_mode & 0o777,
        uid: status.st_uid,
        gid: status.st_gid,
    })
}

fn rule(allow: bool, kind: &'static str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access: access.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(devices: &[&str]) -> Result<(Vec<Device>, Vec<DeviceRule>), SpecError> {
        all(&Create { devices: devices.iter().map(ToString::to_string).collect(), ..Create::default() })
    }

    #[test]
    fn devices_are_parsed_as_docker_parses_them() {
        let request = |host, container, access| Request { host, container, access };
        assert_eq!(parse("/dev/a").expect("fine"), request("/dev/a", "/dev/a", "rwm"));
        assert_eq!(parse("/dev/a:r").expect("fine"), request("/dev/a", "/dev/a", "r"));
        assert_eq!(parse("/dev/a:/dev/b").expect("fine"), request("/dev/a", "/dev/b", "rwm"));
        assert_eq!(parse("/dev/a:/dev/b:rw").expect("fine"), request("/dev/a", "/dev/b", "rw"));
        for nonsense in [
            "",
            "dev/a",
            "/dev/a:b",
            "/dev/a:/dev/b:x",
            "/dev/a:/dev/b:r:w",
            "/dev/a:/dev/b:rr",
            "/dev/a:/dev/../b",
            "/dev/a:/b:",
        ] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_device_gets_a_node_and_a_rule() {
        let (nodes, rules) = ask(&["/dev/null:/dev/nothing:r"]).expect("it is there");
        assert_eq!((nodes[0].path.as_str(), nodes[0].major, nodes[0].minor), ("/dev/nothing", 1, 3));
        assert_eq!(rules.last().map(|rule| (rule.allow, rule.access.as_str())), Some((true, "r")));
        assert_eq!(rules.first().map(|rule| (rule.allow, rule.kind)), Some((false, "a")));
        assert!(
            ask(&["/dev/none-such"]).is_err() && ask(&["/etc/passwd"]).is_err() && ask(&["/etc"]).is_err()
        );
    }

    #[test]
    fn a_privileged_container_has_the_devices_of_the_host() {
        let (nodes, rules) = all(&Create { privileged: true, ..Create::default() }).expect("the host's");
        assert!(nodes.iter().any(|node| node.path == "/dev/null"));
        assert!(nodes.iter().all(|node| !node.path.starts_with("/dev/pts/")));
        assert_eq!((rules.len(), rules[0].allow), (1, true));
    }
}
