//! Many containers, at once and one after another: nothing is left over, and every run has its events exactly once and
//! in order.

use sampan_ipc::container::{Create, Phase};
use sampan_ipc::engine::{Answer, Request, Start, Stop};
use sampan_tests::containers::{Containers, answers, sh};
use sampan_tests::leaks;
use std::collections::HashMap;
use std::time::Instant;

/// Number of containers that run at the same time.
const CROWD: usize = 100;
/// Number of runs one after another.
const RUNS: usize = 1000;
/// Most KiB that the engine may grow in all those runs; its allocator keeps some memory.
const GROWTH_MAX: usize = 1024;

fn start(container: &str) -> Request {
    Request::Start(Start { container: container.to_owned(), ..Start::default() })
}

/// The actions of each container's events, in order.
fn actions(containers: &Containers, ids: &[String], last: &str) -> HashMap<String, Vec<String>> {
    let mut left: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
    let mut all: HashMap<String, Vec<String>> = HashMap::new();
    let mut subscriber = containers.host.follow_from(0);
    let events = subscriber.until(|event| {
        if event.action == last {
            left.remove(event.id.as_str());
        }
        left.is_empty()
    });
    for event in events {
        all.entry(event.id).or_default().push(event.action);
    }
    all
}

#[test]
fn a_hundred_concurrent_containers_leave_nothing() {
    let containers = Containers::new();
    let engine = containers.engine_pid();
    let before = leaks::descriptors(engine);
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let ids: Vec<String> =
        (0..CROWD).map(|nth| containers.create_sh(&format!("crowd-{nth}"), script)).collect();
    let started: Vec<_> = ids.iter().map(|id| containers.send(start(id), &[])).collect();
    for (id, socket) in ids.iter().zip(started) {
        let answers = answers(socket);
        assert!(matches!(answers.last(), Some(Answer::Done(_))), "{id}: {answers:?}");
    }
    assert_eq!(containers.shims().len(), CROWD);
    for id in &ids {
        assert_eq!(containers.summary(id).expect("there").phase, Phase::Running);
    }
    // Process 1 receives no signal without a handler for it, so the script must have installed its own.
    // pid_namespaces(7).
    let log = |id: &String| containers.host.path(&format!("data/containers/{id}/{id}-json.log"));
    let is_ready = |id: &String| std::fs::read_to_string(log(id)).is_ok_and(|text| text.contains("ready"));
    sampan_tests::host::wait_until("the handlers", || containers.log(), || ids.iter().all(is_ready));
    let stop = |id: &String| Request::Stop(Stop { container: id.clone(), timeout: Some(20), signal: None });
    let stopped: Vec<_> = ids.iter().map(|id| containers.send(stop(id), &[])).collect();
    for (id, socket) in ids.iter().zip(stopped) {
        let answers = answers(socket);
        assert!(matches!(answers.last(), Some(Answer::Done(_))), "{id}: {answers:?}");
    }
    for id in &ids {
        let summary = containers.summary(id).expect("there");
        assert_eq!((summary.phase, summary.exit_code), (Phase::Exited, 0), "{summary:?}");
    }
    containers.await_no_shim();
    assert_eq!(leaks::left_running(&containers, &ids), [""; 0]);
    for id in &ids {
        containers.ok(Request::RemoveContainer { container: id.clone(), force: false });
    }
    let actions = actions(&containers, &ids, "destroy");
    for id in &ids {
        assert_eq!(actions[id], ["create", "start", "kill", "die", "stop", "destroy"], "{id}");
    }
    let looks = || format!("{:?}", leaks::left_of(&containers, &ids));
    sampan_tests::host::wait_until("all to be gone", looks, || leaks::left_of(&containers, &ids).is_empty());
    let looks = || format!("{} descriptors, {before} before", leaks::descriptors(engine));
    sampan_tests::host::wait_until("no descriptor to be left", looks, || {
        leaks::descriptors(engine) <= before
    });
}

#[test]
fn many_successive_runs_leave_nothing_and_are_reported_once() {
    let containers = Containers::new();
    let engine = containers.engine_pid();
    let run = |nth: usize| {
        let create =
            Create { auto_remove: true, command: vec!["true".to_owned()], ..sh(&format!("run-{nth}"), "") };
        let id = containers.create(create);
        containers.start(&id);
        containers.await_gone(&id);
        id
    };
    // The first runs fill caches, so they are not measured.
    let mut ids: Vec<String> = (0..20).map(run).collect();
    containers.await_no_shim();
    let (descriptors, memory, begun) = (leaks::descriptors(engine), leaks::anonymous(engine), Instant::now());
    let runs = 20 + sampan_tests::rounds(RUNS);
    ids.extend((20..runs).map(run));
    eprintln!("{} runs in {:?}", runs - 20, begun.elapsed());
    containers.await_no_shim();
    let actions = actions(&containers, &ids, "destroy");
    for id in &ids {
        assert_eq!(actions[id], ["create", "start", "die", "destroy"], "{id}");
    }
    assert_eq!(leaks::left_of(&containers, &ids), [""; 0]);
    let looks = || format!("{} descriptors, {descriptors} before", leaks::descriptors(engine));
    let none_left = || leaks::descriptors(engine) <= descriptors;
    sampan_tests::host::wait_until("no descriptor to be left", looks, none_left);
    let now = leaks::anonymous(engine);
    eprintln!("engine: {memory} KiB before, {now} KiB after");
    assert!(now <= memory + GROWTH_MAX, "the engine grew from {memory} KiB to {now} KiB");
}
