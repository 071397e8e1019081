//! An engine takes over the containers of an earlier build: their state files, and their shims, which go on running.
//!
//! The programs of the earlier build are in `SAMPAN_BEFORE_DIR`; `make upgrade-test FROM=COMMIT` builds them and runs
//! this test. Without that variable, this build plays both parts.

use sampan_ipc::Event;
use sampan_ipc::container::Phase;
use sampan_tests::containers::{Attached, Containers};
use sampan_tests::host::{binary, wait_until};
use std::path::PathBuf;

/// The engine of the earlier build.
fn engine_before() -> PathBuf {
    match std::env::var_os("SAMPAN_BEFORE_DIR") {
        Some(dir) => PathBuf::from(dir).join("sampan-engine"),
        None => binary("sampan-engine"),
    }
}

fn of<'a>(events: &'a [Event], action: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.action == action).collect()
}

#[test]
fn containers_of_an_earlier_build_go_on_and_report_their_end() {
    let mut containers = Containers::with_engine_at(&engine_before());
    let run = |words: &[&str]| {
        let all = [&["run", "-d", "--network", "none"], words].concat();
        containers.stdout_of(&all)
    };
    let script = "trap 'exit 3' TERM; echo up; while true; do sleep 0.1; done";
    let stopped = run(&["--name", "stopped", "-l", "tier=web", "-e", "A=b", "box:1", "sh", "-c", script]);
    let ends =
        run(&["--name", "ends", "box:1", "sh", "-c", "while ! test -e /go; do sleep 0.05; done; exit 9"]);
    let again = run(&[
        "--name",
        "again",
        "--restart",
        "on-failure:1",
        "box:1",
        "sh",
        "-c",
        "test -e /go && exit 4; sleep 999",
    ]);
    let kept = containers.stdout_of(&["create", "--name", "kept", "box:1", "echo", "kept"]);
    let shims = containers.shims();
    let inspected = |name: &str| containers.stdout_of(&["inspect", name]);
    let before = ["stopped", "kept"].map(inspected);
    containers.kill_engine();

    containers.start_engine();
    assert_eq!(containers.shims(), shims, "no shim has ended and none was started");
    let inspected = |name: &str| containers.stdout_of(&["inspect", name]);
    assert_eq!(["stopped", "kept"].map(inspected), before);
    for name in ["stopped", "ends", "again"] {
        assert_eq!(containers.summary(name).expect("it is kept").phase, Phase::Running, "{name}");
    }
    // What a shim does for an engine: executions, clients, logs, pauses, a new name, another restart policy.
    assert_eq!(containers.stdout_of(&["exec", "stopped", "sh", "-c", "echo $A"]).trim(), "b");
    assert!(containers.stdout_of(&["logs", "stopped"]).contains("up"));
    assert!(containers.stdout_of(&["top", "stopped"]).contains("sleep"));
    containers.stdout_of(&["pause", "stopped"]);
    assert_eq!(containers.summary("stopped").expect("it is kept").phase, Phase::Paused);
    containers.stdout_of(&["unpause", "stopped"]);
    containers.stdout_of(&["rename", "stopped", "renamed"]);
    containers.stdout_of(&["stop", "renamed"]);
    let events = containers.events(&stopped, "stop");
    assert_eq!(of(&events, "die")[0].attributes.get("exitCode"), Some("3"));
    // The second run of a container gets a shim of this build.
    containers.stdout_of(&["start", "renamed"]);
    containers.stdout_of(&["rm", "-f", "renamed"]);
    assert_eq!(of(&containers.events(&stopped, "destroy"), "start").len(), 2);

    containers.stdout_of(&["exec", "ends", "touch", "/go"]);
    let events = containers.events(&ends, "die");
    assert_eq!(of(&events, "die")[0].attributes.get("exitCode"), Some("9"));

    // The shim of the earlier build decides about the restart: the policy allows one failure.
    containers.stdout_of(&["exec", "again", "touch", "/go"]);
    containers.stdout_of(&["kill", "-s", "KILL", "again"]);
    containers.await_summary("again", "its last end", |summary| summary.phase == Phase::Exited);
    wait_until("all shims to end", || containers.log(), || containers.shims().is_empty());
    assert!(!of(&containers.events(&again, "die"), "start").is_empty());

    let attached: Attached = containers.attach_start(&kept);
    let (_, said, _) = attached.to_end(b"");
    assert_eq!(said, "kept\n");
    for name in ["ends", "again", "kept"] {
        containers.stdout_of(&["rm", "-f", name]);
    }
}

#[test]
fn what_ends_between_the_two_engines_is_reported_by_the_second() {
    let mut containers = Containers::with_engine_at(&engine_before());
    let script = "while ! test -e /go; do sleep 0.05; done; exit 6";
    let id = containers.stdout_of(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "one",
        "box:1",
        "sh",
        "-c",
        script,
    ]);
    let pid = containers.summary("one").expect("it runs").pid;
    containers.kill_engine();
    std::fs::write(format!("/proc/{pid}/root/go"), "").expect("written");
    wait_until("its shim to end", || containers.log(), || containers.shims().is_empty());
    containers.start_engine();
    let summary = containers.summary("one").expect("it is kept");
    assert_eq!((summary.phase, summary.exit_code), (Phase::Exited, 6));
    let events = containers.events(&id, "die");
    assert_eq!(of(&events, "die").len(), 1);
    containers.stdout_of(&["rm", "one"]);
}
