//! Nothing is lost and nothing comes twice, whatever is killed or stopped.

use sampan_ipc::Event;
use sampan_ipc::watch::{Item, Subscribe};
use sampan_tests::host::{Host, PATIENCE};
use sampan_tests::random::Random;
use sampan_tests::subscriber::Subscriber;
use std::path::Path;
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
    let mut host = Host::with_monitord(&["--journal-bytes", "64M"]);
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
            command.args(["--journal-bytes", "64M"]);
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
}
