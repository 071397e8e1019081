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
        let missing: Vec<_> = written.ids.iter().filter(|id| !ids.contains_key(*id)).collect();
        format!(
            "{} of {} events are missing: {missing:?}\n{}",
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
            match random.below(8) {
                0 => machine.systemctl(&["restart", "sampan-*"]),
                1 => machine.systemctl(&["stop", "sampan-*"]),
                2 => machine.systemctl(&["stop", unit]),
                3 => machine.systemctl(&["daemon-reload"]),
                4 => machine.systemctl(&["restart", "--no-block", unit]),
                5 | 6 => {
                    let unit = *random.pick(&["sampan-monitord.service", "sampan-engine.service"]);
                    kill(machine, unit);
                    String::new()
                }
                _ => machine.systemctl(&["start", "sampan-engine.service"]),
            };
        }
        machine.install();
        machine.systemctl(&["daemon-reload"]);
        machine.systemctl(&["restart", "sampan-*"]);
        machine.systemctl(&["start", "sampan-engine.service", "sampan-monitord.service"]);
        await_up(machine);
        check(machine, &load.end());
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
        machine.systemctl(&["start", "sampan-events.socket"]);
        let events = machine.says(&["sampan", "events", "--after", "0", "--no-follow"]);
        assert!(events.contains("a b c"), "{events}");
        machine.await_unit("sampan-monitord.service", "active");
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        machine.says(&["sampan", "images"]);
        machine.await_unit("sampan-engine.service", "active");
    });
}
