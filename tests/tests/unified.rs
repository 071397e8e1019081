//! Containers on a host with only control groups of version 2, with runc and crun; and with systemd making the groups.
//!
//! Each test runs in namespaces in which that hierarchy covers the host's, or under a systemd of the test as process 1;
//! the host does not change. The host determines the controllers: those that its version 1 uses are missing, so limits
//! are either applied or reported.

use sampan_ipc::container::Phase;
use sampan_ipc::engine::{Answer, Info, Request};
use sampan_spec::host::{Cgroups, Host};
use sampan_tests::containers::Containers;
use sampan_tests::host::wait_until;
use sampan_tests::leaks;
use sampan_tests::nested::{self, Groups};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A device that containers may not open by default, and that needs no hardware.
const DEVICE: &str = "/dev/loop-control";

/// Calls `test` with an installation for each runtime.
fn by_each(test: impl Fn(&Containers)) {
    let dir = tempfile::tempdir().expect("a directory");
    for runtime in [PathBuf::from("runc"), nested::crun(dir.path())] {
        let table = format!("runtime = {runtime:?}\ncgroup-manager = 'cgroupfs'");
        test(&Containers::configured(&table));
    }
}

fn info(containers: &Containers) -> Info {
    match containers.ok(Request::Info).remove(0) {
        Answer::Info(info) => *info,
        other => panic!("{other:?}"),
    }
}

/// Path of the container's control group.
fn group(id: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/sampan").join(id)
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Number of processes in the container's control group.
fn count(id: &str) -> usize {
    read(group(id).join("cgroup.procs")).lines().count()
}

/// Starts a container that ends at SIGTERM; returns its ID.
fn run_long(containers: &Containers, name: &str) -> String {
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 1 & wait; done";
    let id = containers.stdout_of(&["run", "-d", "--name", name, "box:1", "sh", "-c", script]);
    wait_until("its trap", || containers.log(), || containers.stdout_of(&["logs", name]) == "up");
    id
}

/// Asserts that only the entry of a container is left, and removes it.
fn remove(containers: &Containers, id: &str) {
    // The shim ends after the runtime has deleted the container.
    containers.await_no_shim();
    assert!(!group(id).exists(), "{id}");
    containers.stdout_of(&["rm", id]);
    assert_eq!(leaks::left_of(containers, &[id.to_owned()]), Vec::<String>::new());
}

#[test]
fn a_container_sees_only_its_own_group_of_version_2() {
    nested::on_version_2(|| {
        let host = Host::probe();
        assert_eq!((host.cgroups, host.controls("no-such")), (Cgroups::V2, false));
        by_each(|containers| {
            assert_eq!(info(containers).cgroup, ("v2".to_owned(), "cgroupfs".to_owned()));
            let script = "cat /proc/self/cgroup; grep ' /sys/fs/cgroup ' /proc/mounts; ls /sys/fs/cgroup/*procs; \
                          mkdir /sys/fs/cgroup/mine 2>&1; ls -d /sys/fs/cgroup/sampan 2>/dev/null";
            let output = containers.sampan(&["run", "--rm", "box:1", "sh", "-c", script]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.lines().any(|line| line == "0::/"), "{said}");
            assert!(said.contains(" cgroup2 ro,nosuid,nodev,noexec"), "{said}");
            assert!(said.contains("/sys/fs/cgroup/cgroup.procs") && said.contains("Read-only"), "{said}");
            assert!(!said.contains("/sys/fs/cgroup/sampan"), "{said}");
        });
    });
}

#[test]
fn what_is_done_with_a_container_is_done_with_its_group() {
    nested::on_version_2(|| {
        by_each(|containers| {
            let id = run_long(containers, "one");
            let summary = containers.summary("one").expect("there");
            let processes = read(group(&id).join("cgroup.procs"));
            assert!(processes.lines().any(|pid| pid == summary.pid.to_string()), "{processes}");
            assert!(containers.stdout_of(&["exec", "one", "cat", "/proc/self/cgroup"]).contains("0::/"));
            let before = count(&id);
            containers.stdout_of(&["exec", "-d", "one", "sleep", "1000"]);
            wait_until("the execution in the group", || containers.log(), || count(&id) > before);
            assert!(containers.stdout_of(&["top", "one"]).contains("sleep 1000"));
            containers.stdout_of(&["pause", "one"]);
            assert_eq!(read(group(&id).join("cgroup.freeze")), "1\n");
            let is = |state: &str| read(group(&id).join("cgroup.events")).contains(state);
            wait_until("the group to be frozen", || containers.log(), || is("frozen 1"));
            assert_eq!(containers.summary("one").expect("there").phase, Phase::Paused);
            containers.stdout_of(&["unpause", "one"]);
            wait_until("the group to be thawed", || containers.log(), || is("frozen 0"));
            containers.stdout_of(&["stop", "one"]);
            assert_eq!(containers.summary("one").expect("kept").exit_code, 3);
            let actions = containers.actions(&id, "stop").join(" ");
            assert!(actions.contains("pause unpause kill"), "{actions}");
            remove(containers, &id);
        });
    });
}

#[test]
fn a_frozen_or_shimless_container_can_be_killed_completely() {
    nested::on_version_2(|| {
        by_each(|containers| {
            let id = run_long(containers, "frozen");
            containers.stdout_of(&["pause", "frozen"]);
            containers.stdout_of(&["kill", "frozen"]);
            containers
                .await_summary("frozen", "its end", |it| it.phase == Phase::Exited && it.exit_code == 137);
            wait_until("the group to go", || containers.log(), || !group(&id).exists());
            remove(containers, &id);
            let id = run_long(containers, "orphan");
            let shim = nix::unistd::Pid::from_raw(*containers.shims().first().expect("it has one"));
            nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it runs");
            containers.await_summary("orphan", "its end", |it| it.error.contains("its shim was killed"));
            wait_until("the group to go", || containers.log(), || !group(&id).exists());
            remove(containers, &id);
        });
    });
}

#[test]
fn only_requested_devices_can_be_opened() {
    nested::on_version_2(|| {
        let number = fs::metadata(DEVICE).expect("CONFIG_BLK_DEV_LOOP").rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        by_each(|containers| {
            let script = format!("mknod /tmp/it c {major} {minor} && dd if=/tmp/it count=0 2>&1");
            let open = |options: &[&str]| -> Output {
                containers.sampan(&[&["run", "--rm"], options, &["box:1", "sh", "-c", &script]].concat())
            };
            let refused = open(&[]);
            let why = String::from_utf8_lossy(&refused.stdout).into_owned();
            assert!(!refused.status.success() && why.contains("Operation not permitted"), "{refused:?}");
            let allowed = open(&["--device", DEVICE]);
            assert!(allowed.status.success(), "{allowed:?}");
            let all = open(&["--privileged"]);
            assert!(all.status.success(), "{all:?}");
        });
    });
}

#[test]
fn a_limit_without_a_controller_is_reported() {
    nested::on_version_2(|| {
        let host = Host::probe();
        let limits = [
            ("--memory", "64m", "memory", "memory.max", "67108864\n"),
            ("--cpus", "0.5", "cpu", "cpu.max", "50000 100000\n"),
            ("--pids-limit", "20", "pids", "pids.max", "20\n"),
        ];
        by_each(|containers| {
            let options = limits.map(|(option, value, ..)| [option, value]).concat();
            let words =
                [&["run", "-d", "--name", "limited"], options.as_slice(), &["box:1", "sleep", "1000"]];
            let output = containers.sampan(&words.concat());
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{told}");
            let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            for (option, _, controller, file, value) in limits {
                let is_told = told.contains(&format!(
                    "{option} is left out: this host's control groups (v2) have no controller {controller}"
                ));
                assert_eq!(is_told, !host.controls(controller), "{option}: {told}");
                if host.controls(controller) {
                    assert_eq!(read(group(&id).join(file)), value, "{option}");
                }
            }
            containers.stdout_of(&["stop", "-t", "0", "limited"]);
            remove(containers, &id);
        });
    });
}

/// Control groups of the trials of runtimes.
fn trials() -> BTreeSet<PathBuf> {
    let groups = fs::read_dir("/sys/fs/cgroup/sampan").into_iter().flatten().flatten();
    let is_trial = |path: &PathBuf| path.to_string_lossy().contains("/trial-");
    groups.map(|group| group.path()).filter(is_trial).collect()
}

#[test]
fn the_chosen_runtime_can_filter_devices_on_this_host() {
    nested::on_version_2(|| {
        let before = trials();
        let containers = Containers::configured("cgroup-manager = 'cgroupfs'");
        assert_eq!(containers.stdout_of(&["run", "--rm", "box:1", "echo", "hello"]), "hello");
        let (runtime, log) = (info(&containers).runtime, containers.log());
        // Groups of other installations disappear as well.
        let new: BTreeSet<PathBuf> = trials().difference(&before).cloned().collect();
        wait_until("the trials' groups to go", || format!("{new:?}"), || trials().is_disjoint(&new));
        // The engine tries crun first; if it does not use crun, its log has the reason.
        let why = "the OCI runtime /usr/bin/crun does not work on this host and is not used: setrlimit (RLIM_MEMLOCK)";
        assert_eq!(runtime.starts_with("runc "), log.contains(why), "{runtime}\n{log}");
    });
}

#[test]
fn crun_is_chosen_before_runc_where_it_works() {
    nested::on_version_2(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let crun = nested::crun(dir.path());
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", crun.parent().expect("absolute").display());
        let containers = Containers::on_path(&path, "cgroup-manager = 'cgroupfs'");
        let runtime = info(&containers).runtime;
        assert!(runtime.starts_with("crun ") && runtime.contains(crun.to_str().expect("text")), "{runtime}");
        assert_eq!(containers.stdout_of(&["run", "--rm", "box:1", "echo", "hello"]), "hello");
    });
}

#[test]
fn both_runtimes_fail_with_127_or_126_for_an_invalid_command() {
    nested::on_version_2(|| {
        by_each(|containers| {
            for (word, code) in [("/no/such", 127), ("no-such", 127), ("/etc/passwd", 126), ("/etc", 126)] {
                let output = containers.sampan(&["run", "--rm", "box:1", word]);
                assert_eq!(output.status.code(), Some(code), "{word}: {output:?}");
                let id = run_long(containers, "for-exec");
                let output = containers.sampan(&["exec", "for-exec", word]);
                assert_eq!(output.status.code(), Some(code), "exec {word}: {output:?}");
                containers.stdout_of(&["rm", "-f", &id]);
            }
        });
    });
}

/// A property of a container's unit in systemd.
fn property(id: &str, name: &str) -> String {
    let unit = format!("sampan-{id}.scope");
    let output = Command::new("systemctl").args(["show", "--value", "-p", name, &unit]).output();
    String::from_utf8_lossy(&output.expect("Debian's package systemd").stdout).trim().to_owned()
}

/// The life of a container with the default driver, on control groups of one of `versions`.
fn live_by_systemd(versions: &[&str]) {
    let containers = Containers::configured("runtime = 'runc'");
    let (version, driver) = info(&containers).cgroup;
    assert!(driver == "systemd" && versions.contains(&version.as_str()), "{version}, {driver}");
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 1 & wait; done";
    let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    let words = [&["run", "-d", "--name", "one"], limits.as_slice(), &["box:1", "sh", "-c", script]].concat();
    let id = containers.stdout_of(&words);
    wait_until("its trap", || containers.log(), || containers.stdout_of(&["logs", "one"]) == "up");
    let group = format!("/system.slice/sampan-{id}.scope");
    for (name, value) in [("ActiveState", "active"), ("Slice", "system.slice"), ("ControlGroup", &group)] {
        assert_eq!(property(&id, name), value, "{name}");
    }
    let pid = containers.summary("one").expect("there").pid;
    assert!(read(format!("/proc/{pid}/cgroup").into()).contains(&group));
    let memory = if version == "v2" { "MemoryMax" } else { "MemoryLimit" };
    let limits =
        [("memory", memory, "67108864"), ("cpu", "CPUQuotaPerSecUSec", "500ms"), ("pids", "TasksMax", "20")];
    for (controller, name, value) in limits {
        // Limits that cannot be applied were reported at the start, and the unit does not have them.
        assert_eq!(
            property(&id, name) == value,
            Host::probe().controls(controller),
            "{name} {}",
            property(&id, name)
        );
    }
    containers.stdout_of(&["exec", "-d", "one", "sleep", "1000"]);
    wait_until(
        "the execution",
        || containers.log(),
        || containers.stdout_of(&["top", "one"]).contains("sleep 1000"),
    );
    containers.stdout_of(&["pause", "one"]);
    assert_eq!(containers.summary("one").expect("there").phase, Phase::Paused);
    containers.stdout_of(&["unpause", "one"]);
    containers.stdout_of(&["stop", "one"]);
    assert_eq!(containers.summary("one").expect("kept").exit_code, 3);
    end_by_systemd(&containers, &id);
    let id = run_long(&containers, "orphan");
    let shim = nix::unistd::Pid::from_raw(*containers.shims().first().expect("it has one"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    containers.await_summary("orphan", "its end", |it| it.error.contains("its shim was killed"));
    end_by_systemd(&containers, &id);
}

/// Ends a container: its unit disappears, and nothing is left over when it is removed.
fn end_by_systemd(containers: &Containers, id: &str) {
    containers.await_no_shim();
    wait_until("the unit to go", || containers.log(), || property(id, "LoadState") == "not-found");
    containers.stdout_of(&["rm", id]);
    wait_until(
        "the rest to go",
        || containers.log(),
        || leaks::left_of(containers, &[id.to_owned()]).is_empty(),
    );
}

#[test]
fn systemd_as_process_1_makes_the_groups_and_has_the_limits() {
    nested::under_systemd(Groups::OfHost, || live_by_systemd(&["v1", "hybrid", "v2"]));
}

#[test]
fn systemd_makes_the_groups_of_version_2() {
    nested::under_systemd(Groups::Version2, || live_by_systemd(&["v2"]));
}

#[test]
fn groups_are_made_without_systemd_if_that_is_configured() {
    nested::under_systemd(Groups::Version2, || {
        let containers = Containers::configured("runtime = 'runc'\ncgroup-manager = 'cgroupfs'");
        let id = run_long(&containers, "one");
        assert_eq!(info(&containers).cgroup, ("v2".to_owned(), "cgroupfs".to_owned()));
        assert_eq!((property(&id, "LoadState").as_str(), count(&id) > 0), ("not-found", true));
        containers.stdout_of(&["stop", "one"]);
        remove(&containers, &id);
    });
}
