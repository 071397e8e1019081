//! The installed units: `make install`, under a real systemd as process 1.

use sampan_tests::host::wait_until;
use sampan_tests::load::{KIND, Load, Written};
use sampan_tests::machine::{Machine, UNITS};
use sampan_tests::random::Random;
use sampan_tests::rounds;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

/// Number of occurrences of each ID of the load's events in the journal.
fn journaled(machine: &Machine) -> BTreeMap<String, usize> {
    let words = ["sampan", "events", "--after", "0", "--no-follow", "--format", "json", "--filter"];
    let text = machine.stdout_of(&[&words, [format!("type={KIND}").as_str()].as_slice()].concat());
    let mut ids = BTreeMap::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        *ids.entry(event["id"].as_str().expect("text").to_owned()).or_default() += 1;
    }
    ids
}

/// Checks that the journal has each written event exactly once.
fn check(machine: &Machine, written: &Written) {
    let all = |ids: &BTreeMap<String, usize>| written.ids.iter().all(|id| ids.contains_key(id));
    let missing = || {
        let ids = journaled(machine);
        let mut missing: Vec<(&str, u64, u64)> = Vec::new();
        let mut count = 0;
        for id in written.ids.iter().filter(|id| !ids.contains_key(*id)) {
            let (writer, nth) = id.rsplit_once('-').expect("a writer's number");
            let nth: u64 = nth.parse().expect("a number");
            count += 1;
            match missing.last_mut() {
                Some((last, _, to)) if *last == writer && *to + 1 == nth => *to = nth,
                _ => missing.push((writer, nth, nth)),
            }
        }
        format!(
            "{count} of {} events are missing, from and to: {missing:?}\n{}",
            written.ids.len(),
            machine.logs()
        )
    };
    wait_until("all events", missing, || all(&journaled(machine)));
    let ids = journaled(machine);
    let twice: Vec<_> = ids.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "twice: {twice:?}\n{}", machine.logs());
}

/// Makes the journal large enough for all events of a load.
fn large_journal(machine: &Machine) {
    fs::create_dir_all(machine.path("/etc/sampan")).expect("made");
    fs::write(machine.path("/etc/sampan/sampan.toml"), "[monitord]\njournal-bytes = \"1G\"\n")
        .expect("written");
}

/// Waits until all units of Sampan are up.
fn await_up(machine: &Machine) {
    for unit in UNITS {
        machine.await_unit(unit, "active");
    }
}

/// Starts a load with each kind of writer on each FIFO.
fn load(machine: &Machine) -> Load {
    let mut load = Load::new();
    for fifo in ["monitor", "emit"] {
        let path = machine.path(&format!("/run/sampan/{fifo}.fifo"));
        load.add_one_shots(&format!("{fifo}-one-shot"), path.clone());
        load.add_persistent(&format!("{fifo}-persistent"), path);
    }
    load
}

/// Runs the following words as a member of the group `sampan` without other privileges.
const MEMBER: [&str; 6] =
    ["setpriv", "--reuid=12345", "--regid=12345", "--groups=sampan", "env", "SAMPAN_RUN_DIR=/run/sampan"];

/// A script that emits events by the command line, one per command, until the file `/tmp/stop` exists.
const EMIT: &str = r#"
nth=0
while [ ! -e /tmp/stop ]; do
    if sampan emit load emit "emit-$nth" 2>>/tmp/emit-failed; then echo "emit-$nth" >>/tmp/emitted; fi
    nth=$((nth + 1))
done
"#;

/// Waits until systemd has no jobs, and has noticed the first event in each FIFO that it has open.
///
/// If a FIFO's unit is stopped before that, systemd discards the FIFO's content ("What remains" in docs/systemd.md).
fn await_first_events(machine: &Machine) {
    let is_settled = || {
        let has_seen = |unit: &&str| machine.property(unit, "SubState") != "listening";
        machine.stdout_of(&["systemctl", "list-jobs", "--no-legend"]).is_empty()
            && ["sampan-monitord.socket", "sampan-emit.socket"].iter().all(has_seen)
    };
    wait_until("the first event in each FIFO", || machine.logs(), is_settled);
}

/// Kills the main process of a service by SIGKILL, if there is one.
fn kill(machine: &Machine, unit: &str) {
    machine.run(&["systemctl", "kill", "--signal", "KILL", "--kill-who", "main", unit]);
}

#[test]
fn events_of_one_shot_writers_survive_a_stop_of_all_units() {
    Machine::installed(|machine| {
        large_journal(machine);
        let sockets = &UNITS[..3];
        let all = |verb: &str| machine.systemctl(&[&[verb], sockets].concat());
        all("start");
        let mut load = Load::new();
        for fifo in ["monitor", "emit"] {
            for nth in 0..2 {
                let path = machine.path(&format!("/run/sampan/{fifo}.fifo"));
                load.add_one_shots(&format!("{fifo}-{nth}"), path);
            }
        }
        for _ in 0..rounds(50) {
            await_first_events(machine);
            all("stop");
            all("start");
            machine.await_unit("sampan-monitord.service", "active");
            machine.systemctl(&["stop", "sampan-monitord.service"]);
            all("start");
            all("restart");
            await_first_events(machine);
            // While systemd waits before it starts the service again.
            kill(machine, "sampan-monitord.service");
            machine.systemctl(&["stop", "sampan-*"]);
            all("start");
            await_first_events(machine);
            // While the service starts.
            machine.systemctl(&["restart", "--no-block", "sampan-monitord.service"]);
            all("stop");
            all("start");
        }
        let written = load.end();
        // A FIFO may be full for a moment; an event that it refuses was not written.
        let is_full = |why: &&str| *why == "Try again";
        let refused = &written.refused;
        assert!(refused.keys().all(is_full), "the FIFOs are there all the time: {refused:?}");
        check(machine, &written);
    });
}

#[test]
fn no_written_event_is_lost_or_repeated_by_restarts_and_kills() {
    Machine::installed(|machine| {
        large_journal(machine);
        machine.systemctl(&["enable", "--now", "sampan-engine.service"]);
        await_up(machine);
        let load = load(machine);
        let mut member =
            machine.command(&[&MEMBER, ["sh", "-c", EMIT].as_slice()].concat()).spawn().expect("sh");
        for one in UNITS {
            for other in UNITS.into_iter().filter(|other| *other != one) {
                machine.systemctl(&["restart", one, other]);
            }
        }
        let seed = sampan_ipc::sender::random();
        eprintln!("seed {seed}");
        let mut random = Random::new(seed);
        for _ in 0..rounds(300) {
            let unit = *random.pick(&UNITS);
            let daemon = *random.pick(&["sampan-monitord.service", "sampan-engine.service"]);
            // A command may cancel the job of an earlier command that did not wait for it.
            let action = random.below(8);
            if matches!(action, 1 | 2) {
                await_first_events(machine);
            }
            match action {
                0 => machine.run(&["systemctl", "restart", "sampan-*"]),
                1 => machine.run(&["systemctl", "stop", "sampan-*"]),
                2 => machine.run(&["systemctl", "stop", unit]),
                3 => machine.run(&["systemctl", "daemon-reload"]),
                4 => machine.run(&["systemctl", "restart", "--no-block", unit]),
                5 | 6 => machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", daemon]),
                _ => machine.run(&["systemctl", "start", "sampan-engine.service"]),
            };
        }
        machine.install();
        machine.systemctl(&["daemon-reload"]);
        machine.systemctl(&["restart", "sampan-*"]);
        machine.systemctl(&["start", "sampan-engine.service", "sampan-monitord.service"]);
        await_up(machine);
        fs::write(machine.path("/tmp/stop"), "").expect("written");
        assert!(member.wait().expect("ours").success());
        let mut written = load.end();
        let emitted = fs::read_to_string(machine.path("/tmp/emitted")).expect("some were");
        written.ids.extend(emitted.lines().map(str::to_owned));
        check(machine, &written);
        let failed = fs::read_to_string(machine.path("/tmp/emit-failed")).expect("made");
        assert_eq!(failed, "", "a member of the group may emit all the time");
    });
}

#[test]
fn first_use_starts_monitord_and_the_engine() {
    Machine::installed(|machine| {
        machine.systemctl(&["enable", "--now", "sampan-monitord.socket", "sampan-emit.socket"]);
        machine.systemctl(&["enable", "--now", "sampan-events.socket", "sampan-engine.socket"]);
        assert_eq!(machine.main_pid("sampan-monitord.service"), None);
        machine.stdout_of(&["sampan", "emit", "a", "b", "c"]);
        machine.await_unit("sampan-monitord.service", "active");
        machine.systemctl(&["stop", "sampan-monitord.service"]);
        let events = machine.stdout_of(&["sampan", "events", "--after", "0", "--no-follow"]);
        assert!(events.contains("a b c"), "{events}");
        machine.await_unit("sampan-monitord.service", "active");
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        machine.import_box();
        machine.await_unit("sampan-engine.service", "active");
        machine.systemctl(&["stop", "sampan-engine.service"]);
        assert_eq!(
            machine.stdout_of(&["sampan", "run", "--rm", "--network", "none", "box:1", "echo", "hello"]),
            "hello"
        );
    });
}

/// Starts a container that sleeps for `seconds`, a number by which the test finds its process.
fn sleeper(machine: &Machine, name: &str, policy: &str, seconds: &str) {
    let words = ["sampan", "run", "-d", "--name", name, "--restart", policy, "--network", "none", "box:1"];
    machine.stdout_of(&[&words, ["sleep", seconds].as_slice()].concat());
}

#[test]
fn an_enabled_engine_starts_containers_at_boot_by_their_policy() {
    Machine::installed(|machine| {
        machine.systemctl(&["enable", "--now", "sampan-engine.service"]);
        machine.import_box();
        let wanted = [("always", "2001"), ("unless-stopped", "2002")];
        for (policy, seconds) in wanted {
            sleeper(machine, policy, policy, seconds);
        }
        sleeper(machine, "no", "no", "2003");
        sleeper(machine, "stopped", "unless-stopped", "2004");
        machine.stdout_of(&["sampan", "stop", "-t", "0", "stopped"]);
        let running = |machine: &Machine| {
            ["2001", "2002", "2003", "2004"].map(|seconds| machine.running(&["sleep", seconds]))
        };
        assert_eq!(running(machine), [1, 1, 1, 0]);
        for end in [Machine::shut_down, Machine::pull_plug] {
            end(machine);
            machine.boot();
            let seen = || format!("{:?}\n{}", running(machine), machine.logs());
            wait_until("the containers to be up", seen, || running(machine) == [1, 1, 0, 0]);
            let up = machine.stdout_of(&["sampan", "ps"]);
            let up =
                up.lines().skip(1).filter_map(|line| line.split_whitespace().last()).collect::<BTreeSet<_>>();
            assert_eq!(up, BTreeSet::from(["always", "unless-stopped"]));
        }
        let events = machine.stdout_of(&[
            "sampan",
            "events",
            "--after",
            "0",
            "--no-follow",
            "--filter",
            "type=daemon",
        ]);
        assert_eq!(
            events.matches("daemon start sampan-monitord").count(),
            3,
            "one journal of three boots: {events}"
        );
    });
}

#[test]
fn containers_go_on_without_their_engine_and_with_a_new_one() {
    Machine::installed(|machine| {
        machine.systemctl(&["enable", "--now", "sampan-engine.service"]);
        machine.import_box();
        sleeper(machine, "one", "no", "2001");
        let pid = |machine: &Machine| {
            let text = machine.stdout_of(&["sampan", "inspect", "one"]);
            let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            all[0]["State"]["Pid"].as_u64().filter(|pid| *pid != 0).expect("it runs")
        };
        let before = pid(machine);
        let is_there = |machine: &Machine| {
            assert_eq!(machine.running(&["sleep", "2001"]), 1, "{}", machine.logs());
        };
        machine.systemctl(&["stop", "sampan-engine.service", "sampan-engine.socket"]);
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        is_there(machine);
        machine.systemctl(&["start", "sampan-engine.socket"]);
        assert_eq!(pid(machine), before, "the first command starts the engine, which finds its container");
        kill(machine, "sampan-engine.service");
        assert_eq!(pid(machine), before);
        is_there(machine);
        machine.install();
        machine.systemctl(&["daemon-reload"]);
        // Not `sampan-*`, since the control group of each container is a unit with such a name, too.
        machine.systemctl(&["restart", "sampan-*.socket", "sampan-*.service"]);
        for unit in ["sampan-engine.service", "sampan-monitord.service"] {
            machine.await_unit(unit, "active");
            let pid = machine.main_pid(unit).expect("it runs");
            let program = fs::read_link(machine.path(&format!("/proc/{pid}/exe"))).expect("it runs");
            assert!(
                !program.to_string_lossy().contains("deleted"),
                "it is the new one: {}",
                program.display()
            );
        }
        assert_eq!(pid(machine), before);
        machine.stdout_of(&["sampan", "stop", "-t", "0", "one"]);
        assert_eq!(machine.running(&["sleep", "2001"]), 0);
    });
}

#[test]
fn a_daemon_that_hangs_is_started_again_by_its_watchdog() {
    Machine::installed(|machine| {
        let daemons = ["sampan-engine.service", "sampan-monitord.service", "sampan-supernode.service"];
        machine.systemctl(&[&["start"], daemons.as_slice()].concat());
        for unit in daemons {
            assert_ne!(machine.property(unit, "WatchdogUSec"), "0", "{unit} has one as it is installed");
            machine.drop_in(unit, "[Service]\nWatchdogSec=1s\n");
            machine.systemctl(&["restart", unit]);
            let hung = machine.main_pid(unit);
            machine.systemctl(&["kill", "--signal=STOP", "--kill-who=main", unit]);
            let is_new = || machine.main_pid(unit).is_some_and(|pid| Some(pid) != hung);
            wait_until("another process", || machine.logs(), is_new);
            machine.await_unit(unit, "active");
            assert!(machine.logs().contains(&format!("{unit}: Watchdog timeout")), "{}", machine.logs());
        }
        machine.stdout_of(&["sampan", "images"]);
        machine.stdout_of(&["sampan", "monitor", "status"]);
    });
}

#[test]
fn container_output_is_in_journald_with_its_streams_priority() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", "sampan-engine.service"]);
        machine.import_box();
        let script = "echo to stdout; echo to stderr >&2";
        let words = [
            "sampan",
            "run",
            "--rm",
            "--name",
            "talks",
            "--log-driver",
            "journald",
            "box:1",
            "sh",
            "-c",
            script,
        ];
        machine.stdout_of(&words);
        let words = ["journalctl", "--no-pager", "--output", "json", "CONTAINER_NAME=talks"];
        let said = || -> BTreeSet<(String, String)> {
            let lines = machine.stdout_of(&words);
            let lines =
                lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            lines.map(|line| (text(&line["MESSAGE"]), text(&line["PRIORITY"]))).collect()
        };
        let expected = [("to stdout", "6"), ("to stderr", "3")];
        let expected = expected.map(|(line, priority)| (line.to_owned(), priority.to_owned())).into();
        wait_until("both lines", || format!("{:?}", said()), || said() == expected);
    });
}

#[test]
fn neither_monitords_user_nor_a_watcher_reaches_the_engine() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", "sampan-engine.service", "sampan-monitord.service"]);
        let status = machine.stdout_of(&["sampan", "monitor", "status"]);
        assert!(status.contains("journal      seq 1 to"), "{status}");
        let directories = ["/var/lib/sampan", "/var/lib/sampan-monitord", "/var/lib/sampan-monitord/journal"];
        let modes = machine.stdout_of(&[&["stat", "--format", "%U %a"], directories.as_slice()].concat());
        assert_eq!(modes, "root 700\nsampan 700\nsampan 700");
        let pid = machine.main_pid("sampan-monitord.service").expect("it runs");
        let status = fs::read_to_string(machine.path(&format!("/proc/{pid}/status"))).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5)");
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let (uid, gid, groups) = (&field("Uid:")[0], &field("Gid:")[0], field("Groups:").join(","));
        let itself = [format!("--reuid={uid}"), format!("--regid={gid}"), format!("--groups={groups}")];
        let itself: Vec<&str> = itself.iter().map(String::as_str).collect();
        let watcher = ["--reuid=12345", "--regid=12345", "--groups=sampan"];
        let administrator = ["--reuid=12345", "--regid=12345", "--groups=sampan-admin"];
        let run = |who: &[&str], words: &[&str]| {
            let words = [&["setpriv"], who, &["env", "SAMPAN_RUN_DIR=/run/sampan"], words].concat();
            machine.run(&words)
        };
        for who in [itself.as_slice(), &watcher] {
            let refused = run(who, &["sampan", "images"]);
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && why.contains("Permission denied"), "{who:?}: {refused:?}");
        }
        assert!(run(&administrator, &["sampan", "images"]).status.success(), "{}", machine.logs());
        let emit = ["sampan", "emit", "a", "b", "c"];
        assert!(run(&watcher, &emit).status.success());
        assert!(!run(&administrator, &emit).status.success());
        let facts = ["sampan", "emit", "--fifo", "/run/sampan/monitor.fifo", "a", "b", "c"];
        assert!(!run(&watcher, &facts).status.success());
    });
}

#[test]
fn the_units_are_valid_and_no_more_exposed_than_documented() {
    Machine::installed(|machine| {
        let page =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/systemd.md")).expect("there");
        let (_, table) = page.split_once("## Exposure").expect("a table");
        let services = fs::read_dir(machine.path("/usr/lib/systemd/system")).expect("there").flatten();
        let names = services.map(|entry| entry.file_name().into_string().expect("text"));
        let units: Vec<String> = names.filter(|name| name.contains("sampan")).collect();
        assert_eq!(units.len(), 13, "{units:?}");
        for unit in units {
            let path = format!("/usr/lib/systemd/system/{unit}");
            let found = machine.run(&["systemd-analyze", "verify", "--man=no", &path]);
            assert!(found.status.success() && found.stderr.is_empty(), "{unit}: {found:?}");
            if !unit.ends_with(".service") {
                continue;
            }
            // The last line: "→ Overall exposure level for a.service: 1.3 OK :-)".
            let said =
                machine.stdout_of(&["systemd-analyze", "security", "--offline=true", "--no-pager", &path]);
            let last = said.lines().last().unwrap_or_default();
            let score =
                last.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
            let row = table.lines().find(|line| line.starts_with(&format!("| `{unit}` |"))).expect(&unit);
            let documented = row.split('|').nth(2).and_then(|cell| cell.trim().parse::<f64>().ok());
            let (score, documented) = (score.expect(last), documented.expect(row));
            assert!(score <= documented, "{unit}: {score}, and docs/systemd.md says {documented}\n{said}");
        }
    });
}

#[test]
fn a_fifo_of_another_installation_is_taken_over_a_file_is_not() {
    Machine::installed(|machine| {
        let script = "sampan up & echo $! >/tmp/up; wait";
        let mut up = machine.command(&["sh", "-c", script]).stderr(Stdio::null()).spawn().expect("sh");
        let serves = || machine.run(&["sampan", "monitor", "status"]).status.success();
        wait_until("sampan up", || machine.logs(), serves);
        machine.stdout_of(&["sh", "-c", "kill $(cat /tmp/up)"]);
        up.wait().expect("ours");
        let fifos = ["/run/sampan/monitor.fifo", "/run/sampan/emit.fifo"];
        let modes = || machine.stdout_of(&[&["stat", "--format", "%U %G %a"], fifos.as_slice()].concat());
        assert_eq!(modes(), "root sampan-facts 620\nroot sampan 620");
        machine.stdout_of(&["rm", "/run/sampan/emit.fifo"]);
        fs::write(machine.path("/run/sampan/emit.fifo"), "precious").expect("written");
        let refused = machine.run(&["systemctl", "start", "sampan-emit.socket"]);
        assert!(!refused.status.success(), "{refused:?}");
        assert!(machine.logs().contains("emit.fifo: it is a regular file"), "{}", machine.logs());
        assert_eq!(fs::read_to_string(machine.path("/run/sampan/emit.fifo")).expect("there"), "precious");
        machine.stdout_of(&["rm", "/run/sampan/emit.fifo"]);
        machine.systemctl(&[&["start"], &UNITS[..3]].concat());
        machine.stdout_of(&["sampan", "emit", "a", "b", "c"]);
        machine.stdout_of(&["sampan", "emit", "--fifo", "/run/sampan/monitor.fifo", "d", "e", "f"]);
        assert_eq!(modes(), "sampan sampan-facts 620\nsampan sampan 620");
        let events = machine.stdout_of(&["sampan", "events", "--after", "0", "--no-follow"]);
        assert!(events.contains("a b c") && events.contains("d e f"), "{events}");
    });
}

#[test]
fn events_wait_in_the_fifos_until_monitord_can_start() {
    Machine::installed(|machine| {
        fs::create_dir_all(machine.path("/etc/sampan")).expect("made");
        fs::write(machine.path("/etc/sampan/sampan.toml"), "[monitord]\nno-such-key = 1\n").expect("written");
        machine.systemctl(&["start", "sampan-monitord.socket", "sampan-emit.socket", "sampan-events.socket"]);
        machine.stdout_of(&["sampan", "emit", "a", "b", "1"]);
        machine.await_unit("sampan-monitord.service", "failed");
        machine.stdout_of(&["sampan", "emit", "a", "b", "2"]);
        machine.systemctl(&["restart", "sampan-*.socket"]);
        machine.stdout_of(&["sampan", "emit", "a", "b", "3"]);
        fs::write(machine.path("/etc/sampan/sampan.toml"), "").expect("written");
        machine.systemctl(&["restart", "sampan-monitord.service"]);
        let events =
            machine.stdout_of(&["sampan", "events", "--after", "0", "--no-follow", "--filter", "type=a"]);
        let ids: Vec<_> = events.lines().map(|line| line.split(' ').nth(3).unwrap_or_default()).collect();
        assert_eq!(ids, ["1", "2", "3"], "{}", machine.logs());
    });
}

#[test]
fn a_drop_in_can_have_monitord_run_as_another_user() {
    Machine::installed(|machine| {
        machine.drop_in("sampan-monitord.service", "[Service]\nUser=daemon\n");
        machine.systemctl(&["start", "sampan-monitord.service"]);
        machine.stdout_of(&["sampan", "emit", "a", "b", "c"]);
        let status = machine.stdout_of(&["sampan", "monitor", "status"]);
        assert!(status.contains("journal      seq 1 to"), "{status}");
        assert_eq!(machine.stdout_of(&["stat", "--format", "%U", "/var/lib/sampan-monitord"]), "daemon");
    });
}

#[test]
fn uninstalled_it_leaves_nothing_but_data() {
    Machine::installed(|machine| {
        assert!(
            machine.files_in_usr().len() > 50,
            "binaries, pages and completions: {:?}",
            machine.files_in_usr()
        );
        machine.systemctl(&["enable", "--now", "sampan-engine.service"]);
        machine.stdout_of(&["sampan", "emit", "a", "b", "c"]);
        await_up(machine);
        // The command in docs/systemd.md.
        machine.systemctl(&[&["disable", "--now"], UNITS.as_slice()].concat());
        machine.systemctl(&["stop", "hold-sampan-fifo@monitor.service", "hold-sampan-fifo@emit.service"]);
        machine.uninstall();
        machine.systemctl(&["daemon-reload"]);
        assert_eq!(machine.stdout_of(&["systemctl", "list-units", "--all", "--no-legend", "*sampan*"]), "");
        let left =
            machine.stdout_of(&["find", "/", "-xdev", "-name", "*sampan*", "-not", "-path", "/proc/*"]);
        let mut left: Vec<&str> = left.lines().collect();
        left.sort_unstable();
        assert_eq!(left, ["/var/lib/sampan", "/var/lib/sampan-monitord"]);
        for dir in ["/etc", "/run", "/usr/lib/systemd/system"] {
            let found = machine.stdout_of(&["find", dir, "-xdev", "-name", "*sampan*"]);
            let found: Vec<&str> = found.lines().filter(|path| *path != "/run/sampan").collect();
            assert_eq!(found, [""; 0], "{dir}");
        }
        assert_eq!(machine.files_in_usr(), Vec::<PathBuf>::new());
    });
}
