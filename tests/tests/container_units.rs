//! Containers as units of systemd: installed by `make install`, under a real systemd as process 1.

use sampan_ipc::container::Phase;
use sampan_ipc::engine::{Request, StartUnit};
use sampan_tests::containers::{Containers, busybox};
use sampan_tests::host::{binary, wait_until};
use sampan_tests::leaks;
use sampan_tests::machine::Machine;
use sampan_tests::nested::{self, Groups};
use sampan_tests::rounds;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The `[Service]` section of a container's unit on a host with control groups of version 1.
const SERVICE: &str = "[Service]\nType=notify\nKillMode=mixed\nOOMPolicy=continue\n\
                       Delegate=cpu cpuacct cpuset io blkio memory devices pids\n";
/// A second unit, which makes systemd keep the state of a unit that has ended.
const KEEP: &str = "[Unit]\nAfter=web.service\n";
/// A script that prints `up`, and on SIGTERM exits with 3.
const GENTLE: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1 & wait; done";

/// Runs `test` on a machine with enabled sockets and an image `box:1` with busybox.
fn with_sampan<F: FnOnce(&mut Machine)>(machine: &mut Machine, test: F) {
    let sockets = ["monitord", "emit", "events", "engine"].map(|name| format!("sampan-{name}.socket"));
    let words: Vec<&str> =
        ["enable", "--now"].into_iter().chain(sockets.iter().map(String::as_str)).collect();
    machine.systemctl(&words);
    write_unit(machine, "keep.target", KEEP);
    machine.systemctl(&["start", "keep.target"]);
    fs::write(machine.path("/root/box.tar"), busybox().into_inner().expect("to memory")).expect("written");
    machine.stdout_of(&["sampan", "import", "--quiet", "box:1", "/root/box.tar"]);
    test(machine);
}

/// Writes a unit of any type, and makes systemd read it.
fn write_unit(machine: &Machine, name: &str, text: &str) {
    fs::write(machine.path("/etc/systemd/system").join(name), text).expect("written");
    machine.systemctl(&["daemon-reload"]);
}

/// Writes `web.service`, which starts a new container `web` each time, with `options` and a script for its shell.
/// `lines` come after those of [`SERVICE`].
fn write_web(machine: &Machine, lines: &str, options: &str, script: &str) {
    let script = script.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$").replace('%', "%%");
    let start =
        format!("ExecStart=/usr/bin/sampan run --unit --rm --name web {options} box:1 sh -c \"{script}\"\n");
    let before = "ExecStartPre=-/usr/bin/sampan rm --force web\n";
    write_unit(machine, "web.service", &[SERVICE, lines, "\n", before, &start].concat());
}

/// A property of `web.service`.
fn web(machine: &Machine, name: &str) -> String {
    machine.property("web.service", name)
}

/// Starts `web.service`, which becomes active.
fn start_web(machine: &Machine) {
    machine.systemctl(&["start", "web.service"]);
    assert_eq!(web(machine, "ActiveState"), "active", "{}", machine.logs());
}

/// Reads a file in /proc, on the host, of the process that has this ID in the machine.
fn read_proc(machine: &Machine, pid: &str, file: &str) -> String {
    fs::read_to_string(machine.path("/proc").join(pid).join(file)).unwrap_or_default()
}

/// The output of `sampan inspect` for container `web`.
fn inspect(machine: &Machine) -> Value {
    let text = machine.stdout_of(&["sampan", "container", "inspect", "web"]);
    serde_json::from_str::<Value>(&text).expect("JSON")[0].take()
}

/// Process ID of container `web`.
fn web_pid(machine: &Machine) -> String {
    inspect(machine)["State"]["Pid"].to_string()
}

/// Number of events so far, by container and action.
fn events(machine: &Machine) -> BTreeMap<String, BTreeMap<String, u32>> {
    let text = machine.stdout_of(&[
        "sampan",
        "events",
        "--after",
        "0",
        "--no-follow",
        "--filter",
        "type=container",
        "--format",
        "json",
    ]);
    let mut all: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for event in text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let of = |key: &str| event[key].as_str().expect("text").to_owned();
        *all.entry(of("id")).or_default().entry(of("action")).or_default() += 1;
    }
    all
}

/// The values of attribute `key` in the events `action`, in order.
fn attribute_values(machine: &Machine, action: &str, key: &str) -> Vec<String> {
    let filter = format!("event={action}");
    let text = machine.stdout_of(&[
        "sampan",
        "events",
        "--after",
        "0",
        "--no-follow",
        "--filter",
        "type=container",
        "--filter",
        &filter,
        "--format",
        "json",
    ]);
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.map(|event| event["attributes"][key].as_str().unwrap_or_default().to_owned()).collect()
}

/// Paths of the control groups of `web.service` in all hierarchies.
fn groups_of_web(machine: &Machine) -> String {
    machine.stdout_of(&["find", "/sys/fs/cgroup/", "-type", "d", "-path", "*/web.service*"])
}

/// Asserts that no control group, mount, directory or process of a container remains.
fn assert_nothing_left(machine: &Machine) {
    wait_until("the groups to go", || groups_of_web(machine), || groups_of_web(machine).is_empty());
    let dirs = ["/run/sampan/containers", "/var/lib/sampan/containers", "/run/sampan/runtime"];
    let names = |dir: &str| {
        machine.stdout_of(&["find", dir, "-mindepth", "1", "-maxdepth", "1", "-not", "-name", ".unsaid"])
    };
    let left = || dirs.iter().map(|dir| names(dir)).collect::<String>();
    wait_until("the directories to go", left, || left().is_empty());
    assert!(!read_proc(machine, "1", "mountinfo").contains("/var/lib/sampan/containers"));
}

#[test]
fn a_unit_is_its_container() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            write_web(machine, "MemoryMax=64M\n", "", GENTLE);
            start_web(machine);
            let (main, pid) = (machine.main_pid("web.service").expect("it runs"), web_pid(machine));
            assert_eq!(read_proc(machine, &main, "comm"), "sampan-shim\n");
            let state = inspect(machine)["State"].take();
            assert_eq!(
                (state["ShimPid"].to_string(), state["Unit"].as_str()),
                (main.clone(), Some("web.service"))
            );
            let groups = machine.stdout_of(&["cat", &format!("/proc/{pid}/cgroup")]);
            assert!(groups.contains("memory:/system.slice/web.service/"), "{groups}");
            machine.stdout_of(&["sampan", "exec", "web", "true"]);
            assert!(machine.stdout_of(&["sampan", "ps"]).contains("Up "));
            wait_until(
                "its output in the journal",
                || machine.logs(),
                || {
                    machine
                        .stdout_of(&["journalctl", "--output", "cat", "--unit", "web.service"])
                        .lines()
                        .any(|line| line == "up")
                },
            );
            assert_eq!(machine.stdout_of(&["sampan", "logs", "web"]), "up");
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(
                (web(machine, "ExecMainStatus"), web(machine, "Result")),
                ("3".into(), "exit-code".into())
            );
            assert_nothing_left(machine);
            let told_of = events(machine);
            let only = told_of.values().next().expect("one container");
            for action in ["create", "start", "kill", "die", "stop", "destroy"] {
                assert_eq!(only.get(action), Some(&1), "{action}: {told_of:?}");
            }
            assert_eq!(attribute_values(machine, "die", "exitCode"), ["3"]);
        });
    });
}

#[test]
fn stopping_a_unit_uses_its_containers_signal_and_timeout() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            // systemd sends SIGTERM only to the shim: no process of the container receives it.
            let script = "trap 'exit 8' TERM; trap 'exit 9' QUIT; echo up; while :; do sleep 1 & wait; done";
            write_web(machine, "SuccessExitStatus=9\n", "--stop-signal QUIT", script);
            start_web(machine);
            await_up(machine);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(
                (web(machine, "ExecMainStatus"), web(machine, "Result")),
                ("9".into(), "success".into())
            );
            // A container that ignores the signal is killed by the shim, not by systemd.
            write_web(
                machine,
                "TimeoutStopSec=3s\n",
                "--stop-timeout 4",
                "trap '' TERM; echo up; sleep 1000",
            );
            start_web(machine);
            await_up(machine);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(
                (web(machine, "ExecMainStatus"), web(machine, "Result")),
                ("137".into(), "exit-code".into())
            );
            assert_eq!(attribute_values(machine, "kill", "signal"), ["3", "15", "9"]);
            assert_nothing_left(machine);
        });
    });
}

/// Waits until the container's script has printed `up`.
fn await_up(machine: &Machine) {
    wait_until(
        "its trap",
        || machine.logs(),
        || machine.stdout_of(&["sampan", "logs", "web"]).lines().any(|line| line == "up"),
    );
}

#[test]
fn a_limit_of_the_unit_holds_for_its_container() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo \"dd: $?\"; exec sleep 1000";
            write_web(machine, "MemoryMax=40M\nTasksMax=50\n", "--memory 100m", script);
            start_web(machine);
            let groups = machine.stdout_of(&["cat", &format!("/proc/{}/cgroup", web_pid(machine))]);
            let limit = |hierarchy: &str, file: &str| {
                let find = |line: &str| Some(line.split_once(&format!(":{hierarchy}:"))?.1.to_owned());
                let own = PathBuf::from(groups.lines().find_map(find).expect("a group"));
                let group = |path: &Path| format!("/sys/fs/cgroup/{hierarchy}{}/{file}", path.display());
                [&own, own.parent().expect("below the unit")]
                    .map(|path| machine.stdout_of(&["cat", &group(path)]))
            };
            assert_eq!(limit("memory", "memory.limit_in_bytes"), ["104857600", "41943040"], "{groups}");
            assert_eq!(limit("pids", "pids.max")[1], "50");
            // In the container, the kernel kills only the process that uses too much memory.
            let said = || machine.stdout_of(&["sampan", "logs", "web"]);
            wait_until("the end of dd", || machine.logs(), || said().contains("dd: 137"));
            assert_eq!(web(machine, "ActiveState"), "active");
            let is_told = || inspect(machine)["State"]["OOMKilled"] == true;
            wait_until("the kill to be told", || machine.logs(), is_told);
            machine.stdout_of(&["sampan", "kill", "web"]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "ExecMainStatus"), "137");
            // Here the kernel kills process 1 of the container.
            write_web(machine, "MemoryMax=40M\n", "", "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
            machine.systemctl(&["reset-failed", "web.service"]);
            machine.run(&["systemctl", "start", "web.service"]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "ExecMainStatus"), "137");
            assert_eq!(attribute_values(machine, "oom", "name").len(), 2, "{:?}", events(machine));
        });
    });
}

#[test]
fn only_the_container_has_the_sockets_of_its_unit() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let text =
                "[Socket]\nListenFIFO=/run/web.fifo\nListenStream=/run/web.sock\nFileDescriptorName=things\n";
            write_unit(machine, "web.socket", text);
            let script = "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; readlink /proc/self/fd/4; head -n 1 <&3; \
                          echo up; exec sleep 1000";
            write_web(machine, "Sockets=web.socket\n", "--stop-timeout 0", script);
            machine.systemctl(&["start", "web.socket"]);
            assert_eq!(web(machine, "ActiveState"), "inactive");
            machine.stdout_of(&["sh", "-c", "echo hello >/run/web.fifo"]);
            machine.await_unit("web.service", "active");
            await_up(machine);
            let said = machine.stdout_of(&["sampan", "logs", "web"]);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!((lines[0], lines[2]), ("2 1 things:things", "hello"), "{said}");
            assert!(lines[1].starts_with("socket:["), "{said}");
            // A process of `exec` has neither the sockets nor their variables; a second run of the container has them
            // again.
            let script = "[ -e /proc/self/fd/3 ] || echo \"none ${LISTEN_FDS-}\"";
            assert_eq!(machine.stdout_of(&["sampan", "exec", "web", "sh", "-c", script]), "none ");
            machine.stdout_of(&["sh", "-c", "echo again >/run/web.fifo"]);
            machine.stdout_of(&["sampan", "restart", "-t", "0", "web"]);
            let said = || machine.stdout_of(&["sampan", "logs", "web"]);
            wait_until("the second run", || machine.logs(), || said().lines().any(|line| line == "again"));
            machine.systemctl(&["stop", "web.socket", "web.service"]);
            assert_nothing_left(machine);
        });
    });
}

#[test]
fn a_unit_survives_a_killed_engine_and_starts_a_stopped_one() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            // Only the engine's socket remains.
            machine.systemctl(&["stop", "sampan-engine.service"]);
            write_web(machine, "", "", GENTLE);
            start_web(machine);
            await_up(machine);
            let (main, pid) = (machine.main_pid("web.service"), web_pid(machine));
            for _ in 0..3 {
                let before = machine.main_pid("sampan-engine.service");
                machine.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "sampan-engine.service"]);
                let is_new =
                    || machine.main_pid("sampan-engine.service").is_some_and(|pid| Some(pid) != before);
                wait_until("the next engine", || machine.logs(), is_new);
                assert_eq!((machine.main_pid("web.service"), web_pid(machine)), (main.clone(), pid.clone()));
                assert_eq!(inspect(machine)["State"]["Unit"], "web.service");
                machine.stdout_of(&["sampan", "exec", "web", "true"]);
            }
            // Without an engine, the container's end is still reported, exactly once.
            machine.systemctl(&["stop", "sampan-engine.socket", "sampan-engine.service"]);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(web(machine, "ExecMainStatus"), "3");
            machine.run(&["systemctl", "start", "web.service"]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "ExecMainStatus"), "125");
            let log = machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
            assert!(log.contains("cannot connect to the engine at /run/sampan/engine.sock"), "{log}");
            machine.systemctl(&["start", "sampan-engine.socket"]);
            assert_nothing_left(machine);
            assert_eq!(attribute_values(machine, "die", "exitCode"), ["3"]);
            for (id, told_of) in events(machine) {
                assert!(
                    ["create", "start", "die"].iter().all(|action| told_of[*action] == 1),
                    "{id}: {told_of:?}"
                );
            }
        });
    });
}

#[test]
fn the_shim_answers_the_watchdog_until_it_hangs() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            write_web(machine, "WatchdogSec=4s\nRestart=no\n", "", GENTLE);
            start_web(machine);
            await_up(machine);
            let mut last = String::new();
            for _ in 0..3 {
                let is_new = || web(machine, "WatchdogTimestampMonotonic") != last;
                wait_until("an answer to the watchdog", || machine.logs(), is_new);
                last = web(machine, "WatchdogTimestampMonotonic");
            }
            let main = machine.main_pid("web.service").expect("it runs");
            machine.stdout_of(&["kill", "-STOP", &main]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "Result"), "watchdog");
            wait_until(
                "its end to be told",
                || machine.logs(),
                || !attribute_values(machine, "die", "reason").is_empty(),
            );
            assert_eq!(attribute_values(machine, "die", "reason"), ["its shim was killed"]);
            assert_nothing_left(machine);
        });
    });
}

#[test]
fn a_container_that_tells_systemd_itself_is_believed() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            // The container gets the host's program and its libraries by mounts.
            let options = "--sdnotify container -v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro";
            let script = "test -S \"$NOTIFY_SOCKET\" && test \"$WATCHDOG_USEC $WATCHDOG_PID\" = '5000000 1' && echo up; \
                          while [ ! -e /tmp/go ]; do sleep 0.05; done; /usr/bin/systemd-notify --ready; exec sleep 1000";
            write_web(
                machine,
                "NotifyAccess=all\nWatchdogSec=5s\nTimeoutStartSec=infinity\n",
                options,
                script,
            );
            machine.systemctl(&["start", "--no-block", "web.service"]);
            let is_there = || machine.run(&["sampan", "container", "inspect", "web"]).status.success();
            wait_until("the container", || machine.logs(), is_there);
            await_up(machine);
            assert_eq!(web(machine, "ActiveState"), "activating");
            machine.stdout_of(&["sampan", "exec", "web", "touch", "/tmp/go"]);
            machine.await_unit("web.service", "active");
            // The shim leaves the watchdog to the container, which does not answer it.
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "Result"), "watchdog");
        });
    });
}

#[test]
fn a_container_that_cannot_start_fails_its_unit_with_the_reason() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            for (command, status, why) in [
                ("/no/such", "127", "no such file or directory"),
                ("/etc/passwd", "126", "permission denied"),
            ] {
                let start = format!("ExecStart=/usr/bin/sampan run --unit --rm --name web box:1 {command}\n");
                write_unit(machine, "web.service", &[SERVICE, &start].concat());
                assert!(!machine.run(&["systemctl", "start", "web.service"]).status.success());
                assert_eq!(
                    (web(machine, "Result"), web(machine, "ExecMainStatus")),
                    ("exit-code".into(), status.into())
                );
                let log = machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
                assert!(log.contains("error: cannot start container web: ") && log.contains(why), "{log}");
                assert_nothing_left(machine);
            }
        });
    });
}

#[test]
fn what_cannot_be_a_unit_is_refused_and_leaves_no_container() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let run = "ExecStart=/usr/bin/sampan run --unit --name web box:1 sleep 1000\n";
            let through_shell =
                "ExecStart=/bin/sh -c '/usr/bin/sampan run --unit --name web box:1 true; exit $?'\n";
            let with = |more: &str| run.replace("--unit", &format!("--unit {more}"));
            for (lines, start, why) in [
                ("Delegate=\nDelegate=no\n", run, "does not delegate cpu to it"),
                ("Delegate=\nDelegate=yes\n", run, "does not delegate blkio to it"),
                ("User=nobody\n", run, "only root can"),
                ("", through_shell, "this is not the main process of a systemd unit"),
                ("", &*with("--restart always"), "cannot use --unit with --restart"),
                ("", &*with("-d"), "cannot use --unit with -d"),
                // systemd would treat this as a protocol error, and the container would go on without it.
                (
                    "",
                    &*run.replace("--unit", "-d --sdnotify=conmon"),
                    "the shim would be in the engine's unit",
                ),
                ("", "ExecStart=/usr/bin/sampan start --unit nosuch\n", "there is no container"),
                ("", "ExecStart=/usr/bin/sampan start --unit one two\n", "with several containers"),
            ] {
                write_unit(machine, "web.service", &[SERVICE, lines, start].concat());
                assert!(
                    !machine.run(&["systemctl", "start", "web.service"]).status.success(),
                    "{lines}{start}"
                );
                assert_eq!(web(machine, "ExecMainStatus"), "125");
                let log = || machine.stdout_of(&["journalctl", "--output", "cat", "--unit", "web.service"]);
                wait_until(why, || machine.logs(), || log().contains(why));
                assert_eq!(machine.stdout_of(&["sampan", "ps", "--all", "--quiet"]), "", "{lines}{start}");
            }
            // Outside of any unit.
            let output = machine.run(&["sampan", "run", "--unit", "box:1", "true"]);
            assert_eq!(output.status.code(), Some(125));
            let output = machine.run(&["env", "INVOCATION_ID=x", "sampan", "run", "--unit", "box:1", "true"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(125) && said.contains("is in no systemd service"), "{said}");
            assert_eq!(machine.stdout_of(&["sampan", "ps", "--all", "--quiet"]), "");
        });
    });
}

#[test]
fn a_container_of_a_unit_can_be_used_like_others() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let id = machine.stdout_of(&["sampan", "create", "--name", "web", "box:1", "sh", "-c", GENTLE]);
            let start = "ExecStart=/usr/bin/sampan start --unit web\n";
            write_unit(machine, "web.service", &[SERVICE, "SuccessExitStatus=3\n", start].concat());
            start_web(machine);
            await_up(machine);
            let (main, pid) = (machine.main_pid("web.service"), web_pid(machine));
            assert_eq!(machine.stdout_of(&["sampan", "start", "web"]), "web");
            assert_eq!(web_pid(machine), pid, "it ran already");
            // The unit goes on when the container gets another process 1.
            machine.stdout_of(&["sampan", "restart", "web"]);
            assert_ne!(web_pid(machine), pid);
            assert_eq!(
                (machine.main_pid("web.service"), web(machine, "ActiveState")),
                (main, "active".into())
            );
            let mut attach = machine.command(&["sampan", "attach", "--no-stdin", "web"]);
            let attached = attach.stdout(Stdio::piped()).spawn().expect("sh");
            wait_until(
                "the client",
                || machine.logs(),
                || !attribute_values(machine, "attach", "name").is_empty(),
            );
            machine.stdout_of(&["sampan", "pause", "web"]);
            machine.stdout_of(&["sampan", "stop", "web"]);
            let output = attached.wait_with_output().expect("ours");
            assert_eq!((output.status.code(), &*output.stdout), (Some(3), &b"bye\n"[..]));
            machine.await_unit("web.service", "inactive");
            assert_eq!(web(machine, "ExecMainStatus"), "3");
            // A container that was started by hand runs outside the unit, and a start of the unit is refused meanwhile.
            machine.stdout_of(&["sampan", "start", "web"]);
            assert_eq!(inspect(machine)["State"]["Unit"], "");
            assert!(!machine.run(&["systemctl", "start", "web.service"]).status.success());
            let log = machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
            assert!(log.contains("container \"web\" is already running"), "{log}");
            machine.stdout_of(&["sampan", "stop", "web"]);
            machine.systemctl(&["reset-failed", "web.service"]);
            start_web(machine);
            machine.stdout_of(&["sampan", "rm", "--force", "web"]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "ExecMainStatus"), "137");
            assert_eq!(events(machine)[&id]["destroy"], 1);
            assert_nothing_left(machine);
            // A restart policy is refused, since both systemd and the shim would restart the container.
            machine.stdout_of(&["sampan", "create", "--name", "web", "--restart", "always", "box:1", "true"]);
            assert!(!machine.run(&["systemctl", "start", "web.service"]).status.success());
            let log = machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
            assert!(log.contains("has a restart policy of its own"), "{log}");
        });
    });
}

#[test]
fn a_unit_whose_shim_is_killed_restarts_and_reports_each_end() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let lines = "Restart=always\nRestartSec=10ms\nStartLimitIntervalSec=0\n";
            write_web(machine, lines, "", GENTLE);
            machine.drop_in("web.service", "[Unit]\nStartLimitIntervalSec=0\n");
            start_web(machine);
            let kills = rounds(30);
            for round in 0..kills {
                let main = machine.main_pid("web.service").expect("it runs");
                let ends: &[&str] = match round % 3 {
                    0 => &["kill", "--kill-whom=main", "--signal=KILL"],
                    1 => &["kill", "--kill-whom=all", "--signal=KILL"],
                    _ => &["restart"],
                };
                machine.systemctl(&[ends, &["web.service"]].concat());
                let is_new = || {
                    web(machine, "ActiveState") == "active"
                        && machine.main_pid("web.service").is_some_and(|pid| pid != main)
                };
                wait_until("the next run", || machine.logs(), is_new);
            }
            machine.systemctl(&["stop", "web.service"]);
            assert_nothing_left(machine);
            let all = events(machine);
            let count = |action: &str| all.values().filter_map(|told| told.get(action)).collect::<Vec<_>>();
            assert_eq!(count("start").len(), kills + 1, "{all:?}");
            assert_eq!(count("die"), vec![&1; kills + 1], "{all:?}");
        });
    });
}

#[test]
fn a_generated_unit_is_valid_and_is_its_container() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let generate = |more: &[&str]| {
                machine.stdout_of(&[&["sampan", "generate", "systemd", "web"], more].concat())
            };
            let options =
                ["--name", "web", "-e", "A=$b %c \"d\"", "--stop-signal", "QUIT", "--cidfile", "/run/web.id"];
            let script = "echo \"$A\"; trap 'exit 131' QUIT; echo up; while :; do sleep 1 & wait; done";
            machine.stdout_of(
                &[&["sampan", "run", "-d"], options.as_slice(), &["box:1", "sh", "-c", script]].concat(),
            );
            machine.stdout_of(&["sampan", "stop", "web"]);
            let id = inspect(machine)["Id"].take();
            for (more, is_same) in [(&[][..], true), (&["--new"], false)] {
                let text = generate(more);
                for option in ["--name", "--rm", "--cidfile", "--detach", " -d "] {
                    assert!(text.matches(option).count() <= 1, "{option} stands twice: {text}");
                }
                write_unit(machine, "web.service", &text);
                let words = ["systemd-analyze", "verify", "--man=no", "/etc/systemd/system/web.service"];
                let complaints = machine.run(&words);
                assert!(
                    complaints.status.success() && complaints.stderr.is_empty(),
                    "{complaints:?}\n{text}"
                );
                start_web(machine);
                await_up(machine);
                let document = inspect(machine);
                assert_eq!(document["Id"] == id, is_same);
                assert_eq!(document["State"]["Unit"], "web.service");
                let said = machine.stdout_of(&["sampan", "logs", "--tail", "2", "web"]);
                assert_eq!(said.lines().next(), Some("$b %c \"d\""), "{said}");
                machine.systemctl(&["restart", "web.service"]);
                await_up(machine);
                machine.systemctl(&["stop", "web.service"]);
                assert_eq!(
                    (web(machine, "ExecMainStatus"), web(machine, "Result")),
                    ("131".into(), "success".into())
                );
            }
            assert_nothing_left(machine);
        });
    });
}

#[test]
fn a_unit_as_it_was_generated_before_still_works() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            machine.stdout_of(&["sampan", "create", "--name", "web", "box:1", "sh", "-c", GENTLE]);
            let text = "[Service]\nType=exec\nRestart=on-failure\nTimeoutStopSec=70\n\
                        ExecStart=/usr/bin/sampan start --attach web\nExecStop=/usr/bin/sampan stop --timeout 10 web\n";
            write_unit(machine, "web.service", text);
            start_web(machine);
            await_up(machine);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(web(machine, "ExecMainStatus"), "3");
        });
    });
}

#[test]
fn a_shim_in_a_unit_is_as_small_as_any_other() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            write_web(machine, "", "--stop-timeout 0", "exec sleep 1000");
            start_web(machine);
            machine.stdout_of(&["sampan", "run", "-d", "--name", "other", "box:1", "sleep", "1000"]);
            let shim = |name: &str| {
                let text = machine.stdout_of(&["sampan", "container", "inspect", name]);
                let document: Value = serde_json::from_str(&text).expect("JSON");
                document[0]["State"]["ShimPid"].to_string()
            };
            let shims = [shim("web"), shim("other")];
            let number = |pid: &String, file: &str, name: &str| {
                let text = read_proc(machine, pid, file);
                let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it runs");
                line.trim().trim_end_matches(" kB").parse::<u32>().expect("a number")
            };
            // Each shim releases memory half a second after its start.
            let sizes = || shims.each_ref().map(|pid| number(pid, "smaps_rollup", "Anonymous:"));
            let is_same = || sizes()[0] <= sizes()[1] + 16;
            wait_until("both to be small", || format!("{:?} KiB", sizes()), is_same);
            assert_eq!(shims.each_ref().map(|pid| number(pid, "status", "Threads:")), [1, 1]);
            machine.systemctl(&["stop", "web.service"]);
            machine.stdout_of(&["sampan", "rm", "-f", "other"]);
        });
    });
}

#[test]
fn output_goes_to_the_journal_once_whatever_the_log_driver_is() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let rounds = [
                ("json-file", "", false),
                ("journald", "", false),
                ("none", "", false),
                ("json-file", "StandardOutput=append:/run/web.out\nStandardError=journal\n", true),
            ];
            for (round, (driver, lines, in_file)) in rounds.into_iter().enumerate() {
                let script = format!("echo out{round}; echo err{round} >&2; exec sleep 1000");
                write_web(machine, lines, &format!("--stop-timeout 0 --log-driver {driver}"), &script);
                start_web(machine);
                let log = || machine.stdout_of(&["journalctl", "--output", "cat", "--unit", "web.service"]);
                let count = |word: &str| {
                    let word = format!("{word}{round}");
                    log().lines().filter(|line| *line == word).count()
                };
                let is_there = || count("err") > 0 && (in_file || count("out") > 0);
                wait_until("its output", || machine.logs(), is_there);
                machine.systemctl(&["stop", "web.service"]);
                assert_eq!((count("out"), count("err")), (usize::from(!in_file), 1), "{driver}: {}", log());
            }
            assert_eq!(machine.stdout_of(&["cat", "/run/web.out"]), "out3");
        });
    });
}

#[test]
fn no_other_unit_moves_a_container_out_of_its_groups() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            write_web(machine, "", "", GENTLE);
            start_web(machine);
            await_up(machine);
            let groups = || machine.stdout_of(&["cat", &format!("/proc/{}/cgroup", web_pid(machine))]);
            let before = groups();
            let other = "[Service]\nType=exec\nDevicePolicy=closed\nIOWeight=50\nExecStart=/bin/sleep 1000\n";
            write_unit(machine, "other.service", other);
            machine.systemctl(&["start", "other.service"]);
            assert_eq!(groups(), before);
            machine.systemctl(&["set-property", "--runtime", "web.service", "CPUWeight=50"]);
            machine.systemctl(&["stop", "other.service"]);
            machine.systemctl(&["daemon-reload"]);
            assert_eq!(groups(), before);
            // Mounting devices gives no access to devices that containers may not open.
            let open = "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg";
            let output = machine.run(&["sampan", "exec", "--privileged", "web", "sh", "-c", open]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("Operation not permitted"), "{output:?}");
            machine.systemctl(&["stop", "web.service"]);
            assert_nothing_left(machine);
        });
    });
}

#[test]
fn a_start_interrupted_between_engine_and_shim_is_undone() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let (shim, real) = ("/usr/bin/sampan-shim", "/usr/bin/real-shim");
            machine.stdout_of(&["mv", shim, real]);
            // Without a shim, the service's process has nothing to execute.
            write_web(machine, "", "", GENTLE);
            assert!(!machine.run(&["systemctl", "start", "web.service"]).status.success());
            assert_eq!(web(machine, "ExecMainStatus"), "125");
            let log = || machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
            assert!(log().contains("cannot become \"/usr/bin/sampan-shim\": No such file"), "{}", log());
            assert_nothing_left(machine);
            // The engine is killed before the shim exists: the next engine removes the unfinished start, and the client
            // fails.
            let wait = format!(
                "#!/bin/bash\ntouch /run/here\nwhile [ ! -e /run/go ]; do sleep 0.02; done\nexec -a {shim} {real} \"$@\"\n"
            );
            fs::write(machine.path(shim), wait).expect("written");
            machine.stdout_of(&["chmod", "755", shim]);
            machine.systemctl(&["start", "--no-block", "web.service"]);
            let is_here = || machine.path("/run/here").exists();
            wait_until("the client to be about to be a shim", || machine.logs(), is_here);
            machine.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "sampan-engine.service"]);
            let is_buried =
                || machine.run(&["sampan", "container", "inspect", "web"]).status.code() == Some(1);
            wait_until("the container to go", || machine.logs(), is_buried);
            machine.stdout_of(&["touch", "/run/go"]);
            machine.await_unit("web.service", "failed");
            assert_eq!(web(machine, "ExecMainStatus"), "125");
            assert!(log().contains("the engine ended before it had handed over the start"), "{}", log());
            assert_nothing_left(machine);
            // Here the client is killed instead.
            machine.stdout_of(&["rm", "/run/go", "/run/here"]);
            machine.systemctl(&["start", "--no-block", "web.service"]);
            wait_until("the client to be about to be a shim", || machine.logs(), is_here);
            machine.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "web.service"]);
            machine.await_unit("web.service", "failed");
            assert_nothing_left(machine);
            assert_eq!(attribute_values(machine, "start", "name"), Vec::<String>::new());
            machine.stdout_of(&["mv", real, shim]);
            start_web(machine);
            machine.systemctl(&["stop", "web.service"]);
        });
    });
}

#[test]
fn a_unit_whose_runtime_hangs_can_be_stopped() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let hang = "#!/bin/sh\ncase \"$*\" in *' run '*) touch /run/here; exec sleep 1000;; esac\nexec runc \"$@\"\n";
            fs::write(machine.path("/root/hang"), hang).expect("written");
            machine.stdout_of(&["chmod", "755", "/root/hang"]);
            write_web(machine, "TimeoutStartSec=infinity\n", "--runtime /root/hang --stop-timeout 1", GENTLE);
            machine.systemctl(&["start", "--no-block", "web.service"]);
            let is_here = || machine.path("/run/here").exists();
            wait_until("the runtime to hang", || machine.logs(), is_here);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(web(machine, "ExecMainStatus"), "125");
            let log = machine.stdout_of(&["journalctl", "--unit", "web.service", "--output", "cat"]);
            assert!(log.contains("the OCI runtime did not finish in"), "{log}");
            assert_nothing_left(machine);
        });
    });
}

#[test]
fn a_set_up_that_fits_no_socket_buffer_reaches_the_shim() {
    Machine::installed(|machine| {
        with_sampan(machine, |machine| {
            let labels: Vec<String> =
                (0..6).map(|nth| format!("--label=k{nth}={}", "x".repeat(100 << 10))).collect();
            let words = ["sampan", "import", "--quiet", "box:1", "/root/box.tar"].into_iter();
            let words: Vec<&str> = words.chain(labels.iter().map(String::as_str)).collect();
            machine.stdout_of(&words);
            write_web(machine, "", "", GENTLE);
            start_web(machine);
            await_up(machine);
            machine.systemctl(&["stop", "web.service"]);
            assert_eq!(web(machine, "ExecMainStatus"), "3");
        });
    });
}

#[test]
fn only_root_becomes_a_shim() {
    let containers = Containers::new();
    let id = containers.create_sh("web", "true");
    let socket = containers.host.path("run/engine.sock");
    for dir in [containers.host.path(""), containers.host.path("run")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("ours");
    let asked = StartUnit { container: id, pid: 1, ..StartUnit::default() };
    let request = Request::StartUnit(Box::new(asked));
    // A user that may use the engine's socket, but is not root.
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(65534)).expect("root may");
    let failure = containers.fails(request.clone());
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(0)).expect("it was root");
    assert!(failure.message.contains("must be run by root"), "{failure:?}");
    // The engine ignores the process ID in the request: it asks the kernel for the peer.
    let failure = containers.fails(request);
    let own = format!("process {} is in no systemd service", std::process::id());
    assert!(failure.message.contains(&own), "{failure:?}");
    assert_eq!(containers.summary("web").expect("there").phase, Phase::Created);
}

/// Runs `systemctl` of the systemd above this process; true if it succeeded.
fn systemctl(words: &[&str]) -> bool {
    Command::new("systemctl").args(words).output().expect("Debian's package systemd").status.success()
}

/// A property of `web.service` of that systemd.
fn property(name: &str) -> String {
    let words = ["show", "--value", "-p", name, "web.service"];
    let output = Command::new("systemctl").args(words).output().expect("Debian's package systemd");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Writes `web.service` for that systemd, for the test's installation.
fn write_web_of(containers: &Containers, lines: &str) {
    let variables = [("RUN", "run"), ("STATE", "state"), ("DATA", "data")]
        .map(|(name, dir)| format!("\"SAMPAN_{name}_DIR={}\"", containers.host.path(dir).display()));
    let program = binary("sampan");
    let text = format!(
        "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nType=notify\nKillMode=mixed\n{lines}\
         Environment={}\nExecStartPre=-\"{2}\" rm --force web\nStandardError=append:{1}\n\
         ExecStart=\"{2}\" run --unit --rm --name web --network host box:1 sh -c \"{GENTLE}\"\n",
        variables.join(" "),
        containers.host.path("web.log").display(),
        program.display(),
    );
    fs::write("/etc/systemd/system/web.service", text).expect("written");
    fs::write("/etc/systemd/system/keep.target", format!("{KEEP}DefaultDependencies=no\n")).expect("written");
    assert!(systemctl(&["daemon-reload"]) && systemctl(&["start", "keep.target"]));
}

/// The life of a unit on a host with only control groups of version 2, with `runtime`, `times` times.
fn live_on_version_2(runtime: &Path, times: usize) {
    let containers = Containers::configured(&format!("runtime = {runtime:?}"));
    write_web_of(&containers, "Delegate=no\n");
    assert!(!systemctl(&["start", "web.service"]));
    let said = fs::read_to_string(containers.host.path("web.log")).expect("written");
    assert!(said.contains("set Delegate=yes"), "{said}\n{}", containers.log());
    assert!(containers.summary("web").is_none());
    write_web_of(&containers, "Delegate=yes\nRestart=always\nRestartSec=10ms\n");
    assert!(systemctl(&["start", "web.service"]), "{}", containers.log());
    let group = Path::new("/sys/fs/cgroup/system.slice/web.service");
    let processes =
        |name: &str| fs::read_to_string(group.join(name).join("cgroup.procs")).unwrap_or_default();
    let mut main = property("MainPID");
    for round in 0..times {
        let is_there = || containers.summary("web").is_some_and(|web| web.pid > 0);
        wait_until("the container", || containers.log(), is_there);
        let web = containers.summary("web").expect("there");
        assert_eq!((processes("").as_str(), processes("supervisor").trim()), ("", main.as_str()));
        assert!(processes(&web.id).lines().any(|pid| pid == web.pid.to_string()));
        // The unit's controllers are available below it, and its next main process can still be started in it.
        let controllers = |name: &str| fs::read_to_string(group.join(name)).expect("a group");
        assert_eq!(controllers("cgroup.subtree_control"), controllers("cgroup.controllers"));
        containers.stdout_of(&["exec", "web", "true"]);
        match round % 3 {
            0 => assert!(systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "web.service"])),
            1 => assert!(systemctl(&["restart", "web.service"])),
            _ => drop(containers.stdout_of(&["stop", "web"])),
        }
        let is_next = |pid: &String| pid != "0" && *pid != main && property("ActiveState") == "active";
        let mut next = None;
        let mut is_there = || {
            next = Some(property("MainPID")).filter(is_next);
            next.is_some()
        };
        wait_until("the next run", || containers.log(), &mut is_there);
        main = next.expect("it runs");
    }
    let up = || containers.stdout_of(&["logs", "web"]) == "up";
    wait_until("its trap", || containers.log(), up);
    assert!(systemctl(&["stop", "web.service"]));
    assert_eq!(property("ExecMainStatus"), "3", "{}", containers.log());
    wait_until("the group to go", || containers.log(), || !group.exists());
    wait_until("all to go", || containers.log(), || leaks::left_of(&containers, &[]).is_empty());
}

#[test]
fn with_only_version_2_a_container_is_below_its_unit() {
    nested::under_systemd(Groups::Version2, || {
        let dir = tempfile::tempdir().expect("a directory");
        live_on_version_2(Path::new("runc"), rounds(50));
        // crun tries for seconds to enable controllers that the machine above does not provide.
        live_on_version_2(&nested::crun(dir.path()), 2);
    });
}
