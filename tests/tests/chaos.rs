//! Nothing is lost and nothing comes twice, whatever is killed or stopped.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::Event;
use sampan_ipc::watch::{Item, Subscribe};
use sampan_tests::host::{Host, PATIENCE};
use sampan_tests::process;
use sampan_tests::random::Random;
use sampan_tests::subscriber::Subscriber;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: usize = 4;
const EVENTS_PER_WRITER: u64 = 12_500;
const KILLS: usize = 200;

/// What one subscriber has seen of the numbered events of the writers.
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
            return;
        }
        let writer: usize = event.action.parse().expect("a writer's number");
        let nth: u64 = event.id.parse().expect("an event's number");
        assert_eq!(nth, self.next[writer], "writer {writer} is out of order");
        self.next[writer] += 1;
        self.seen += 1;
    }

    fn is_complete(&self) -> bool {
        self.seen == WRITERS as u64 * EVENTS_PER_WRITER
    }
}

/// Follows from where it was, over every loss of the connection, until it has seen everything.
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
                Ok(Some(Item::Welcome { .. })) => {}
                Ok(Some(item)) => panic!("not an event: {item:?}"),
                // Killed: a frame may have been cut anywhere.
                Ok(None) | Err(_) => break,
            }
            heard = Instant::now();
        }
    }
    account
}

#[test]
fn two_hundred_kills_lose_nothing_and_repeat_nothing() {
    // Segments of 512 KiB: the journal rolls to a new one between and under the kills, and drops none.
    let host = kill_under_load(&["--journal-bytes", "4M"]);
    assert!(host.segments().len() > 3, "it never rolled");
}

#[test]
fn two_hundred_kills_lose_nothing_and_repeat_nothing_when_each_event_is_synced_first() {
    kill_under_load(&["--journal-bytes", "64M", "--sync", "always"]);
}

/// Kills monitord at random while writers write and subscribers follow; nothing may be missing in the end.
fn kill_under_load(args: &[&str]) -> Host {
    let mut host = Host::with_monitord(args);
    let socket = host.socket();
    let subscribers: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket.clone();
            thread::spawn(move || follow(&socket))
        })
        .collect();
    let writing = AtomicBool::new(true);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let sender = host.sender();
                let writing = &writing;
                scope.spawn(move || {
                    for nth in 0..EVENTS_PER_WRITER {
                        sender.send(Event::new("chaos", writer.to_string(), nth.to_string())).expect("small");
                        // Spread over all kills; the last event is held back until they are through.
                        if nth % 5 == 0 {
                            thread::sleep(Duration::from_millis(3));
                        }
                        while nth + 2 == EVENTS_PER_WRITER && writing.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
                    assert_eq!(sender.dropped(), 0);
                })
            })
            .collect();
        let mut random = Random::new(12_345);
        for _ in 0..KILLS {
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
        assert_eq!(account.next, [EVENTS_PER_WRITER; WRITERS]);
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
        // The FIFO is the bound, not this process's memory.
        while sender.spooled() > 1000 {
            thread::sleep(Duration::from_micros(200));
        }
    }
    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
}

/// `sampan events`, stopped before it has read anything more than a socket holds.
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
fn a_stopped_reader_costs_neither_memory_nor_others_a_single_event_and_gets_all_of_them_later() {
    const COUNT: u64 = 200_000;
    let mut host = Host::with_monitord(&["--journal-bytes", "256M"]);
    let sender = host.sender();
    let mut others: Vec<Subscriber> = (0..2).map(|_| host.follow_from(0)).collect();
    for other in &mut others {
        other.welcome();
    }
    let mut stopped = stopped_reader(&host);
    // The ring and the scratch buffers are filled once before memory is measured.
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
fn a_reader_that_the_journal_cannot_wait_for_is_told_exactly_what_it_missed() {
    let host = Host::with_monitord(&["--journal-bytes", "512K"]);
    let mut stalled = host.follow_from(0);
    emit_many(&host.sender(), 30_000);
    let head = host.status().seq;
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
