//! The life of containers through the Docker API, by docker's own command line and over the wire: create, start, stop,
//! kill, wait, restart, pause, rename, remove, top, prune, resize, and run. Fields of a create are in `docker_create`.

use sampan_ipc::container::Phase;
use sampan_tests::docker_api::{DockerApi, with_each_docker};
use sampan_tests::rounds;
use serde_json::json;
use std::process::Stdio;

/// The container's phase.
fn phase(api: &DockerApi, container: &str) -> Option<Phase> {
    api.containers.summary(container).map(|summary| summary.phase)
}

/// The status and the message of the answer to a POST without a body.
fn post(api: &DockerApi, target: &str) -> (u16, String) {
    let reply = api.http("POST", target);
    let message = if reply.status() >= 400 { reply.message() } else { reply.text() };
    (reply.status(), message)
}

#[test]
fn a_container_is_created_started_stopped_and_removed() {
    with_each_docker(|api| {
        let id = api.docker_ok(&["create", "--name", "web", "box:1", "sleep", "1000"]);
        assert_eq!(id.len(), 64, "{id}");
        assert_eq!(phase(api, "web"), Some(Phase::Created));
        assert_eq!(api.docker_ok(&["start", "web"]), "web");
        assert_eq!(phase(api, "web"), Some(Phase::Running));
        // 304: the container is in the wanted state already.
        assert_eq!(api.docker_ok(&["start", "web"]), "web");
        assert_eq!(post(api, "/containers/web/start"), (304, String::new()));
        let error = api.docker_fails(1, &["rm", "web"]);
        assert!(error.contains("is running") && error.contains("stop the container"), "{error}");
        assert_eq!(api.docker_ok(&["restart", "-t", "0", "web"]), "web");
        assert_eq!(phase(api, "web"), Some(Phase::Running));
        assert_eq!(api.docker_ok(&["stop", "-t", "0", "web"]), "web");
        assert_eq!(phase(api, "web"), Some(Phase::Exited));
        assert_eq!(post(api, "/containers/web/stop?t=1"), (304, String::new()));
        assert_eq!(api.docker_ok(&["rm", "-v", "web"]), "web");
        assert_eq!(phase(api, "web"), None);
    });
}

#[test]
fn a_signal_ends_or_reaches_a_container() {
    with_each_docker(|api| {
        let script = "trap 'exit 9' USR1; echo ready > /ready; while :; do sleep 0.05; done";
        api.docker_ok(&["run", "-d", "--name", "one", "box:1", "sh", "-c", script]);
        api.wait_until("the trap", || {
            !api.containers.stdout_of(&["exec", "one", "sh", "-c", "cat /ready 2>&1"]).contains("No such")
        });
        let waits = api.spawn_docker(&["wait", "one"]);
        assert_eq!(api.docker_ok(&["kill", "-s", "USR1", "one"]), "one");
        let output = waits.wait_with_output().expect("ours");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "9\n");
        let error = api.docker_fails(1, &["kill", "one"]);
        assert!(error.contains("is not running"), "{error}");
        assert_eq!(post(api, "/containers/one/kill").0, 409);
        api.docker_ok(&["start", "one"]);
        assert_eq!(api.docker_ok(&["kill", "one"]), "one");
        assert_eq!(api.docker_ok(&["wait", "one"]), "137");
        api.docker_ok(&["start", "one"]);
        assert_eq!(post(api, "/containers/one/kill?signal=NONSENSE").0, 400);
        api.docker_ok(&["rm", "-f", "one"]);
    });
}

#[test]
fn a_container_pauses_once_and_resumes_once() {
    with_each_docker(|api| {
        api.start_sh("one", "sleep 1000");
        assert_eq!(api.docker_ok(&["pause", "one"]), "one");
        assert_eq!(phase(api, "one"), Some(Phase::Paused));
        let error = api.docker_fails(1, &["pause", "one"]);
        assert!(error.contains("is already paused"), "{error}");
        assert_eq!(post(api, "/containers/one/pause").0, 409);
        assert_eq!(post(api, "/containers/one/start").0, 409);
        assert_eq!(api.docker_ok(&["unpause", "one"]), "one");
        let (status, message) = post(api, "/containers/one/unpause");
        assert!(status == 409 && message.contains("is not paused"), "{status} {message}");
        api.docker_ok(&["rm", "-f", "one"]);
        assert_eq!(post(api, "/containers/one/pause"), (404, "No such container: one".to_owned()));
    });
}

#[test]
fn a_name_belongs_to_one_container() {
    with_each_docker(|api| {
        let id = api.docker_ok(&["create", "--name", "one", "box:1", "true"]);
        let error = api.docker_fails(1, &["create", "--name", "one", "box:1", "true"]);
        let expected =
            format!("Conflict. The container name \"/one\" is already in use by container \"{id}\".");
        assert!(error.contains(&expected), "{error}");
        let body = json!({"Image": "box:1"});
        assert_eq!(api.http_json("POST", "/containers/create?name=/one", &body).status(), 409);
        assert_eq!(api.http_json("POST", "/containers/create?name=-", &body).status(), 400);
        api.docker_ok(&["create", "--name", "two", "box:1", "true"]);
        let error = api.docker_fails(1, &["rename", "two", "one"]);
        assert!(error.contains(&expected), "{error}");
        api.docker_ok(&["rename", "two", "three"]);
        assert!(phase(api, "two").is_none() && phase(api, "three").is_some());
        assert_eq!(post(api, "/containers/three/rename").0, 400);
        assert_eq!(post(api, "/containers/missing/rename?name=x").0, 404);
    });
}

#[test]
fn top_shows_the_processes_in_ps_s_columns() {
    with_each_docker(|api| {
        api.start_sh("one", "sleep 123456");
        let text = api.docker_ok(&["top", "one"]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("UID"), "{text}");
        assert!(lines[1].ends_with("sleep 123456"), "{text}");
        let chosen = api.docker_ok(&["top", "one", "-o", "pid,comm"]);
        assert!(chosen.lines().nth(1).is_some_and(|line| line.ends_with("sleep")), "{chosen}");
        let pid = api.containers.summary("one").expect("there").pid;
        assert!(chosen.contains(&pid.to_string()), "{chosen}");
        let error = api.docker_fails(1, &["top", "one", "-o", "comm"]);
        assert!(error.contains("PID"), "{error}");
        api.docker_ok(&["rm", "-f", "one"]);
        api.docker_ok(&["create", "--name", "two", "box:1", "true"]);
        let error = api.docker_fails(1, &["top", "two"]);
        assert!(error.contains("is not running"), "{error}");
        assert_eq!(api.http("GET", "/containers/missing/top").status(), 404);
    });
}

#[test]
fn a_prune_removes_what_does_not_run_and_matches() {
    with_each_docker(|api| {
        api.start_sh("up", "sleep 1000");
        let old = api.docker_ok(&["create", "--label", "keep=no", "box:1", "true"]);
        let kept = api.docker_ok(&["create", "--label", "keep=yes", "box:1", "true"]);
        let text = api.docker_ok(&["container", "prune", "-f", "--filter", "label!=keep=yes"]);
        assert!(text.contains("Deleted Containers:") && text.contains(&old), "{text}");
        assert!(!text.contains(&kept) && text.contains("Total reclaimed space: "), "{text}");
        let reply = api.http(
            "POST",
            "/containers/prune?filters=%7B%22until%22:%5B%221s%22%5D,%22label%22:%5B%22none%22%5D%7D",
        );
        assert_eq!(reply.json(), json!({"ContainersDeleted": null, "SpaceReclaimed": 0}));
        assert_eq!(
            api.http("POST", "/containers/prune?filters=%7B%22name%22:%5B%22a%22%5D%7D").status(),
            400
        );
        assert!(phase(api, &kept).is_some() && phase(api, &old).is_none());
        assert_eq!(phase(api, "up"), Some(Phase::Running));
    });
}

#[test]
fn detached_runs_start_and_remove_containers() {
    with_each_docker(|api| {
        let id = api.docker_ok(&["run", "-d", "box:1", "sh", "-c", "exit 3"]);
        assert_eq!(api.docker_ok(&["wait", &id]), "3");
        let id = api.docker_ok(&["run", "-d", "--rm", "box:1", "sleep", "1000"]);
        api.docker_ok(&["stop", "-t", "0", &id]);
        api.containers.await_gone(&id);
    });
}

#[test]
fn a_run_in_the_foreground_ends_with_the_container_s_status() {
    with_each_docker(|api| {
        let output = api.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "box:1",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 5",
        ]);
        assert_eq!(output.status.code(), Some(5), "{output:?}\n{}", api.log());
        assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(api.containers.stdout_of(&["ps", "-aq"]), "", "the container is removed");
    });
}

#[test]
fn a_missing_image_is_pulled() {
    with_each_docker(|api| {
        let reference = api.push_busybox("team/box:1");
        let reply = api.http_json("POST", "/containers/create", &json!({"Image": reference}));
        assert_eq!((reply.status(), reply.message()), (404, format!("No such image: {reference}")));
        let id = api.docker_ok(&["run", "-d", &reference, "sh", "-c", "exit 4"]);
        let id = id.lines().last().expect("an ID");
        assert_eq!(api.docker_ok(&["wait", id]), "4");
    });
}

#[test]
fn a_command_that_cannot_run_chooses_the_exit_status() {
    with_each_docker(|api| {
        for (command, status) in
            [("no-such-command", 127), ("/no/such/file", 127), ("/etc", 126), ("/etc/passwd", 126)]
        {
            let output = api.docker(&["run", "--rm", "box:1", command]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{command}: {stderr}\n{}", api.log());
            let detached = api.docker(&["run", "--rm", "-d", "box:1", command]);
            assert_eq!(detached.status.code(), Some(status), "{command}: {detached:?}");
        }
        assert_eq!(api.docker(&["run", "--rm", "--memory", "1m", "box:1", "true"]).status.code(), Some(125));
        api.wait_until("the containers to go", || api.containers.stdout_of(&["ps", "-aq"]).is_empty());
    });
}

#[test]
fn a_wait_is_registered_before_a_short_container_starts() {
    let api = DockerApi::new();
    for round in 0..rounds(100) {
        let id = api.containers.create_sh(&format!("short{round}"), "exit 7");
        let mut waits = api.connect();
        waits.send("POST", &format!("/v1.50/containers/{id}/wait?condition=next-exit"), &[], b"");
        let head = waits.head();
        assert!(head.status == 200 && head.is_chunked(), "{head:?}");
        assert_eq!(post(&api, &format!("/containers/{id}/start")).0, 204);
        assert_eq!(waits.chunk().expect("whole").as_deref(), Some(&b"{\"StatusCode\":7}\n"[..]));
        assert_eq!(waits.chunk().expect("whole"), None);
    }
}

#[test]
fn a_wait_for_the_removal_ends_after_a_failed_start() {
    let api = DockerApi::new();
    let gone = api.path("gone").display().to_string();
    let mount = json!([{"Type": "bind", "Source": gone, "Target": "/x"}]);
    for (host, command, status) in [
        (json!({"AutoRemove": true}), "no-such-command", 127),
        // The engine refuses the start before it starts a shim.
        (json!({"AutoRemove": true, "Mounts": mount}), "true", 125),
    ] {
        std::fs::create_dir(api.path("gone")).expect("made");
        let body = json!({"Image": "box:1", "Cmd": [command], "HostConfig": host});
        let created = api.http_json("POST", "/containers/create", &body);
        assert_eq!(created.status(), 201, "{}", created.text());
        let id = created.json()["Id"].as_str().expect("an ID").to_owned();
        std::fs::remove_dir(api.path("gone")).expect("removed");
        let mut waits = api.connect();
        waits.send("POST", &format!("/containers/{id}/wait?condition=removed"), &[], b"");
        assert_eq!(waits.head().status, 200);
        let (start, message) = post(&api, &format!("/containers/{id}/start"));
        assert!(start >= 400, "{start} {message}");
        let exit = waits.message();
        assert_eq!(exit["StatusCode"], status, "{exit}");
        assert!(exit["Error"]["Message"].as_str().is_some_and(|text| !text.is_empty()), "{exit}");
        assert_eq!(phase(&api, &id), None);
    }
}

#[test]
fn waits_have_docker_s_conditions() {
    let api = DockerApi::new();
    assert_eq!(post(&api, "/containers/missing/wait"), (404, "No such container: missing".to_owned()));
    let id = api.containers.create_sh("one", "exit 2");
    assert_eq!(post(&api, "/containers/one/wait?condition=soon").0, 400);
    // A container that does not run: at once.
    assert_eq!(post(&api, "/containers/one/wait"), (200, "{\"StatusCode\":0}\n".to_owned()));
    let mut waits = api.connect();
    waits.send("POST", &format!("/containers/{id}/wait?condition=removed"), &[], b"");
    assert_eq!(waits.head().status, 200);
    api.docker_ok(&["start", "one"]);
    assert_eq!(api.docker_ok(&["wait", "one"]), "2");
    api.docker_ok(&["rm", "one"]);
    assert_eq!(waits.message()["StatusCode"], 2);
}

#[test]
fn a_client_that_leaves_a_wait_disturbs_no_other() {
    let api = DockerApi::new();
    let id = api.start_sh("one", "sleep 1000");
    let mut first = api.connect();
    let mut second = api.connect();
    for waits in [&mut first, &mut second] {
        waits.send("POST", &format!("/containers/{id}/wait"), &[], b"");
        assert_eq!(waits.head().status, 200);
    }
    drop(first);
    api.docker_ok(&["kill", "one"]);
    assert_eq!(second.message()["StatusCode"], 137);
}

#[test]
fn a_terminal_is_resized_by_a_request_of_its_own() {
    let api = DockerApi::new();
    let body = json!({"Image": "box:1", "Tty": true, "Cmd": ["sh", "-c", "sleep 1000"]});
    let created = api.http_json("POST", "/containers/create?name=one", &body);
    assert_eq!(created.status(), 201, "{}", created.text());
    let (status, message) = post(&api, "/containers/one/resize?h=40&w=100");
    assert!(status == 409 && message.contains("is not running"), "{status} {message}");
    assert_eq!(post(&api, "/containers/one/start").0, 204);
    assert_eq!(post(&api, "/containers/one/resize?h=40&w=100").0, 200);
    let pid = api.containers.summary("one").expect("there").pid;
    let tty = std::process::Command::new("stty")
        .args(["-F", &format!("/proc/{pid}/fd/0"), "size"])
        .stderr(Stdio::piped())
        .output()
        .expect("stty");
    assert_eq!(String::from_utf8_lossy(&tty.stdout), "40 100\n", "{tty:?}");
    assert_eq!(post(&api, "/containers/one/resize?h=x&w=1").0, 400);
    let id = created.json()["Id"].as_str().expect("an ID").to_owned();
    api.docker_ok(&["rm", "-f", "one"]);
    let events = api.containers.events(&id, "destroy");
    let resized = events.iter().find(|event| event.action == "resize").expect("an event");
    let attribute = |key: &str| resized.attributes.get(key);
    assert_eq!((attribute("height"), attribute("width")), (Some("40"), Some("100")));
}

#[test]
fn what_is_not_there_is_named() {
    let api = DockerApi::new();
    api.containers.create_sh("one", "true");
    assert_eq!(post(&api, "/containers/one/start?checkpoint=a").0, 501);
    assert_eq!(api.http("DELETE", "/containers/one?link=1").status(), 501);
    let reply = api.http("DELETE", "/containers/missing");
    assert_eq!((reply.status(), reply.message()), (404, "No such container: missing".to_owned()));
    assert_eq!(post(&api, "/containers/one/stop?t=soon").0, 400);
    assert_eq!(api.http("DELETE", "/containers/one").status(), 204);
}
