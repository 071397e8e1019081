//! No event is lost or repeated when monitord is killed or a reader is stopped.

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::event::Origin;
use sampan_ipc::watch::{Item, Subscribe};
use sampan_ipc::{Event, record};
use sampan_tests::host::{Host, PATIENCE};
use sampan_tests::process;
use sampan_tests::random::Random;
use sampan_tests::rounds;
use sampan_tests::subscriber::Subscriber;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: usize = 4;
/// Number of kills of monitord in a soak.
const KILLS: usize = 200;

/// Number of events of each writer.
fn events_per_writer() -> u64 {
    rounds(12_500) as u64
}

/// Writers with even numbers write facts, the others emit.
fn origin(writer: usize) -> Origin {
    if writer.is_multiple_of(2) { Origin::Facts } else { Origin::Emit }
}

/// The events of the writers that one subscriber has received.
#[derive(Default)]
struct Account {
    after: u64,
    next: [u64; WRITERS],
    seen: u64,
}

impl Account {
    fn take(&mut self, event: &Event) {
        assert_eq!(event.seq, self.after + 1, "a hole or a repeat in the numbers");
        self.after = event.seq;
        if event.kind != "chaos" {
            assert_eq!((event.kind.as_str(), event.origin), ("daemon", Origin::Facts), "forged: {event:?}");
            return;
        }
        let writer: usize = event.action.parse().expect("a writer's number");
        let nth: u64 = event.id.parse().expect("an event's number");
        assert_eq!(nth, self.next[writer], "writer {writer} is out of order");
        assert_eq!(event.origin, origin(writer), "marked wrongly");
        self.next[writer] += 1;
        self.seen += 1;
    }

    fn is_complete(&self) -> bool {
        self.seen == WRITERS as u64 * events_per_writer()
    }
}

/// Follows from its last position after each loss of the connection, until it has received every event.
fn follow(socket: &Path) -> Account {
    let mut account = Account::default();
    let mut heard = Instant::now();
    while !account.is_complete() {
        assert!(heard.elapsed() < PATIENCE, "nothing comes after {}", account.after);
        let wish = Subscribe { after: Some(account.after), follow: true, ..Subscribe::default() };
        let Ok(mut subscriber) = Subscriber::subscribe(socket, wish) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        while !account.is_complete() {
            match subscriber.try_next() {
                Ok(Some(Item::Event(event))) => account.take(&event),
                Ok(Some(Item::Emitted(event))) => {
                    account.take(&Event { origin: Origin::Emit, ..event });
                }
                Ok(Some(Item::Welcome { .. })) => {}
                Ok(Some(item)) => panic!("not an event: {item:?}"),
                // monitord was killed: a frame may be incomplete.
                Ok(None) | Err(_) => break,
            }
            heard = Instant::now();
        }
    }
    account
}

/// A hostile writer: at times it writes bytes that are no record, or forges a fact.
fn write_garbage(fifo: &Path, forges: bool, writing: &AtomicBool) {
    let mut random = Random::new(666);
    let forged = record::encode(&Event::new("container", "die", "forged")).expect("small");
    while writing.load(Ordering::Relaxed) {
        let file = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo);
        if let Ok(mut file) = file {
            let magic: &[u8] = if random.one_in(2) { b"SMPN\x01\x00" } else { b"" };
            let len = 1 + random.below(2000);
            // Without a reader or without room the write fails, which is fine here.
            let garbage = [magic, &random.bytes(len)].concat();
            let _ = file.write(if forges && random.one_in(2) { &forged } else { &garbage });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn many_kills_lose_nothing_and_repeat_nothing() {
    // A segment is an eighth of the journal: it fills and is followed by a new one many times during the kills, and
    // none is removed.
    let bytes = format!("{}K", rounds(5120));
    let host = kill_under_load(&["--journal-bytes", &bytes]);
    assert!(host.segments().len() > 3, "it never rolled");
}

#[test]
fn with_sync_always_many_kills_lose_and_repeat_no_event() {
    kill_under_load(&["--journal-bytes", "64M", "--sync", "always"]);
}

/// Kills monitord at random times while writers write and subscribers follow; in the end no event is missing.
fn kill_under_load(args: &[&str]) -> Host {
    let mut host = Host::with_monitord(args);
    let socket = host.socket();
    let subscribers: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket.clone();
            thread::spawn(move || follow(&socket))
        })
        .collect();
    let (writing, host_fifo, emit_fifo) = (AtomicBool::new(true), host.fifo(), host.emit_fifo());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let sender = if origin(writer) == Origin::Facts { host.sender() } else { host.emitter() };
                let writing = &writing;
                scope.spawn(move || {
                    for nth in 0..events_per_writer() {
                        sender.send(Event::new("chaos", writer.to_string(), nth.to_string())).expect("small");
                        // The events are spread over all kills; each writer keeps its last event until the kills are
                        // over.
                        if nth % 5 == 0 {
                            thread::sleep(Duration::from_millis(3));
                        }
                        while nth + 2 == events_per_writer() && writing.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
                    assert_eq!(sender.dropped(), 0);
                })
            })
            .collect();
        scope.spawn(|| write_garbage(&host_fifo, false, &writing));
        scope.spawn(|| write_garbage(&emit_fifo, true, &writing));
        let mut random = Random::new(12_345);
        for _ in 0..rounds(KILLS) {
            thread::sleep(Duration::from_micros(random.number() % 60_000));
            host.kill9();
            let mut command = host.command("sampan-monitord");
            command.args(args);
            host.spawn(command);
        }
        writing.store(false, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("a writer that fails says so");
        }
    });
    for subscriber in subscribers {
        let account = subscriber.join().expect("a subscriber that fails says so");
        assert_eq!(account.next, [events_per_writer(); WRITERS]);
    }
    let logs = host.logs();
    assert!(!logs.contains("panicked"), "{logs}");
    assert!(host.term().success());
    host
}

/// Sends `count` numbered events of about 200 bytes.
fn emit_many(sender: &sampan_ipc::sender::FifoSender, count: u64) {
    for nth in 0..count {
        let event = Event::new("bulk", "tick", nth.to_string()).with("padding", "x".repeat(120));
        sender.send(event).expect("small");
        // Waits while the spool is long, so that this process's memory does not grow.
        while sender.spooled() > 1000 {
            thread::sleep(Duration::from_micros(200));
        }
    }
    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
}

/// Starts `sampan events` and stops it, so that it reads no more than its socket holds.
fn stopped_reader(host: &Host) -> Child {
    let before = host.status().subscribers.len();
    let out = File::create(host.path("stopped.out")).expect("a file");
    let mut command = host.command("sampan");
    command.args(["events", "--after", "0", "--no-reconnect", "--format", "json"]);
    let child = command.stdout(out).stderr(host.log_file()).spawn().expect("sampan runs");
    host.wait_until("sampan events to subscribe", || host.status().subscribers.len() > before);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGSTOP).expect("it runs");
    host.wait_until("it to be stopped", || process::state(child.id()) == 'T');
    child
}

#[test]
fn a_stopped_reader_costs_no_memory_and_later_gets_every_event() {
    const COUNT: u64 = 200_000;
    let mut host = Host::with_monitord(&["--journal-bytes", "256M"]);
    let sender = host.sender();
    let mut others: Vec<Subscriber> = (0..2).map(|_| host.follow_from(0)).collect();
    for other in &mut others {
        other.welcome();
    }
    let mut stopped = stopped_reader(&host);
    // The first events fill ring and buffers before memory is measured.
    emit_many(&sender, 5_000);
    for other in &mut others {
        other.until(|event| event.id == "4999");
    }
    let before = process::anonymous_bytes(host.pid());
    thread::scope(|scope| {
        let readers: Vec<_> = others
            .iter_mut()
            .map(|other| scope.spawn(move || other.until(|event| event.id == (COUNT - 1).to_string()).len()))
            .collect();
        emit_many(&sender, COUNT);
        for reader in readers {
            assert_eq!(reader.join().expect("a reader that fails says so") as u64, COUNT);
        }
    });
    let after = process::anonymous_bytes(host.pid());
    assert!(after <= before + (256 << 10), "anonymous memory grew from {before} to {after}");
    let lag = host.status().subscribers.iter().map(|subscriber| subscriber.lag).max();
    assert!(lag.is_some_and(|lag| lag > COUNT / 2), "nobody lags: {lag:?}");

    kill(Pid::from_raw(stopped.id().cast_signed()), Signal::SIGCONT).expect("it runs");
    let out = host.path("stopped.out");
    let head = host.status().seq;
    host.wait_until("the stopped reader to receive all", || {
        std::fs::read(&out)
            .is_ok_and(|text| text.iter().filter(|byte| **byte == b'\n').count() as u64 >= head)
    });
    let text = std::fs::read_to_string(&out).expect("text");
    for (line, seq) in text.lines().zip(1..) {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["seq"], seq, "{line}");
    }
    stopped.kill().expect("it runs");
    stopped.wait().expect("ours");
    assert!(host.term().success());
}

#[test]
fn a_reader_slower_than_the_journal_learns_what_it_missed() {
    let host = Host::with_monitord(&["--journal-bytes", "512K"]);
    let mut stalled = host.follow_from(0);
    let first = host.status().seq;
    emit_many(&host.sender(), 30_000);
    // The sender has written all events; monitord may not have read the last ones yet.
    let head = first + 30_000;
    host.await_seq(head);
    let (mut next, mut lost, mut received) = (1, 0, 0);
    while next <= head {
        match stalled.item() {
            Item::Welcome { .. } => {}
            Item::Event(event) => {
                assert_eq!(event.seq, next);
                received += 1;
                next += 1;
            }
            Item::Lost { first, last } => {
                assert_eq!(first, next);
                assert!(last >= first);
                lost += last - first + 1;
                next = last + 1;
            }
            item => panic!("not expected: {item:?}"),
        }
    }
    assert_eq!(next, head + 1);
    assert!(lost > 10_000 && received > 100, "lost {lost}, received {received}");
    assert_eq!(host.status().subscribers_lost, lost);
}

/// Reads at a random pace, with pauses. Checks that every number was received, reported as lost, or excluded by the
/// filter.
fn read_slowly(mut subscriber: Subscriber, only: Option<&str>, last: u64, seed: u64) -> (u64, u64) {
    let mut random = Random::new(seed);
    let (mut next, mut received, mut lost) = (1, 0, 0);
    // Numbers that the filter excluded: none of their events matches it.
    let skip = |next: u64, to: u64| match only {
        None => assert_eq!(next, to, "a hole that nobody told of"),
        Some(kind) => {
            let wanted = |seq| kind_of(seq) == kind || kind_of(seq) == "both";
            assert!(!(next..to).any(wanted), "{next} to {to} held back from {kind}");
        }
    };
    while next <= last {
        match subscriber.item() {
            Item::Welcome { .. } => {}
            Item::Event(event) => {
                skip(next, event.seq);
                next = event.seq + 1;
                received += 1;
            }
            Item::Lost { first, last } => {
                skip(next, first);
                lost += last - first + 1;
                next = last + 1;
            }
            item => panic!("not expected: {item:?}"),
        }
        if random.one_in(100) {
            thread::sleep(Duration::from_micros(random.number() % 8000));
        }
    }
    (received, lost)
}

/// The type of the event with number `seq`, when one writer emits to a new monitord.
fn kind_of(seq: u64) -> &'static str {
    if seq == 1 { "daemon" } else { ["even", "odd", "both"][(seq % 3) as usize] }
}

#[test]
fn readers_of_any_pace_account_for_every_number_during_pruning() {
    const COUNT: u64 = 60_000;
    let host = Host::with_monitord(&["--journal-bytes", "1M", "--ring-bytes", "128K"]);
    // The last event comes after monitord's own start event; its type matches every filter.
    let last = (COUNT..).find(|seq| kind_of(*seq) == "both").expect("one of three");
    let subscribe = |only: Option<&str>| {
        let filters = only.map(|kind| vec![format!("type={kind}"), "type=both".into()]).unwrap_or_default();
        let mut subscriber =
            host.subscribe(Subscribe { filters, after: Some(0), follow: true, ..Subscribe::default() });
        subscriber.welcome();
        subscriber
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..12)
            .map(|nth| {
                let only = [None, Some("even"), Some("odd")][nth % 3];
                let subscriber = subscribe(only);
                scope.spawn(move || read_slowly(subscriber, only, last, nth as u64))
            })
            .collect();
        let (sender, mut random) = (host.sender(), Random::new(99));
        for seq in 2..=last {
            let padding = "x".repeat(random.below(600));
            let event = Event::new(kind_of(seq), "tick", seq.to_string()).with("padding", padding);
            sender.send(event).expect("small");
            while sender.spooled() > 1000 {
                thread::sleep(Duration::from_micros(200));
            }
        }
        assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
        for reader in readers {
            let (received, lost) = reader.join().expect("a reader that fails says so");
            println!("received {received}, lost {lost}");
            assert!(received > 0);
        }
    });
    let status = host.status();
    assert_eq!((status.seq, status.skipped_bytes), (last, 0));
}
