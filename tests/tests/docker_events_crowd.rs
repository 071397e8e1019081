//! Many readers of `GET /events`, and one that never reads: each gets every event, and none costs the others anything.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sampan_ipc::Event;
use sampan_tests::docker_api::DockerApi;
use sampan_tests::docker_api::http::Connection;
use sampan_tests::process;
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Number of readers at the same time.
const READERS: usize = 1000;
/// Number of tags that are made while a reader does not read.
const TAGS: usize = 2500;
/// Number of readers that wait for an event.
const IDLE_READERS: usize = 100;

/// Opens a stream of image events.
fn open(api: &DockerApi) -> Connection {
    let mut connection = api.connect();
    let filters = "%7B%22type%22%3A%5B%22image%22%5D%7D";
    connection.send("GET", &format!("/v1.50/events?filters={filters}"), &[], b"");
    let head = connection.head();
    assert_eq!(head.status, 200, "{head:?}");
    connection
}

fn name(event: &Value) -> &str {
    event["Actor"]["Attributes"]["name"].as_str().expect("a name")
}

/// Sends facts without the engine, and waits until monitord has them.
fn announce(api: &DockerApi, count: usize) {
    let host = &api.containers.host;
    let (sender, before) = (host.sender(), host.status().seq);
    for nth in 0..count {
        sender.send(Event::new("image", "push", format!("r.example/v:{nth}"))).expect("a good event");
    }
    host.await_seq(before + count as u64);
}

#[test]
fn a_reader_that_never_reads_costs_others_nothing_and_loses_nothing() {
    let api = DockerApi::new();
    let tags = sampan_tests::rounds(TAGS);
    let make = |series: &str, count: usize| {
        let mut calls = Vec::with_capacity(count);
        let mut connection = api.connect();
        for nth in 0..count {
            let begin = Instant::now();
            connection.send("POST", &format!("/images/box:1/tag?repo={series}&tag={nth}"), &[], b"");
            assert_eq!(connection.reply("POST").status(), 201);
            calls.push(begin.elapsed());
        }
        calls.sort_unstable();
        calls[count / 2]
    };
    let alone = make("alone", tags / 10);
    let mut stuck = open(&api);
    let mut healthy = open(&api);
    let beside = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for nth in 0..tags {
                assert_eq!(name(&healthy.message()), format!("tag:{nth}"));
            }
        });
        let beside = make("tag", tags);
        reader.join().expect("the healthy reader gets all");
        beside
    });
    println!("a tag takes {alone:?} in the median, {beside:?} beside a reader that does not read");
    for nth in 0..tags {
        assert_eq!(name(&stuck.message()), format!("tag:{nth}"), "the reader gets all when it reads again");
    }
}

#[test]
fn a_thousand_readers_get_every_event_and_cost_little_memory() {
    let api = DockerApi::new();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("own limit");
    let pid = api.gateway_pid();
    let before = process::pss_bytes(pid);
    let mut readers: Vec<Connection> = (0..READERS).map(|_| open(&api)).collect();
    api.wait_until("all to subscribe", || api.containers.host.status().subscribers.len() >= READERS);
    let idle = process::pss_bytes(pid);
    let count = sampan_tests::rounds(200);
    announce(&api, count);
    for (reader, connection) in readers.iter_mut().enumerate() {
        for nth in 0..count {
            let event = connection.message();
            assert_eq!(event["Actor"]["ID"], format!("r.example/v:{nth}"), "reader {reader}");
        }
    }
    let after = process::pss_bytes(pid);
    let kib = |bytes: u64| bytes >> 10;
    println!(
        "gateway: {} KiB PSS without readers, {} KiB with {READERS}, {} KiB after {count} events to each",
        kib(before),
        kib(idle),
        kib(after)
    );
    // Neither a stream nor its connection keeps a buffer while nothing happens.
    assert!(
        idle - before.min(idle) <= (READERS as u64) * (8 << 10),
        "{} KiB for the readers",
        kib(idle - before)
    );
    drop(readers);
    let descriptors = || process::descriptors(pid);
    api.wait_until("the readers to be gone", || descriptors() < IDLE_READERS);
    api.wait_until("monitord to know it", || api.containers.host.status().subscribers.is_empty());
}

#[test]
fn readers_of_nothing_wake_nobody() {
    let api = DockerApi::new();
    let mut readers: Vec<Connection> = (0..IDLE_READERS).map(|_| open(&api)).collect();
    announce(&api, 1);
    readers.iter_mut().for_each(|reader| drop(reader.message()));
    let pid = api.gateway_pid();
    // Two seconds after the last event, the gateway returns free memory to the kernel, and nothing wakes it up after that.
    process::await_rest(pid, Duration::from_secs(5), || api.log());
    println!("gateway: {} KiB PSS with {IDLE_READERS} readers", process::pss_bytes(pid) >> 10);
}
