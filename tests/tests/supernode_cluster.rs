//! Several supernodes: one fetches a file for all, whatever their lists say and whatever happens to it.

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_supernode::cluster::Cluster;
use sampan_supernode::task_id::TaskId;
use sampan_tests::origin_server::{Origin, Resource};
use sampan_tests::own_wire::{OwnClient, OwnTask, have};
use sampan_tests::supernode::{Supernode, address};
use serde_json::json;

const MIB: usize = 1 << 20;

fn member(number: u8) -> String {
    format!("{}:8002", address(number))
}

/// The supernode `number` of a cluster with these members, not yet started.
fn node(number: u8, members: &[u8], more: &[&str]) -> Supernode {
    let members: Vec<String> = members.iter().map(|number| member(*number)).collect();
    let list = members.iter().flat_map(|member| ["--supernode", member]);
    Supernode::new(number, &list.chain(more.iter().copied()).collect::<Vec<_>>())
}

/// Supernodes 1 to `count`, which know each other.
fn cluster(count: u8, more: &[&str]) -> Vec<Supernode> {
    let members: Vec<u8> = (1..=count).collect();
    let start = |number: &u8| {
        let mut supernode = node(*number, &members, more);
        supernode.start_again();
        supernode
    };
    members.iter().map(start).collect()
}

fn client(supernode: &Supernode) -> OwnClient {
    OwnClient::new(supernode.control(), supernode.download())
}

/// Whether the supernode `owner` owns the file at `url`, for one with these members.
fn owns(url: &str, owner: u8, members: &[u8]) -> bool {
    let members: Vec<String> = members.iter().map(|number| member(*number)).collect();
    let outside = Cluster::new(&members, "");
    outside.owner(&TaskId::new(url, "", ""), &|_| true) == Some(member(owner).as_str())
}

/// Some URLs of the origin's file, different ones for each `from`, that `accepts` accepts.
fn urls(origin: &Origin, count: usize, accepts: impl Fn(&str) -> bool) -> Vec<String> {
    let urls = (0..).map(|n| origin.url(&format!("/file?n={n}")));
    urls.filter(|url| accepts(url)).take(count).collect()
}

fn url_of(origin: &Origin, owner: u8, members: &[u8]) -> String {
    urls(origin, 1, |url| owns(url, owner, members)).remove(0)
}

/// Waits for the file of `task`, and compares it.
fn assert_whole(client: &OwnClient, task: &OwnTask, content: &[u8]) {
    client.wait(task);
    let whole = client.content(task, None);
    assert!(whole.status == 200 && whole.body == content, "another content");
}

/// Registers at a supernode and waits until it has `count` pieces.
fn begin(supernode: &Supernode, url: &str, count: usize) -> OwnTask {
    let client = client(supernode);
    let task = client.register(&json!({ "url": url }));
    let mut state = client.pieces(&task, "").json();
    while have(&state).len() < count {
        assert_eq!(state["complete"], false, "the fault comes too late");
        state = client.pieces(&task, &format!("&version={}", state["version"])).json();
    }
    task
}

/// An origin that sends `mib` MiB at 8 MiB a second.
fn slow_origin(mib: usize) -> (Origin, Vec<u8>) {
    let (origin, content) = Origin::with_file(mib * MIB);
    origin.put("/file", Resource { rate: Some(8 << 20), ..Resource::of(content.clone()) });
    (origin, content)
}

fn signal(supernode: &Supernode, signal: Signal) {
    kill(Pid::from_raw(supernode.pid().cast_signed()), signal).expect("it runs");
}

#[test]
fn three_supernodes_fetch_each_file_once() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let nodes = cluster(3, &[]);
    for owner in 1..=3 {
        let url = url_of(&origin, owner, &[1, 2, 3]);
        let before = origin.served("/file").bytes;
        let tasks: Vec<OwnTask> = nodes.iter().map(|node| begin(node, &url, 0)).collect();
        for (node, task) in nodes.iter().zip(&tasks) {
            assert_whole(&client(node), task, &content);
        }
        assert_eq!(origin.served("/file").bytes - before, content.len() as u64, "owner {owner}");
    }
}

#[test]
fn lists_that_form_a_circle_delay_no_file() {
    let (origin, content) = slow_origin(20);
    // Each takes another one for the owner of every file.
    let lists: [&[u8]; 3] = [&[2], &[3], &[1]];
    let nodes: Vec<Supernode> = (1..=3)
        .map(|number| {
            let mut node = node(number, lists[usize::from(number) - 1], &[]);
            node.start_again();
            node
        })
        .collect();
    let url = origin.url("/file");
    let tasks: Vec<OwnTask> = nodes.iter().map(|node| begin(node, &url, 0)).collect();
    for (node, task) in nodes.iter().zip(&tasks) {
        assert_whole(&client(node), task, &content);
    }
    let bytes = origin.served("/file").bytes;
    assert!(bytes <= 3 * content.len() as u64, "{bytes}");
}

#[test]
fn a_supernode_outside_of_its_list_is_served() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let mut owner = node(1, &[1], &[]);
    let mut outsider = node(2, &[1], &[]);
    owner.start_again();
    outsider.start_again();
    assert!(client(&outsider).fetch(&origin.url("/file")) == content);
    assert!(client(&owner).fetch(&origin.url("/file")) == content);
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn the_others_finish_a_file_whose_owner_dies() {
    let (origin, content) = slow_origin(32);
    let mut nodes = cluster(3, &[]);
    let url = url_of(&origin, 1, &[1, 2, 3]);
    let tasks: Vec<OwnTask> = nodes[1..].iter().map(|node| begin(node, &url, 2)).collect();
    nodes[0].kill9();
    for (node, task) in nodes[1..].iter().zip(&tasks) {
        assert_whole(&client(node), task, &content);
    }
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes <= 1.6 * content.len() as f64, "{bytes}");
}

#[test]
fn an_owner_that_is_restarted_costs_a_part_of_the_file() {
    let (origin, content) = slow_origin(32);
    let mut nodes = cluster(2, &[]);
    let url = url_of(&origin, 1, &[1, 2]);
    let task = begin(&nodes[1], &url, 2);
    nodes[0].kill9();
    nodes[0].start_again();
    assert_whole(&client(&nodes[1]), &task, &content);
    assert!(client(&nodes[0]).fetch(&url) == content);
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes <= 2.1 * content.len() as f64, "{bytes}");
}

#[test]
fn an_owner_that_stops_in_the_middle_is_left() {
    let (origin, content) = slow_origin(32);
    let nodes = cluster(2, &[]);
    let url = url_of(&origin, 1, &[1, 2]);
    let task = begin(&nodes[1], &url, 2);
    signal(&nodes[0], Signal::SIGSTOP);
    assert_whole(&client(&nodes[1]), &task, &content);
    // The next file does not wait for it again.
    origin.put("/next", Resource::of(content[..MIB].to_vec()));
    let next = (0..).map(|n| origin.url(&format!("/next?n={n}"))).find(|url| owns(url, 1, &[1, 2]));
    assert!(client(&nodes[1]).fetch(&next.expect("endless")) == content[..MIB]);
    signal(&nodes[0], Signal::SIGCONT);
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes <= 2.1 * content.len() as f64, "{bytes}");
}

#[test]
fn an_owner_with_an_older_version_is_not_believed() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let mut owner = node(1, &[1, 2], &["--revalidate", "1h"]);
    let mut other = node(2, &[1, 2], &["--revalidate", "0s"]);
    owner.start_again();
    other.start_again();
    let url = url_of(&origin, 1, &[1, 2]);
    assert!(client(&owner).fetch(&url) == content);
    let new: Vec<u8> = content.iter().rev().copied().collect();
    origin.put("/file", Resource { etag: Some("\"2\"".to_owned()), ..Resource::of(new.clone()) });
    assert!(client(&other).fetch(&url) == new);
    // That was trouble with one file: the owner is asked for others.
    let next = urls(&origin, 2, |url| owns(url, 1, &[1, 2])).remove(1);
    assert!(client(&other).fetch(&next) == new);
    assert!(client(&owner).fetch(&next) == new);
    assert_eq!(origin.served("/file").bytes, 3 * content.len() as u64);
}

#[test]
fn a_file_that_changes_while_the_owner_sends_it_is_never_mixed() {
    let (origin, content) = slow_origin(24);
    let nodes = cluster(2, &["--revalidate", "0s"]);
    let url = url_of(&origin, 1, &[1, 2]);
    begin(&nodes[1], &url, 2);
    let new: Vec<u8> = content.iter().rev().copied().collect();
    origin.put("/file", Resource { etag: Some("\"2\"".to_owned()), ..Resource::of(new.clone()) });
    // A client of the owner makes it notice.
    assert!(client(&nodes[0]).fetch(&url) == new);
    assert!(client(&nodes[1]).fetch(&url) == new);
}

#[test]
fn an_owner_that_may_not_ask_the_origin_is_passed_over() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let members = [member(1), member(2)];
    let mut owner = Supernode::with_defaults(1, &["--supernode", &members[0], "--supernode", &members[1]]);
    let mut other = node(2, &[1, 2], &[]);
    owner.start_again();
    other.start_again();
    assert!(client(&other).fetch(&url_of(&origin, 1, &[1, 2])) == content);
}

#[test]
fn supernodes_with_one_place_each_do_not_wait_for_each_other() {
    let (origin, content) = Origin::with_file(5 * MIB);
    origin.put("/file", Resource { rate: Some(16 << 20), ..Resource::of(content.clone()) });
    let nodes = cluster(2, &["--max-fetches", "1"]);
    let own = |owner| urls(&origin, 4, |url| owns(url, owner, &[1, 2]));
    // Each supernode is asked for the files of the other one.
    let wishes = [(&nodes[0], own(2)), (&nodes[1], own(1))];
    let tasks: Vec<(&Supernode, OwnTask)> =
        wishes.iter().flat_map(|(node, urls)| urls.iter().map(|url| (*node, begin(node, url, 0)))).collect();
    for (node, task) in &tasks {
        assert_whole(&client(node), task, &content);
    }
    assert_eq!(origin.served("/file").bytes, 8 * content.len() as u64);
}

#[test]
fn a_file_of_unknown_length_comes_from_the_owner() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let unknown = Resource { tells_length: false, takes_ranges: false, ..Resource::of(content.clone()) };
    origin.put("/file", unknown.clone());
    origin.put("/empty", Resource { content: Resource::of(Vec::new()).content, ..unknown });
    let nodes = cluster(2, &[]);
    let url = url_of(&origin, 1, &[1, 2]);
    assert!(client(&nodes[1]).fetch(&url) == content);
    assert!(client(&nodes[0]).fetch(&url) == content);
    // Both ask the origin for the length, which sends the beginning of the file instead.
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes < 1.9 * content.len() as f64, "{bytes}");
    let empty = (0..).map(|n| origin.url(&format!("/empty?n={n}"))).find(|url| owns(url, 1, &[1, 2]));
    let task = begin(&nodes[1], &empty.expect("endless"), 0);
    client(&nodes[1]).wait(&task);
}

#[test]
fn a_protected_file_comes_from_the_owner_with_the_credential() {
    let (origin, content) = Origin::with_file(9 * MIB);
    origin.put("/file", Resource { token: Some("good".to_owned()), ..Resource::of(content.clone()) });
    let nodes = cluster(2, &[]);
    let url = url_of(&origin, 1, &[1, 2]);
    let headers = json!({ "url": url, "headers": ["Authorization: Bearer good"] });
    let task = client(&nodes[1]).register(&headers);
    assert_whole(&client(&nodes[1]), &task, &content);
    assert_eq!(client(&nodes[0]).try_register(&json!({ "url": url })).status, 403);
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn a_cluster_with_a_secret_shares_files() {
    let secret = "s3cret-s3cret-s3cret-s3cret";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, secret).expect("written");
    let name = file.display().to_string();
    let (origin, content) = Origin::with_file(9 * MIB);
    let nodes: Vec<Supernode> = (1..=2)
        .map(|number| {
            let mut node = node(number, &[1, 2], &["--secret-file", &name]);
            node.spawn();
            node
        })
        .collect();
    let friend = |node| client(node).with_secret(secret);
    for node in &nodes {
        let ping = || friend(node).control(&Method::GET, "/_ping", b"").is_ok_and(|told| told.status == 200);
        node.wait_until("the supernode", ping);
    }
    let url = url_of(&origin, 1, &[1, 2]);
    assert!(friend(&nodes[1]).fetch(&url) == content);
    let task = friend(&nodes[0]).register(&json!({ "url": url }));
    assert_eq!(origin.served("/file").bytes, content.len() as u64, "the owner has fetched it");

    for (method, path) in [
        (Method::GET, "/_ping".to_owned()),
        (Method::GET, "/".to_owned()),
        (Method::GET, "/metrics".to_owned()),
        (Method::GET, "/none".to_owned()),
        (Method::POST, "/peer/registry".to_owned()),
        (Method::GET, format!("/peer/task?taskId={}&srcCid=x", task.id)),
        (Method::GET, format!("/v1.0.6/peer/piece/suc?taskId={}", task.id)),
        (Method::POST, "/preheats".to_owned()),
        (Method::GET, "/api/v1/peers".to_owned()),
        (Method::DELETE, format!("/api/v1/tasks/{}", task.id)),
        (Method::POST, "/sampan/v1/tasks".to_owned()),
        (Method::GET, format!("/sampan/v1/tasks/{}/pieces?ticket={}", task.id, task.ticket)),
        (Method::POST, format!("/sampan/v1/tasks/{}/have", task.id)),
        (Method::DELETE, format!("/sampan/v1/tasks/{}/peers/p?ticket={}", task.id, task.ticket)),
    ] {
        for stranger in [client(&nodes[0]), client(&nodes[0]).with_secret("s3cret-s3cret-s3cret-s3creT")] {
            let told = stranger.control(&method, &path, b"{}").expect("an answer");
            assert_eq!(told.status, 401, "{method} {path}");
        }
    }
    // Downloads need a ticket, and no secret.
    let stranger = client(&nodes[0]);
    let prefix = &task.id[..3];
    for (path, status) in [
        (format!("/content/{}", task.id), 403),
        (format!("/content/{}?ticket={}", task.id, task.ticket), 206),
        (format!("/download/{prefix}/{}", task.id), 403),
        (format!("/download/{prefix}/{}/{}", task.id, task.ticket), 206),
    ] {
        assert_eq!(stranger.download(&path, Some("bytes=0-99")).expect("an answer").status, status, "{path}");
    }
}
