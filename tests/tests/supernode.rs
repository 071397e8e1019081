//! The supernode's wires: what each request is answered, byte for byte where Dragonfly's clients depend on it.

use md5::{Digest, Md5};
use sampan_supernode::piece::{Pieces, head};
use sampan_supernode::task_id::TaskId;
use sampan_tests::dragonfly::{End, Peer, Pull, Pulled, Wire, Wish};
use sampan_tests::http_client::{HttpClient, Response};
use sampan_tests::origin_server::{Fault, Origin, Resource};
use sampan_tests::random::Random;
use sampan_tests::supernode::{CONTROL, DOWNLOAD, Supernode, address, registration};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

const MIB: usize = 1 << 20;
/// The port that clients without an uploader register.
const PORT: u16 = 49_098;

/// Piece `number` of a file of `content`, wrapped.
fn wrapped(content: &[u8], number: u32) -> Vec<u8> {
    let pieces = Pieces::of(Some(content.len() as u64), true);
    let offset = pieces.offset(number) as usize;
    let part = &content[offset..offset + pieces.content_len(number, content.len() as u64) as usize];
    [&head(part.len() as u64, pieces.size)[..], part, &[0x7f]].concat()
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A client that sends requests of its own, with an ID like dfget's.
struct Raw {
    http: HttpClient,
    ip: Ipv4Addr,
    cid: String,
    task: String,
}

impl Raw {
    /// Registers a client at address number `host` for the file at `url`.
    fn register(supernode: &Supernode, host: u8, port: u16, url: &str) -> Self {
        let ip = address(host);
        let cid = format!("{ip}-26462-1795229659.{host}");
        let mut http = HttpClient::from(ip, supernode.control());
        let response = http.post("/peer/registry", &registration(supernode, ip, port, &cid, url));
        let answer = response.expect("an answer").json();
        assert_eq!(answer["code"], 200, "{answer}");
        let task = answer["data"]["taskId"].as_str().expect("a task").to_owned();
        Raw { http, ip, cid, task }
    }

    fn ask(&mut self, dst: &str, range: &str, result: u16, status: u16) -> Value {
        let (cid, task) = (&self.cid, &self.task);
        let target = format!(
            "/peer/task?srcCid={cid}&dstCid={dst}&range={range}&result={result}&status={status}&taskId={task}"
        );
        let response = self.http.get(&target).expect("an answer");
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// Begins; repeats the request while the answer is "wait".
    fn begin(&mut self) -> Value {
        self.report("", "", 502, 700)
    }

    /// Reports a piece; repeats the request while the answer is "wait".
    fn report(&mut self, dst: &str, range: &str, result: u16, status: u16) -> Value {
        loop {
            let answer = self.ask(dst, range, result, status);
            if answer["code"] != 602 {
                return answer;
            }
        }
    }

    fn success(&mut self, dst: &str, range: &str) -> Response {
        let (cid, task) = (&self.cid, &self.task);
        let target = format!("/peer/piece/suc?taskId={task}&cid={cid}&dstCid={dst}&pieceRange={range}");
        self.http.get(&target).expect("an answer")
    }

    /// Takes all pieces of `answer` and of those that follow, as if the pieces took no time; returns what was offered.
    fn take_all(&mut self, answer: Value) -> Vec<Value> {
        self.take_each(answer, |_| {}).0
    }

    /// Takes all pieces; `on_offer` sees each before it is reported. Returns the offers and the last answer.
    fn take_each(&mut self, mut answer: Value, mut on_offer: impl FnMut(&Value)) -> (Vec<Value>, Value) {
        let (mut offers, mut next) = (Vec::new(), 0);
        loop {
            if answer["code"] == 601 {
                offers.extend(answer["data"].as_array().expect("offers").clone());
            }
            let Some(offer) = offers.get(next) else {
                assert_eq!(answer["code"], 600, "{answer}");
                return (offers, answer);
            };
            on_offer(offer);
            let (dst, range) = (text(offer, "cid"), text(offer, "range"));
            assert_eq!(self.success(&dst, &range).json()["code"], 611);
            next += 1;
            // A client with other pieces to get does not repeat the report.
            answer = if next < offers.len() {
                self.ask(&dst, &range, 503, 701)
            } else {
                self.report(&dst, &range, 503, 701)
            };
        }
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

#[test]
fn a_captured_exchange_is_answered_as_by_dragonfly() {
    let (origin, content) = (Origin::start(), Random::new(17).bytes(20 * MIB));
    origin.put("/blob20", Resource::of(content.clone()));
    let supernode = Supernode::start(1, &[]);
    let (a, url) = (address(11), origin.url("/blob20?sig=1&v=1"));
    let task_url = origin.url("/blob20?v=1");
    let task = TaskId::new(&task_url, "", "").to_string();
    let (prefix, cid) = (&task[..3], format!("{a}-26462-1795229659.132"));

    let mut http = HttpClient::from(a, supernode.control());
    let mut body = registration(&supernode, a, PORT, &cid, &url);
    body["taskUrl"] = json!(task_url);
    let response = http.post("/peer/registry", &body).expect("an answer");
    assert_eq!(response.status, 200);
    let data = json!({
        "taskId": task, "fileLength": 20_971_520, "pieceSize": 4_194_304, "cdnSource": "supernode", "asSeed": false,
        "seedTaskID": "",
    });
    assert_eq!(response.json(), json!({ "code": 200, "msg": "success", "data": data }));

    let mut client = Raw { http, ip: a, cid: cid.clone(), task: task.clone() };
    let answer = client.begin();
    let (own, start) =
        (format!("cdnnode:{}~{task}", supernode.control().ip()), format!("/download/{prefix}/{task}"));
    let pieces = Pieces::of(Some(content.len() as u64), true);
    let mut seen = Vec::new();
    let (_, answer) = client.take_each(answer, |offer| {
        let number = offer["pieceNum"].as_u64().expect("a number") as u32;
        let piece = wrapped(&content, number);
        let range = pieces.range(number);
        // The path may have a ticket at its end.
        let path = text(offer, "path");
        assert!(path.starts_with(&start), "{path}");
        let expected = json!({
            "range": range, "pieceNum": number, "pieceSize": 4_194_304,
            "pieceMd5": format!("{}:{}", md5_of(&piece), piece.len()), "cid": own,
            "peerIp": supernode.control().ip().to_string(), "peerPort": DOWNLOAD, "path": path, "downLink": 0,
        });
        assert_eq!(*offer, expected);
        let asked = format!("bytes={range}");
        let headers = [("Range", asked.as_str()), ("Piecenum", "0"), ("Piecesize", "4194304")];
        let got = HttpClient::from(a, supernode.download()).request("GET", &path, &headers, b"");
        let got = got.expect("an answer");
        assert_eq!((got.status, got.body.len()), (206, piece.len()));
        assert!(got.body == piece, "piece {number} differs");
        seen.push(number);
    });
    let range = pieces.range(0);
    assert_eq!(client.success(&own, &range).json(), json!({ "code": 611 }));
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    assert_eq!(answer["code"], 600, "{answer}");
    assert_eq!(answer["data"]["fileLength"], 20_971_550);
    let md5 = text(&answer["data"], "md5");
    assert!(md5.is_empty() || md5 == md5_of(&content), "{md5}");

    let mut other = Raw::register(&supernode, 12, PORT, &url.replace("sig=1&", ""));
    assert_eq!(other.task, task);
    let answer = other.begin();
    let offers = other.take_all(answer);
    assert_eq!(offers.len(), 6);
    let from_peer = offers.iter().find(|offer| offer["cid"] == cid.as_str()).expect("a piece from the peer");
    assert_eq!(from_peer["peerIp"], a.to_string());
    assert_eq!(from_peer["peerPort"], PORT);
    assert_eq!(text(from_peer, "path"), format!("/peer/file/out-{cid}"));

    let down = client.http.get(&format!("/peer/service/down?taskId={task}&cid={cid}")).expect("an answer");
    assert_eq!(down.json(), json!({ "code": 612 }));
    let mut third = Raw::register(&supernode, 13, PORT, &task_url);
    let answer = third.begin();
    let offers = third.take_all(answer);
    assert!(offers.iter().all(|offer| offer["cid"] != cid.as_str()), "a peer that left is offered");
    assert_eq!(origin.served("/blob20").bytes, content.len() as u64, "the origin sends the file once");
}

#[test]
fn registrations_have_keys_in_any_case_versions_and_forms() {
    let (origin, _) = Origin::with_file(100);
    let supernode = Supernode::start(1, &[]);
    let ip = address(11);
    let mut http = HttpClient::from(ip, supernode.control());
    let (cid, url) = (format!("{ip}-26462-1795229659.132"), origin.url("/file"));
    let body = registration(&supernode, ip, PORT, &cid, &url);
    let task = TaskId::new(&url, "", "").to_string();
    let object = body.as_object().expect("an object");
    let upper: Value = object.iter().map(|(key, value)| (key.to_ascii_uppercase(), value.clone())).collect();
    for target in ["/peer/registry", "/v1.0.6/peer/registry"] {
        let answer = http.post(target, &upper).expect("an answer").json();
        assert_eq!(answer["data"]["taskId"], task.as_str(), "{answer}");
    }
    let form: Vec<String> = object
        .iter()
        .map(|(key, value)| {
            format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = http.request("POST", "/peer/registry", &headers, form.join("&").as_bytes());
    assert_eq!(answer.expect("an answer").json()["data"]["taskId"], task.as_str());
}

#[test]
fn a_task_id_depends_on_url_sign_and_range() {
    let (origin, content) = Origin::with_file(100);
    let supernode = Supernode::start(1, &[]);
    let ip = address(11);
    let url = origin.url("/file");
    let mut http = HttpClient::from(ip, supernode.control());
    let md5 = md5_of(&content);
    for (nth, (more, id)) in [
        (json!({ "md5": md5, "identifier": "i" }), TaskId::new(&url, &md5, "")),
        (json!({ "identifier": "i" }), TaskId::new(&url, "i", "")),
        (json!({ "headers": ["Range: bytes=0-9", "X: y"] }), TaskId::new(&url, "", "bytes=0-9")),
        (json!({ "headers": ["Authorization: Bearer x"] }), TaskId::new(&url, "", "")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = registration(&supernode, ip, PORT, &format!("{ip}-26462-1795229659.{nth}"), &url);
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let answer = http.post("/peer/registry", &body).expect("an answer").json();
        assert_eq!(answer["data"]["taskId"], id.to_string(), "{more}: {answer}");
    }
}

#[test]
fn a_missing_file_is_607_and_a_protected_one_608() {
    let (origin, content) = Origin::with_file(100);
    origin.put("/secret", Resource { token: Some("t".to_owned()), ..Resource::of(content) });
    let supernode = Supernode::start(1, &[]);
    let ip = address(11);
    let mut http = HttpClient::from(ip, supernode.control());
    for (path, code) in [("/none", 607), ("/secret", 608)] {
        let cid = format!("{ip}-26462-1795229659.132");
        let body = registration(&supernode, ip, PORT, &cid, &origin.url(path));
        let response = http.post("/peer/registry", &body).expect("an answer");
        assert_eq!((response.status, &response.json()["code"]), (200, &json!(code)), "{path}");
    }
}

#[test]
fn a_registration_that_makes_no_sense_is_refused() {
    let (origin, _) = Origin::with_file(100);
    let supernode = Supernode::start(1, &[]);
    let ip = address(11);
    let mut http = HttpClient::from(ip, supernode.control());
    let good = registration(&supernode, ip, PORT, &format!("{ip}-1-1795229659.132"), &origin.url("/file"));
    for (key, value) in [
        ("ip", json!("nowhere")),
        ("port", json!(80)),
        ("port", json!(70_000)),
        ("rawUrl", json!("file:///etc/passwd")),
        ("cid", json!("")),
        ("path", json!("")),
        ("path", json!("x".repeat(100_000))),
        ("headers", json!(vec!["A:b"; 10_000])),
    ] {
        let mut body = good.clone();
        body[key] = value;
        let response = http.post("/peer/registry", &body).expect("an answer");
        let is_refused = response.status >= 400 && response.json()["code"] == response.status;
        assert!(is_refused, "{key}: {response:?}");
    }
    for body in ["", "{", "[]", "null", "\"\""] {
        let response = http.request("POST", "/peer/registry", &[], body.as_bytes()).expect("an answer");
        assert!(response.status >= 400, "{body}: {response:?}");
    }
    assert_eq!(http.post("/peer/registry", &good).expect("an answer").json()["code"], 200);
}

#[test]
fn loopback_is_no_origin_unless_it_is_allowed() {
    let (origin, _) = Origin::with_file(100);
    let mut supernode = Supernode::with_defaults(1, &[]);
    supernode.start_again();
    let ip = address(11);
    let mut http = HttpClient::from(ip, supernode.control());
    let body = registration(&supernode, ip, PORT, &format!("{ip}-1-1795229659.132"), &origin.url("/file"));
    let response = http.post("/peer/registry", &body).expect("an answer");
    assert!(response.status != 200 || response.json()["code"] != 200, "{}", response.text());
    assert!(response.text().contains("--allow-origin"), "{}", response.text());
    assert_eq!(origin.served("/file"), Default::default());
}

#[test]
fn a_redirect_to_a_refused_origin_is_not_followed() {
    let (origin, content) = Origin::with_file(100);
    let other = Origin::start();
    other.put("/file", Resource::of(content));
    let only = format!("127.0.0.1:{}", origin.address().port());
    let mut supernode = Supernode::with_defaults(1, &["--allow-origin", &only]);
    supernode.start_again();
    let redirects = std::iter::repeat_n(Fault::Redirect(other.url("/file")), 10);
    origin.put("/away", Resource { takes_head: false, ..Resource::of(vec![0; 10]) });
    origin.fail("/away", redirects);
    let ip = address(11);
    let mut http = HttpClient::from(ip, supernode.control());
    let body = registration(&supernode, ip, PORT, &format!("{ip}-1-1795229659.132"), &origin.url("/away"));
    let response = http.post("/peer/registry", &body).expect("an answer");
    assert!(response.status != 200 || response.json()["code"] != 200, "{}", response.text());
    assert_eq!(other.served("/file"), Default::default());
}

#[test]
fn peers_without_a_port_or_with_a_foreign_address_are_not_offered() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let mut portless = Raw::register(&supernode, 11, 0, &url);
    let answer = portless.begin();
    portless.take_all(answer);
    let foreign = address(99);
    let mut http = HttpClient::from(address(12), supernode.control());
    let cid = format!("{foreign}-26462-1795229659.132");
    let body = registration(&supernode, foreign, PORT, &cid, &url);
    // The registration may be refused, or the peer never offered.
    let response = http.post("/peer/registry", &body).expect("an answer");
    if response.status == 200 && response.json()["code"] == 200 {
        let task = portless.task.clone();
        let mut liar = Raw { http, ip: foreign, cid, task };
        let answer = liar.begin();
        liar.take_all(answer);
        assert_eq!(liar.ip, foreign);
    }
    let mut honest = Raw::register(&supernode, 13, PORT, &url);
    let answer = honest.begin();
    for offer in honest.take_all(answer) {
        assert!(text(&offer, "cid").starts_with("cdnnode:"), "{offer}");
    }
}

#[test]
fn a_client_speaks_only_for_itself() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let mut victim = Raw::register(&supernode, 11, PORT, &url);
    let answer = victim.begin();
    let offers = victim.take_all(answer);
    let mut thief = Wire::new(address(12), supernode.control());
    let pull = Pull { result: 502, status: 700, task: victim.task.clone(), ..Pull::default() };
    let answer = thief.pull(&victim.cid, &pull);
    assert!(!matches!(answer, Ok(Pulled::Get(_) | Pulled::Finished(..))), "{answer:?}");
    assert!(!thief.success(&victim.task, &victim.cid, "", &text(&offers[0], "range")));
    thief.down(&victim.task, &victim.cid);
    // The victim is still offered to others.
    let mut other = Raw::register(&supernode, 13, PORT, &url);
    let answer = other.begin();
    assert!(other.take_all(answer).iter().any(|offer| offer["cid"] == victim.cid.as_str()));
}

#[test]
fn the_download_port_serves_ranges_of_the_wrapped_file() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let mut client = Raw::register(&supernode, 11, PORT, &origin.url("/file"));
    let answer = client.begin();
    let path = text(&answer["data"][0], "path");
    client.take_all(answer);
    let file = [wrapped(&content, 0), wrapped(&content, 1), wrapped(&content, 2)].concat();
    let mut http = HttpClient::from(address(11), supernode.download());
    for (from, to) in [(0, 0), (3, 4), (4_194_302, 4_194_310), (0, file.len() - 1), (8_388_600, 99_999_999)] {
        let range = format!("bytes={from}-{to}");
        let part = http.request("GET", &path, &[("Range", &range)], b"").expect("an answer");
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == file[from..file.len().min(to + 1)], "{range}");
    }
    let last = http.request("GET", &path, &[("Range", "bytes=99999999-100000000")], b"");
    assert_eq!(last.expect("an answer").status, 416);
    let none = format!("/download/abc/{}", "abc0".repeat(16));
    for path in [none.as_str(), "/download/../../etc/passwd", "/", "/download/"] {
        let response = http.request("GET", path, &[("Range", "bytes=0-9")], b"").expect("an answer");
        assert!(matches!(response.status, 400 | 404), "{path}: {response:?}");
    }
}

#[test]
fn reports_may_be_repeated_late_or_without_a_holder() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let mut client = Raw::register(&supernode, 11, PORT, &origin.url("/file"));
    let answer = client.begin();
    let (dst, range) = (text(&answer["data"][0], "cid"), text(&answer["data"][0], "range"));
    for _ in 0..20 {
        let answer = client.ask(&dst, &range, 500, 701);
        assert!([601, 602].contains(&answer["code"].as_i64().expect("a code")), "{answer}");
    }
    let answer = client.report("", &range, 503, 701);
    assert!([601, 600].contains(&answer["code"].as_i64().expect("a code")), "{answer}");
    assert_eq!(client.success("", &range).json()["code"], 611);
    assert_eq!(client.success("cdnnode:elsewhere~x", &range).json()["code"], 611);
    let answer = client.report("an-old-supernode", &range, 503, 700);
    client.take_all(answer);
    assert_eq!(client.success(&dst, &range).json()["code"], 611);
}

#[test]
fn small_routes_are_answered_as_by_dragonfly() {
    let supernode = Supernode::start(1, &[]);
    let mut http = supernode.http();
    assert_eq!(http.get("/_ping").expect("an answer").text(), "OK");
    assert_eq!(http.get("/version").expect("an answer").status, 200);
    assert!(http.get("/metrics").expect("an answer").text().contains("\ndragonfly_supernode_"));
    for (path, body) in
        [("/peer/network", json!({ "nodes": null })), ("/peer/heartbeat", json!({ "seedTaskIDs": null }))]
    {
        assert_eq!(http.post(path, &json!({})).expect("an answer").json(), body, "{path}");
    }
    let metrics = json!({ "IP": "127.0.0.1", "port": 1, "success": true, "fileLength": 1, "duration": 0.5 });
    assert_eq!(http.post("/task/metrics", &metrics).expect("an answer").status, 200);
    for (method, path) in [("GET", "/nothing"), ("GET", "/peer/registry"), ("DELETE", "/_ping")] {
        let response = http.request(method, path, &[], b"").expect("an answer");
        assert!(matches!(response.status, 404 | 405), "{method} {path}: {response:?}");
    }
    assert_eq!(supernode.control().port(), CONTROL);
}

#[test]
fn peers_can_be_listed_and_removed() {
    let (origin, _) = Origin::with_file(100);
    let supernode = Supernode::start(1, &[]);
    for host in 11..16 {
        Raw::register(&supernode, host, PORT, &origin.url("/file"));
    }
    let mut http = supernode.http();
    let peers = http.get("/api/v1/peers").expect("an answer").json();
    let peers = peers.as_array().expect("a list");
    assert_eq!(peers.len(), 5);
    let id = text(&peers[0], "ID");
    assert_eq!(http.get(&format!("/api/v1/peers/{id}")).expect("an answer").json()["ID"], id.as_str());
    let page = http.get("/api/v1/peers?pageNum=1&pageSize=2").expect("an answer").json();
    assert_eq!(page.as_array().map(Vec::len), Some(2));
    let removed = http.request("DELETE", &format!("/api/v1/peers/{id}"), &[], b"").expect("an answer");
    assert!(matches!(removed.status, 200 | 204), "{removed:?}");
    assert_eq!(http.get(&format!("/api/v1/peers/{id}")).expect("an answer").status, 404);
}

#[test]
fn a_task_can_be_read_and_deleted_with_its_file() {
    let (origin, content) = Origin::with_file(5 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peer = Peer::new(address(11));
    let first = peer.download(&[supernode.control()], Wish::of(&origin.url("/file"))).wait();
    assert_eq!(first.end, End::Complete);
    let task = TaskId::new(&origin.url("/file"), "", "").to_string();
    let mut http = supernode.http();
    let read = http.get(&format!("/api/v1/tasks/{task}")).expect("an answer");
    assert_eq!(read.status, 200, "{}", read.text());
    let deleted = http.request("DELETE", &format!("/api/v1/tasks/{task}?full=true"), &[], b"");
    assert!(matches!(deleted.expect("an answer").status, 200 | 204));
    assert_eq!(http.get(&format!("/api/v1/tasks/{task}")).expect("an answer").status, 404);
    // The file is fetched from the origin once more.
    peer.die();
    let again =
        Peer::new(address(12)).download(&[supernode.control()], Wish::of(&origin.url("/file"))).wait();
    assert_eq!(again.end, End::Complete);
    assert_eq!(origin.served("/file").bytes, 2 * content.len() as u64);
}
