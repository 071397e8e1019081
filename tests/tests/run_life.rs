//! Containers whose engine, monitor, shim, host or client ends, or whose runtime hangs; and options with effects
//! outside of the container: files, sockets, units, filters.

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sampan_ipc::Event;
use sampan_ipc::container::Phase;
use sampan_ipc::shim::State;
use sampan_shim::dir::state_file::{self, StateFile};
use sampan_tests::containers::{Containers, IMAGE};
use sampan_tests::host::{binary, wait_until};
use sampan_tests::terminal::Terminal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A command that waits for the file `/go`, and then exits with 3.
const UNTIL_GO: [&str; 3] = ["sh", "-c", "while ! test -e /go; do sleep 0.05; done; exit 3"];

fn actions(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.action.split(':').next().unwrap_or_default()).collect()
}

/// Starts a container by `run -d` with these options; returns its ID.
fn detached(containers: &Containers, options: &[&str], command: &[&str]) -> String {
    containers.stdout_of(&[&["run", "-d"], options, &["box:1"], command].concat())
}

fn go(containers: &Containers, container: &str) {
    let pid = containers.summary(container).expect("it runs").pid;
    fs::write(format!("/proc/{pid}/root/go"), "").expect("written into the container");
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
}

/// Kills all shims and their containers, as a power cut would.
fn kill_shims(containers: &Containers) {
    for shim in containers.shims() {
        let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).expect("it runs");
        kill(shim);
        children.split_whitespace().for_each(|child| kill(child.parse().expect("a pid")));
    }
    containers.await_no_shim();
}

/// Changes the boot ID in all state files, as if the host had been rebooted.
fn change_boot(containers: &Containers) {
    for entry in fs::read_dir(containers.host.path("data/containers")).expect("listed") {
        let path = entry.expect("read").path().join("state");
        let state = state_file::read(&path).expect("a whole state");
        let state = State { boot: "another".to_owned(), ..state };
        StateFile::open(&path).and_then(|mut file| file.write(&state)).expect("written");
    }
}

#[test]
fn a_container_that_a_person_restarts_obeys_afterwards() {
    let containers = Containers::new();
    let id = detached(
        &containers,
        &["--name", "again"],
        &["sh", "-c", "trap 'exit 4' TERM; echo ready; while true; do sleep 0.05; done"],
    );
    // Process 1 receives no signal without a handler for it, so the script must have installed its own.
    // pid_namespaces(7).
    let await_runs = |count: usize| {
        let is_ready = || containers.stdout_of(&["logs", "again"]).lines().count() == count;
        wait_until("the handler to be there", || containers.log(), is_ready);
    };
    for (nth, signal) in ["KILL", "TERM", "9"].into_iter().enumerate() {
        await_runs(nth + 1);
        assert_eq!(containers.stdout_of(&["restart", "-s", signal, "-t", "5", "again"]), "again");
    }
    await_runs(4);
    containers.stdout_of(&["kill", "-s", "TERM", "again"]);
    assert_eq!(containers.stdout_of(&["wait", "again"]), "4");
    containers.stdout_of(&["rm", "again"]);
    let events = containers.events(&id, "destroy");
    let once = ["kill", "die", "stop", "start", "restart"];
    let all = [&["create", "start"][..], &once, &once, &once, &["kill", "die", "destroy"]].concat();
    assert_eq!(actions(&events), all);
    let signals: Vec<_> = events.iter().filter_map(|event| event.attributes.get("signal")).collect();
    assert_eq!(signals, ["9", "15", "9", "15"]);
}

#[test]
fn what_is_to_go_goes_without_an_engine_and_without_a_client() {
    let mut containers = Containers::new();
    let id = detached(&containers, &["--rm", "--name", "alone"], &UNTIL_GO);
    let pid = containers.summary("alone").expect("runs").pid;
    containers.kill_engine();
    fs::write(format!("/proc/{pid}/root/go"), "").expect("written into the container");
    let events = containers.events(&id, "destroy");
    assert_eq!(actions(&events), ["create", "start", "die", "destroy"]);
    assert!(!containers.host.path("data/containers").join(&id).exists());
    containers.start_engine();
    assert!(containers.summary("alone").is_none());

    let mut client = containers.host.command("sampan");
    client.args(["run", "--rm", "--name", "left", "box:1"]).args(UNTIL_GO).stdout(Stdio::null());
    let mut client = client.spawn().expect("built");
    containers.await_summary("left", "its start", |summary| summary.phase == Phase::Running);
    let id = containers.summary("left").expect("runs").id;
    client.kill().expect("ours");
    client.wait().expect("ours");
    go(&containers, "left");
    let events = containers.events(&id, "destroy");
    assert_eq!(actions(&events), ["create", "attach", "start", "detach", "die", "destroy"]);
}

#[test]
fn ends_that_no_daemon_saw_are_reported_once_later() {
    let mut containers = Containers::new();
    let kept = detached(&containers, &["--name", "kept"], &UNTIL_GO);
    let gone = detached(&containers, &["--rm", "--name", "gone"], &UNTIL_GO);
    let pids = ["kept", "gone"].map(|name| containers.summary(name).expect("runs").pid);
    // The FIFO's content is lost when the last process closes it.
    for id in [&kept, &gone] {
        containers.events(id, "start");
    }
    containers.kill_engine();
    containers.host.kill9();
    for pid in pids {
        fs::write(format!("/proc/{pid}/root/go"), "").expect("written into the container");
    }
    // Shims wait ten seconds for the monitor, and then end.
    containers.await_no_shim();
    containers.host.start_monitord(&[]);
    containers.start_engine();
    assert_eq!(actions(&containers.events(&kept, "die")), ["create", "start", "die"]);
    let events = containers.events(&gone, "destroy");
    assert_eq!(actions(&events), ["create", "start", "die", "destroy"]);
    assert_eq!(events[2].attributes.get("exitCode"), Some("3"));
    containers.await_gone("gone");
}

#[test]
fn events_without_any_daemon_are_reported_once_and_in_order() {
    let mut containers = Containers::new();
    let policy = ["--restart", "on-failure:2", "--name", "kept", "-l", "k=v"];
    let kept = detached(&containers, &policy, &UNTIL_GO);
    let pid = containers.summary("kept").expect("runs").pid;
    containers.events(&kept, "start");
    containers.kill_engine();
    containers.host.kill9();
    fs::write(format!("/proc/{pid}/root/go"), "").expect("written into the container");
    // Shims wait ten seconds for the monitor, and then end.
    containers.await_no_shim();
    let unsaid = containers.host.path("data/containers/.unsaid");
    let left = || fs::read_dir(&unsaid).expect("made").count();
    assert_eq!(left(), 1);
    // An engine has read the events, not reported them to monitord yet, and is killed.
    containers.start_engine();
    let is_taken = || containers.log().contains("7 events that its shim could not write are replayed");
    wait_until("the engine to find it", || containers.log(), is_taken);
    containers.kill_engine();
    containers.host.start_monitord(&[]);
    containers.start_engine();
    let again = ["die", "start", "restart"];
    let events = containers.events_up_to(&kept, "die", 3);
    assert_eq!(actions(&events), [&["create", "start"][..], &again, &again, &["die"]].concat());
    for event in &events {
        let told = (event.labels.get("k"), event.attributes.get("image"));
        assert_eq!(told, (Some("v"), Some(IMAGE)), "{event:?}");
    }
    wait_until("the files to go", || containers.log(), || left() == 0);
    // The next engine does not report them again.
    containers.kill_engine();
    containers.start_engine();
    containers.stdout_of(&["rm", "kept"]);
    assert_eq!(actions(&containers.events(&kept, "destroy")).len(), 10);
}

#[test]
fn the_engine_reports_events_that_did_not_fit_the_fifo() {
    let mut containers = Containers::new();
    let ids = ["kept", "gone"].map(|name| detached(&containers, &["--name", name], &UNTIL_GO));
    containers.host.kill9();
    // The engine keeps the FIFO open, so the FIFO accepts events until it is full.
    let filler = sampan_ipc::sender::FifoSender::new(containers.host.path("run/monitor.fifo"));
    while filler.spooled() == 0 {
        filler.send(Event::new("test", "fill", "x").with("text", "x".repeat(100))).expect("small");
    }
    containers.stdout_of(&["exec", "kept", "true"]);
    containers.stdout_of(&["rm", "-f", "gone"]);
    go(&containers, "kept");
    containers.await_no_shim();
    containers.host.start_monitord(&[]);
    let (kept, gone) = (containers.events(&ids[0], "die"), containers.events(&ids[1], "destroy"));
    assert_eq!(actions(&kept), ["create", "start", "exec_create", "exec_start", "exec_die", "die"]);
    assert_eq!(actions(&gone), ["create", "start", "kill", "die", "destroy"]);
    assert_eq!(kept[5].attributes.get("exitCode"), Some("3"));
    // The container does not count as one whose shim was killed.
    assert!(!containers.log().contains("its shim has died"), "{}", containers.log());
    containers.stdout_of(&["start", "kept"]);
}

#[test]
fn a_run_without_a_monitor_is_told_when_it_is_back() {
    let mut containers = Containers::new();
    containers.host.kill9();
    let output = containers.sampan(&["run", "--name", "unseen", "box:1", "sh", "-c", "exit 4"]);
    assert_eq!(output.status.code(), Some(4));
    containers.await_summary("unseen", "its end", |summary| summary.exit_code == 4);
    let id = containers.summary("unseen").expect("kept").id;
    containers.host.start_monitord(&[]);
    containers.stdout_of(&["rm", "unseen"]);
    let events = containers.events(&id, "destroy");
    assert_eq!(actions(&events), ["create", "attach", "start", "die", "destroy"]);
}

#[test]
fn after_the_host_has_restarted_the_policies_decide_and_say_so() {
    let mut containers = Containers::new();
    let sleeps = ["sleep", "1000"];
    let policies = ["no", "always", "unless-stopped", "on-failure"];
    let ids = policies.map(|policy| detached(&containers, &["--restart", policy, "--name", policy], &sleeps));
    for policy in ["always", "unless-stopped"] {
        let name = format!("{policy}-not");
        detached(&containers, &["--restart", policy, "--name", &name], &sleeps);
        containers.stdout_of(&["stop", "-t", "0", &name]);
    }
    let before = policies.map(|policy| containers.summary(policy).expect("runs").pid);
    containers.kill_engine();
    containers.start_engine();
    let after = policies.map(|policy| containers.summary(policy).expect("runs").pid);
    assert_eq!(before, after, "the engine's restart alone changes nothing");
    // Like docker, the engine starts this container again when it starts. Waiting for that ensures that no shim
    // outlives the next step.
    containers.await_summary("always-not", "its start", |summary| summary.phase == Phase::Running);
    containers.kill_engine();
    kill_shims(&containers);
    change_boot(&containers);
    containers.start_engine();
    for name in ["always", "unless-stopped", "on-failure", "always-not"] {
        containers.await_summary(name, "a start", |summary| summary.phase == Phase::Running);
    }
    for (name, code) in [("no", 255), ("unless-stopped-not", 137)] {
        containers.await_summary(name, "its end", |s| s.phase == Phase::Exited && s.exit_code == code);
    }
    let events = containers.events(&ids[1], "restart");
    assert_eq!(actions(&events), ["create", "start", "die", "start", "restart"]);
    assert_eq!(events[2].attributes.get("reason"), Some("the host restarted"));
    assert_eq!(events[4].attributes.get("restartCount"), Some("1"));
}

#[test]
fn what_the_kernel_kills_for_memory_is_told_and_kept() {
    let containers = Containers::new();
    let grow = "x=a; while true; do x=$x$x; done";
    let output = containers.sampan(&["run", "--name", "big", "-m", "16m", "box:1", "sh", "-c", grow]);
    assert_eq!(output.status.code(), Some(137));
    let all = containers.stdout_of(&["inspect", "big"]);
    assert!(all.contains("\"OOMKilled\": true"), "{all}");
    let id = containers.summary("big").expect("kept").id;
    assert_eq!(actions(&containers.events(&id, "die")), ["create", "attach", "start", "oom", "die"]);
}

#[test]
fn a_killed_hanging_runtime_leaves_a_usable_container() {
    let containers = Containers::new();
    let (wrapper, pid) = (containers.host.path("slow"), containers.host.path("slow.pid"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" run \"*) test -e {0} || {{ echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000; }};; esac\n\
         exec runc \"$@\"\n",
        pid.display()
    );
    fs::write(&wrapper, script).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("set");
    let mut client = containers.host.command("sampan");
    let words = ["run", "--name", "hung", "--runtime", wrapper.to_str().expect("text"), "box:1", "true"];
    let client = client.args(words).stderr(Stdio::piped()).spawn().expect("built");
    containers.host.wait_until("the runtime to hang", || pid.exists());
    // Other requests do not wait for it.
    containers.stdout_of(&["inspect", "hung"]);
    assert_eq!(containers.stdout_of(&["run", "--rm", "box:1", "echo", "on"]), "on");
    kill(fs::read_to_string(&pid).expect("read").trim().parse().expect("a pid"));
    let output = client.wait_with_output().expect("ours");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(125) && why.contains("runtime"), "{why}");
    assert_eq!(containers.stdout_of(&["start", "hung"]), "hung");
    assert_eq!(containers.stdout_of(&["wait", "hung"]), "0");
    containers.stdout_of(&["rm", "hung"]);
    containers.await_no_shim();
}

#[test]
fn files_for_a_supervisor_hold_the_ids() {
    let containers = Containers::new();
    let options = ["--name", "p", "--pidfile", "p.pid", "--cidfile", "p.cid"];
    let pidfile = containers.host.path("p.pid");
    let options = [&options[..3], &[pidfile.to_str().expect("text")], &options[4..]].concat();
    let id = detached(&containers, &options, &["sleep", "1000"]);
    assert_eq!(fs::read_to_string(containers.host.path("p.cid")).expect("read"), id);
    let pid = fs::read_to_string(pidfile).expect("read");
    assert_eq!(pid.trim(), containers.summary("p").expect("runs").pid.to_string());
}

#[test]
fn the_service_manager_is_told_by_the_shim() {
    let containers = Containers::new();
    let path = containers.host.path("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut command = containers.host.command("sampan");
    command.args(["run", "-d", "--sdnotify", "conmon", "--name", "n", "box:1", "sleep", "1000"]);
    let status = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).status();
    assert!(status.expect("built").success());
    let mut bytes = [0; 200];
    let len = manager.recv(&mut bytes).expect("told");
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    assert_eq!(text, format!("MAINPID={}\nREADY=1\n", containers.shims()[0]));
}

#[test]
fn units_are_such_as_systemd_takes() {
    let containers = Containers::new();
    let dir = containers.host.path("units");
    fs::create_dir(&dir).expect("made");
    let words =
        ["create", "--name", "sy", "-e", "A=$x %n \"q\" ", "-l", "k=a b", "box:1", "sh", "-c", "echo 100%"];
    containers.stdout_of(&words);
    for (file, more) in [("a.service", &[][..]), ("b.service", &["--new"])] {
        let unit = containers.stdout_of(&[&["generate", "systemd", "sy"], more].concat());
        fs::write(dir.join(file), unit + "\n").expect("written");
    }
    let ours = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for entry in fs::read_dir(ours).expect("the units") {
        let entry = entry.expect("read");
        if entry.file_name().to_string_lossy().ends_with(".sysusers") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("read");
        let bin = binary("sampan").with_file_name("sampan");
        let text = text.replace("/usr/bin/sampan", bin.to_str().expect("text"));
        fs::write(dir.join(entry.file_name()), text).expect("written");
    }
    let units = fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("read").path());
    let mut verify = Command::new("systemd-analyze");
    let output = verify
        .args(["verify", "--man=no"])
        .args(units)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.display()));
    let output = output.output().expect("the package systemd");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("sampan") || line.contains("a.service") || line.contains("b.service"))
        .collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}

#[test]
fn events_and_lists_are_filtered_by_what_containers_have() {
    let containers = Containers::new();
    detached(&containers, &["--name", "one", "-l", "tier=web"], &["sleep", "1000"]);
    containers.stdout_of(&["rename", "one", "uno"]);
    containers.stdout_of(&["stop", "-t", "0", "uno"]);
    containers.sampan(&["run", "--name", "two", "box:1", "sh", "-c", "exit 6"]);
    let seen = |filters: &[&str]| {
        let mut words = vec!["events", "--since", "1h", "--until", "now"];
        filters.iter().for_each(|filter| words.extend(["--filter", filter]));
        let text = containers.stdout_of(&words);
        text.lines().map(|line| line.split(' ').nth(2).unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    wait_until("the ends", || containers.log(), || seen(&["event=die"]).len() == 2);
    assert_eq!(seen(&["container=uno"]), ["rename", "kill", "kill", "die", "stop"]);
    assert_eq!(seen(&["label=tier=web", "event=start"]), ["start"]);
    assert_eq!(seen(&["attr.exitCode=6"]), ["die"]);
    assert_eq!(seen(&["image=box:1", "event=create"]).len(), 2);
    assert!(seen(&["container=two", "event=stop"]).is_empty());

    let list = |filters: &[&str]| {
        let mut words = vec!["ps", "-a", "--format", "{{.Names}}"];
        filters.iter().for_each(|filter| words.extend(["--filter", filter]));
        containers.stdout_of(&words).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list(&["exited=6"]), ["two"]);
    assert_eq!(list(&["label=tier"]), ["uno"]);
    assert_eq!(list(&["status=exited", "before=two"]), ["uno"]);
    assert_eq!(list(&["since=uno"]), ["two"]);
    assert_eq!(list(&["ancestor=box:1"]), ["two", "uno"]);
    assert!(list(&["status=running"]).is_empty());
    containers.stdout_of(&["container", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(list(&[]).len(), 2, "they are younger than an hour");
    containers.stdout_of(&["container", "prune", "-f", "--filter", "label!=tier=web"]);
    assert_eq!(list(&[]), ["uno"]);
    containers.stdout_of(&["container", "prune", "-f", "--filter", "until=0s"]);
    assert!(list(&[]).is_empty());
    assert_eq!(seen(&["event=prune", "type=container"]).len(), 3);
}

#[test]
fn a_refusal_is_told_as_what_it_is() {
    let containers = Containers::new();
    detached(&containers, &["--name", "p"], &["sleep", "1000"]);
    containers.stdout_of(&["pause", "p"]);
    for _ in 0..10 {
        let output = containers.sampan(&["exec", "p", "true"]);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("is paused"), "{why}");
    }
    containers.stdout_of(&["unpause", "p"]);
    containers.stdout_of(&["stop", "-t", "0", "p"]);
    for words in [&["exec", "p", "true"][..], &["attach", "p"]] {
        let output = containers.sampan(words);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && why.contains("not running"), "{why}");
    }
}

#[test]
fn terminals_have_their_clients_size_and_detach_by_keys() {
    let containers = Containers::new();
    let id = detached(&containers, &["-it", "--name", "t"], &["sh"]);
    let attach = |words: &[&str], typed: &[u8], shown: &str, left: &[u8]| {
        let mut terminal = Terminal::start(containers.host.command("sampan").args(words), 33, 99);
        wait_until("raw mode", || containers.log(), || terminal.is_raw());
        terminal.type_for(typed, shown);
        for key in left {
            terminal.types([*key]);
        }
        let code = terminal.child.wait().expect("ours").code();
        assert!(!terminal.is_raw(), "the terminal is as it was");
        code
    };
    let size = "33 99\r\n";
    assert_eq!(attach(&["attach", "t"], b"stty size\n", size, b"\x10\x11"), Some(0));
    assert_eq!(
        attach(&["attach", "--detach-keys", "ctrl-a,x", "t"], b"stty size\n", size, b"\x01x"),
        Some(0)
    );
    assert_eq!(attach(&["exec", "-it", "t", "sh"], b"stty size\n", size, b"\x10\x11"), Some(0));
    assert_eq!(attach(&["exec", "-it", "t", "sh"], b"stty size; exit 5\n", size, b""), Some(5));
    containers.stdout_of(&["exec", "-d", "t", "sh", "-c", "echo made >/tmp/made"]);
    containers.stdout_of(&["stop", "-t", "0", "t"]);
    let events = containers.events(&id, "stop");
    let of = |action: &str| events.iter().filter(|event| event.action.starts_with(action)).count();
    assert_eq!((of("attach"), of("detach"), of("resize")), (2, 2, 1), "{:?}", actions(&events));
    assert_eq!((of("exec_create"), of("exec_start")), (3, 3));
    let resize = events.iter().find(|event| event.action == "resize").expect("told");
    assert_eq!((resize.attributes.get("height"), resize.attributes.get("width")), (Some("33"), Some("99")));
    let died = events.iter().filter(|event| event.action == "exec_die");
    assert!(died.clone().any(|event| event.attributes.get("exitCode") == Some("5")));
    assert!(died.clone().all(|event| event.attributes.get("execID").is_some_and(|id| id.len() == 64)));
}

#[test]
fn what_is_typed_early_finds_the_terminal_in_its_size() {
    let containers = Containers::new();
    let script = "echo ready; while read -r line; do $line; done";
    detached(&containers, &["-it", "--name", "t"], &["sh", "-c", script]);
    let is_ready = || containers.stdout_of(&["logs", "t"]).contains("ready");
    wait_until("the shell", || containers.log(), is_ready);
    let shim = Pid::from_raw(containers.shims()[0]);
    signal::kill(shim, Signal::SIGSTOP).expect("it runs");
    let mut terminal = Terminal::start(containers.host.command("sampan").args(["attach", "t"]), 33, 99);
    wait_until("raw mode", || containers.log(), || terminal.is_raw());
    let before = terminal.bytes_read();
    terminal.types("stty size\n");
    wait_until("the client to read it", || containers.log(), || terminal.bytes_read() >= before + 10);
    // From here on the client is slow; the container's shell is not.
    let client = Pid::from_raw(i32::try_from(terminal.child.id()).expect("a pid"));
    signal::kill(client, Signal::SIGSTOP).expect("ours");
    signal::kill(shim, Signal::SIGCONT).expect("it runs");
    containers.stdout_of(&["exec", "t", "true"]);
    signal::kill(client, Signal::SIGCONT).expect("ours");
    terminal.awaits("33 99\r\n");
    terminal.types(b"\x10\x11");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn what_waits_to_start_again_is_stopped_removed_and_found_again() {
    let mut containers = Containers::new();
    let id = detached(&containers, &["--restart", "always", "--name", "w"], &["false"]);
    let waits = |containers: &Containers, count: u32| {
        containers.await_summary("w", "the wait", |s| s.phase == Phase::Restarting && s.restarts >= count);
    };
    waits(&containers, 3);
    containers.kill_engine();
    containers.start_engine();
    waits(&containers, 4);
    for words in [&["rm", "w"][..], &["exec", "w", "true"], &["kill", "w"], &["pause", "w"], &["attach", "w"]]
    {
        let said = String::from_utf8(containers.sampan(words).stderr).expect("text");
        assert!(said.contains("is restarting") && said.contains("stop"), "{words:?}: {said}");
    }
    containers.stdout_of(&["stop", "w"]);
    containers.await_summary("w", "its end", |s| s.phase == Phase::Exited && s.exit_code == 1);
    containers.await_no_shim();
    containers.stdout_of(&["start", "w"]);
    waits(&containers, 1);
    containers.stdout_of(&["rm", "-f", "w"]);
    let events = containers.events(&id, "destroy");
    let count = |action: &str| events.iter().filter(|event| event.action == action).count();
    assert_eq!(count("die"), count("start"));
    assert_eq!(count("restart"), count("start") - 2, "all but those that a person asked for");
    assert_eq!((count("stop"), count("destroy")), (1, 1));
    containers.await_no_shim();
}

#[test]
fn start_and_attach_end_as_docker_s_do() {
    let containers = Containers::new();
    let fed = |words: &[&str], input: &str| {
        let mut command = containers.host.command("sampan");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("built");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ours");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let script = "read x; echo got $x; echo bad >&2; exit 6";
    let got = (Some(6), "got word\n".to_owned());
    containers.stdout_of(&["create", "-i", "--name", "a", "box:1", "sh", "-c", script]);
    assert_eq!(fed(&["start", "-a", "-i", "a"], "word\n"), got);
    containers.stdout_of(&["start", "a"]);
    assert_eq!(fed(&["attach", "a"], "word\n"), got);
    let only_err =
        fed(&["run", "--rm", "-i", "-a", "stdin", "-a", "stderr", "box:1", "sh", "-c", script], "word\n");
    assert_eq!(only_err, (Some(6), String::new()));
    let output = containers.sampan(&["start", "a", "nobody"]);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(1), &b"a\n"[..]),
        "the one that is there starts"
    );

    containers.stdout_of(&["rm", "-f", "a"]);

    let mut command = containers.host.command("sampan");
    let words = ["run", "--sig-proxy=false", "--name", "s", "box:1", "sleep", "1000"];
    let mut client = command.args(words).spawn().expect("built");
    containers.await_summary("s", "its start", |summary| summary.phase == Phase::Running);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
    assert_eq!(client.wait().expect("ours").code(), None, "the signal was its own");
    let id = containers.summary("s").expect("there").id;
    assert_eq!(actions(&containers.events(&id, "detach")), ["create", "attach", "start", "detach"]);
    assert_eq!(containers.summary("s").expect("there").phase, Phase::Running);
}

#[test]
fn who_is_told_that_a_container_has_ended_or_is_gone_sees_it_so() {
    let containers = Containers::new();
    for nth in 0..15 {
        let output = containers.sampan(&["run", "--name", "done", "box:1", "true"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let pruned = containers.stdout_of(&["container", "prune", "-f"]);
        assert!(
            pruned.lines().next().is_some_and(|line| line.contains("Deleted")) || pruned.len() > 64,
            "{nth}: {pruned}"
        );
        assert_eq!(containers.stdout_of(&["ps", "-aq"]), "", "{nth}");
        detached(&containers, &["--name", "up"], &["sleep", "1000"]);
        containers.stdout_of(&["kill", "up"]);
        containers.stdout_of(&["rm", "up"]);
        detached(&containers, &["--name", "up"], &["sleep", "1000"]);
        containers.stdout_of(&["rm", "-f", "up"]);
        assert_eq!(containers.stdout_of(&["ps", "-aq"]), "", "{nth}");
    }
}
