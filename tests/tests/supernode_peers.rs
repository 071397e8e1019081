//! Peers of Sampan's own wire: pieces as they come, tickets, parents, and those who send nonsense.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use sampan_tests::http_client::HttpClient;
use sampan_tests::origin_server::{Fault, Origin, Resource};
use sampan_tests::own_wire::{OwnClient, OwnTask, digests, have, text};
use sampan_tests::supernode::{Supernode, address};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const PIECE: usize = 4 * MIB - 5;

fn client(supernode: &Supernode) -> OwnClient {
    OwnClient::new(supernode.control(), supernode.download())
}

fn bits(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The peer `id` at address number `host`.
fn peer(id: &str, host: u8, zone: &str, rack: &str) -> Value {
    json!({ "id": id, "ip": address(host).to_string(), "port": 20_000, "zone": zone, "rack": rack })
}

/// Registers from address number `host`.
fn register_from(supernode: &Supernode, host: u8, body: &Value) -> (u16, Value) {
    let mut http = HttpClient::from(address(host), supernode.control());
    let response = http.post("/sampan/v1/tasks", body).expect("an answer");
    (response.status, response.json())
}

fn ids(told: &Value) -> Vec<&str> {
    let parents = told["parents"].as_array().expect("a list");
    parents.iter().map(|parent| parent["id"].as_str().expect("text")).collect()
}

#[test]
fn pieces_are_told_and_served_while_the_origin_is_slow() {
    let (origin, content) = Origin::with_file(20 * MIB);
    origin.put("/file", Resource { rate: Some(8 << 20), ..Resource::of(content.clone()) });
    let supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let task = client.register(&json!({ "url": origin.url("/file") }));
    assert_eq!(task.told["pieces"], 6);
    let (mut version, mut answers) = (String::new(), 0);
    loop {
        let state = client.pieces(&task, &version).json();
        let there = have(&state);
        let expected = digests(&content, PIECE);
        for piece in 0..6 {
            let digest = state["digests"][piece].as_str().expect("text");
            assert_eq!(digest, if there.contains(&piece) { expected[piece].as_str() } else { "" });
        }
        if let Some(last) = there.last() {
            let (from, to) = (last * PIECE, content.len().min((last + 1) * PIECE));
            let part = client.content(&task, Some(&format!("bytes={from}-{}", to - 1)));
            assert!(part.status == 206 && part.body == content[from..to], "{}", part.status);
        }
        if state["complete"] == true {
            assert_eq!(there, [0, 1, 2, 3, 4, 5]);
            break;
        }
        assert_eq!(state["length"], content.len());
        answers += 1;
        version = format!("&version={}", state["version"]);
    }
    assert!(answers > 0, "the first answer came at the end");
    let from = client.pieces(&task, "&from=4").json();
    assert_eq!(from["digests"], json!(digests(&content, PIECE)[4..]));
    for beyond in ["&from=6", "&from=4294967295"] {
        assert_eq!(client.pieces(&task, beyond).json()["digests"], json!([]));
    }
}

#[test]
fn a_question_without_news_is_answered_all_the_same() {
    let (origin, content) = Origin::with_file(9 * MIB);
    origin.fail("/file", [Fault::Stall(PIECE as u64 + 1)]);
    let supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let task = client.register(&json!({ "url": origin.url("/file") }));
    let mut state = client.pieces(&task, "").json();
    while have(&state).is_empty() {
        state = client.pieces(&task, &format!("&version={}", state["version"])).json();
    }
    let again = client.pieces(&task, &format!("&version={}", state["version"])).json();
    assert_eq!((&again["version"], &again["have"]), (&state["version"], &state["have"]));
    // What is not there yet is neither sent nor waited for.
    let part = client.content(&task, Some(&format!("bytes=0-{}", PIECE - 1)));
    assert!(part.status == 206 && part.body == content[..PIECE]);
    for range in [None, Some("bytes=5000000-5000001"), Some("bytes=0-4194299"), Some("bytes=0-")] {
        let part = client.content(&task, range);
        assert_eq!((part.status, part.body.len()), (416, 0), "{range:?}");
    }
}

#[test]
fn a_ticket_is_for_one_task_and_one_address() {
    let (origin, content) = Origin::with_file(MIB);
    origin.put("/other", Resource::of(content.clone()));
    let supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let [task, other] = ["/file", "/other"].map(|path| {
        let task = client.register(&json!({ "url": origin.url(path) }));
        client.wait(&task);
        task
    });
    let (_, foreign) = register_from(&supernode, 11, &json!({ "url": origin.url("/file") }));
    let mut tampered = task.ticket.clone().into_bytes();
    let last = tampered.last_mut().expect("not empty");
    *last = if *last == b'0' { b'1' } else { b'0' };
    let tampered = String::from_utf8(tampered).expect("ASCII");
    let (expiry, tag) = task.ticket.split_once('.').expect("two parts");
    let later = format!("{}.{tag}", expiry.parse::<u64>().expect("a number") + 1);
    for bad in [&other.ticket, &text(&foreign, "ticket"), &tampered, &later, "", "x", &"9".repeat(5000)] {
        let with = OwnTask { ticket: bad.to_owned(), ..task.clone() };
        assert_eq!(client.content(&with, Some("bytes=0-9")).status, 403, "{bad}");
        assert_eq!(client.pieces(&with, "").status, 403, "{bad}");
        let path = format!("/sampan/v1/tasks/{}/have", task.id);
        let body = json!({ "peer": "p", "ticket": bad, "have": "" }).to_string();
        assert_eq!(client.control(&Method::POST, &path, body.as_bytes()).expect("an answer").status, 403);
    }
    assert_eq!(client.download(&format!("/content/{}", task.id), None).expect("an answer").status, 403);
    let none = format!("/content/{}?ticket={}", "0".repeat(64), task.ticket);
    assert_eq!(client.download(&none, None).expect("an answer").status, 404);
    let whole = client.content(&task, None);
    assert!(whole.status == 200 && whole.body == content);
    assert_eq!(whole.headers["etag"], "\"1\"");
    let part = client.content(&task, Some("bytes=5-6"));
    assert_eq!((part.status, &part.headers["content-range"]), (206, &"bytes 5-6/1048576".parse().expect("")));
    let past = client.content(&task, Some("bytes=1048576-"));
    assert_eq!((past.status, &past.headers["content-range"]), (416, &"bytes */1048576".parse().expect("")));
}

#[test]
fn parents_in_the_rack_come_before_those_in_the_zone() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let register = |id: &str, host: u8, zone: &str, rack: &str, have: &[u8]| {
        let body = json!({ "url": url, "peer": peer(id, host, zone, rack), "have": bits(have) });
        let (status, told) = register_from(&supernode, host, &body);
        assert_eq!(status, 200, "{told}");
        told
    };
    register("far", 11, "z2", "r9", &[0b111]);
    register("zone", 12, "z1", "r2", &[0b011]);
    register("rack", 13, "z1", "r1", &[0b001]);
    register("nothing", 14, "z1", "r1", &[]);
    register("farther", 15, "z3", "", &[0b011]);
    register("farthest", 16, "", "", &[0b001]);
    let told = register("me", 17, "z1", "r1", &[]);
    assert_eq!(ids(&told), ["rack", "zone", "far", "farther"]);
    let parent = json!({ "id": "rack", "ip": address(13).to_string(), "port": 20_000 });
    assert_eq!(told["parents"][0], parent);
    // Those that have nothing more than the peer itself are of no use.
    let told = register("me", 17, "z1", "r1", &[0b011]);
    assert_eq!(ids(&told), ["far"]);
    assert_eq!(ids(&register("far", 11, "z2", "r9", &[0b111])), Vec::<&str>::new());
    let query = format!("ticket={}&peer=me", text(&told, "ticket"));
    let mut http = HttpClient::from(address(17), supernode.control());
    let path = format!("/sampan/v1/tasks/{}/pieces?{query}", text(&told, "task"));
    assert_eq!(ids(&http.get(&path).expect("an answer").json()), ["far"]);
}

#[test]
fn nobody_speaks_for_a_peer_at_another_address() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let body = |host| json!({ "url": url, "peer": peer("victim", host, "", ""), "have": bits(&[0b1]) });
    assert_eq!(register_from(&supernode, 11, &body(11)).0, 200);
    // The name of another one, and the address of another one.
    assert_eq!(register_from(&supernode, 12, &body(12)).0, 403);
    assert_eq!(register_from(&supernode, 12, &body(11)).0, 403);
    let (_, told) = register_from(&supernode, 12, &json!({ "url": url }));
    let (task, ticket) = (text(&told, "task"), text(&told, "ticket"));
    let mut http = HttpClient::from(address(12), supernode.control());
    let have = json!({ "peer": "victim", "ticket": ticket, "have": "" });
    assert_eq!(http.post(&format!("/sampan/v1/tasks/{task}/have"), &have).expect("an answer").status, 403);
    let path = format!("/sampan/v1/tasks/{task}/peers/victim?ticket={ticket}");
    assert_eq!(http.request("DELETE", &path, &[], b"").expect("an answer").status, 403);
    assert_eq!(ids(&register_from(&supernode, 12, &json!({ "url": url })).1), ["victim"]);
}

#[test]
fn an_operator_may_let_peers_name_other_addresses() {
    let (origin, _) = Origin::with_file(100);
    let block = format!("{}/32", address(12));
    let supernode = Supernode::start(1, &["--allow-peer", &block]);
    let url = origin.url("/file");
    for (host, status) in [(12, 200), (13, 403)] {
        let body = json!({ "url": url, "peer": peer("p", host, "", ""), "have": "" });
        assert_eq!(register_from(&supernode, 11, &body).0, status);
    }
}

#[test]
fn bodies_of_nonsense_are_refused_and_do_no_harm() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let url = origin.url("/file");
    let good = json!({ "id": "p", "ip": "127.0.0.1", "port": 1, "zone": "", "rack": "" });
    let with = |key: &str, value: Value| {
        let mut peer = good.clone();
        peer[key] = value;
        json!({ "url": url, "peer": peer, "have": "" })
    };
    let long = "x".repeat(10_000);
    for bad in [
        with("id", json!("")),
        with("id", json!(long)),
        with("id", json!("a/b")),
        with("id", json!("a\nb")),
        with("id", json!("\u{202e}")),
        with("id", json!(7)),
        with("ip", json!("")),
        with("ip", json!("host")),
        with("port", json!(70_000)),
        with("port", json!(-1)),
        with("zone", json!(long)),
        with("zone", json!("a\u{0}b")),
        with("rack", json!("a\u{1b}[31m")),
        json!({ "url": url, "peer": good, "have": "no base64!" }),
        json!({ "url": url, "peer": good, "have": [1, 2] }),
        json!({ "url": url, "peer": "p" }),
        json!({ "url": "file:///etc/passwd" }),
        json!({ "url": "" }),
        json!({}),
        json!([1]),
        json!("x"),
        json!({ "url": url, "headers": { "a": "b" } }),
        json!({ "url": url, "headers": ["A: b\r\nC: d"] }),
    ] {
        let answer = client.try_register(&bad);
        assert_eq!(answer.status, 400, "{bad}: {}", String::from_utf8_lossy(&answer.body));
    }
    let deep = "[".repeat(100_000);
    let torn = [deep.as_bytes(), b"{", b"\xff\xfe", b"", b"{\"url\":\"http://\xff\"}"];
    for bad in torn {
        let answer = client.control(&Method::POST, "/sampan/v1/tasks", bad).expect("an answer");
        assert_eq!(answer.status, 400);
    }
    // The bits of pieces that the file does not have do not count, and a body has a bound.
    let all = client.register(&json!({ "url": url, "peer": good, "have": bits(&[0xff; 150_000]) }));
    let long = json!({ "url": url, "peer": good, "have": bits(&[0xff; 250_000]) });
    assert_eq!(client.try_register(&long).status, 413);
    let path = format!("/sampan/v1/tasks/{}/have", all.id);
    for (have, status) in [(bits(&[0xff; 150_000]), 204), ("%".to_owned(), 400), (String::new(), 204)] {
        let body = json!({ "peer": "p", "ticket": all.ticket, "have": have }).to_string();
        let answer = client.control(&Method::POST, &path, body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, status);
    }
    let path = |id: &str, rest: &str| format!("/sampan/v1/tasks/{id}/{rest}?ticket={}", all.ticket);
    for (method, path) in [
        (Method::GET, path("x", "pieces")),
        (Method::GET, path(&"0".repeat(64), "pieces")),
        (Method::GET, path(&all.id, "")),
        (Method::PUT, path(&all.id, "pieces")),
        (Method::DELETE, path(&all.id, "peers/none")),
        (Method::DELETE, path(&all.id, "peers/a%00b")),
    ] {
        assert_eq!(client.control(&method, &path, b"").expect("an answer").status, 404, "{method} {path}");
    }
    assert!(client.fetch(&url) == content);
}

#[test]
fn a_refused_file_has_its_status() {
    let origin = Origin::start();
    origin.put("/secret", Resource { token: Some("good".to_owned()), ..Resource::of(b"x".to_vec()) });
    let supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let secret = origin.url("/secret");
    assert_eq!(client.try_register(&json!({ "url": origin.url("/none") })).status, 404);
    assert_eq!(client.try_register(&json!({ "url": secret })).status, 403);
    let bad = json!({ "url": secret, "headers": ["Authorization: Bearer bad"] });
    assert_eq!(client.try_register(&bad).status, 403);
    let good = json!({ "url": secret, "headers": ["Authorization: Bearer good"] });
    let task = client.register(&good);
    client.wait(&task);
    assert_eq!(client.content(&task, None).body, b"x");
    assert_eq!(client.try_register(&bad).status, 403);
}

#[test]
fn a_fetch_that_a_restart_ended_goes_on_after_a_registration() {
    let (origin, content) = Origin::with_file(20 * MIB);
    origin.put("/file", Resource { rate: Some(8 << 20), ..Resource::of(content.clone()) });
    let mut supernode = Supernode::start(1, &[]);
    let client = client(&supernode);
    let body = json!({
        "url": origin.url("/file"), "have": bits(&[0b11]),
        "peer": { "id": "p", "ip": "127.0.0.1", "port": 1 },
    });
    let task = client.register(&body);
    let mut state = client.pieces(&task, "").json();
    while have(&state).len() < 2 {
        state = client.pieces(&task, &format!("&version={}", state["version"])).json();
    }
    supernode.kill9();
    supernode.start_again();
    // The ticket is good. The answers say that the registration is gone.
    assert_eq!(client.pieces(&task, "").status, 404);
    let have = json!({ "peer": "p", "ticket": task.ticket, "have": bits(&[0b11]) }).to_string();
    let path = format!("/sampan/v1/tasks/{}/have", task.id);
    assert_eq!(client.control(&Method::POST, &path, have.as_bytes()).expect("an answer").status, 404);
    let again = client.register(&body);
    assert_eq!(again.id, task.id);
    client.wait(&task);
    assert!(client.content(&task, None).body == content);
    let (_, other) = register_from(&supernode, 11, &json!({ "url": origin.url("/file") }));
    assert_eq!(ids(&other), ["p"]);
    let bytes = origin.served("/file").bytes;
    assert!(bytes <= (content.len() + 9 * MIB) as u64, "{bytes}");
}

#[test]
fn a_changed_file_has_another_version_and_no_parents() {
    let (origin, content) = Origin::with_file(5 * MIB);
    let supernode = Supernode::start(1, &["--revalidate", "0s"]);
    let client = client(&supernode);
    let peer = json!({ "id": "p", "ip": "127.0.0.1", "port": 1 });
    let task = client.register(&json!({ "url": origin.url("/file"), "peer": peer, "have": bits(&[0b11]) }));
    client.wait(&task);
    let new: Vec<u8> = content.iter().rev().copied().collect();
    origin.put("/file", Resource { etag: Some("\"2\"".to_owned()), ..Resource::of(new.clone()) });
    let again = client.register(&json!({ "url": origin.url("/file") }));
    assert_eq!((&task.told["etag"], &again.told["etag"]), (&json!("\"1\""), &json!("\"2\"")));
    assert_eq!(again.told["parents"], json!([]));
    assert_eq!(client.pieces(&task, "").status, 403, "the ticket is for the old version");
    assert_eq!(client.content(&task, None).status, 403);
    let last = client.wait(&again).pop().expect("an answer");
    assert_eq!(last["etag"], "\"2\"");
    let whole = client.content(&again, None);
    assert!(whole.body == new && whole.headers["etag"] == "\"2\"");
}
