//! What goes wrong around a supernode: it is killed, its clients die or lie, the origin fails, the disk is full.

use sampan_supernode::task_id::TaskId;
use sampan_tests::dragonfly::{
    Counts, Download, End, Outcome, Peer, Pull, Pulled, Upload, Wire, Wish, assert_complete,
};
use sampan_tests::host::need_root;
use sampan_tests::http_client::HttpClient;
use sampan_tests::origin_server::{Fault, Origin, Resource};
use sampan_tests::random::Random;
use sampan_tests::supernode::{Supernode, address, registration};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;

const MIB: usize = 1 << 20;
/// The port that clients without an uploader register.
const PORT: u16 = 49_098;

fn peers(count: u8) -> Vec<Peer> {
    (0..count).map(|nth| Peer::new(address(11 + nth))).collect()
}

fn begin(peers: &[Peer], supernodes: &[SocketAddrV4], wish: &Wish) -> Vec<Download> {
    peers.iter().map(|peer| peer.download(supernodes, wish.clone())).collect()
}

fn wait(downloads: Vec<Download>) -> Vec<Outcome> {
    downloads.into_iter().map(Download::wait).collect()
}

fn pieces(downloads: &[Download]) -> u64 {
    downloads.iter().map(|download| download.counts().pieces()).sum()
}

/// A slow wish, so that there is time for a fault in the middle of the download.
fn slow(origin: &Origin) -> Wish {
    Wish { rate: Some(8 << 20), ..Wish::of(&origin.url("/file")) }
}

#[test]
fn a_restarted_supernode_continues_the_fetch_and_knows_its_clients() {
    let (origin, content) = Origin::with_file(40 * MIB);
    origin.put("/file", Resource { rate: Some(8 << 20), ..Resource::of(content.clone()) });
    let mut supernode = Supernode::start(1, &[]);
    let peers = peers(2);
    let wish = slow(&origin);
    let downloads = begin(&peers, &[supernode.control()], &wish);
    supernode.wait_until("a few pieces", || pieces(&downloads) >= 4);
    supernode.kill9();
    supernode.start_again();
    // dfget leaves for the origin if no answer comes; these are the clients that begin after the restart.
    let later = [Peer::new(address(31)), Peer::new(address(32))];
    let outcomes = wait(begin(&later, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    let served = origin.served("/file");
    // What was fetched and not yet recorded is at most the piece in progress and what the socket held.
    assert!(served.bytes <= (content.len() + 9 * MIB) as u64, "{served:?}");
    assert!(served.ranges >= 1, "{served:?}");
    drop(wait(downloads));
}

#[test]
fn a_finished_file_survives_a_restart() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let mut supernode = Supernode::start(1, &[]);
    let first = peers(1);
    assert_complete(&wait(begin(&first, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
    first[0].leave();
    supernode.term();
    supernode.start_again();
    let second = [Peer::new(address(12))];
    assert_complete(&wait(begin(&second, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn a_client_asks_a_restarted_supernode_as_if_nothing_happened() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let mut supernode = Supernode::start(1, &[]);
    let ip = address(11);
    let cid = format!("{ip}-26462-1795229659.132");
    let body = registration(&supernode, ip, PORT, &cid, &origin.url("/file"));
    let mut wire = Wire::new(ip, supernode.control());
    let (_, registered) = wire.register(&body).expect("an answer");
    let task = registered.expect("a task").task_id;
    supernode.kill9();
    supernode.start_again();
    let mut wire = Wire::new(ip, supernode.control());
    let mut pull = Pull { result: 502, status: 700, task: task.clone(), ..Pull::default() };
    let mut taken = 0;
    loop {
        match wire.pull(&cid, &pull).expect("an answer") {
            Pulled::Get(offers) => {
                for offer in offers {
                    assert!(wire.success(&task, &cid, &offer.cid, &offer.range));
                    taken += 1;
                    pull = Pull {
                        dst: offer.cid,
                        range: offer.range,
                        result: 503,
                        status: 701,
                        task: task.clone(),
                    };
                }
            }
            Pulled::Wait => {}
            Pulled::Finished(..) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, content.len() / (4 * MIB) + 1), (3, 3));
}

#[test]
fn clients_of_a_killed_supernode_continue_at_another_one() {
    let (origin, content) = Origin::with_file(60 * MIB);
    let mut first = Supernode::start(1, &[]);
    let second = Supernode::start(2, &[]);
    let peers = peers(4);
    let downloads = begin(&peers, &[first.control(), second.control()], &slow(&origin));
    first.wait_until("a few pieces", || pieces(&downloads) >= 12);
    let before = pieces(&downloads);
    first.kill9();
    let outcomes = wait(downloads);
    assert_complete(&outcomes, &content);
    let all: u64 = outcomes.iter().map(|outcome| outcome.counts.pieces()).sum();
    let count = (content.len() / (4 * MIB - 5) + 1) as u64;
    // What ran when the supernode died may be downloaded again, and nothing else.
    assert!(all <= 4 * count + 4 * 4, "{all} pieces, of which {before} before the kill");
    assert!(outcomes.iter().all(|outcome| outcome.counts.registrations == 2));
}

#[test]
fn supernodes_of_a_cluster_fetch_a_file_once() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let nodes: Vec<String> = (1..4).map(|nth| format!("{}:8002", address(nth))).collect();
    let args: Vec<&str> = nodes.iter().flat_map(|node| ["--supernode", node]).collect();
    let supernodes: Vec<Supernode> = (1..4).map(|nth| Supernode::start(nth, &args)).collect();
    let peers = peers(6);
    let wish = slow(&origin);
    let downloads: Vec<Download> = peers
        .iter()
        .enumerate()
        .map(|(nth, peer)| peer.download(&[supernodes[nth % 3].control()], wish.clone()))
        .collect();
    assert_complete(&wait(downloads), &content);
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes <= 1.05 * content.len() as f64, "{bytes}");
}

#[test]
fn a_cluster_of_which_one_dies_finishes_the_file() {
    // One of the two is the owner, so that both cases occur.
    for victim in [0, 1] {
        let (origin, content) = Origin::with_file(40 * MIB);
        origin.put("/file", Resource { rate: Some(8 << 20), ..Resource::of(content.clone()) });
        let nodes: Vec<String> = (1..3).map(|nth| format!("{}:8002", address(nth))).collect();
        let args: Vec<&str> = nodes.iter().flat_map(|node| ["--supernode", node]).collect();
        let mut supernodes: Vec<Supernode> = (1..3).map(|nth| Supernode::start(nth, &args)).collect();
        let peers = peers(4);
        let wish = slow(&origin);
        let downloads: Vec<Download> = peers
            .iter()
            .enumerate()
            .map(|(nth, peer)| {
                let (own, other) = (&supernodes[nth % 2], &supernodes[(nth + 1) % 2]);
                peer.download(&[own.control(), other.control()], wish.clone())
            })
            .collect();
        supernodes[0].wait_until("a few pieces", || pieces(&downloads) >= 8);
        supernodes[victim].kill9();
        assert_complete(&wait(downloads), &content);
        let bytes = origin.served("/file").bytes as f64;
        assert!(bytes <= 1.3 * content.len() as f64, "{bytes}");
    }
}

#[test]
fn half_of_the_clients_die_and_the_others_finish() {
    let (origin, content) = Origin::with_file(40 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peers = peers(12);
    let mut downloads = begin(&peers, &[supernode.control()], &slow(&origin));
    supernode.wait_until("a few pieces of each", || downloads.iter().all(|d| d.counts().pieces() >= 2));
    for peer in &peers[..6] {
        peer.die();
    }
    let dead = downloads.drain(..6).collect();
    assert_complete(&wait(downloads), &content);
    assert!(wait(dead).iter().all(|outcome| matches!(outcome.end, End::Killed | End::Complete)));
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn clients_that_take_pieces_and_say_nothing_delay_others_by_a_lease() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let supernode = Supernode::start(1, &[]);
    let mut silent = Vec::new();
    for host in 31..41 {
        let ip = address(host);
        let cid = format!("{ip}-26462-1795229659.{host}");
        let mut wire = Wire::new(ip, supernode.control());
        let body = registration(&supernode, ip, PORT, &cid, &origin.url("/file"));
        let task = wire.register(&body).expect("an answer").1.expect("a task").task_id;
        let answer = wire.pull(&cid, &Pull { result: 502, status: 700, task, ..Pull::default() });
        silent.push((wire, answer.is_ok()));
    }
    let peers = peers(2);
    let outcomes = wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    drop(silent);
}

#[test]
fn uploaders_that_stall_are_avoided() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peers = peers(4);
    assert_complete(
        &wait(begin(&peers[..2], &[supernode.control()], &Wish::of(&origin.url("/file")))),
        &content,
    );
    peers[0].set(Upload::Stall);
    let wish = Wish { patience: std::time::Duration::from_secs(200), ..Wish::of(&origin.url("/file")) };
    assert_complete(&wait(begin(&peers[2..], &[supernode.control()], &wish)), &content);
}

#[test]
fn a_client_that_claims_pieces_it_lacks_harms_nobody() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let supernode = Supernode::start(1, &[]);
    let liar = address(31);
    let cid = format!("{liar}-26462-1795229659.132");
    let mut wire = Wire::new(liar, supernode.control());
    let body = registration(&supernode, liar, PORT, &cid, &origin.url("/file"));
    let task = wire.register(&body).expect("an answer").1.expect("a task").task_id;
    for number in 0..6_u64 {
        let first = number * 4_194_304;
        wire.success(&task, &cid, "", &format!("{first}-{}", first + 4_194_303));
    }
    for range in ["0-1", "9999999999999-99999999999999", "", "a-b", "4194304-8388606"] {
        wire.success(&task, &cid, "", range);
    }
    let peers = peers(3);
    let outcomes = wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    let failures: u64 = outcomes.iter().map(|outcome| outcome.counts.failures).sum();
    assert!(failures <= 3 * 5, "{failures}");
}

#[test]
fn a_cut_at_the_origin_is_continued_where_it_was() {
    let (origin, content) = Origin::with_file(20 * MIB);
    origin.fail("/file", [Fault::Cut(9_000_001), Fault::Cut(1), Fault::Status(500), Fault::Status(503)]);
    let supernode = Supernode::start(1, &[]);
    let peers = peers(2);
    let outcomes = wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    let served = origin.served("/file");
    assert!(served.bytes as f64 <= 1.05 * content.len() as f64, "{served:?}");
    assert!(served.ranges >= 1, "{served:?}");
}

#[test]
fn a_file_that_changes_during_the_fetch_is_not_mixed() {
    let (origin, content) = Origin::with_file(20 * MIB);
    origin.fail("/file", [Fault::Cut(9_000_001)]);
    origin.put("/file", Resource { rate: Some(20 << 20), ..Resource::of(content.clone()) });
    let supernode = Supernode::start(1, &[]);
    let peers = peers(2);
    let downloads = begin(&peers[..1], &[supernode.control()], &Wish::of(&origin.url("/file")));
    supernode.wait_until("the first bytes", || origin.served("/file").bytes > 0);
    let changed = Random::new(18).bytes(20 * MIB);
    origin.put("/file", Resource { etag: Some("\"2\"".to_owned()), ..Resource::of(changed.clone()) });
    let outcome = wait(downloads).remove(0);
    if outcome.end == End::Complete {
        let file = std::fs::read(&outcome.file).expect("the downloaded file");
        assert!(file == content || file == changed, "the file is a mixture");
    }
    assert_complete(
        &wait(begin(&peers[1..], &[supernode.control()], &Wish::of(&origin.url("/file")))),
        &changed,
    );
}

#[test]
fn a_file_that_has_changed_is_fetched_anew() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &["--revalidate", "0s"]);
    let old = peers(1);
    assert_complete(&wait(begin(&old, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
    let changed = Random::new(18).bytes(5 * MIB);
    origin.put("/file", Resource { etag: Some("\"2\"".to_owned()), ..Resource::of(changed.clone()) });
    let new = [Peer::new(address(12))];
    assert_complete(&wait(begin(&new, &[supernode.control()], &Wish::of(&origin.url("/file")))), &changed);
}

#[test]
fn an_origin_that_fails_for_good_is_told_and_tried_again_later() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    origin.fail("/file", std::iter::repeat_n(Fault::Status(500), 100));
    let peers = peers(2);
    let outcome = wait(begin(&peers[..1], &[supernode.control()], &Wish::of(&origin.url("/file")))).remove(0);
    assert!(matches!(outcome.end, End::Source(..)), "{:?}", outcome.end);
    // The remaining faults are used up by requests of this test.
    let mut http = HttpClient::new(origin.address());
    while http.get("/file").expect("an answer").status == 500 {}
    assert_complete(
        &wait(begin(&peers[1..], &[supernode.control()], &Wish::of(&origin.url("/file")))),
        &content,
    );
}

#[test]
fn a_file_that_appears_later_is_found() {
    let (origin, content) = Origin::with_file(5 * MIB);
    origin.remove("/file");
    let supernode = Supernode::start(1, &[]);
    let peers = peers(2);
    let outcome = wait(begin(&peers[..1], &[supernode.control()], &Wish::of(&origin.url("/file")))).remove(0);
    assert!(matches!(outcome.end, End::Source(1, _)), "{:?}", outcome.end);
    origin.put("/file", Resource::of(content.clone()));
    assert_complete(
        &wait(begin(&peers[1..], &[supernode.control()], &Wish::of(&origin.url("/file")))),
        &content,
    );
}

#[test]
fn a_full_disk_fails_the_download_and_nothing_else() {
    need_root();
    let (origin, _) = Origin::with_file(40 * MIB);
    let small = Random::new(19).bytes(MIB);
    origin.put("/small", Resource::of(small.clone()));
    let mut supernode = Supernode::new(1, &[]);
    supernode.mount_home(16 * MIB);
    supernode.start_again();
    let peers = peers(2);
    let outcome = wait(begin(&peers[..1], &[supernode.control()], &Wish::of(&origin.url("/file")))).remove(0);
    assert!(matches!(outcome.end, End::Source(..)), "{:?}", outcome.end);
    assert_complete(
        &wait(begin(&peers[1..], &[supernode.control()], &Wish::of(&origin.url("/small")))),
        &small,
    );
}

#[test]
fn a_corrupt_file_of_the_supernode_is_repaired() {
    let (origin, content) = Origin::with_file(40 * MIB);
    let supernode = Supernode::start(1, &[]);
    let first = peers(1);
    assert_complete(&wait(begin(&first, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
    first[0].leave();
    let task = TaskId::new(&origin.url("/file"), "", "");
    let file = supernode.home().join(format!("tasks/{}/{task}/content", task.prefix()));
    let file = std::fs::File::options().write(true).open(file).expect("the file of the task");
    file.write_all_at(b"corrupt", 5_000_000).expect("written");
    let second = [Peer::new(address(12))];
    let outcomes = wait(begin(&second, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    let bytes = origin.served("/file").bytes;
    assert!(bytes <= (content.len() + 5 * MIB) as u64, "{bytes}: more than the bad piece was fetched again");
}

/// Sends registrations for files of a server that never answers, and reads no answer.
fn register_in_vain(
    supernode: &Supernode,
    silent: &TcpListener,
    files: std::ops::Range<u8>,
) -> Vec<TcpStream> {
    let server = silent.local_addr().expect("an address");
    let send = |nth| {
        let (ip, url) = (address(20 + nth % 4), format!("http://{server}/{nth}"));
        let cid = format!("{ip}-{nth:05}-1795229659.132");
        let body = registration(supernode, ip, PORT, &cid, &url).to_string();
        let mut stream = TcpStream::connect(supernode.control()).expect("connected");
        let head = "POST /peer/registry HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("sent");
        stream
    };
    files.map(send).collect()
}

#[test]
fn a_server_that_never_answers_holds_up_no_other() {
    let (origin, content) = Origin::with_file(5 * MIB);
    let supernode = Supernode::start(1, &[]);
    let silent = TcpListener::bind((address(9), 0)).expect("a port");
    let waiting = register_in_vain(&supernode, &silent, 0..60);
    drop(register_in_vain(&supernode, &silent, 60..120));
    let ip = address(11);
    let body =
        registration(&supernode, ip, PORT, &format!("{ip}-26462-1795229659.132"), &origin.url("/file"));
    let (code, _) = Wire::new(ip, supernode.control()).register(&body).expect("an answer");
    assert_eq!(code, 200, "609 would mean that the probe waits for those of the silent server");
    drop(waiting);
    assert_complete(
        &wait(begin(&peers(1), &[supernode.control()], &Wish::of(&origin.url("/file")))),
        &content,
    );
}

#[test]
fn a_client_that_leaves_takes_no_answer_from_the_next_one() {
    let supernode = Supernode::start(1, &[]);
    let silent = TcpListener::bind((address(9), 0)).expect("a port");
    // The first client's probe is cancelled when the client leaves. The second one needs an answer of its own.
    drop(register_in_vain(&supernode, &silent, 0..1));
    let second = register_in_vain(&supernode, &silent, 0..1).remove(0);
    let origin = std::thread::spawn(move || {
        for connection in silent.incoming().flatten() {
            let mut connection = connection;
            let mut head = [0; 4096];
            if matches!(connection.read(&mut head), Ok(read) if read > 0) {
                let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                if connection.write_all(answer).is_ok()
                    && connection.read(&mut head).is_ok_and(|read| read == 0)
                {
                    continue;
                }
            }
        }
    });
    let mut answer = [0; 4096];
    let read = (&second).read(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.contains("607"), "{answer}");
    drop(origin);
}

#[test]
fn strange_requests_end_nothing() {
    let (origin, content) = Origin::with_file(5 * MIB);
    let supernode = Supernode::start(1, &[]);
    let ip = address(11);
    for target in [
        "/peer/task",
        "/peer/task?srcCid=&taskId=&status=&result=",
        "/peer/task?taskId=zz&srcCid=%ff&range=-&status=9&result=x",
        "/peer/piece/suc",
        "/peer/piece/error?errorType=FILE_NOT_EXIST&taskId=x",
        "/peer/piece/error?errorType=WHAT&taskId=%00&range=1-0",
        "/peer/service/down",
        "/api/v1/tasks/none",
        "/api/v1/peers?pageNum=-1&pageSize=999999999999999999999",
        "/preheats/none",
    ] {
        let response = HttpClient::from(ip, supernode.control()).get(target).expect("an answer");
        assert!(response.status < 600, "{target}: {response:?}");
    }
    let peers = peers(1);
    assert_complete(&wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
}

#[test]
fn only_admins_preheat_and_delete() {
    let (origin, content) = Origin::with_file(MIB);
    let own = format!("{}/32", address(1));
    let mut supernode =
        Supernode::with_defaults(1, &["--allow-origin", "127.0.0.0/8", "--admin", own.as_str()]);
    supernode.start_again();
    let peers = peers(1);
    assert_complete(&wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file")))), &content);
    let task = TaskId::new(&origin.url("/file"), "", "");
    let body = json!({ "type": "file", "url": origin.url("/file?2") }).to_string();
    for (method, target, body) in [
        ("POST", "/preheats".to_owned(), body.as_bytes()),
        ("DELETE", "/preheats/x".to_owned(), b"".as_slice()),
        ("DELETE", format!("/api/v1/tasks/{task}?full=true"), b""),
        ("DELETE", "/api/v1/peers/x".to_owned(), b""),
    ] {
        let mut stranger = HttpClient::from(address(12), supernode.control());
        let refused = stranger.request(method, &target, &[], body).expect("an answer");
        assert_eq!(refused.status, 403, "{method} {target}");
        let answer = supernode.http().request(method, &target, &[], body).expect("an answer");
        assert_ne!(answer.status, 403, "{method} {target}");
    }
}

#[test]
fn a_preheated_file_is_there_before_the_first_client() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &["--admin", "127.0.0.0/8"]);
    let mut http = supernode.http();
    let body = json!({ "type": "file", "url": origin.url("/file") });
    let created = http.post("/preheats", &body).expect("an answer");
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["ID"].as_str().expect("an ID").to_owned();
    supernode.wait_until("the preheat", || {
        let status = supernode.http().get(&format!("/preheats/{id}")).expect("an answer").json();
        status["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case("success"))
    });
    assert_eq!(http.post("/preheats", &body).expect("an answer").status, 208);
    let peers = peers(1);
    let outcomes = wait(begin(&peers, &[supernode.control()], &Wish::of(&origin.url("/file"))));
    assert_complete(&outcomes, &content);
    assert_eq!(outcomes.iter().map(|o| o.counts).map(|c: Counts| c.waits).sum::<u64>(), 0);
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}
