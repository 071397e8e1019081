//! Limits of a container (memory, CPU time, processes), and the kernel parameters of its namespaces. Does no I/O.

use super::config_json::{Cpu, Memory, Pids, Resources};
use super::error::SpecError;
use super::host::Host;
use super::words;
use sampan_ipc::container::{Create, Network};
use std::collections::BTreeMap;

/// Smallest limit of memory, in bytes, as in docker: no runtime starts a process with less.
const MEMORY_MIN: u64 = 6 << 20;
/// One processor, in the unit of `nano_cpus`.
const CPU: u64 = 1_000_000_000;
/// Period for the limit of CPU time, in microseconds. cgroups(7), "cpu".
const PERIOD: u64 = 100_000;
/// Highest limit of processes that the kernel accepts. linux/threads.h, PID_MAX_LIMIT.
const PIDS_MAX: i64 = 4 << 20;
/// Smallest quota of CPU time that the kernel accepts, in microseconds.
const QUOTA_MIN: u64 = 1_000;

/// Checks the requested limits, without regard to the host.
///
/// # Errors
/// [`SpecError::Option`] if a limit is too low, too high, or contradicts another limit.
pub fn check(create: &Create) -> Result<(), SpecError> {
    let bytes = |option, value: u64, why| Err(SpecError::option(option, &size_text(value), why));
    let processors = |nanos, why| Err(SpecError::option("--cpus", &processors_text(nanos), why));
    let most = i64::MAX as u64;
    match create.memory.unwrap_or(0) {
        0 => {}
        memory if memory < MEMORY_MIN => {
            return bytes("--memory", memory, "a container has at least 6 MiB (6m)");
        }
        memory if memory > most => return bytes("--memory", memory, "no host has as much"),
        _ => {}
    }
    if let Some(swap) = create.memory_swap.filter(|swap| *swap != 0) {
        let bad = |why| Err(SpecError::option("--memory-swap", &swap.to_string(), why));
        match (swap, create.memory.unwrap_or(0)) {
            (-1, _) => {}
            (..-1, _) => return bad("expected bytes, or -1 for no limit"),
            (_, 0) => return bad("it is memory and swap together, and needs --memory"),
            (swap, memory) if swap.unsigned_abs() < memory => {
                return bad("it is memory and swap together, and less than --memory");
            }
            _ => {}
        }
    }
    match create.nano_cpus {
        Some(nanos @ 1..10_000_000) => {
            return processors(nanos, "a container has at least 0.01");
        }
        Some(nanos) if nanos > 1_000_000_000_000_000 => return processors(nanos, "no host has as many"),
        _ => {}
    }
    match create.pids {
        Some(pids) if pids < -1 => {
            Err(SpecError::option("--pids-limit", &pids.to_string(), "expected a number; -1 is no limit"))
        }
        Some(pids) if pids > PIDS_MAX => {
            Err(SpecError::option("--pids-limit", &pids.to_string(), "no kernel has more than 4194304"))
        }
        _ if create.shm_size == Some(0) => {
            Err(SpecError::option("--shm-size", "0", "it has at least one byte"))
        }
        _ if create.shm_size > Some(most) => {
            bytes("--shm-size", create.shm_size.unwrap_or(0), "no host has as much")
        }
        _ => Ok(()),
    }
}

/// Checks the requested limits against the host's resources.
///
/// # Errors
/// [`SpecError::Option`] for more processors than the host has, as in docker.
pub fn check_host(create: &Create, host: &Host) -> Result<(), SpecError> {
    let nanos = create.nano_cpus.unwrap_or(0);
    if host.processors == 0 || nanos <= u64::from(host.processors) * CPU {
        return Ok(());
    }
    let why = format!("this host has {}; a container can have 0.01 up to that", host.processors);
    Err(SpecError::option("--cpus", &processors_text(nanos), why))
}

/// A size as people type it: `4m` for 4194304.
fn size_text(bytes: u64) -> String {
    let units = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
    let fits = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.into_iter().find(|(shift, _)| fits(*shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Billionths of a processor as people type them: `2.5` for 2500000000.
fn processors_text(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / CPU, nanos % CPU);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The limits that this host can enforce. Adds a warning for each requested limit that it cannot enforce.
pub fn limits(create: &Create, host: &Host, warnings: &mut Vec<String>) -> Resources {
    let mut can = |requested: bool, controller: &str, option: &str| {
        let can = host.controls(controller);
        if requested && !can {
            warnings.push(format!(
                "{option} is left out: this host's control groups ({}) have no controller {controller}",
                host.cgroups.word()
            ));
        }
        requested && can
    };
    let memory = create.memory.filter(|memory| *memory > 0);
    let has_memory = can(memory.is_some(), "memory", "--memory");
    let nanos = create.nano_cpus.filter(|nanos| *nanos > 0);
    let has_cpu = can(nanos.is_some(), "cpu", "--cpus");
    let pids = create.pids.filter(|pids| *pids > 0);
    let has_pids = can(pids.is_some(), "pids", "--pids-limit");
    Resources {
        devices: Vec::new(),
        memory: has_memory.then(|| memory_limits(create, memory.unwrap_or(0), host, warnings)),
        cpu: nanos.filter(|_| has_cpu).map(|nanos| {
            let quota = (u128::from(nanos) * u128::from(PERIOD) / 1_000_000_000).max(u128::from(QUOTA_MIN));
            Cpu { quota: i64::try_from(quota).unwrap_or(i64::MAX), period: PERIOD }
        }),
        pids: pids.filter(|_| has_pids).map(|limit| Pids { limit }),
    }
}

fn memory_limits(create: &Create, memory: u64, host: &Host, warnings: &mut Vec<String>) -> Memory {
    let limit = i64::try_from(memory).unwrap_or(i64::MAX);
    let requested = create.memory_swap.filter(|swap| *swap != 0);
    if !host.swap {
        if requested.is_some_and(|swap| swap != -1) {
            warnings.push(
                "--memory-swap is left out: this host's kernel does not count swap (swapaccount=1 on its command line)"
                    .to_owned(),
            );
        }
        return Memory { limit: Some(limit), swap: None };
    }
    // The default for swap is the amount of memory, as in docker.
    Memory { limit: Some(limit), swap: Some(requested.unwrap_or(limit.saturating_mul(2))) }
}

/// Checks the requested kernel parameters.
///
/// # Errors
/// [`SpecError::Option`] if a parameter does not belong to the container's own namespaces, so that it would change the
/// host.
pub fn check_sysctls(create: &Create) -> Result<(), SpecError> {
    for (key, value) in &create.sysctls {
        words::printable("--sysctl", key)?;
        words::printable("--sysctl", value)?;
        let bad = |why: &str| Err(SpecError::option("--sysctl", &format!("{key}={value}"), why));
        const IPC: [&str; 8] = [
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.sem",
            "kernel.shmall",
            "kernel.shmmax",
            "kernel.shmmni",
            "kernel.shm_rmid_forced",
        ];
        let is_net = key.starts_with("net.");
        let is_path = key.contains('/') && key.contains("..");
        if is_path || key.split('.').any(str::is_empty) {
            return bad("it is not the name of a kernel parameter");
        }
        if is_net && create.network == Network::Host {
            return bad("with --network host it would change the host's network");
        }
        if !(is_net
            || IPC.contains(&key.as_str())
            || key.starts_with("fs.mqueue.")
            || key == "kernel.domainname")
        {
            return bad(
                "it belongs to the whole host; a container can set net.*, fs.mqueue.* and those of System V IPC",
            );
        }
    }
    Ok(())
}

/// The kernel parameters of the container: the requested ones. A container with its own network also gets parameters
/// that let every user bind low ports and send pings, as in docker.
///
/// # Errors
/// [`SpecError::Option`] if a requested parameter would change the host. Which parameters do depends on `network`.
pub fn sysctls(
    create: &Create,
    network: Network,
    host: &Host,
) -> Result<BTreeMap<String, String>, SpecError> {
    check_sysctls(&Create { network, sysctls: create.sysctls.clone(), ..Create::default() })?;
    let mut all = BTreeMap::new();
    if network != Network::Host && host.unprivileged_ports {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // Let all groups open ICMP sockets, so that ping(8) needs no capability. icmp(7).
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    all.extend(create.sysctls.iter().cloned());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let controllers = ["memory", "cpu", "pids"].map(str::to_owned).into_iter().collect();
        Host { controllers, swap: true, ..Host::default() }
    }

    #[test]
    fn errors_show_the_value_as_it_is_typed() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (512 << 10, "512k"), (4 << 20, "4m"), (3 << 40, "3t")]
        {
            assert_eq!(size_text(bytes), text);
        }
        for (nanos, text) in
            [(1_000_000, "0.001"), (2_010_000_000, "2.01"), (10_000_000_000, "10"), (1, "0.000000001")]
        {
            assert_eq!(processors_text(nanos), text);
        }
    }

    #[test]
    fn limits_are_dockers() {
        let create = Create {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            pids: Some(50),
            ..Create::default()
        };
        let mut warnings = Vec::new();
        let limits = limits(&create, &host(), &mut warnings);
        assert_eq!(limits.memory, Some(Memory { limit: Some(64 << 20), swap: Some(128 << 20) }));
        assert_eq!(limits.cpu, Some(Cpu { quota: 150_000, period: 100_000 }));
        assert_eq!((limits.pids, warnings.len()), (Some(Pids { limit: 50 }), 0));
    }

    #[test]
    fn a_limit_without_its_controller_is_left_out_with_a_warning() {
        let create = Create {
            memory: Some(64 << 20),
            memory_swap: Some(99 << 20),
            pids: Some(50),
            ..Create::default()
        };
        let mut warnings = Vec::new();
        let none = limits(&create, &Host::default(), &mut warnings);
        assert_eq!((none.memory, none.pids, warnings.len()), (None, None, 2));
        let no_swap = limits(&create, &Host { swap: false, ..host() }, &mut warnings);
        assert_eq!((no_swap.memory.and_then(|m| m.swap), warnings.len()), (None, 3));
        assert_eq!(limits(&Create::default(), &Host::default(), &mut warnings).memory, None);
        assert_eq!(warnings.len(), 3, "nothing was requested");
    }

    #[test]
    fn more_processors_than_the_host_has_are_refused() {
        let ask = |nanos, processors| {
            let create = Create { nano_cpus: Some(nanos), ..Create::default() };
            check_host(&create, &Host { processors, ..Host::default() })
        };
        assert!(ask(2 * CPU, 2).is_ok() && ask(0, 2).is_ok() && ask(100 * CPU, 0).is_ok());
        let error = ask(2 * CPU + CPU / 100, 2).expect_err("more than there are").to_string();
        assert!(error.contains("--cpus \"2.01\"") && error.contains("has 2;"), "{error}");
    }

    #[test]
    fn invalid_limits_are_refused() {
        let bad = [
            Create { memory: Some(1), ..Create::default() },
            Create { memory: Some(u64::MAX), ..Create::default() },
            Create { memory_swap: Some(1 << 30), ..Create::default() },
            Create { memory: Some(2 << 30), memory_swap: Some(1 << 30), ..Create::default() },
            Create { memory: Some(2 << 30), memory_swap: Some(-2), ..Create::default() },
            Create { nano_cpus: Some(1), ..Create::default() },
            Create { nano_cpus: Some(u64::MAX), ..Create::default() },
            Create { pids: Some(-2), ..Create::default() },
            Create { pids: Some((4 << 20) + 1), ..Create::default() },
            Create { shm_size: Some(0), ..Create::default() },
            Create { shm_size: Some(u64::MAX), ..Create::default() },
        ];
        for create in bad {
            assert!(check(&create).is_err(), "{create:?}");
        }
    }

    #[test]
    fn only_parameters_of_the_containers_own_namespaces_can_be_set() {
        let ask = |key: &str, network| {
            check_sysctls(&Create { sysctls: vec![(key.into(), "1".into())], network, ..Create::default() })
        };
        for key in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"] {
            assert!(ask(key, Network::None).is_ok(), "{key}");
        }
        assert!(ask("net.ipv4.ip_forward", Network::Host).is_err());
        for key in ["kernel.core_pattern", "vm.swappiness", "net..x", "", "net./../../x", "fs.mqueue./../y"] {
            assert!(ask(key, Network::None).is_err(), "{key}");
        }
    }
}
