//! A container that a systemd unit runs: finds the unit of the client's process, and adapts the bundle to it.
//!
//! Called on the thread that starts the container. The kernel tells which unit it is; the request is trusted only for
//! facts that the kernel does not know. Changes nothing on the host. docs/systemd-containers.md.

use super::definition::Definition;
use sampan_ipc::container::{Create, Notify};
use sampan_ipc::engine::StartUnit;
use sampan_ipc::shim;
use sampan_os::xattr;
use sampan_spec::config_json::Spec;
use sampan_spec::error::SpecError;
use sampan_spec::host::{Cgroups, Host};
use sampan_spec::runtime;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// Most sockets that a unit may pass to its container.
const LISTEN_MAX: u32 = 256;
/// Longest list of the sockets' names, in bytes.
const NAMES_MAX: usize = 64 << 10;
/// Extended attributes of a unit's control group: systemd sets the first attribute on all of its groups, and the
/// second one on groups that it delegates. systemd, docs/CGROUP_DELEGATION.md.
const MARKS: (&str, &str) = ("trusted.invocation_id", "trusted.delegate");

/// The hint for a unit under cgroup version 1 that lacks controllers. The hint lists [`shim::DELEGATE_V1`].
const DELEGATE_HINT: &str =
    "set Delegate=cpu cpuacct cpuset io blkio memory devices pids in the section [Service] of the unit";
/// Controllers that systemd manages under cgroup version 1.
const MANAGED_V1: [&str; 5] = ["cpu", "blkio", "memory", "devices", "pids"];

/// A systemd unit that runs a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Path of the unit's control group, such as `/system.slice/web.service`.
    pub group: String,
    /// OOM score adjustment of the unit's processes. proc_pid_oom_score_adj(5).
    oom_score_adj: i32,
}

impl Unit {
    /// Finds the unit that process `pid` belongs to.
    ///
    /// # Errors
    /// [`SpecError::Host`] if the process is in no unit, or if systemd does not delegate the unit's control group.
    pub fn of(pid: i32) -> Result<Self, SpecError> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (groups, is_v2) = (read("cgroup"), Host::get().cgroups == Cgroups::V2);
        let Some(group) = group_of(&groups, is_v2) else {
            return Err(SpecError::host(
                "start the container as a unit",
                format!("process {pid} is in no systemd service"),
                "'sampan generate systemd' writes a unit; --unit is only for its ExecStart=",
            ));
        };
        let cannot = |why: String, hint| {
            SpecError::host(format!("start the container as the unit {}", name(group)), why, hint)
        };
        match is_v2 {
            true if !is_delegated(&read_mounts(), group) => {
                let why = "systemd does not delegate its control group to it".to_owned();
                return Err(cannot(why, "set Delegate=yes in the section [Service] of the unit"));
            }
            true => {}
            false => {
                let lacks = lacks_controllers(name(group), Host::get()).map_err(|why| cannot(why, ""))?;
                if let Some(controller) = lacks {
                    let why =
                        format!("systemd does not delegate {controller} to it, and would move the container");
                    return Err(cannot(why, DELEGATE_HINT));
                }
            }
        }
        Ok(Unit { group: group.to_owned(), oom_score_adj: read("oom_score_adj").trim().parse().unwrap_or(0) })
    }

    /// Puts the container into a group below the unit's group, and passes systemd's variables to its first process.
    pub fn apply(&self, spec: &mut Spec, id: &str, create: &Create, asked: &StartUnit) {
        spec.linux.cgroups_path = format!("{}/{id}", self.group);
        spec.process.oom_score_adj = Some(self.oom_score_adj);
        let env = &mut spec.process.env;
        let mut set = |name: &str, value: &str| {
            env.retain(|known| known.split('=').next() != Some(name));
            env.push(format!("{name}={value}"));
        };
        if asked.listen > 0 {
            set("LISTEN_FDS", &asked.listen.to_string());
            set("LISTEN_PID", "1");
            asked.listen_names.as_deref().inspect(|names| set("LISTEN_FDNAMES", names));
        }
        if let (Notify::Container, Some(us)) = (create.sdnotify, asked.watchdog_us) {
            set("WATCHDOG_USEC", &us.to_string());
            set("WATCHDOG_PID", "1");
        }
    }

    /// Returns the part of the shim's setup that concerns the unit.
    pub fn for_shim(&self, create: &Create, asked: &StartUnit, log: &shim::Log) -> shim::Unit {
        // The log driver writes the output to the journal already.
        let is_in_journal = matches!(log, shim::Log::Journald { .. });
        shim::Unit {
            group: self.group.clone(),
            listen: asked.listen,
            streams: if is_in_journal { [false; 2] } else { asked.streams },
            manager: asked.notify_socket.as_ref().map(PathBuf::from),
            watchdog_us: asked.watchdog_us.filter(|_| create.sdnotify != Notify::Container),
        }
    }
}

/// Returns the definition with the unit's readiness protocol: the process that reports that the container is ready,
/// and the socket for the report. sd_notify(3).
///
/// # Errors
/// [`SpecError::Option`] if the request names too many sockets, or if a name is not valid.
pub fn adapt(definition: &Definition, asked: &StartUnit) -> Result<Definition, SpecError> {
    if asked.listen > LISTEN_MAX {
        let why = format!("at most {LISTEN_MAX} sockets can be passed");
        return Err(SpecError::option("LISTEN_FDS", &asked.listen.to_string(), why));
    }
    if let Some(names) = &asked.listen_names
        && (names.len() > NAMES_MAX || names.contains(char::is_control))
    {
        return Err(SpecError::option("LISTEN_FDNAMES", names, "it is not a list of names"));
    }
    let own = match definition.create.sdnotify {
        Notify::Container => Notify::Container,
        Notify::Ignore | Notify::Conmon => Notify::Conmon,
    };
    let mut adapted = definition.clone();
    adapted.create.sdnotify = asked.notify.unwrap_or(own);
    adapted.create.notify_socket.clone_from(&asked.notify_socket);
    Ok(adapted)
}

/// Returns the name of the unit to which the control group `group` belongs.
pub fn name(group: &str) -> &str {
    let name = group.rsplit('/').next().unwrap_or_default();
    // systemd puts a `_` before a name that could be the name of a kernel file. systemd, docs/CGROUP_DELEGATION.md.
    name.strip_prefix('_').unwrap_or(name)
}

fn read_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// Returns the control group of the service to which a process with these `groups` belongs. proc_pid_cgroup(5).
fn group_of(groups: &str, is_v2: bool) -> Option<&str> {
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers == wanted).then_some(path)
        })
    };
    let path = if is_v2 { of("")? } else { of("name=systemd").or_else(|| of(""))? };
    let suffix = ".service";
    // The process may be in a group below the service's group. Use the last service name in the path, since the path
    // of a user manager also contains the name of a service.
    let ends = path.rmatch_indices(suffix).map(|(at, _)| at + suffix.len());
    let is_whole =
        |end: &usize| path.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let end = ends.into_iter().find(is_whole)?;
    path.get(..end).filter(|path| path.starts_with('/') && !path.contains("/../"))
}

/// Returns a controller that systemd manages under cgroup version 1 and does not delegate to `unit`, if any. systemd
/// moves the unit's processes within such a hierarchy when other units start or stop. A container that is moved out
/// of its group in the `devices` hierarchy could open every device.
fn lacks_controllers(unit: &str, host: &Host) -> Result<Option<&'static str>, String> {
    let systemctl = runtime::search("systemctl")
        .ok_or("systemctl(1) is not found, so what systemd delegates is unknown")?;
    let asked =
        runtime::run_program(&systemctl, &["show", "--value", "--property=DelegateControllers", "--", unit]);
    let delegated = match asked {
        Ok((Some(0), said, _)) => said,
        Ok((_, _, complaint)) => return Err(format!("systemctl show: {}", complaint.trim())),
        Err(error) => return Err(format!("systemctl show: {error}")),
    };
    let has = |wanted: &&str| delegated.split_whitespace().any(|one| one == *wanted);
    Ok(MANAGED_V1.into_iter().find(|controller| host.controls(controller) && !has(controller)))
}

/// Whether systemd delegates this group. True if systemd does not mark its groups at all.
fn is_delegated(mounts: &str, group: &str) -> bool {
    let marks = |mark: &str| {
        let name = CString::new(mark).unwrap_or_default();
        systemd_hierarchies(mounts).any(|top| {
            let path = top.join(group.trim_start_matches('/')).into_os_string().into_encoded_bytes();
            CString::new(path).is_ok_and(|path| xattr::lgetxattr(&path, &name).is_ok())
        })
    };
    // systemd before version 238 marks no group.
    marks(MARKS.1) || !marks(MARKS.0)
}

/// Returns the mount points of the cgroup hierarchies in which systemd keeps its units. cgroups(7),
/// proc_pid_mountinfo(5).
fn systemd_hierarchies(mounts: &str) -> impl Iterator<Item = &Path> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let is_one =
            kind == "cgroup2" || kind == "cgroup" && options.split(',').any(|one| one == "name=systemd");
        is_one.then(|| before.split(' ').nth(4).map(Path::new))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_recognised_by_its_control_group_in_each_version() {
        let hybrid = "4:memory:/\n1:name=systemd:/system.slice/web.service\n0::/system.slice/web.service/x\n";
        assert_eq!(group_of(hybrid, false), Some("/system.slice/web.service"));
        let v2 = "1:name=systemd:/\n0::/a.slice/a-b.slice/w@1.service/supervisor\n";
        assert_eq!(group_of(v2, true), Some("/a.slice/a-b.slice/w@1.service"));
        let of_user = "0::/user.slice/user-0.slice/user@0.service/app.slice/web.service\n";
        assert_eq!(
            group_of(of_user, true),
            Some("/user.slice/user-0.slice/user@0.service/app.slice/web.service")
        );
        for groups in [
            "0::/user.slice/session-1.scope\n",
            "0::/\n",
            "",
            "nonsense\n",
            "0::/../a.service\n",
            "0::/a.services\n",
        ] {
            assert_eq!(group_of(groups, true), None, "{groups:?}");
        }
        assert_eq!(
            (name("/system.slice/web.service"), name("/a/_cpu.service")),
            ("web.service", "cpu.service")
        );
    }

    #[test]
    fn the_hint_names_all_that_version_1_needs() {
        assert!(DELEGATE_HINT.contains(shim::DELEGATE_V1));
        assert!(MANAGED_V1.iter().all(|one| shim::DELEGATE_V1.split(' ').any(|other| other == *one)));
    }

    #[test]
    fn only_hierarchies_in_which_systemd_keeps_units_are_found() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\nnonsense\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(Path::new);
        assert_eq!(systemd_hierarchies(mounts).collect::<Vec<_>>(), expected);
    }

    fn asked() -> StartUnit {
        let notify_socket = Some("/run/systemd/notify".to_owned());
        let listen_names = Some("http:admin".to_owned());
        StartUnit {
            notify_socket,
            listen: 2,
            listen_names,
            watchdog_us: Some(2_000_000),
            ..StartUnit::default()
        }
    }

    #[test]
    fn the_container_gets_the_variables_of_the_request_only() {
        let (unit, asked) = (Unit { group: "/system.slice/web.service".into(), oom_score_adj: 300 }, asked());
        let mut definition = Definition::default();
        let mut spec = Spec::default();
        spec.process.env = vec!["A=1".into(), "LISTEN_PID=7".into()];
        let adapted = adapt(&definition, &asked).expect("good");
        unit.apply(&mut spec, "ab", &adapted.create, &asked);
        assert_eq!(spec.process.env, ["A=1", "LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=http:admin"]);
        assert_eq!(spec.linux.cgroups_path, "/system.slice/web.service/ab");
        assert_eq!(spec.process.oom_score_adj, Some(300));
        // The shim sends the watchdog messages, unless the container sends them.
        let of_shim = unit.for_shim(&adapted.create, &asked, &shim::Log::None);
        assert_eq!(
            (of_shim.manager, of_shim.watchdog_us),
            (Some("/run/systemd/notify".into()), Some(2_000_000))
        );
        definition.create.sdnotify = Notify::Container;
        let adapted = adapt(&definition, &asked).expect("good");
        assert_eq!(unit.for_shim(&adapted.create, &asked, &shim::Log::None).watchdog_us, None);
        unit.apply(&mut spec, "ab", &adapted.create, &asked);
        assert!(spec.process.env.ends_with(&["WATCHDOG_USEC=2000000".into(), "WATCHDOG_PID=1".into()]));
    }

    #[test]
    fn the_readiness_protocol_is_requested_or_follows_from_the_container() {
        let of = |made, asked_for| {
            let mut definition = Definition::default();
            definition.create.sdnotify = made;
            let adapted = adapt(&definition, &StartUnit { notify: asked_for, ..asked() }).expect("good");
            assert_eq!(adapted.create.notify_socket.as_deref(), Some("/run/systemd/notify"));
            adapted.create.sdnotify
        };
        assert_eq!(of(Notify::Ignore, None), Notify::Conmon);
        assert_eq!(of(Notify::Conmon, None), Notify::Conmon);
        assert_eq!(of(Notify::Container, None), Notify::Container);
        assert_eq!(of(Notify::Ignore, Some(Notify::Ignore)), Notify::Ignore);
    }

    #[test]
    fn an_invalid_request_is_refused() {
        let refused = |asked: StartUnit| adapt(&Definition::default(), &asked).is_err();
        assert!(refused(StartUnit { listen: LISTEN_MAX + 1, ..asked() }));
        assert!(refused(StartUnit { listen_names: Some("a\0b".into()), ..asked() }));
        assert!(refused(StartUnit { listen_names: Some("x".repeat(NAMES_MAX + 1)), ..asked() }));
        assert!(!refused(asked()));
    }
}
