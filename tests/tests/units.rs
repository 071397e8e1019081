//! The units as a product: installed by `make install`, under a real systemd as process 1.

use sampan_tests::host::wait_until;
use sampan_tests::load::{KIND, Load, Written};
use sampan_tests::machine::{Machine, UNITS};
use sampan_tests::random::Random;
use sampan_tests::rounds;
use std::collections::BTreeMap;
use std::fs;

/// How often each id of a load's event is in the journal.
fn journaled(machine: &Machine) -> BTreeMap<String, usize> {
    let words = ["sampan", "events", "--after", "0", "--no-follow", "--format", "json", "--filter"];
    let text = machine.says(&[&words, [format!("type={KIND}").as_str()].as_slice()].concat());
    let mut ids = BTreeMap::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        *ids.entry(event["id"].as_str().expect("text").to_owned()).or_default() += 1;
    }
    ids
}

/// Checks that all that was written is in the journal, once.
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
            "{} of {} events are missing, from and to: {missing:?}\n{}",
            missing.len(),
            written.ids.len(),
            machine.logs()
        )
    };
    wait_until("all events", missing, || all(&journaled(machine)));
    let ids = journaled(machine);
    let twice: Vec<_> = ids.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "twice: {twice:?}\n{}", machine.logs());
}

/// A journal that holds all of a load.
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

/// Load from each kind of writer on each FIFO.
fn load(machine: &Machine) -> Load {
    let mut load = Load::new();
    for fifo in ["monitor", "emit"] {
        let path = machine.path(&format!("/run/sampan/{fifo}.fifo"));
        load.add_one_shots(&format!("{fifo}-one-shot"), path.clone());
        load.add_persistent(&format!("{fifo}-persistent"), path);
    }
    load
}

/// Runs the words that follow as a member of the group `sampan`, who is nobody else.
const MEMBER: [&str; 6] =
    ["setpriv", "--reuid=12345", "--regid=12345", "--groups=sampan", "env", "SAMPAN_RUN_DIR=/run/sampan"];

/// Emits by the command line, one event a command, until the file `/tmp/stop` is there.
const EMIT: &str = r#"
nth=0
while [ ! -e /tmp/stop ]; do
    if sampan emit load emit "emit-$nth" 2>>/tmp/emit-failed; then echo "emit-$nth" >>/tmp/emitted; fi
    nth=$((nth + 1))
done
"#;

/// kill -9 of a service's process, if it has one.
fn kill(machine: &Machine, unit: &str) {
    machine.run(&["systemctl", "kill", "--signal", "KILL", "--kill-who", "main", unit]);
}

#[test]
fn what_one_shot_writers_wrote_is_kept_over_stop_and_start_while_nobody_else_holds_the_fifos() {
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
            all("stop");
            all("start");
            machine.await_unit("sampan-monitord.service", "active");
            machine.systemctl(&["stop", "sampan-monitord.service"]);
            all("start");
            all("restart");
            // While it waits to be started again.
            kill(machine, "sampan-monitord.service");
            machine.systemctl(&["stop", "sampan-*"]);
            all("start");
            // While it starts.
            machine.systemctl(&["restart", "--no-block", "sampan-monitord.service"]);
            all("stop");
            all("start");
        }
        let written = load.end();
        assert!(written.refused.is_empty(), "the FIFOs are there all the time: {:?}", written.refused);
        check(machine, &written);
    });
}

#[test]
fn no_event_that_was_written_is_lost_or_comes_twice_whatever_is_restarted_stopped_or_killed_in_any_order() {
    Machine::installed(|machine| {
        large_journal(machine);
        machine.systemctl(&["enable", "--now", "sampan-engine.service"]);
        await_up(machine);
        let load = load(machine);
        let mut member = machine.command(&[&MEMBER, ["sh", "-c", EMIT].as_slice()].concat()).spawn().expect("sh");
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
            // A command may cancel what one before it, which nobody waited for, is still doing.
            match random.below(8) {
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
fn a_first_emit_and_a_first_subscriber_start_monitord_and_a_first_command_the_engine() {
    Machine::installed(|machine| {
        machine.systemctl(&["enable", "--now", "sampan-monitord.socket", "sampan-emit.socket"]);
        machine.systemctl(&["enable", "--now", "sampan-events.socket", "sampan-engine.socket"]);
        assert_eq!(machine.main_pid("sampan-monitord.service"), None);
        machine.says(&["sampan", "emit", "a", "b", "c"]);
        machine.await_unit("sampan-monitord.service", "active");
        machine.systemctl(&["stop", "sampan-monitord.service"]);
        let events = machine.says(&["sampan", "events", "--after", "0", "--no-follow"]);
        assert!(events.contains("a b c"), "{events}");
        machine.await_unit("sampan-monitord.service", "active");
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        machine.says(&["sampan", "images"]);
        machine.await_unit("sampan-engine.service", "active");
    });
}
