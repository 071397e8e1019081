//! Unmodified clients of docker against the gateway: docker-py, curl, and the four steps of Go's SDK as they are on the
//! wire. Each is checked for its exit code, its output and its effect. docker's own command line is in `docker_cli`.

use sampan_ipc::engine::{Answer, Job, JobState, Request};
use sampan_oci::digest::Digest;
use sampan_tests::docker_api::http::Connection;
use sampan_tests::docker_api::{DockerApi, busybox_image_with, docker_py};
use sampan_tests::registry::{Layer, Packing, Reply, ScriptedRegistry};
use serde_json::{Value, json};
use std::process::{Command, Output};

/// Runs a group of calls of `tests/clients/docker_py.py`, which must succeed.
fn docker_py(group: &str) {
    let api = DockerApi::new();
    let reference = api.push_busybox("team/box:1");
    let mut command = Command::new(docker_py::python());
    command.arg(docker_py::clients().join("docker_py.py")).args([group, "box:1", &reference]);
    for name in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
        command.env_remove(name);
    }
    command.env("DOCKER_HOST", api.docker_host()).env("DOCKER_CONFIG", api.path("docker-config"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("HOME", api.path(""));
    let output = command.output().expect("python of the virtual environment");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{group}: {stderr}\n{}", api.log());
    assert!(String::from_utf8_lossy(&output.stdout).contains(r#""docker-py": "7.2.0""#), "{output:?}");
}

#[test]
fn docker_py_negotiates_and_describes_the_system() {
    docker_py("system");
}

#[test]
fn docker_py_pulls_tags_saves_loads_pushes_and_removes_images() {
    docker_py("images");
}

#[test]
fn docker_py_runs_lists_and_removes_containers() {
    docker_py("containers");
}

#[test]
fn docker_py_attaches_follows_and_executes() {
    docker_py("streams");
}

#[test]
fn docker_py_reads_past_and_live_events() {
    docker_py("events");
}

/// Runs curl on the gateway's socket.
fn curl(api: &DockerApi, args: &[&str], target: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--unix-socket"]).arg(api.socket());
    command.args(args).arg(format!("http://localhost{target}")).output().expect("Debian's package curl")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_pulls_runs_and_reads_with_and_without_a_version() {
    let api = DockerApi::new();
    let reference = api.push_busybox("team/box:1");
    let (name, _) = reference.rsplit_once(':').expect("a tag");
    assert_eq!(stdout(&curl(&api, &[], "/_ping")), "OK");
    let head = stdout(&curl(&api, &["--head"], "/v1.41/_ping"));
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.to_lowercase().contains("api-version: 1.50\r\n"),
        "{head}"
    );
    // curl waits for 100 Continue before a body that is long or chunked.
    let pull = format!("/v1.50/images/create?fromImage={name}&tag=1");
    let text = stdout(&curl(&api, &["--request", "POST"], &pull));
    assert!(text.ends_with(&format!("Downloaded newer image for {reference}\"}}\r\n")), "{text}");
    let body = json!({"Image": reference, "Cmd": ["sh", "-c", "echo by curl"]}).to_string();
    let args = ["--request", "POST", "--header", "Content-Type: application/json", "--data", &body];
    let chunked = [&args[..], &["--header", "Transfer-Encoding: chunked"]].concat();
    let created: Value =
        serde_json::from_str(&stdout(&curl(&api, &chunked, "/containers/create?name=c1"))).expect("JSON");
    let id = created["Id"].as_str().expect("an ID").to_owned();
    assert!(api.containers.summary("c1").is_some_and(|summary| summary.id == id));
    let post = |target: &str| curl(&api, &["--request", "POST", "--write-out", "%{http_code}"], target);
    assert_eq!(stdout(&post("/containers/c1/start")), "204");
    assert_eq!(stdout(&post("/v1.24/containers/c1/wait")), "{\"StatusCode\":0}\n200");
    let logs = curl(&api, &["--output", "-"], "/containers/c1/logs?stdout=1");
    assert_eq!(logs.stdout, b"\x01\0\0\0\0\0\0\x08by curl\n");
    let missing = stdout(&curl(&api, &["--write-out", " %{http_code}"], "/containers/missing/json"));
    assert!(missing.ends_with(" 404") && missing.contains("No such container: missing"), "{missing}");
    let events = stdout(&curl(&api, &[], "/events?since=0&until=1"));
    assert_eq!(events, "");
    assert_eq!(
        stdout(&curl(&api, &["--request", "DELETE", "--write-out", "%{http_code}"], "/containers/c1")),
        "204"
    );
    assert!(api.containers.summary("c1").is_none());
}

/// The body that Go's SDK sends for a container that says hello on a terminal.
fn hello(image: &str) -> Value {
    json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": true, "OpenStdin": false, "StdinOnce": false, "Env": null,
        "Cmd": ["echo", "hello world"], "Image": image, "Volumes": null, "WorkingDir": "",
        "Entrypoint": null, "OnBuild": null, "Labels": null,
    })
}

/// Steps 2 to 4 of the SDK's example: create, start and wait, and the log.
fn create_start_and_read(connection: &mut Connection, image: &str) -> Vec<u8> {
    let mut send = |method: &str, target: &str, body: Option<&Value>| {
        let bytes = body.map(Value::to_string).unwrap_or_default();
        connection.send(method, target, &[("Content-Type", "application/json")], bytes.as_bytes());
        connection.reply(method)
    };
    let created = send("POST", "/v1.50/containers/create", Some(&hello(image)));
    assert_eq!(created.status(), 201, "{}", created.text());
    let id = created.json()["Id"].as_str().expect("an ID").to_owned();
    assert_eq!(send("POST", &format!("/v1.50/containers/{id}/start"), None).status(), 204);
    let ended = send("POST", &format!("/v1.50/containers/{id}/wait?condition=not-running"), None);
    assert_eq!(ended.json(), json!({"StatusCode": 0}));
    let logs = send("GET", &format!("/v1.50/containers/{id}/logs?stdout=1"), None);
    assert_eq!(logs.header("content-type"), Some("application/vnd.docker.raw-stream"));
    logs.body()
}

#[test]
fn the_four_steps_of_the_sdk_work_if_the_pull_is_read_to_its_end() {
    let api = DockerApi::new();
    let reference = api.push_busybox("library/alpine:latest");
    let (name, tag) = reference.rsplit_once(':').expect("a tag");
    let target = format!("/v1.50/images/create?fromImage={}&tag={tag}", name.replace('/', "%2F"));
    let mut connection = api.connect();
    connection.send("POST", &target, &[("X-Registry-Auth", "e30=")], b"");
    let pulled = connection.reply("POST");
    assert!(pulled.status() == 200 && pulled.is_whole, "{}", pulled.text());
    // A terminal turns the line's end into two bytes, and its log has no frames.
    assert_eq!(create_start_and_read(&mut connection, &reference), b"hello world\r\n");
}

#[test]
fn a_pull_that_nobody_reads_leaves_nothing_half_done() {
    let api = DockerApi::new();
    let registry = ScriptedRegistry::start();
    let more = Layer::large("data", 4 << 20, Packing::Gzip);
    registry.publish("alpine", &busybox_image_with(std::slice::from_ref(&more)));
    let path = format!("alpine/blobs/{}", Digest::of(&more.blob));
    registry
        .answer_in_turn(&path, [Reply::Hang(more.blob.clone(), 1 << 20), Reply::Ranged(more.blob.clone())]);
    let reference = registry.reference("alpine");
    let (name, tag) = reference.rsplit_once(':').expect("a tag");
    let target = format!("/v1.50/images/create?fromImage={}&tag={tag}", name.replace('/', "%2F"));
    // The SDK's function returns when the head of the answer has arrived; the program reads no further.
    let mut unread = api.connect();
    unread.send("POST", &target, &[("X-Registry-Auth", "e30=")], b"");
    assert_eq!(unread.head().status, 200);
    let created = api.http_json("POST", "/v1.50/containers/create", &hello(&reference));
    assert_eq!(created.status(), 404, "{}", created.text());
    assert_eq!(created.message(), format!("No such image: {reference}"));
    assert_eq!(api.http("GET", "/v1.50/containers/json?all=1").json(), json!([]));
    assert_eq!(api.http("GET", &format!("/v1.50/images/{reference}/json")).status(), 404);
    // The program ends: nobody watches the pull any more, so it is cancelled, and its bytes are kept.
    api.wait_until("some bytes", || registry.sent() > 1 << 20);
    drop(unread);
    let is_cancelled = |job: &Job| job.kind == "pull" && job.state == JobState::Cancelled;
    api.wait_until("the pull to be cancelled", || {
        let answers = api.containers.ok(Request::Jobs);
        answers.iter().any(|answer| matches!(answer, Answer::Jobs(jobs) if jobs.iter().any(is_cancelled)))
    });
    let pulled = api.http("POST", &target);
    let last = pulled.messages().pop().expect("a last message");
    assert!(last["status"].as_str().is_some_and(|text| text.starts_with("Status: Downloaded")), "{last}");
    assert_eq!(create_start_and_read(&mut api.connect(), &reference), b"hello world\r\n");
}
