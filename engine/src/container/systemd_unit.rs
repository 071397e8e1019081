//! A container as a unit of systemd's: which unit its client is the main process of, and what the unit changes.
//!
//! Called on the thread that starts the container. Trusts of the request only what the client knows better than the
//! kernel does; changes nothing on the host. docs/systemd-containers.md.

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

/// Most descriptors that a unit may pass on to its container.
const LISTEN_MAX: u32 = 256;
/// Longest list of their names, in bytes.
const NAMES_MAX: usize = 64 << 10;
/// What a unit's group has where systemd marks its groups, and where it lets the unit make groups of its own.
/// systemd, docs/CGROUP_DELEGATION.md.
const MARKS: (&str, &str) = ("trusted.invocation_id", "trusted.delegate");

/// What helps where a unit of version 1 is not given all controllers: [`shim::DELEGATE_V1`].
const DELEGATE_HINT: &str =
    "set Delegate=cpu cpuacct cpuset io blkio memory devices pids in the section [Service] of the unit";
/// Controllers of version 1 that systemd manages.
const MANAGED_V1: [&str; 5] = ["cpu", "blkio", "memory", "devices", "pids"];

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its control group: `/system.slice/web.service`.
    pub group: String,
    /// The OOM score of its processes.
    oom_score_adj: i32,
}

impl Unit {
    /// The unit that process `pid` is in.
    ///
    /// # Errors
    /// [`SpecError::Host`]: it is in none, or in one that may not have control groups below its own.
    pub fn of(pid: i32) -> Result<Self, SpecError> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (groups, is_v2) = (read("cgroup"), Host::get().cgroups == Cgroups::V2);
        let Some(group) = group_of(&groups, is_v2) else {
            return Err(SpecError::host(
                "start the container as a unit",
                format!("process {pid} is in no service of systemd's"),
                "'sampan generate systemd' writes a unit; --unit is for its ExecStart= alone",
            ));
        };
        let cannot = |why: String, hint| {
            SpecError::host(format!("start the container as the unit {}", name(group)), why, hint)
        };
        match is_v2 {
            true if !may_have_groups(&read_mounts(), group) => {
                let why = "systemd does not let it have control groups of its own".to_owned();
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

    /// Puts the container below the unit's group, and gives its first process what systemd passes on.
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

    /// What the shim has to know of it.
    pub fn for_shim(&self, create: &Create, asked: &StartUnit, log: &shim::Log) -> shim::Unit {
        // The journal has all of it already.
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

/// The container as the unit wants it: who says that it is ready, and to whom.
///
/// # Errors
/// [`SpecError::Option`]: what systemd is said to pass on makes no sense.
pub fn adapt(definition: &Definition, asked: &StartUnit) -> Result<Definition, SpecError> {
    if asked.listen > LISTEN_MAX {
        let why = format!("at most {LISTEN_MAX} descriptors can be passed on");
        return Err(SpecError::option("LISTEN_FDS", &asked.listen.to_string(), why));
    }
    if let Some(names) = &asked.listen_names
        && (names.len() > NAMES_MAX || names.contains(char::is_control))
    {
        return Err(SpecError::option("LISTEN_FDNAMES", names, "it is no list of names"));
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

/// The name of the unit whose group this is.
pub fn name(group: &str) -> &str {
    let name = group.rsplit('/').next().unwrap_or_default();
    // What would be taken for a file of the kernel's is escaped. systemd, docs/CGROUP_DELEGATION.md.
    name.strip_prefix('_').unwrap_or(name)
}

fn read_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// The group of the service that a process of these `groups` is in. proc_pid_cgroup(5).
fn group_of(groups: &str, is_v2: bool) -> Option<&str> {
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers == wanted).then_some(path)
        })
    };
    let path = if is_v2 { of("")? } else { of("name=systemd").or_else(|| of(""))? };
    let suffix = ".service";
    // It may be in a group below, which systemd or it itself has made. A path is from the root of all groups.
    let ends = path.rmatch_indices(suffix).map(|(at, _)| at + suffix.len());
    let is_whole =
        |end: &usize| path.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let end = ends.into_iter().find(is_whole)?;
    path.get(..end).filter(|path| path.starts_with('/') && !path.contains("/../"))
}

/// A controller of version 1 that systemd manages and does not leave to `unit`, if there is one: systemd moves the processes
/// of a unit there as other units come and go, and a container that is out of its group of devices may open all of them.
fn lacks_controllers(unit: &str, host: &Host) -> Result<Option<&'static str>, String> {
    let systemctl =
        runtime::search("systemctl").ok_or("there is no systemctl(1) to ask what it delegates")?;
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

/// True unless systemd says of this group that it is its own alone.
fn may_have_groups(mounts: &str, group: &str) -> bool {
    let marks = |mark: &str| {
        let name = CString::new(mark).unwrap_or_default();
        managed(mounts).any(|top| {
            let path = top.join(group.trim_start_matches('/')).into_os_string().into_encoded_bytes();
            CString::new(path).is_ok_and(|path| xattr::lgetxattr(&path, &name).is_ok())
        })
    };
    // Those before systemd 238 mark nothing.
    marks(MARKS.1) || !marks(MARKS.0)
}

/// Where the hierarchies are that systemd keeps its units in. cgroups(7), proc_pid_mountinfo(5).
fn managed(mounts: &str) -> impl Iterator<Item = &Path> {
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
    fn a_unit_is_known_by_its_group_in_each_version_and_nothing_else_is_one() {
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
    fn hierarchies_that_systemd_keeps_its_units_in_are_told_from_others() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\nnonsense\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(Path::new);
        assert_eq!(managed(mounts).collect::<Vec<_>>(), expected);
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
    fn the_container_gets_what_systemd_passes_on_and_nothing_of_the_hosts() {
        let (unit, asked) = (Unit { group: "/system.slice/web.service".into(), oom_score_adj: 300 }, asked());
        let mut definition = Definition::default();
        let mut spec = Spec::default();
        spec.process.env = vec!["A=1".into(), "LISTEN_PID=7".into()];
        let adapted = adapt(&definition, &asked).expect("good");
        unit.apply(&mut spec, "ab", &adapted.create, &asked);
        assert_eq!(spec.process.env, ["A=1", "LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=http:admin"]);
        assert_eq!(spec.linux.cgroups_path, "/system.slice/web.service/ab");
        assert_eq!(spec.process.oom_score_adj, Some(300));
        // The shim answers the watchdog, unless the container does.
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
    fn who_says_that_it_is_ready_is_asked_for_or_follows_from_the_container() {
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
    fn a_request_that_makes_no_sense_is_refused() {
        let refused = |asked: StartUnit| adapt(&Definition::default(), &asked).is_err();
        assert!(refused(StartUnit { listen: LISTEN_MAX + 1, ..asked() }));
        assert!(refused(StartUnit { listen_names: Some("a\0b".into()), ..asked() }));
        assert!(refused(StartUnit { listen_names: Some("x".repeat(NAMES_MAX + 1)), ..asked() }));
        assert!(!refused(asked()));
    }
}
