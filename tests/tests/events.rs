//! What subscribers receive: filters, the change from history to new events, invalid records, times, and ends.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use sampan_ipc::watch::{End, Item, Reason, Subscribe};
use sampan_ipc::{Event, filter, record, time};
use sampan_tests::host::{Host, PATIENCE};
use sampan_tests::random::Random;
use sampan_tests::subscriber::Subscriber;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const SECOND: i64 = 1_000_000_000;

fn emit(host: &Host, events: impl IntoIterator<Item = Event>) {
    let sender = host.sender();
    for event in events {
        sender.send(event).expect("a good event");
    }
    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
}

/// An event with the time `time`, in nanoseconds since the epoch.
fn at(time: i64, id: &str) -> Event {
    Event { time, ..Event::new("test", "tick", id) }
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().filter(|event| event.kind == "test").map(|event| event.id.as_str()).collect()
}

const KINDS: [&str; 4] = ["container", "image", "job", "backup"];
const ACTIONS: [&str; 5] = ["start", "die", "exec_start: sh", "exec_start", "pull"];
const NAMES: [&str; 4] = ["web", "web-2", "db", ""];
const IMAGES: [&str; 4] =
    ["busybox:1.36", "docker.io/library/busybox:1.36", "host:5000/a/b", "alpine@sha256:0123"];
const LABELS: [(&str, &str); 4] = [("tier", "front"), ("tier", "back"), ("team", ""), ("owner", "a=b")];

fn random_event(random: &mut Random) -> Event {
    let id = format!("{:016x}", random.number() & 0x0f0f_ffff_ffff_ffff);
    let mut event = Event::new(*random.pick(&KINDS), *random.pick(&ACTIONS), id);
    if !random.one_in(3) {
        event.attributes.set("name", *random.pick(&NAMES));
    }
    if !random.one_in(3) {
        event.attributes.set("image", *random.pick(&IMAGES));
    }
    if random.one_in(2) {
        let (key, value) = *random.pick(&LABELS);
        event.labels.set(key, value);
    }
    event
}

fn random_filter(random: &mut Random) -> String {
    match random.below(8) {
        0 => format!("type={}", random.pick(&KINDS)),
        1 => format!("event={}", random.pick(&["start", "die", "exec_start", "exec_start: sh", "exec"])),
        2 => format!("container={}", random.pick(&["web", "db", "0", "0a", "we"])),
        3 => format!("name={}", random.pick(&["web", "web-2", "db"])),
        4 => format!("id={:x}", random.below(16)),
        5 => format!("label={}", random.pick(&["tier", "tier=front", "team=", "team", "owner=a=b", "ti"])),
        6 => format!("attr.name={}", random.pick(&NAMES)),
        _ => {
            format!("image={}", random.pick(&["busybox", "busybox:1.36", "host:5000/a/b", "alpine", "host"]))
        }
    }
}

/// A second, simple implementation of filters.
fn model(filters: &[String], event: &Event) -> bool {
    let name = event.attributes.get("name");
    let passes = |key: &str, value: &str| match key {
        "type" => event.kind == value,
        "event" => event.action == value || event.action.split(": ").next() == Some(value),
        "container" => event.kind == "container" && (event.id.starts_with(value) || name == Some(value)),
        "name" | "attr.name" => name == Some(value),
        "id" => event.id.starts_with(value),
        "label" => {
            event.labels.iter().any(|(k, v)| value.split_once('=').map_or(value == k, |it| it == (k, v)))
        }
        "image" => {
            let images: &[&str] = match value {
                "busybox" | "busybox:1.36" => &IMAGES[..2],
                "host:5000/a/b" => &IMAGES[2..3],
                "alpine" => &IMAGES[3..],
                _ => &[],
            };
            event.attributes.get("image").is_some_and(|image| images.contains(&image))
        }
        _ => unreachable!("not generated"),
    };
    let parts = || filters.iter().map(|filter| filter.split_once('=').expect("a filter"));
    parts().all(|(key, _)| parts().any(|(other, value)| other == key && passes(key, value)))
}

#[test]
fn a_thousand_filters_agree_with_a_simple_model() {
    const SUBSCRIBERS: usize = 1000;
    let count = sampan_tests::rounds(20_000);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("own limit");
    let mut host = Host::with_monitord(&["--journal-bytes", "64M"]);
    let mut random = Random::new(20_000);
    let mut wishes = Vec::new();
    let mut subscribers: Vec<Subscriber> = (0..SUBSCRIBERS)
        .map(|_| {
            let filters: Vec<String> = (0..=random.below(4)).map(|_| random_filter(&mut random)).collect();
            wishes.push(filters.clone());
            host.subscribe(Subscribe { filters, follow: true, ..Subscribe::default() })
        })
        .collect();
    for subscriber in &mut subscribers {
        subscriber.welcome();
    }
    let events: Vec<Event> = (0..count).map(|_| random_event(&mut random)).collect();
    let first = host.status().seq + 1;
    let expected: Vec<Vec<u64>> = wishes
        .iter()
        .map(|filters| {
            (first..).zip(&events).filter(|(_, e)| model(filters, e)).map(|(seq, _)| seq).collect()
        })
        .collect();
    let busy = expected.iter().filter(|seqs| !seqs.is_empty()).count();
    assert!(busy > SUBSCRIBERS / 2, "only {busy} filters match anything");
    let (left, right) = subscribers.split_at_mut(SUBSCRIBERS / 2);
    let (left_expected, right_expected) = expected.split_at(SUBSCRIBERS / 2);
    thread::scope(|scope| {
        for (half, expected) in [(left, left_expected), (right, right_expected)] {
            scope.spawn(move || {
                for (subscriber, seqs) in half.iter_mut().zip(expected) {
                    for seq in seqs {
                        assert_eq!(subscriber.seq(), *seq);
                    }
                }
            });
        }
        emit(&host, events.iter().cloned());
    });
    host.await_seq(first + count as u64 - 1);
    assert_eq!(host.status().subscribers.len(), SUBSCRIBERS);
    // After the last event that the model expects, the next item is the end of the stream.
    host.signal(Signal::SIGTERM);
    for (subscriber, filters) in subscribers.iter_mut().zip(&wishes) {
        let (rest, end) = subscriber.to_end();
        assert_eq!(end, End::Shutdown);
        assert!(rest.iter().all(|event| event.kind == "daemon"), "{filters:?} heard more: {rest:?}");
    }
    assert!(host.await_end().success());
}

#[test]
fn subscribers_that_join_under_load_see_no_gap_and_no_repeat() {
    let host = Host::with_monitord(&["--journal-bytes", "64M", "--ring-bytes", "128K"]);
    let emitting = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            let sender = host.sender();
            let mut nth = 0u64;
            while emitting.load(Ordering::Relaxed) {
                sender.send(Event::new("test", "tick", nth.to_string())).expect("small");
                nth += 1;
                if nth.is_multiple_of(50) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            assert!(sender.flush(PATIENCE));
        });
        let mut random = Random::new(7);
        let joined: Vec<_> = (0..40)
            .map(|_| {
                thread::sleep(Duration::from_micros(random.number() % 40_000));
                let mut subscriber = host.follow_from(0);
                scope.spawn(move || {
                    // At least this number of events came after the subscriber joined, so it changed from history to
                    // new events.
                    let head = subscriber.welcome();
                    for seq in 1..=head + 2000 {
                        assert_eq!(subscriber.event().seq, seq);
                    }
                })
            })
            .collect();
        for subscriber in joined {
            subscriber.join().expect("a subscriber that fails says so");
        }
        emitting.store(false, Ordering::Relaxed);
    });
}

/// Bytes that are no record, of every kind that a broken or hostile writer may write.
fn garbage(random: &mut Random, nth: usize) -> Vec<u8> {
    let good = record::encode(&Event::new("test", "garbage", "never seen")).expect("small");
    match nth % 8 {
        0 => {
            let len = 1 + random.below(4000);
            random.bytes(len)
        }
        // A truncated record, followed by another record.
        1 => good[..good.len() - 1 - random.below(good.len() - 1)].to_vec(),
        // A length that reaches into the next record, and a length that is not allowed.
        2 => [&record::MAGIC[..], &[record::VERSION, 0], &4000u16.to_le_bytes(), &[0; 4]].concat(),
        3 => [&record::MAGIC[..], &[record::VERSION, 0, 0xff, 0xff], &random.bytes(60)].concat(),
        // Longer than one atomic write.
        4 => vec![b'S'; 9000],
        5 => {
            let mut flipped = good.clone();
            flipped[record::HEADER_LEN + random.below(good.len() - record::HEADER_LEN)] ^= 0x10;
            flipped
        }
        6 => {
            let mut version = good.clone();
            version[4] = 9;
            version
        }
        _ => record::MAGIC.repeat(1 + random.below(20)),
    }
}

#[test]
fn every_valid_record_among_garbage_arrives() {
    let host = Host::with_monitord(&[]);
    let mut subscriber = host.subscribe(Subscribe { follow: true, ..Subscribe::default() });
    subscriber.welcome();
    let mut fifo = File::options().write(true).open(host.fifo()).expect("monitord made it");
    let (mut random, mut skipped) = (Random::new(1), 0);
    for nth in 0..2000 {
        if !random.one_in(3) {
            let bytes = garbage(&mut random, nth);
            skipped += bytes.len() as u64;
            fifo.write_all(&bytes).expect("room comes");
        }
        let event = Event { writer: 7, counter: nth as u64 + 1, ..at(time::now(), &nth.to_string()) };
        fifo.write_all(&record::encode(&event).expect("small")).expect("room comes");
    }
    let mut events = subscriber.until(|event| event.id == "1999");
    let good: Vec<String> = (0..2000).map(|nth| nth.to_string()).collect();
    assert_eq!(ids(&events), good);
    assert!(events.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
    assert_eq!(host.status().skipped_bytes, skipped);
    while !events.iter().any(|event| event.kind == "daemon" && event.action == "fifo-garbage") {
        events.push(subscriber.event());
    }
    host.await_log("no record");
}

#[test]
fn since_and_until_are_inclusive_to_the_nanosecond() {
    let host = Host::with_monitord(&[]);
    let base = time::now() - 100 * SECOND;
    emit(&host, (0..10).map(|nth| at(base + nth, &nth.to_string())));
    let wish =
        Subscribe { since: Some(base + 3), until: Some(base + 6), follow: true, ..Subscribe::default() };
    let (events, end) = host.subscribe(wish).to_end();
    assert_eq!((ids(&events), end), (vec!["3", "4", "5", "6"], End::Until));
}

#[test]
fn a_past_until_ends_at_once_and_no_follow_ends_with_history() {
    let host = Host::with_monitord(&[]);
    emit(&host, [at(time::now() - SECOND, "past")]);
    let until = Subscribe { until: Some(time::now()), follow: true, after: Some(0), ..Subscribe::default() };
    let (events, end) = host.subscribe(until).to_end();
    assert_eq!((ids(&events), end), (vec!["past"], End::Until));
    let history = Subscribe { after: Some(0), ..Subscribe::default() };
    let (events, end) = host.subscribe(history).to_end();
    assert_eq!((ids(&events), end), (vec!["past"], End::History));
}

#[test]
fn a_coming_until_ends_then_and_nothing_later_is_given() {
    let host = Host::with_monitord(&[]);
    let until = time::now() + SECOND;
    let wish = Subscribe { until: Some(until), follow: true, ..Subscribe::default() };
    let mut subscriber = host.subscribe(wish);
    subscriber.welcome();
    emit(&host, [at(until - 2, "before"), at(until + 1, "later"), at(until, "at")]);
    let (events, end) = subscriber.to_end();
    assert!(time::now() >= until, "ended early");
    assert_eq!((ids(&events), end), (vec!["before", "at"], End::Until));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let host = Host::with_monitord(&[]);
    let now = time::now();
    let wrong = Subscribe { since: Some(now), until: Some(now - 1), ..Subscribe::default() };
    let refusal = host.subscribe(wrong).refusal();
    assert_eq!(refusal.reason, Reason::Argument);
    assert!(refusal.message.contains("since") && refusal.message.contains("until"), "{}", refusal.message);

    let wrong = Subscribe { filters: vec!["colour=red".into()], ..Subscribe::default() };
    let mut subscriber = host.subscribe(wrong);
    let refusal = subscriber.refusal();
    assert_eq!(refusal.reason, Reason::Argument);
    assert!(
        refusal.message.contains("colour") && refusal.message.contains(filter::KEYS),
        "{}",
        refusal.message
    );
    assert!(matches!(subscriber.try_next(), Ok(None)), "a refused connection is closed");
}

#[test]
fn what_writers_dropped_is_counted_for_everyone_to_see() {
    let host = Host::with_monitord(&[]);
    let lossy = Event { writer: 1, counter: 1, lost: 17, ..at(time::now(), "after a loss") };
    let mut fifo = File::options().write(true).open(host.fifo()).expect("monitord made it");
    fifo.write_all(&record::encode(&lossy).expect("small")).expect("room");
    let mut subscriber = host.follow_from(0);
    let events = subscriber.until(|event| event.kind == "test");
    assert_eq!(events.last().map(|event| event.lost), Some(17));
    assert_eq!(host.status().writers_lost, 17);
}

#[test]
fn history_ends_where_it_ended_at_the_request() {
    let host = Host::with_monitord(&["--journal-bytes", "64M"]);
    let padded = |nth: usize| at(time::now(), &nth.to_string()).with("padding", "x".repeat(nth % 700));
    emit(&host, (0..20_000).map(padded));
    host.wait_until("all to be taken", || host.status().seq > 20_000);
    // These subscribers send a request and read nothing, so their sockets are soon full.
    let wish = Subscribe { after: Some(0), ..Subscribe::default() };
    let mut slow: Vec<(Subscriber, u64)> = (0..8)
        .map(|_| {
            let mut subscriber = host.subscribe(wish.clone());
            let head = subscriber.welcome();
            emit(&host, (0..500).map(padded));
            host.wait_until("more to be taken", || host.status().seq >= head + 500);
            (subscriber, head)
        })
        .collect();
    for (subscriber, head) in &mut slow {
        let (events, end) = subscriber.to_end();
        assert_eq!((events.len() as u64, end), (*head, End::History));
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq));
    }
}

#[test]
fn a_subscriber_without_a_past_hears_only_what_comes() {
    let host = Host::with_monitord(&[]);
    emit(&host, [at(time::now(), "before")]);
    host.await_seq(host.status().seq);
    let mut subscriber = host.subscribe(Subscribe { follow: true, ..Subscribe::default() });
    let head = subscriber.welcome();
    emit(&host, [at(time::now(), "after")]);
    match subscriber.item() {
        Item::Event(event) => assert_eq!((event.id.as_str(), event.seq), ("after", head + 1)),
        item => panic!("not an event: {item:?}"),
    }
}
