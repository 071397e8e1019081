//! Attach, exec and logs by docker's command line, and by HTTP where the command line hides what matters.

use sampan_ipc::container::Phase;
use sampan_tests::docker_api::DockerApi;
use sampan_tests::random::Random;
use sampan_tests::rounds;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;

/// Joins the frames of the stream `stream`: 1 is standard output, 2 is standard error.
fn frames(mut bytes: &[u8], stream: u8) -> String {
    let mut text = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(8);
        let len = u32::from_be_bytes(head[4..].try_into().expect("four bytes")) as usize;
        if head[0] == stream {
            text.extend_from_slice(&rest[..len]);
        }
        bytes = &rest[len..];
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn run_shows_both_streams_and_ends_with_the_exit_code() {
    let api = DockerApi::new();
    let output = api.docker(&["run", "--rm", "box:1", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", api.log());
    assert_eq!(output.stdout, b"out\n");
    // The warnings of the creation come before.
    assert!(output.stderr.ends_with(b"err\n"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn all_output_of_short_containers_arrives() {
    let api = DockerApi::new();
    for round in 0..rounds(200) {
        let word = format!("round-{round}");
        assert_eq!(api.docker_ok(&["run", "--rm", "box:1", "echo", &word]), word);
    }
}

#[test]
fn ten_megabytes_go_through_a_container_and_back() {
    let api = DockerApi::new();
    let input = Random::new(7).bytes(10 << 20);
    let output = api.docker_with_input(&["run", "--rm", "-i", "box:1", "cat"], &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
}

#[test]
fn a_terminal_has_the_size_of_the_persons_and_detach_keys_leave_it() {
    let api = DockerApi::new();
    let mut terminal = api.docker_on_terminal(&["run", "-it", "--name", "t", "box:1", "sh"]);
    terminal.type_for("echo ready-$((1+1))\r", "ready-2");
    api.wait_until("the size to arrive", || {
        api.docker_ok(&["exec", "t", "sh", "-c", "stty size </proc/1/fd/0"]) == "24 80"
    });
    terminal.types("\x10\x11");
    terminal.end();
    assert_eq!(api.containers.summary("t").expect("kept").phase, Phase::Running);
    let mut again = api.docker_on_terminal(&["attach", "t"]);
    again.type_for("echo back-$((2+3))\r", "back-5");
    again.types("exit 4\r");
    assert_eq!(again.end(), Some(4));
}

#[test]
fn start_attaches_before_the_first_byte() {
    let api = DockerApi::new();
    api.docker_ok(&["create", "--name", "s", "-i", "box:1", "sh", "-c", "echo first; cat; exit 3"]);
    let output = api.docker_with_input(&["start", "-ai", "s"], b"typed\n");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\ntyped\n");
}

#[test]
fn an_execution_has_its_streams_its_options_and_its_exit_code() {
    let api = DockerApi::new();
    api.start_sh("e", "sleep 1000");
    let script = "echo $A in $PWD as $(id -u); echo err >&2; exit 9";
    let output = api.docker(&["exec", "-e", "A=b", "-w", "/tmp", "-u", "1000", "e", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b in /tmp as 1000\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    let output = api.docker_with_input(&["exec", "-i", "e", "cat"], b"through\n");
    assert_eq!(output.stdout, b"through\n");
    let missing = api.docker(&["exec", "e", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127), "{}", String::from_utf8_lossy(&missing.stderr));
    let mut terminal = api.docker_on_terminal(&["exec", "-it", "e", "sh"]);
    // The command line sends the size after the start.
    terminal.type_for("until [ -n \"$(stty size)\" ]; do sleep 0.1; done; stty size\r", "24 80");
    terminal.types("exit 5\r");
    assert_eq!(terminal.end(), Some(5));
}

#[test]
fn the_exit_code_of_a_detached_execution_is_known() {
    let api = DockerApi::new();
    api.start_sh("d", "sleep 1000");
    let body = serde_json::json!({"Cmd": ["sh", "-c", "exit 6"]});
    let made = api.http_json("POST", "/containers/d/exec", &body);
    assert_eq!(made.status(), 201);
    let id = made.json()["Id"].as_str().expect("an ID").to_owned();
    let started = api.http_json("POST", &format!("/exec/{id}/start"), &serde_json::json!({"Detach": true}));
    assert_eq!(started.status(), 200);
    let state = || api.http("GET", &format!("/exec/{id}/json")).json();
    api.wait_until("the execution to end", || state()["Running"] == false);
    assert_eq!(state()["ExitCode"], 6);
    let again = api.http_json("POST", &format!("/exec/{id}/start"), &serde_json::json!({"Detach": true}));
    assert_eq!(again.status(), 409);
    assert_eq!(api.http("GET", "/exec/none/json").status(), 404);
}

#[test]
fn logs_are_selected_and_followed() {
    let api = DockerApi::new();
    let script = "for i in 1 2 3; do echo out-$i; echo err-$i >&2; done; sleep 1000";
    api.start_sh("l", script);
    api.wait_until("all lines", || api.docker(&["logs", "l"]).stdout.ends_with(b"out-3\n"));
    let output = api.docker(&["logs", "l"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out-1\nout-2\nout-3\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err-1\nerr-2\nerr-3\n");
    let tail = api.docker(&["logs", "--tail", "2", "l"]);
    assert_eq!(tail.stdout.len() + tail.stderr.len(), 12);
    assert_eq!(api.docker_ok(&["logs", "--since", "2100-01-01T00:00:00Z", "l"]), "");
    let stamped = api.docker_ok(&["logs", "-t", "l"]);
    let (time, text) = stamped.lines().next().and_then(|line| line.split_once(' ')).expect("a time");
    assert!(text == "out-1" && time.len() == 30 && time.ends_with('Z'), "{stamped}");
    let mut follow = api.spawn_docker(&["logs", "-f", "l"]);
    api.docker_ok(&["kill", "l"]);
    assert!(follow.wait().expect("ours").success());
    assert_eq!(api.http("GET", "/containers/l/logs").status(), 400);
    assert_eq!(api.http("GET", "/containers/none/logs?stdout=1").status(), 404);
}

#[test]
fn a_client_that_ends_its_direction_gets_all_output() {
    let api = DockerApi::new();
    let id = api.containers.create_sh("h", "sleep 0.2; echo late");
    let mut connection = api.connect();
    connection.send_upgrade(&format!("/containers/{id}/attach?stream=1&stdout=1"), b"");
    connection.half_close();
    assert_eq!(connection.head().status, 101);
    api.containers.start(&id);
    assert_eq!(frames(&connection.rest(), 1), "late\n");
}

#[test]
fn attach_errors_are_plain_text_with_a_status() {
    let api = DockerApi::new();
    let mut connection = api.connect();
    connection.send_upgrade("/containers/none/attach?stream=1&stdout=1", b"");
    assert_eq!(connection.head().status, 404);
    api.start_sh("p", "sleep 1000");
    api.docker_ok(&["pause", "p"]);
    let mut connection = api.connect();
    connection.send_upgrade("/containers/p/attach?stream=1&stdout=1", b"");
    assert_eq!(connection.head().status, 409);
    api.docker_ok(&["unpause", "p"]);
}

#[test]
fn a_killed_client_and_a_killed_gateway_leave_the_container_alone() {
    let mut api = DockerApi::new();
    let script = "n=0; while :; do n=$((n+1)); echo line-$n; sleep 0.05; done";
    api.start_sh("k", script);
    let mut client = api.spawn_docker(&["attach", "k"]);
    let mut stdout = client.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 5]).expect("a line");
    client.kill().expect("ours");
    client.wait().expect("ours");
    let mut client = api.spawn_docker(&["attach", "k"]);
    let mut stdout = client.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 5]).expect("a line");
    api.kill_gateway();
    client.wait().expect("ours");
    assert_eq!(api.containers.summary("k").expect("kept").phase, Phase::Running);
    api.start_gateway();
    let mut client = api.spawn_docker(&["attach", "k"]);
    let mut stdout = client.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 5]).expect("a line");
    client.kill().expect("ours");
    client.wait().expect("ours");
}

#[test]
fn a_client_that_never_reads_costs_the_gateway_one_buffer() {
    let mut api = DockerApi::new();
    api.start_sh("n", "cat /dev/zero");
    let mut connection = api.connect();
    connection.send_upgrade("/containers/n/attach?stream=1&stdout=1", b"");
    assert_eq!(connection.head().status, 101);
    assert_eq!(api.docker_ok(&["ps", "-q"]).len(), 12);
    let status = fs::read_to_string(format!("/proc/{}/status", api.gateway_pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    assert!(peak < 64 << 10, "{peak} KiB");
    // The other direction still works, and the gateway still ends the session.
    connection.stream().write_all(b"ignored").expect("written");
    connection.stream().shutdown(Shutdown::Both).expect("open");
    assert!(api.gateway().try_wait().expect("ours").is_none());
}
