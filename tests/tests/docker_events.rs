//! `GET /events` of the gateway: docker's command line, and requests as they are on the wire. Every event comes once and in
//! order, whatever is killed, and a loss is an event.

use sampan_ipc::engine::Request;
use sampan_ipc::{Event, time};
use sampan_tests::docker_api::http::{Connection, Head};
use sampan_tests::docker_api::{DockerApi, with_each_docker};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// Encodes the characters of filters that a URI must not have.
fn encoded(target: &str) -> String {
    let encode = |c: char| match c {
        '"' | '{' | '}' | '[' | ']' | ' ' => format!("%{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    target.chars().map(encode).collect()
}

/// Opens a stream of events, which must begin.
fn open(api: &DockerApi, target: &str, headers: &[(&str, &str)]) -> (Connection, Head) {
    let mut connection = api.connect();
    connection.send("GET", &encoded(target), headers, b"");
    let head = connection.head();
    assert_eq!(head.status, 200, "{target}: {head:?}");
    (connection, head)
}

/// A time in the form of docker's API.
fn unix(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The events that there are, with this filter.
fn past(api: &DockerApi, filters: &str) -> Vec<Value> {
    let target = format!("/events?since=0&until={}&filters={filters}", unix(time::now()));
    let reply = api.http("GET", &encoded(&target));
    assert!(reply.status() == 200 && reply.is_whole, "{target}: {reply:?}");
    reply.messages()
}

/// Sends facts as the engine does, and waits until monitord has them.
fn send(api: &DockerApi, events: impl IntoIterator<Item = Event>) {
    let host = &api.containers.host;
    let (sender, before) = (host.sender(), host.status().seq);
    let mut count = 0;
    for event in events {
        sender.send(event).expect("a good event");
        count += 1;
    }
    host.await_seq(before + count);
}

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = Event> {
    range.map(|nth| Event::new("volume", "mount", format!("v{nth}")))
}

fn id(event: &Value) -> &str {
    event["Actor"]["ID"].as_str().expect("an ID")
}

fn actions<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    events.into_iter().map(|event| event["Action"].as_str().expect("an action")).collect()
}

/// The place of an event, as `Last-Event-ID` has it.
fn place(event: &Value) -> String {
    format!("{}:{}", event["journal"].as_str().expect("a journal"), event["seq"])
}

/// docker's `events`, which prints an object for each line.
struct DockerEvents {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl DockerEvents {
    /// Starts docker, and waits until monitord has its subscription.
    fn start(api: &DockerApi, args: &[&str]) -> Self {
        let before = api.containers.host.status().subscribers.len();
        let args = [&["events", "--format", "{{json .}}"], args].concat();
        let mut command = api.docker_command(&args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("docker starts");
        api.wait_until("docker to subscribe", || api.containers.host.status().subscribers.len() > before);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        DockerEvents { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("one more line").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in '{line}'"))
    }

    /// Receives events up to one with this action.
    fn until(&mut self, action: &str) -> Vec<Value> {
        let mut events = vec![self.next()];
        while events.last().is_none_or(|event| event["Action"] != action) {
            events.push(self.next());
        }
        events
    }
}

impl Drop for DockerEvents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn docker_shows_past_events_for_all_forms_of_time() {
    with_each_docker(|api| {
        let begin = time::now();
        let id = api.start_sh("one", "exit 3");
        let events = api.containers.events(&id, "die");
        let end = time::now();
        let rfc = |nanos| time::local(nanos);
        let (begin_unix, end_unix) = (unix(begin), unix(end));
        let (begin_local, end_local) = (rfc(begin), rfc(end));
        for (since, until) in [
            (begin_unix.as_str(), end_unix.as_str()),
            (&begin_local, &end_local),
            // docker's command line sends whole seconds, so the end lies a second ahead.
            ("10m", "-1s"),
            ("2020-01-02", &end_unix),
            ("2020-01-02T15:04:05", &end_unix),
            ("0", &end_unix),
        ] {
            let filter = format!("container={id}");
            let args = ["events", "--since", since, "--until", until, "--filter", &filter];
            let shown = api.docker_ok(&[&args[..], &["--format", "{{json .}}"]].concat());
            let shown: Vec<Value> =
                shown.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
            assert_eq!(actions(&shown), ["create", "start", "die"], "{since} to {until}");
            assert_eq!(shown[2]["Actor"]["Attributes"]["exitCode"], "3");
            assert_eq!(shown[2]["timeNano"], events[2].time);
            assert_eq!((&shown[0]["status"], &shown[0]["from"]), (&"create".into(), &"box:1".into()));
        }
        let args = ["events", "--since", &begin_unix, "--until", &end_unix, "--filter", "event=die"];
        let line = api.docker_ok(&args);
        let attributes = ["execDuration=0", "exitCode=3", "image=box:1", "name=one"];
        assert!(line.contains(&format!(" container die {id} (")), "{line}");
        assert!(attributes.iter().all(|attribute| line.contains(attribute)), "{line}");
    });
}

#[test]
fn docker_shows_the_orders_that_a_dockerd_promises() {
    with_each_docker(|api| {
        let mut events = DockerEvents::start(api, &["--filter", "type=container"]);
        api.docker_ok(&["run", "-d", "--name", "a", "box:1", "sleep", "1000"]);
        assert_eq!(actions(&events.until("start")), ["create", "start"]);
        api.docker_ok(&["restart", "-t", "0", "a"]);
        let restart = events.until("restart");
        let order = actions(&restart);
        assert!(order.starts_with(&["kill"]) && order.ends_with(&["start", "restart"]), "{order:?}");
        assert!(order.contains(&"die") && order.contains(&"stop"), "{order:?}");
        api.docker_ok(&["kill", "a"]);
        let killed = events.until("die");
        assert_eq!(actions(&killed), ["kill", "die"]);
        assert_eq!(killed[0]["Actor"]["Attributes"]["signal"], "9");
        assert_eq!(killed[1]["Actor"]["Attributes"]["exitCode"], "137");
        api.docker_ok(&["rename", "a", "b"]);
        let renamed = events.next();
        let attributes = &renamed["Actor"]["Attributes"];
        assert_eq!((&attributes["oldName"], &attributes["name"]), (&"/a".into(), &"b".into()));
        api.docker_ok(&["start", "b"]);
        assert_eq!(events.next()["Action"], "start");
        api.docker_ok(&["rm", "-f", "b"]);
        assert_eq!(actions(&events.until("destroy")), ["kill", "die", "destroy"]);
        api.docker_ok(&["run", "--rm", "--name", "c", "box:1", "true"]);
        assert_eq!(actions(&events.until("destroy")), ["create", "attach", "start", "die", "destroy"]);
        api.docker_ok(&[
            "run",
            "-d",
            "--name",
            "d",
            "box:1",
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        ]);
        events.until("start");
        api.docker_ok(&["stop", "d"]);
        let mut stop = vec![events.next(), events.next(), events.next()];
        assert_eq!(
            (&stop[0]["Action"], &stop[0]["Actor"]["Attributes"]["signal"]),
            (&"kill".into(), &"15".into())
        );
        stop.remove(0);
        let mut last = actions(&stop);
        last.sort_unstable();
        assert_eq!(last, ["die", "stop"], "docker's versions differ in the order of the two");
        api.docker_ok(&["rm", "d"]);
    });
}

#[test]
fn docker_shows_what_happens_to_images() {
    with_each_docker(|api| {
        let reference = api.push_busybox("team/app:1");
        let mut events = DockerEvents::start(api, &["--filter", "type=image"]);
        for _ in 0..2 {
            api.docker_ok(&["pull", &reference]);
            let pulled = events.next();
            let name = reference.trim_end_matches(":1");
            assert_eq!((id(&pulled), &pulled["Action"]), (reference.as_str(), &"pull".into()));
            assert_eq!(pulled["Actor"]["Attributes"]["name"], name);
        }
        let image = api.docker_ok(&["images", "-q", "--no-trunc", &reference]);
        api.docker_ok(&["tag", &reference, "copy:2"]);
        let tagged = events.next();
        assert_eq!((id(&tagged), &tagged["Actor"]["Attributes"]["name"]), (image.as_str(), &"copy:2".into()));
        api.docker_ok(&["rmi", "-f", &image]);
        let removed = events.until("delete");
        assert_eq!(actions(&removed), ["untag", "untag", "delete"]);
        assert!(removed.iter().all(|event| id(event) == image), "{removed:?}");
        api.docker_fails(1, &["pull", &format!("{reference}-missing")]);
        let failed = events.next();
        assert_eq!(
            (&failed["Action"], id(&failed)),
            (&"pull-error".into(), &*format!("{reference}-missing"))
        );
        assert_ne!(failed["Actor"]["Attributes"]["reason"], Value::Null);
    });
}

#[test]
fn filters_select_as_docker_s_do() {
    let api = DockerApi::new();
    let container = |action: &str, id: &str, name: &str| {
        Event::new("container", action, id).with("name", name).with("image", "docker.io/library/web:1")
    };
    send(
        &api,
        [
            container("die", "c1ff", "front").with("exitCode", 1).label("tier", "a").label("team", "x"),
            container("exec_start: sh", "c2ff", "frontend").label("tier", "a"),
            Event::new("image", "pull", "docker.io/library/web:1").with("name", "docker.io/library/web:1"),
            Event::new("network", "connect", "n1").with("name", "front").with("container", "c1ff"),
            Event::new("job", "finish", "77"),
        ],
    );
    api.containers.host.emitter().send(Event::new("backup", "die", "b1")).expect("a good event");
    api.wait_until("the emitted event", || past(&api, "{}").iter().any(|event| id(event) == "b1"));
    let all = ["c1ff", "c2ff", "web:1", "n1", "77", "b1"];
    for (filters, expected) in [
        (r#"{"type":["container"]}"#, &["c1ff", "c2ff"][..]),
        (r#"{"type":{"image":true,"network":true},"image":{"web":true},"scope":{"local":true}}"#, &["web:1"]),
        (r#"{"event":["die"]}"#, &["c1ff", "b1"]),
        (r#"{"event":["die"],"type":["container"]}"#, &["c1ff"]),
        (r#"{"event":["exec_start"]}"#, &["c2ff"]),
        (r#"{"event":["exec"]}"#, &[]),
        (r#"{"container":["front"]}"#, &["c1ff", "c2ff", "n1"]),
        (r#"{"container":["c2"]}"#, &["c2ff"]),
        (r#"{"image":["web:1"]}"#, &["c1ff", "c2ff", "web:1"]),
        (r#"{"image":["web"],"event":["pull"]}"#, &["web:1"]),
        (r#"{"label":["tier=a","team"]}"#, &["c1ff"]),
        (r#"{"label":["exitCode=1"]}"#, &["c1ff"]),
        (r#"{"label":["tier"]}"#, &["c1ff", "c2ff"]),
        (r#"{"network":["n"],"container":["front"]}"#, &["n1"]),
        (r#"{"type":["daemon"],"daemon":["7"]}"#, &["77"]),
        (r#"{"type":["job"]}"#, &["77"]),
        (r#"{"type":["daemon"],"label":["origin=emit"]}"#, &["b1"]),
        (r#"{"nonsense":["x"],"event":["die"]}"#, &["c1ff", "b1"]),
    ] {
        let shown = past(&api, filters);
        let ids: Vec<&str> = shown.iter().map(id).filter(|id| all.contains(id)).collect();
        assert_eq!(ids, expected, "{filters}");
    }
    let of_docker = |args: &[&str]| {
        let end = unix(time::now());
        let args = [&["events", "--since", "0", "--until", &end, "--format", "{{.Actor.ID}}"], args].concat();
        api.docker_ok(&args)
    };
    assert_eq!(of_docker(&["--filter", "label=tier=a", "--filter", "event=die"]), "c1ff");
    assert_eq!(of_docker(&["-f", "image=web", "-f", "type=image"]), "web:1");
}

#[test]
fn what_is_not_valid_is_refused_before_the_stream() {
    let api = DockerApi::new();
    for (target, headers) in [
        ("/events?since=yesterday", &[][..]),
        ("/events?until=1.0000000001", &[]),
        ("/events?since=2&until=1", &[]),
        ("/events?filters=x", &[]),
        ("/events?filters=[]", &[]),
        ("/events?since=seq:7", &[]),
        ("/events", &[("Last-Event-ID", "7")]),
    ] {
        let reply = api.http_with("GET", &encoded(target), headers, b"");
        assert!(reply.status() == 400 && !reply.message().is_empty(), "{target}: {reply:?}");
    }
    assert_eq!(api.http("HEAD", "/v1.41/events").status(), 404, "a stream has no end to tell the length of");
}

#[test]
fn headers_come_before_the_first_event_in_the_form_of_choice() {
    let api = DockerApi::new();
    for (target, accept, kind) in [
        ("/v1.41/events", "", "application/json"),
        ("/v1.52/events", "*/*", "application/jsonl"),
        ("/events", "application/jsonl", "application/jsonl"),
        ("/events", "application/x-ndjson", "application/x-ndjson"),
        ("/events", "application/json-seq", "application/json-seq"),
        ("/events", "text/event-stream", "text/event-stream"),
    ] {
        let headers = [("Accept", accept)];
        let (mut connection, head) = open(&api, target, if accept.is_empty() { &[] } else { &headers });
        assert_eq!(head.header("content-type"), Some(kind), "{target} {accept}");
        assert!(head.is_chunked());
        let is_server_sent = kind == "text/event-stream";
        if is_server_sent {
            let first = connection.chunk().expect("whole").expect("the place");
            let text = String::from_utf8(first).expect("text");
            assert!(text.starts_with("id: ") && text.ends_with("\n\n") && !text.contains("data"), "{text:?}");
        }
        send(&api, numbered(0..2));
        for nth in 0..2 {
            let chunk = connection.chunk().expect("whole").expect("an event");
            let text = String::from_utf8(chunk).expect("text");
            let (before, after) = (text.find('{').expect("an object"), text.rfind('}').expect("its end") + 1);
            let event: Value = serde_json::from_str(&text[before..after]).expect("an object");
            assert_eq!(id(&event), format!("v{nth}"));
            let expected = match kind {
                "text/event-stream" => (format!("id: {}\ndata: ", place(&event)), "\n\n"),
                "application/json-seq" => ("\u{1e}".to_owned(), "\n"),
                _ => (String::new(), "\n"),
            };
            assert_eq!((&text[..before], &text[after..]), (expected.0.as_str(), expected.1));
            assert_eq!(event.get("status"), None, "a volume's event has no old keys");
        }
    }
}

#[test]
fn a_stream_ends_at_its_until_with_all_events_before() {
    let api = DockerApi::new();
    send(&api, numbered(0..3));
    let until = time::now() + 700_000_000;
    let (mut connection, _) = open(&api, &format!("/events?until={}&since=0", unix(until)), &[]);
    send(&api, numbered(3..5));
    let mut ids = Vec::new();
    while let Some(chunk) = connection.chunk().expect("the stream ends as it should") {
        let event: Value = serde_json::from_slice(&chunk).expect("an object");
        ids.extend(event["Actor"]["ID"].as_str().filter(|id| id.starts_with('v')).map(str::to_owned));
    }
    assert_eq!(ids, ["v0", "v1", "v2", "v3", "v4"]);
    assert!(time::now() >= until);
    // The connection serves the next request.
    connection.send("GET", "/_ping", &[], b"");
    assert_eq!(connection.reply("GET").text(), "OK");
}

#[test]
fn a_client_that_resumes_misses_nothing_and_gets_nothing_twice() {
    let api = DockerApi::new();
    let filters = r#"filters={"type":["volume"]}"#;
    let (mut first, _) = open(&api, &format!("/events?{filters}"), &[("Accept", "text/event-stream")]);
    let begin = String::from_utf8(first.chunk().expect("whole").expect("a place")).expect("text");
    let begin = begin.trim().trim_start_matches("id: ").to_owned();
    drop(first);
    send(&api, numbered(0..10));
    // A client that broke off before its first event.
    let (mut second, _) = open(&api, &format!("/events?{filters}"), &[("Last-Event-ID", &begin)]);
    let mut last = String::new();
    for nth in 0..4 {
        let event = second.message();
        assert_eq!(id(&event), format!("v{nth}"));
        last = place(&event);
    }
    drop(second);
    send(&api, numbered(10..12));
    let (mut third, _) = open(&api, &format!("/events?since=0&{filters}"), &[("Last-Event-ID", &last)]);
    let (mut fourth, _) = open(&api, &format!("/events?since=seq:{last}&{filters}"), &[]);
    for nth in 4..12 {
        assert_eq!(id(&third.message()), format!("v{nth}"));
        assert_eq!(id(&fourth.message()), format!("v{nth}"));
    }
}

#[test]
fn a_stream_goes_on_when_monitord_is_killed() {
    let mut api = DockerApi::new();
    let (mut connection, _) = open(&api, r#"/events?filters={"type":["volume"]}"#, &[]);
    let mut docker = DockerEvents::start(&api, &["--filter", "type=volume"]);
    for round in 0..3 {
        send(&api, numbered(round * 100..round * 100 + 100));
        if round < 2 {
            // Some events are on their way to the clients.
            api.containers.host.kill9();
            api.containers.host.start_monitord(&[]);
        }
    }
    for nth in 0..300 {
        assert_eq!(id(&connection.message()), format!("v{nth}"));
        assert_eq!(id(&docker.next()), format!("v{nth}"));
    }
}

#[test]
fn a_lost_range_and_another_journal_are_events() {
    let mut api = DockerApi::new();
    api.containers.host.kill9();
    api.containers.host.start_monitord(&["--journal-bytes", "128K", "--ring-bytes", "128K"]);
    send(&api, numbered(0..1));
    let begin = past(&api, "{}").pop().expect("an event");
    let journal = begin["journal"].as_str().expect("a journal").to_owned();
    send(&api, numbered(1..3000));
    let (mut connection, _) =
        open(&api, r#"/events?filters={"type":["volume"]}"#, &[("Last-Event-ID", &place(&begin))]);
    let lost = connection.message();
    assert_eq!((&lost["Type"], &lost["Action"]), (&"daemon".into(), &"lost".into()));
    let number = |key: &str| -> u64 {
        lost["Actor"]["Attributes"][key].as_str().and_then(|text| text.parse().ok()).expect("a number")
    };
    assert_eq!(number("first"), begin["seq"].as_u64().expect("a number") + 1);
    assert_eq!(number("count"), number("last") - number("first") + 1);
    let next = connection.message();
    assert_eq!(next["seq"], number("last") + 1, "the stream goes on behind the range");
    assert_eq!(lost["seq"], number("last"));
    // A journal that was deleted is another journal.
    let other = "0123456789abcdef";
    let (mut connection, _) = open(&api, "/events", &[("Last-Event-ID", &format!("{other}:5"))]);
    let replaced = connection.message();
    let attributes = &replaced["Actor"]["Attributes"];
    assert_eq!((&replaced["Type"], &replaced["Action"]), (&"daemon".into(), &"journal-replaced".into()));
    assert_eq!((&attributes["previous"], &attributes["journal"]), (&other.into(), &journal.as_str().into()));
    assert!(connection.message()["seq"].as_u64() <= next["seq"].as_u64(), "all events follow");
}

#[test]
fn an_absent_monitord_is_an_error_and_no_empty_stream() {
    let mut api = DockerApi::new();
    api.containers.host.kill9();
    let reply = api.http("GET", "/events");
    assert!(reply.status() == 503 && reply.message().contains("events.sock"), "{reply:?}");
    api.containers.host.start_monitord(&[]);
    assert!(!past(&api, "{}").is_empty());
}

#[test]
fn the_engines_words_are_docker_s() {
    let api = DockerApi::new();
    let id = api.start_sh("one", "sleep 1000");
    api.containers.ok(Request::RemoveContainer { container: id.clone(), force: true });
    let filters = format!(r#"{{"container":["{id}"]}}"#);
    let mut shown = Vec::new();
    api.wait_until("the end of the container", || {
        shown = past(&api, &filters);
        shown.iter().any(|event| event["Action"] == "destroy")
    });
    assert_eq!(actions(&shown), ["create", "start", "kill", "die", "destroy"]);
    for event in &shown {
        assert_eq!(
            (&event["id"], &event["from"], &event["scope"]),
            (&id.as_str().into(), &"box:1".into(), &"local".into())
        );
        assert_eq!(event["time"].as_i64(), event["timeNano"].as_i64().map(|nanos| nanos / 1_000_000_000));
        assert_eq!(event["Actor"]["Attributes"]["name"], "one");
        assert!(event["seq"].as_u64().is_some_and(|seq| seq > 0));
    }
    // From API version 1.52 on, events have no old keys.
    let target = format!("/v1.52/events?since=0&until={}&filters={filters}", unix(time::now()));
    let new = api.http("GET", &encoded(&target)).messages();
    assert!(new.len() == shown.len() && new.iter().all(|event| event.get("status").is_none()), "{new:?}");
}
