//! Clients of the Docker API that misbehave, and a gateway that ends: others are served, and nothing ends cleanly that has not
//! succeeded.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::docker_api::DockerApi;
use sampan_tests::docker_api::http::Connection;
use sampan_tests::process::await_rest;
use sampan_tests::users::User;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A container that does not end by SIGTERM.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1; done";

fn assert_serves(api: &DockerApi) {
    let reply = api.http("GET", "/_ping");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "OK"));
}

fn send_signal(api: &DockerApi, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(api.gateway_pid()).expect("a pid")), signal).expect("it runs");
}

#[test]
fn slow_half_open_and_idle_connections_cost_others_nothing() {
    let api = DockerApi::new();
    let open = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(api.socket()).expect("room");
        stream.write_all(bytes).expect("read");
        stream
    };
    let half_open: Vec<UnixStream> = (0..200).map(|_| open(b"")).collect();
    let part = b"POST /containers/create HTTP/1.1\r\n";
    let mut slow: Vec<UnixStream> = (0..200).map(|_| open(part)).collect();
    for byte in b"Content-Length: 9" {
        for stream in &mut slow {
            stream.write_all(&[*byte]).expect("it is still open");
        }
        assert_serves(&api);
    }
    // Free memory goes back to the kernel 2 s after the last activity. From then on, the gateway does not wake up.
    await_rest(api.gateway_pid(), Duration::from_secs(5), || api.log());
    assert_serves(&api);
    drop((half_open, slow));
}

#[test]
fn garbage_is_refused_as_docker_refuses_and_costs_others_nothing() {
    let api = DockerApi::new();
    for garbage in [
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n".as_bytes(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /a b c HTTP/1.1\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut connection = api.connect();
        connection.write(garbage);
        let reply = connection.reply("GET");
        assert_eq!(reply.status(), 400, "{garbage:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("api-version"), Some("1.50"));
        assert!(!reply.message().is_empty());
        assert_eq!(connection.rest(), b"", "the connection ends");
        assert_serves(&api);
    }
}

#[test]
fn a_head_or_a_body_that_is_too_large_is_refused() {
    let api = DockerApi::new();
    let long = "x".repeat(70_000);
    let mut connection = api.connect();
    connection.write(format!("GET /_ping HTTP/1.1\r\nX-Long: {long}\r\n\r\n"));
    let reply = connection.reply("GET");
    assert_eq!((reply.status(), reply.message().as_str()), (431, "the head of the request is too large"));
    let mut connection = api.connect();
    connection.write("POST /containers/create HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
    let reply = connection.reply("POST");
    assert_eq!((reply.status(), reply.message().as_str()), (413, "the body of the request is too large"));
    let mut connection = api.connect();
    connection.write("POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    // The gateway may close the connection before it has taken everything.
    for _ in 0..5 {
        let _ = connection.stream().write_all(chunk.as_bytes());
    }
    assert_eq!(connection.reply("POST").status(), 413);
    assert_serves(&api);
}

#[test]
fn a_user_with_too_many_connections_costs_no_other_user() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let api = DockerApi::new();
    for (path, mode) in [("", 0o755), ("run", 0o755), ("run/docker.sock", 0o666)] {
        fs::set_permissions(api.path(path), Permissions::from_mode(mode)).expect("ours");
    }
    let [many, other] = [1, 2].map(|nth| User::new(1_000_000_000 + 4 * std::process::id() + nth));
    let connect = |user: &User| user.does(|| Connection::open(&api.socket()));
    let ping = |connection: &mut Connection| {
        connection.send("GET", "/_ping", &[], b"");
        connection.reply("GET").status()
    };
    let mut held: Vec<Connection> = (0..1_024).map(|_| connect(&many)).collect();
    assert_eq!(ping(held.last_mut().expect("many")), 200);
    let refused = connect(&many).reply("GET");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.message(), "too many connections of this user: close some first");
    assert_eq!(ping(&mut connect(&other)), 200);
    assert_serves(&api);
    held.pop();
    // A connection that is refused gets its answer before it has asked.
    let is_admitted = || {
        let mut connection = connect(&many);
        let _ = connection.stream().write_all(b"GET /_ping HTTP/1.1\r\n\r\n");
        connection.reply("GET").status() == 200
    };
    api.wait_until("a free place", is_admitted);
}

#[test]
fn a_client_that_ends_its_direction_gets_its_short_answer() {
    let api = DockerApi::new();
    for path in ["/_ping", "/containers/json", "/v1.41/images/json"] {
        let mut connection = api.connect();
        connection.send("GET", path, &[], b"");
        connection.half_close();
        let reply = connection.reply("GET");
        assert_eq!((reply.status(), reply.is_whole), (200, true), "{path}");
        assert_eq!(connection.rest(), b"");
    }
    // As for docker, a client that waits for an event has gone when it sends no more.
    let id = api.start_sh("web", STUBBORN);
    let mut connection = api.connect();
    connection.send("POST", &format!("/containers/{id}/wait"), &[], b"");
    assert_eq!(connection.head().status, 200);
    connection.half_close();
    assert!(connection.chunk().is_err(), "the stream is cut");
}

#[test]
fn requests_in_one_piece_are_answered_in_their_order() {
    let api = DockerApi::new();
    let mut connection = api.connect();
    let text: String = ["/containers/json", "/_ping", "/no/such/page", "/images/json", "/_ping"]
        .map(|path| format!("GET {path} HTTP/1.1\r\n\r\n"))
        .concat();
    connection.write(text);
    let statuses: Vec<u16> = (0..5).map(|_| connection.reply("GET").status()).collect();
    assert_eq!(statuses, [200, 200, 404, 200, 200]);
}

#[test]
fn a_killed_gateway_cuts_its_streams_and_the_next_one_goes_on() {
    let mut api = DockerApi::new();
    let id = api.start_sh("web", STUBBORN);
    let wait = |api: &DockerApi| {
        let mut connection = api.connect();
        connection.send("POST", &format!("/containers/{id}/wait"), &[], b"");
        assert_eq!(connection.head().status, 200);
        connection
    };
    let mut cut = wait(&api);
    api.kill_gateway();
    assert!(cut.chunk().is_err(), "no clean end");
    // The socket of a killed gateway is replaced.
    api.start_gateway();
    let mut whole = wait(&api);
    assert_eq!(api.http("POST", &format!("/containers/{id}/kill")).status(), 204);
    assert_eq!(whole.message()["StatusCode"], 137);
    assert_eq!(whole.chunk().expect("a clean end"), None);
}

#[test]
fn a_gateway_that_is_told_to_stop_gives_short_answers_and_cuts_streams() {
    let mut api = DockerApi::new();
    let id = api.start_sh("web", STUBBORN);
    let mut stream = api.connect();
    stream.send("POST", &format!("/containers/{id}/wait"), &[], b"");
    assert_eq!(stream.head().status, 200);
    let mut idle = api.connect();
    let mut short = api.connect();
    short.send("POST", &format!("/containers/{id}/stop?t=1"), &[], b"");
    // The container is told to stop before the gateway is.
    let is_stopping =
        || api.containers.stdout_of(&["events", "--no-follow", "--after", "0"]).contains("kill");
    api.wait_until("the stop to begin", is_stopping);
    send_signal(&api, Signal::SIGTERM);
    assert!(stream.chunk().is_err(), "a stream is cut");
    assert_eq!(idle.rest(), b"");
    assert_eq!(short.reply("POST").status(), 204);
    assert!(api.gateway().wait().expect("ours").success());
    assert!(!api.socket().exists());
}

#[test]
fn an_idle_gateway_ends_and_one_with_a_client_does_not() {
    let mut api = DockerApi::new();
    api.kill_gateway();
    api.start_gateway_with(&["--idle-timeout", "200ms"]);
    let mut held = api.connect();
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(600) {
        held.send("GET", "/_ping", &[], b"");
        assert_eq!(held.reply("GET").status(), 200);
    }
    drop(held);
    assert!(api.gateway().wait().expect("ours").success());
    assert!(!api.socket().exists());
}
