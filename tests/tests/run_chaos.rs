//! Containers while engine, shims and the OCI runtime are killed, and after a power cut.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::Event;
use sampan_ipc::container::{Listing, Phase, Summary};
use sampan_ipc::engine::{Answer, Request, Start};
use sampan_ipc::shim::State;
use sampan_shim::dir::state_file::{self, StateFile};
use sampan_tests::containers::{Containers, sh};
use sampan_tests::host::wait_until;
use sampan_tests::leaks;
use sampan_tests::random::Random;
use sampan_tests::rounds;
use sampan_tests::worker::{EXIT, Workers};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Seed of all random numbers; printed when a test fails.
const SEED: u64 = 0x5a4d_5041_4e04;
/// Number of kills of the engine.
const ENGINE_KILLS: usize = 200;
/// Number of kills of shims.
const SHIM_KILLS: usize = 40;
/// Number of kills of the runtime.
const RUNTIME_KILLS: usize = 25;
/// Number of copies of the state.
const COPIES: usize = 12;

/// Sleeps for a random time, so that the next kill hits another step: this waits for no condition.
fn a_moment(random: &mut Random, most_ms: usize) {
    std::thread::sleep(Duration::from_micros(random.below(most_ms * 1000) as u64));
}

fn all(containers: &Containers) -> Vec<Summary> {
    let listing = Listing { all: true, ..Listing::default() };
    let answers = containers.ok(Request::Containers(listing)).into_iter();
    answers.flat_map(|answer| if let Answer::Containers(part) = answer { part } else { Vec::new() }).collect()
}

/// Checks that containers that are listed as running do run, and that others do not.
fn check_states(containers: &Containers) {
    let runs = |s: &Summary| {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", s.pid)).unwrap_or_default();
        cgroup.contains(&s.id)
    };
    let wrong = || -> Vec<Summary> {
        let of = |s: &Summary| match s.phase {
            Phase::Running => !runs(s),
            Phase::Created | Phase::Exited => s.pid != 0,
            _ => true,
        };
        all(containers).into_iter().filter(of).collect()
    };
    wait_until("true states", || format!("{:?}\n{}", wrong(), containers.log()), || wrong().is_empty());
}

/// Removes all containers, and looks for anything that is left over.
fn sweep(containers: &Containers, ids: &[String]) {
    for summary in all(containers) {
        let request = Request::RemoveContainer { container: summary.id.clone(), force: true };
        match containers.ask(request).pop() {
            Some(Answer::Done(_)) => {}
            // The container was about to be removed anyway.
            Some(Answer::Error(failure)) if containers.summary(&summary.id).is_none() => drop(failure),
            other => panic!("{summary:?}: {other:?}\n{}", containers.log()),
        }
    }
    containers.await_no_shim();
    let left = || leaks::left_of(containers, ids);
    wait_until("nothing to be left", || format!("{:#?}\n{}", left(), containers.log()), || left().is_empty());
}

/// All events by container; every container must have been removed.
fn events(containers: &Containers) -> BTreeMap<String, Vec<Event>> {
    let last = containers.create(sh("the-last", "true"));
    containers.ok(Request::RemoveContainer { container: last.clone(), force: false });
    let mut by_id: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    let mut subscriber = containers.host.follow_from(0);
    for event in subscriber.until(|event| event.id == last && event.action == "destroy") {
        if event.kind == "container" {
            by_id.entry(event.id.clone()).or_default().push(event);
        }
    }
    by_id
}

/// What is wrong with the events of one container: each run, and the container itself, must begin and end exactly once.
fn faults(events: &[Event]) -> Option<String> {
    let (mut is_made, mut runs, mut is_gone) = (false, false, false);
    let mut execs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in events {
        let action = event.action.split(':').next().unwrap_or_default();
        let is_right = match action {
            "create" => !std::mem::replace(&mut is_made, true),
            "start" => !std::mem::replace(&mut runs, true),
            "die" => {
                let code = event.attributes.get("exitCode");
                let is_known = code == Some("137") || code == event.labels.get(EXIT) || code == Some("255");
                std::mem::replace(&mut runs, false) && is_known
            }
            "destroy" => !runs && !std::mem::replace(&mut is_gone, true),
            "exec_create" | "exec_start" | "exec_die" => {
                execs.entry(event.attributes.get("execID").unwrap_or_default()).or_default().push(action);
                true
            }
            _ => true,
        };
        if !is_right || !is_made {
            return Some(format!("{event:?}"));
        }
    }
    let bad = execs.values().find(|actions| {
        let good: [&[&str]; 2] = [&["exec_create", "exec_start", "exec_die"], &["exec_create", "exec_die"]];
        !good.contains(&actions.as_slice())
    });
    match (is_gone, bad) {
        (false, _) => Some("there is no destroy".to_owned()),
        (true, Some(bad)) => Some(format!("{bad:?}")),
        (true, None) => None,
    }
}

fn check_events(containers: &Containers, is_right: impl Fn(&[Event]) -> Option<String>) -> usize {
    let all = events(containers);
    let mut wrong = Vec::new();
    for (id, events) in &all {
        if let Some(fault) = is_right(events) {
            let words: Vec<&str> = events.iter().map(|event| event.action.as_str()).collect();
            wrong.push(format!("{id}: {fault}: {words:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "of {} containers, seed {SEED:#x}: {wrong:#?}\n{}",
        all.len(),
        containers.log()
    );
    all.len()
}

fn ids_of(containers: &Containers, ids: &mut HashSet<String>) {
    ids.extend(all(containers).into_iter().map(|summary| summary.id));
}

#[test]
fn a_killed_engine_loses_no_event_state_or_exit_code() {
    let mut containers = Containers::new();
    let (mut random, mut ids) = (Random::new(SEED), HashSet::new());
    let workers = Workers::begin(&containers, 3, SEED);
    for _ in 0..rounds(ENGINE_KILLS) {
        a_moment(&mut random, 150);
        containers.kill_engine();
        if random.one_in(4) {
            a_moment(&mut random, 50);
        }
        containers.start_engine();
        ids_of(&containers, &mut ids);
    }
    let done = workers.end();
    check_states(&containers);
    let ids: Vec<String> = ids.into_iter().collect();
    sweep(&containers, &ids);
    let told = check_events(&containers, faults);
    eprintln!("{done} requests done, {told} containers told of");
    assert!(done > rounds(ENGINE_KILLS), "only {done} requests were done");
    assert!(!containers.log().contains("panicked"), "{}", containers.log());
}

#[test]
fn a_killed_shim_leaves_nothing_and_its_container_is_dead() {
    let containers = Containers::new();
    let (mut random, mut ids) = (Random::new(SEED + 1), HashSet::new());
    let workers = Workers::begin(&containers, 3, SEED + 1);
    for _ in 0..rounds(SHIM_KILLS) {
        a_moment(&mut random, 100);
        wait_until("a shim to kill", || containers.log(), || !containers.shims().is_empty());
        let shims = containers.shims();
        if !shims.is_empty() {
            let _ = kill(Pid::from_raw(*random.pick(&shims)), Signal::SIGKILL);
        }
        ids_of(&containers, &mut ids);
    }
    workers.end();
    // The containers above may all have been starting or ending; this one surely runs.
    let sure = containers.create_sh("sure", "exec sleep 1000");
    containers.start(&sure);
    ids.insert(sure.clone());
    let is_its = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.contains(sure.as_str()))
    };
    let shim = containers.shims().into_iter().find(is_its).expect("it runs");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
    check_states(&containers);
    let ids: Vec<String> = ids.into_iter().collect();
    sweep(&containers, &ids);
    // Events of executions may be lost if their shim was killed, but no other events.
    let runs = |events: &[Event]| {
        let main: Vec<Event> = events.iter().filter(|e| !e.action.starts_with("exec_")).cloned().collect();
        faults(&main)
    };
    check_events(&containers, runs);
    let dead = containers.host.follow_from(0).until(|event| {
        event.id.is_empty() || event.action == "die" && event.attributes.get("reason").is_some()
    });
    assert_eq!(dead.last().and_then(|event| event.attributes.get("reason")), Some("its shim was killed"));
}

/// The runtime processes that shims of this installation have started.
fn runtimes(containers: &Containers) -> Vec<i32> {
    let children = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>()
    };
    let is_runtime = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"run")
    };
    containers.shims().iter().flat_map(children).filter(is_runtime).collect()
}

#[test]
fn a_killed_runtime_fails_the_start_and_leaves_nothing() {
    let containers = Containers::new();
    let mut random = Random::new(SEED + 2);
    let mut ids = Vec::new();
    let (mut failed, mut started) = (0, 0);
    for nth in 0..RUNTIME_KILLS {
        let id = containers.create(sh(&format!("half-{nth}"), "exec sleep 1000"));
        let request = Request::Start(Start { container: id.clone(), ..Start::default() });
        let socket = containers.send(request, &[]);
        wait_until(
            "the runtime",
            || containers.log(),
            || {
                !runtimes(&containers).is_empty()
                    || containers.summary(&id).is_some_and(|s| s.phase == Phase::Running)
            },
        );
        a_moment(&mut random, 60);
        for pid in runtimes(&containers) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        match sampan_tests::containers::answers(socket).pop() {
            Some(Answer::Done(_)) => started += 1,
            Some(Answer::Error(failure)) => {
                assert!(failure.message.contains("cannot start container"), "{failure:?}");
                failed += 1;
            }
            other => panic!("{other:?}"),
        }
        ids.push(id);
    }
    eprintln!("{failed} starts failed, {started} succeeded");
    assert!(failed > 0, "no runtime was hit");
    check_states(&containers);
    sweep(&containers, &ids);
    check_events(&containers, faults);
}

/// Copies a directory in its present state; files that disappear meanwhile are skipped.
fn copy(from: &Path, to: &Path) {
    let _ = fs::create_dir(to);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&from, &to),
            Ok(kind) if kind.is_file() => drop(fs::copy(&from, &to)),
            _ => {}
        }
    }
}

/// Changes the boot ID in all state files, as if the host had been rebooted.
fn change_boot(containers: &Path) {
    for entry in fs::read_dir(containers).expect("listed").flatten() {
        let path = entry.path().join("state");
        if let Some(state) = state_file::read(&path) {
            let state = State { boot: "another".to_owned(), ..state };
            StateFile::open(&path).and_then(|mut file| file.write(&state)).expect("written");
        }
    }
}

#[test]
fn after_a_power_cut_the_engine_repairs_and_reports_it() {
    let copies = tempfile::tempdir().expect("a directory");
    let mut random = Random::new(SEED + 3);
    {
        let containers = Containers::new();
        let workers = Workers::begin(&containers, 3, SEED + 3);
        for nth in 0..COPIES {
            a_moment(&mut random, 300);
            copy(&containers.host.path("data/containers"), &copies.path().join(nth.to_string()));
        }
        workers.end();
        sweep(&containers, &[]);
    }
    for nth in 0..COPIES {
        // Each copy needs its own monitord: otherwise events of another copy's later run would count for this one.
        let mut containers = Containers::new();
        containers.kill_engine();
        let copied = copies.path().join(nth.to_string());
        change_boot(&copied);
        // One copy has lost its state files: truncated, or missing.
        if nth % 4 == 3 {
            for entry in fs::read_dir(&copied).expect("listed").flatten() {
                let cut = fs::OpenOptions::new().write(true).open(entry.path().join("state"));
                let _ = cut.and_then(|file| file.set_len(random.below(20) as u64));
            }
        }
        copy(&copied, &containers.host.path("data/containers"));
        let ran: Vec<String> = fs::read_dir(&copied)
            .expect("listed")
            .flatten()
            .filter_map(|entry| {
                let state = state_file::read(&entry.path().join("state"))?;
                let name = entry.file_name().into_string().ok()?;
                (state.phase == Phase::Running && !name.starts_with('.')).then_some(name)
            })
            .collect();
        containers.start_engine();
        check_states(&containers);
        for id in &ran {
            let summary = containers.summary(id);
            if let Some(summary) = summary {
                assert_eq!((summary.phase, summary.exit_code), (Phase::Exited, 255), "{summary:?}");
                assert_eq!(summary.error, "the host restarted");
            }
            let died = containers.events(id, "die");
            assert_eq!(died.last().and_then(|e| e.attributes.get("reason")), Some("the host restarted"));
        }
        assert!(ran.is_empty() || containers.log().contains(": the host restarted"));
        sweep(&containers, &[]);
        assert!(!containers.log().contains("panicked"), "{}", containers.log());
    }
}
