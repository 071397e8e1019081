//! Subscriptions against a monitord of this file's own, which says what no well-behaved one would.

use sampan_client::{Event, Item, Subscription, Watch, WatchError};
use sampan_ipc::frame::{self, Decoder};
use sampan_ipc::watch::{
    self, End, Item as Wire, Lineage, REQUEST_MAX, Reason, Refusal, Request, Subscribe, VERSION,
};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One connection that is served: what was asked, and the stream to answer on.
type Served = (Subscribe, UnixStream);

/// A listener that hands every subscription over to the test.
struct Monitord {
    dir: TempDir,
    served: Receiver<Served>,
    /// What connections from now on are told of the journal, if not the usual.
    lineage: Arc<Mutex<Option<Lineage>>>,
    _thread: JoinHandle<()>,
}

impl Monitord {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("a listener");
        let (sender, served) = channel();
        let lineage = Arc::default();
        let told = Arc::clone(&lineage);
        let thread = std::thread::spawn(move || serve(&listener, &sender, &told));
        Monitord { dir, served, lineage, _thread: thread }
    }

    fn answer_with(&self, lineage: Lineage) {
        *self.lineage.lock().expect("not poisoned") = Some(lineage);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn watch(&self) -> Watch {
        Watch::new().socket(self.socket())
    }

    fn next(&self) -> Served {
        self.served.recv_timeout(Duration::from_secs(30)).expect("a subscription in time")
    }
}

fn serve(listener: &UnixListener, sender: &Sender<Served>, told: &Mutex<Option<Lineage>>) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut decoder = Decoder::new(REQUEST_MAX);
        let mut bytes = [0; 4096];
        let asked = loop {
            match stream.read(&mut bytes) {
                Ok(len) if len > 0 => decoder.push(&bytes[..len]),
                _ => break None,
            }
            if let Some(body) = decoder.next_body().expect("a frame") {
                break Some(watch::open_watch(body).expect("a request").1);
            }
        };
        let Some(Request::Subscribe(subscribe)) = asked else { continue };
        let after = subscribe.after.unwrap_or(10);
        let usual = Lineage { id: 1, after, replaced: false };
        let lineage = told.lock().expect("not poisoned").unwrap_or(usual);
        send(&mut stream, &[Wire::Welcome { version: VERSION, head: 10 }, Wire::Journal(lineage)]);
        if sender.send((subscribe, stream)).is_err() {
            return;
        }
    }
}

fn bytes_of(item: &Wire) -> Vec<u8> {
    frame::encode(item).expect("small")
}

fn event(seq: u64) -> Wire {
    Wire::Event(Event { seq, kind: "test".into(), action: "tick".into(), ..Event::default() })
}

fn send(stream: &mut UnixStream, items: &[Wire]) {
    stream.write_all(&items.iter().flat_map(bytes_of).collect::<Vec<u8>>()).expect("connected");
}

fn seq(subscription: &mut Subscription) -> u64 {
    match subscription.next() {
        Some(Ok(Item::Event(event))) => event.seq,
        other => panic!("no event: {other:?}"),
    }
}

#[test]
fn a_broken_stream_goes_on_behind_its_last_event() {
    let monitord = Monitord::start();
    let mut events = monitord.watch().filter("type=test").start().expect("it listens");
    let (asked, mut stream) = monitord.next();
    assert_eq!((asked.after, asked.follow, asked.filters.len()), (None, true, 1));
    assert_eq!(events.cursor(), Some(10));
    send(&mut stream, &[event(11), event(14)]);
    // Half a frame, then nothing.
    stream.write_all(&bytes_of(&event(15))[..20]).expect("connected");
    drop(stream);
    assert_eq!([seq(&mut events), seq(&mut events)], [11, 14]);
    let next = std::thread::spawn(move || (seq(&mut events), events));
    let (asked, mut stream) = monitord.next();
    assert_eq!((asked.after, asked.filters.len()), (Some(14), 1));
    send(&mut stream, &[event(15), Wire::Lost { first: 16, last: 20 }, Wire::End(End::Shutdown)]);
    let (seq, mut events) = next.join().expect("an event");
    assert_eq!(seq, 15);
    assert_eq!(events.next().and_then(Result::ok), Some(Item::Lost { first: 16, last: 20 }));
    let end = std::thread::spawn(move || events.next().is_none());
    let (asked, mut stream) = monitord.next();
    assert_eq!(asked.after, Some(20));
    send(&mut stream, &[Wire::End(End::Until)]);
    assert!(end.join().expect("an end"));
}

#[test]
fn a_subscription_from_now_misses_nothing_though_it_breaks_before_its_first_event() {
    let monitord = Monitord::start();
    let mut events = monitord.watch().start().expect("it listens");
    drop(monitord.next());
    let next = std::thread::spawn(move || seq(&mut events));
    let (asked, mut stream) = monitord.next();
    assert_eq!(asked.after, Some(10));
    send(&mut stream, &[event(11)]);
    assert_eq!(next.join().expect("an event"), 11);
}

#[test]
fn without_reconnection_every_end_but_a_complete_one_is_an_error() {
    let monitord = Monitord::start();
    let watch = monitord.watch().reconnect(false);
    let mut events = watch.clone().start().expect("it listens");
    drop(monitord.next());
    assert!(matches!(events.next(), Some(Err(WatchError::Broken { source: None, .. }))));
    assert!(events.next().is_none());
    let mut events = watch.clone().start().expect("it listens");
    send(&mut monitord.next().1, &[Wire::End(End::Shutdown)]);
    assert!(matches!(events.next(), Some(Err(WatchError::Shutdown))));
    let mut events = watch.start().expect("it listens");
    send(&mut monitord.next().1, &[event(11), Wire::End(End::History)]);
    assert_eq!(seq(&mut events), 11);
    assert!(events.next().is_none() && !events.is_stopped());
}

#[test]
fn a_refusal_is_heard_though_it_came_before_the_request_was_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).expect("a listener");
    let refusal = Refusal { reason: Reason::Limit, message: "full".into(), versions: vec![VERSION] };
    let bytes = bytes_of(&Wire::Error(refusal));
    let _thread = std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The client may have given up already; what counts is what it makes of it.
            let _ = stream.write_all(&bytes);
        }
    });
    // Which of the two is faster is chance; both orders occur among so many.
    for _ in 0..500 {
        let mut watch = Watch::new().socket(&socket).reconnect(false).start().map_err(|error| vec![error]);
        let told = match &mut watch {
            Ok(events) => events.next(),
            Err(error) => error.pop().map(Err),
        };
        assert!(matches!(told, Some(Err(WatchError::Refused(_)))), "{told:?}");
    }
}

#[test]
fn a_refusal_and_bytes_that_mean_nothing_end_the_iterator() {
    let monitord = Monitord::start();
    let refusal = Refusal { reason: Reason::Argument, message: "no".into(), versions: vec![VERSION] };
    let mut events = monitord.watch().start().expect("it listens");
    send(&mut monitord.next().1, &[Wire::Error(refusal.clone())]);
    assert!(matches!(events.next(), Some(Err(WatchError::Refused(told))) if told == refusal));
    let mut events = monitord.watch().start().expect("it listens");
    monitord.next().1.write_all(&[0xff; 64]).expect("connected");
    assert!(matches!(events.next(), Some(Err(WatchError::Protocol(_)))));
    let mut events = monitord.watch().start().expect("it listens");
    send(&mut monitord.next().1, &[Wire::Welcome { version: VERSION, head: 1 }]);
    assert!(matches!(events.next(), Some(Err(WatchError::OutOfPlace(_)))));
    assert!(events.next().is_none());
}

#[test]
fn a_stopper_ends_a_wait_for_an_event_and_a_wait_for_monitord() {
    let monitord = Monitord::start();
    for connected in [true, false] {
        let mut events = monitord.watch().start().expect("it listens");
        let served = monitord.next();
        let stopper = events.stopper().expect("a descriptor");
        let waiting = std::thread::spawn(move || (events.next().is_none(), events.is_stopped()));
        if !connected {
            std::fs::remove_file(monitord.socket()).expect("there");
            drop(served);
        }
        stopper.stop();
        assert_eq!(waiting.join().expect("an end"), (true, true));
    }
}

#[test]
fn the_cursor_moves_by_commits_alone() {
    let monitord = Monitord::start();
    let file = monitord.dir.path().join("cursor");
    let start = || monitord.watch().cursor_file(&file).since(5).start().expect("it listens");
    let mut events = start();
    let (asked, mut stream) = monitord.next();
    assert_eq!((asked.since, asked.after), (Some(5), None));
    send(&mut stream, &[event(11), event(12), event(13), Wire::End(End::History)]);
    assert_eq!([seq(&mut events), seq(&mut events)], [11, 12]);
    assert!(events.is_pending() && events.is_uncommitted());
    events.commit(11).expect("writable");
    assert_eq!(seq(&mut events), 13);
    assert!(!events.is_pending(), "an end is no event");
    assert!(events.next().is_none());
    drop(events);
    let mut again = start();
    let (asked, mut stream) = monitord.next();
    assert_eq!((asked.since, asked.after, asked.lineage), (None, Some(11), Some(1)), "the file knows better");
    send(&mut stream, &[event(12), Wire::Position { seq: 20 }, Wire::End(End::History)]);
    assert_eq!(seq(&mut again), 12);
    again.committer().expect("a descriptor").commit(12);
    assert!(again.next().is_none());
    drop(again);
    drop(start());
    assert_eq!(monitord.next().0.after, Some(20), "what a reader with a filter was there for");
}

#[test]
fn a_journal_that_is_another_one_is_told_and_read_from_its_beginning() {
    let monitord = Monitord::start();
    let mut events = monitord.watch().start().expect("it listens");
    let (_, mut stream) = monitord.next();
    send(&mut stream, &[event(11)]);
    assert_eq!(seq(&mut events), 11);
    drop(stream);
    monitord.answer_with(Lineage { id: 2, after: 0, replaced: true });
    let next = std::thread::spawn(move || (events.next(), events));
    let (asked, mut stream) = monitord.next();
    assert_eq!((asked.after, asked.lineage), (Some(11), Some(1)));
    let (told, mut events) = next.join().expect("an item");
    assert_eq!(told.and_then(Result::ok), Some(Item::Replaced { uncommitted: true }));
    send(&mut stream, &[event(1)]);
    assert_eq!(seq(&mut events), 1);
}

#[test]
fn a_monitord_of_version_1_is_spoken_to_in_its_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("s")).expect("a listener");
    let thread = std::thread::spawn(move || {
        let mut openings = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut header = [0; frame::HEADER_LEN];
            stream.read_exact(&mut header).expect("a header");
            let mut body = vec![0; u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize];
            stream.read_exact(&mut body).expect("a body");
            let version = body[0];
            openings.push(body);
            if version == 1 {
                send(
                    &mut stream,
                    &[Wire::Welcome { version: 1, head: 10 }, event(11), Wire::End(End::History)],
                );
            } else {
                let message = "protocol version 2 is not spoken here".to_owned();
                send(
                    &mut stream,
                    &[Wire::Error(Refusal { reason: Reason::Version, message, versions: vec![1] })],
                );
            }
        }
        openings
    });
    let mut events = Watch::new().socket(dir.path().join("s")).after(10).start().expect("it listens");
    assert_eq!(seq(&mut events), 11);
    assert!(events.next().is_none());
    // version 1 · subscribe · no filters · no since · no until · after 10 · follow
    assert_eq!(thread.join().expect("two clients")[1], [1, 0, 0, 0, 0, 1, 10, 1]);
}

#[test]
fn a_monitord_that_is_absent_is_an_error_at_once_or_waited_for_with_a_cursor_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let watch = Watch::new().socket(dir.path().join("s"));
    assert!(matches!(watch.clone().start(), Err(WatchError::Connect { .. })));
    let mut events = watch.cursor_file(dir.path().join("cursor")).start().expect("it waits");
    let listener = UnixListener::bind(dir.path().join("s")).expect("a listener");
    let (sender, served) = channel();
    let _thread = std::thread::spawn(move || serve(&listener, &sender, &Mutex::default()));
    let begun = Instant::now();
    let next = std::thread::spawn(move || seq(&mut events));
    let (_, mut stream) = served.recv_timeout(Duration::from_secs(30)).expect("a subscription");
    assert!(begun.elapsed() < Duration::from_secs(5));
    send(&mut stream, &[event(11)]);
    assert_eq!(next.join().expect("an event"), 11);
}

#[test]
fn since_behind_until_is_refused_before_anything_is_sent() {
    let error = Watch::new().socket("/nowhere").since(2).until(1).start().expect_err("reversed");
    assert!(matches!(error, WatchError::Time(_)));
}
