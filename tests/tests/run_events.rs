//! All events of a container: their attributes, their subjects, and docker's names for them.

use sampan_ipc::Event;
use sampan_tests::containers::{Containers, IMAGE};
use sampan_tests::host::wait_until;
use sampan_tests::terminal::Terminal;
use std::collections::BTreeSet;

/// Attributes of an event in addition to name and image; events of a process have `pid` among them.
fn facts(action: &str) -> &'static [&'static str] {
    match action {
        "create" | "destroy" | "stop" => &[],
        "start" | "restart" | "oom" | "pause" | "unpause" | "attach" | "detach" | "top" => &["pid"],
        "kill" => &["pid", "signal"],
        "die" => &["pid", "exitCode", "execDuration"],
        "rename" => &["pid", "oldName"],
        "resize" => &["pid", "height", "width"],
        "exec_create" | "exec_start" | "exec_detach" => &["pid", "execID"],
        "exec_die" => &["pid", "exitCode", "execID"],
        other => panic!("{other} is none of docker's"),
    }
}

fn word(event: &Event) -> &str {
    event.action.split(':').next().unwrap_or_default()
}

fn fact<'a>(event: &'a Event, key: &str) -> &'a str {
    event.attributes.get(key).unwrap_or_default()
}

/// Runs a command on a terminal, waits until `shown` appears, and detaches by the keys.
fn at_terminal(containers: &Containers, words: &[&str], typed: &str, shown: &str) {
    let mut terminal = Terminal::start(containers.host.command("sampan").args(words), 33, 99);
    terminal.type_for(typed, shown);
    terminal.types(b"\x10\x11");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn every_event_has_its_facts_its_process_and_its_labels() {
    let containers = Containers::new();
    let says = |words: &[&str]| containers.stdout_of(words);
    let id = says(&["create", "-it", "-m", "32m", "--name", "old", "-l", "tier=web", "box:1", "sh"]);
    says(&["start", "old"]);
    at_terminal(&containers, &["attach", "old"], "stty size\n", "33 99");
    at_terminal(&containers, &["exec", "-it", "old", "sh"], "echo in$((1 + 1))\n", "in2");
    let first = containers.summary("old").expect("runs").pid.to_string();
    says(&["exec", "-d", "old", "sh", "-c", "exit 7"]);
    let is_over = |event: &Event| event.action == "exec_die" && fact(event, "exitCode") == "7";
    containers.host.follow_from(0).until(|event| is_over(event));
    says(&["top", "old"]);
    says(&["pause", "old"]);
    says(&["unpause", "old"]);
    says(&["rename", "old", "new"]);
    says(&["kill", "-s", "WINCH", "new"]);
    // The kernel kills the process that grows, not process 1.
    let grown = containers.sampan(&["exec", "new", "sh", "-c", "x=a; while true; do x=$x$x; done"]);
    assert_eq!(grown.status.code(), Some(137));
    let is_told = || containers.stdout_of(&["inspect", "new"]).contains("\"OOMKilled\": true");
    wait_until("the memory to be told of", || containers.log(), is_told);
    says(&["restart", "-t", "0", "new"]);
    let second = containers.summary("new").expect("runs").pid.to_string();
    says(&["stop", "-t", "0", "new"]);
    says(&["container", "prune", "-f"]);

    let events = containers.events(&id, "destroy");
    let kinds: BTreeSet<&str> = events.iter().map(word).collect();
    let all = "attach create destroy detach die exec_create exec_detach exec_die exec_start kill oom pause rename \
               resize restart start stop top unpause";
    assert_eq!(kinds, all.split_whitespace().collect());
    let renamed = events.iter().position(|event| event.action == "rename").expect("told");
    let again = events.iter().position(|event| event.action == "stop").expect("told");
    for (nth, event) in events.iter().enumerate() {
        let expected: BTreeSet<&str> = ["name", "image"].iter().chain(facts(word(event))).copied().collect();
        let has: BTreeSet<&str> = event.attributes.iter().map(|(key, _)| key).collect();
        assert_eq!(has, expected, "{event:?}");
        assert_eq!((event.kind.as_str(), fact(event, "image")), ("container", IMAGE), "{event:?}");
        assert_eq!(fact(event, "name"), if nth < renamed { "old" } else { "new" }, "{event:?}");
        let labels: BTreeSet<_> = event.labels.iter().collect();
        assert_eq!(labels, BTreeSet::from([("of", "image"), ("tier", "web")]), "{event:?}");
        if has.contains("pid") {
            assert_eq!(fact(event, "pid"), if nth < again { &first } else { &second }, "{event:?}");
        }
    }
    let of = |action: &str| events.iter().filter(|event| word(event) == action).collect::<Vec<_>>();
    assert_eq!(fact(of("rename")[0], "oldName"), "old");
    assert_eq!((fact(of("resize")[0], "height"), fact(of("resize")[0], "width")), ("33", "99"));
    assert!(of("kill").iter().any(|event| fact(event, "signal") == "28"));
    assert!(of("die").iter().all(|event| fact(event, "exitCode") == "137"));
    // An execution without a client has its events as well.
    let detached: Vec<_> = events.iter().filter(|event| event.action.ends_with(": sh -c exit 7")).collect();
    assert_eq!(detached.iter().map(|event| word(event)).collect::<Vec<_>>(), ["exec_create", "exec_start"]);
    let ended = of("exec_die").into_iter().find(|event| fact(event, "exitCode") == "7").expect("told");
    assert!(detached.iter().all(|event| fact(event, "execID") == fact(ended, "execID")));
    let left = of("exec_detach")[0];
    assert!(of("exec_start").iter().any(|event| fact(event, "execID") == fact(left, "execID")));

    // A prune is not an event of one container.
    let pruned = containers.host.follow_from(0).until(|event| event.action == "prune");
    let pruned = pruned.last().expect("told");
    assert_eq!((pruned.kind.as_str(), pruned.id.as_str()), ("container", ""));
    assert!(fact(pruned, "reclaimed").parse::<u64>().is_ok(), "{pruned:?}");
}
