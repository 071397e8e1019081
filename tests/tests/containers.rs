//! Containers by the engine's protocol: running, events, logs and removal.

use sampan_ipc::container::{AttachMessage, Condition, Create, Phase, Restart};
use sampan_ipc::engine::{Answer, Code, Request, Start, Stop};
use sampan_tests::containers::{Containers, IMAGE, sh};

fn stop(container: &str) -> Request {
    Request::Stop(Stop { container: container.to_owned(), timeout: Some(0), signal: None })
}

fn remove(container: &str, force: bool) -> Request {
    Request::RemoveContainer { container: container.to_owned(), force }
}

#[test]
fn what_runs_says_what_it_says_and_ends_as_it_ends() {
    let containers = Containers::new();
    let (told, out, err) =
        containers.run(sh("one", "cat; echo of $FROM_IMAGE; echo bad >&2; exit 7"), b"in\n");
    assert_eq!((told, out.as_str(), err.as_str()), (AttachMessage::Exited(7), "in\nof yes\n", "bad\n"));
    containers.await_summary("one", "the end to be known", |s| s.phase == Phase::Exited);
    let summary = containers.summary("one").expect("kept");
    assert_eq!((summary.exit_code, summary.pid, summary.image.as_str()), (7, 0, IMAGE));
    let events = containers.events(&summary.id, "die");
    let actions: Vec<&str> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["create", "attach", "start", "die"]);
    let die = events.last().expect("there");
    assert_eq!(die.attributes.get("exitCode"), Some("7"));
    assert_eq!(die.attributes.get("name"), Some("one"));
    assert_eq!(die.labels.get("of"), Some("image"));
    containers.ok(remove("one", false));
    assert!(containers.summary("one").is_none());
    assert_eq!(containers.actions(&summary.id, "destroy").last().map(String::as_str), Some("destroy"));
    assert!(!containers.host.path("data/containers").join(&summary.id).exists());
}

#[test]
fn a_missing_command_fails_with_127_an_unusable_one_with_126() {
    let containers = Containers::new();
    let command = |name: &str, word: &str| Create { command: vec![word.to_owned()], ..sh(name, "") };
    let id = containers.create(command("none", "/no/such"));
    let failure = containers.fails(Request::Start(Start { container: id.clone(), ..Start::default() }));
    assert_eq!(failure.code, Code::NoCommand, "{failure:?}");
    let id = containers.create(command("dir", "/etc"));
    let failure = containers.fails(Request::Start(Start { container: id.clone(), ..Start::default() }));
    assert_eq!(failure.code, Code::CannotRun, "{failure:?}");
    assert_eq!(containers.summary("dir").expect("kept").phase, Phase::Created);
}

#[test]
fn stop_kill_and_remove_are_told_in_docker_s_order() {
    let containers = Containers::new();
    let id = containers.create_sh("long", "sleep 1000");
    containers.start(&id);
    assert_eq!(containers.summary("long").expect("runs").phase, Phase::Running);
    let refused = containers.fails(remove("long", false));
    assert_eq!(refused.code, Code::Conflict);
    containers.ok(stop("long"));
    let summary = containers.summary("long").expect("kept");
    assert_eq!((summary.phase, summary.exit_code), (Phase::Exited, 137));
    let actions = containers.actions(&id, "stop");
    assert_eq!(actions, ["create", "start", "kill", "kill", "die", "stop"]);
    containers.start(&id);
    containers.ok(remove("long", true));
    let actions = containers.actions(&id, "destroy");
    assert_eq!(actions.get(6..), Some(["start", "kill", "die", "destroy"].map(str::to_owned).as_slice()));
}

#[test]
fn containers_and_their_exit_codes_outlive_a_killed_engine() {
    let mut containers = Containers::new();
    let goes_on = containers.create_sh("goes-on", "sleep 1000");
    let ends = containers.create_sh("ends", "while test ! -e /tmp/go; do sleep 0.05; done; exit 5");
    containers.start(&goes_on);
    containers.start(&ends);
    let before = containers.summary("goes-on").expect("runs");
    let pid = containers.summary("ends").expect("runs").pid;
    containers.kill_engine();
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").expect("written into the container");
    assert_eq!(containers.actions(&ends, "die").last().map(String::as_str), Some("die"), "without an engine");
    containers.start_engine();
    let after = containers.summary("goes-on").expect("runs");
    assert_eq!((after.phase, after.pid, after.started), (Phase::Running, before.pid, before.started));
    containers.await_summary("ends", "its end", |s| s.phase == Phase::Exited && s.exit_code == 5);
    let died = containers.actions(&ends, "die").iter().filter(|action| *action == "die").count();
    assert_eq!(died, 1);
    containers.ok(stop("goes-on"));
}

#[test]
fn a_container_whose_shim_is_killed_is_dead_and_cleaned_up() {
    let containers = Containers::new();
    let id = containers.create_sh("victim", "sleep 1000");
    containers.start(&id);
    let pid = containers.summary("victim").expect("runs").pid;
    let shims = containers.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    let shim = nix::unistd::Pid::from_raw(shims[0]);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
    containers.await_summary("victim", "its end", |s| s.phase == Phase::Exited);
    let summary = containers.summary("victim").expect("kept");
    assert!(summary.error.contains("shim was killed"), "{}", summary.error);
    // The process that inherits a zombie may not have reaped it yet.
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    containers.host.wait_until("its process to end", || stat().is_empty() || stat().contains(") Z "));
    let events = containers.events(&id, "die");
    assert!(events.last().expect("told").attributes.get("reason").is_some());
    // The container can be started again.
    containers.start(&id);
    containers.ok(remove("victim", true));
}

#[test]
fn what_is_to_go_goes_and_its_name_is_free_at_once() {
    let containers = Containers::new();
    for nth in 0..5 {
        let create = Create { auto_remove: true, ..sh("again", &format!("exit {nth}")) };
        let (told, ..) = containers.run(create, b"");
        assert_eq!(told, AttachMessage::Exited(nth));
    }
    containers.await_gone("again");
    let left = std::fs::read_dir(containers.host.path("data/containers")).expect("listed").count();
    assert_eq!(left, 0);
    containers.await_no_shim();
}

#[test]
fn a_policy_restarts_a_container_until_a_user_stops_it() {
    let containers = Containers::new();
    let create = Create { restart: Restart::OnFailure(2), ..sh("thrice", "exit 3") };
    let id = containers.create(create);
    containers.start(&id);
    containers.await_summary("thrice", "three runs", |s| s.phase == Phase::Exited && s.restarts == 2);
    let events = containers.events_up_to(&id, "die", 3);
    let actions: Vec<&str> = events.iter().map(|event| event.action.as_str()).collect();
    let again = ["start", "restart", "die"];
    assert_eq!(actions, [&["create", "start", "die"][..], &again, &again].concat());
    let always = containers.create(Create { restart: Restart::Always, ..sh("ever", "sleep 1000") });
    containers.start(&always);
    containers.ok(stop("ever"));
    assert_eq!(containers.summary("ever").expect("kept").phase, Phase::Exited);
}

#[test]
fn waiting_ends_with_the_container() {
    let containers = Containers::new();
    let id = containers.create_sh("waited", "sleep 0.2; exit 9");
    containers.start(&id);
    let wait = Request::Wait { container: "waited".to_owned(), condition: Condition::NotRunning };
    let answers = containers.ok(wait);
    assert_eq!(answers.first(), Some(&Answer::Exit { code: 9, error: String::new() }));
}

#[test]
fn a_container_that_was_restarted_takes_requests_as_before() {
    let containers = Containers::new();
    let id = containers.create_sh("again", "sleep 1000");
    containers.start(&id);
    let before = containers.summary("again").expect("runs").pid;
    let restart = Stop { container: "again".to_owned(), timeout: Some(0), signal: None };
    containers.ok(Request::Restart(restart));
    let summary = containers.summary("again").expect("runs");
    assert!(summary.phase == Phase::Running && summary.pid != before, "{summary:?}");
    containers.ok(Request::Pause { container: "again".to_owned() });
    containers.ok(Request::Unpause { container: "again".to_owned() });
    let actions = containers.actions(&id, "unpause");
    let again = ["create", "start", "kill", "kill", "die", "stop", "start", "restart", "pause", "unpause"];
    assert_eq!(actions, again);
    containers.ok(remove("again", true));
}
