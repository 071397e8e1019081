//! The journal after kills, disk errors and damaged files, and what readers and administrators are told.

use sampan_ipc::Event;
use sampan_ipc::watch::{End, Item, Subscribe};
use sampan_tests::host::{Host, PATIENCE, need_root};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Emits `count` events of type `test`, with consecutive numbers from `first` as their IDs, and waits until monitord
/// has them.
fn emit(host: &Host, first: u64, count: u64) {
    emit_only(host, first, count);
    let last = format!("id={}", first + count - 1);
    host.wait_until("the events to be taken", || {
        let wish = Subscribe { after: Some(0), filters: vec![last.clone()], ..Subscribe::default() };
        let mut subscriber = host.subscribe(wish);
        loop {
            match subscriber.item() {
                Item::Event(_) => return true,
                Item::End(_) => return false,
                _ => {}
            }
        }
    });
}

/// Emits `count` events like [`emit`], without waiting.
fn emit_only(host: &Host, first: u64, count: u64) {
    let sender = host.sender();
    for nth in first..first + count {
        let event = Event::new("test", "tick", nth.to_string()).with("padding", "x".repeat(150));
        sender.send(event).expect("small");
    }
    assert!(sender.flush(PATIENCE), "{:?}", sender.problem());
}

/// All of history: the events, and the ranges that were reported as lost.
fn history(host: &Host, after: u64) -> (Vec<Event>, Vec<(u64, u64)>) {
    let mut subscriber = host.subscribe(Subscribe { after: Some(after), ..Subscribe::default() });
    let (mut events, mut lost, mut next) = (Vec::new(), Vec::new(), after + 1);
    loop {
        match subscriber.item() {
            Item::Event(event) => {
                assert_eq!(event.seq, next, "a hole that nobody told of");
                next += 1;
                events.push(event);
            }
            Item::Lost { first, last } => {
                assert_eq!(first, next);
                next = last + 1;
                lost.push((first, last));
            }
            Item::End(End::History) => return (events, lost),
            Item::Welcome { .. } => {}
            item => panic!("not expected: {item:?}"),
        }
    }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    let tests = events.iter().filter(|event| event.kind == "test");
    tests.map(|event| event.id.parse().expect("a number")).collect()
}

fn has(events: &[Event], action: &str) -> bool {
    events.iter().any(|event| event.kind == "daemon" && event.action == action)
}

#[test]
fn a_torn_tail_is_cut_off_and_told_and_its_number_given_again() {
    let mut host = Host::with_monitord(&[]);
    emit(&host, 0, 100);
    let head = host.status().seq;
    host.kill9();
    let tail = host.segments().pop().expect("a segment");
    let file = File::options().write(true).open(&tail).expect("ours");
    file.set_len(file.metadata().expect("its length").len() - 10).expect("ours");
    host.start_monitord(&[]);
    emit(&host, 100, 10);
    host.await_log("cut off");
    let (events, lost) = history(&host, 0);
    // The last event was torn, so no reader has seen it; its number is given to the next event.
    let expected: Vec<u64> = (0..99).chain(100..110).collect();
    assert_eq!(numbers(&events), expected);
    assert_eq!(lost, []);
    assert!(has(&events, "journal-damaged"));
    assert_eq!(events[head as usize - 1].seq, head);
}

#[test]
fn a_corrupted_middle_is_reported_and_no_number_is_used_twice() {
    let args = ["--journal-bytes", "512K"];
    let mut host = Host::with_monitord(&args);
    emit(&host, 0, 1000);
    let head = host.status().seq;
    assert!(host.segments().len() > 2);
    assert!(host.term().success());
    // The number of events per segment depends on their arrival, and the last segment may end before the damage.
    let segments = host.segments();
    let length = |path: &PathBuf| fs::metadata(path).expect("ours").len();
    let middle =
        segments[1..segments.len() - 1].iter().max_by_key(|path| length(path)).expect("more than two");
    let mut file = File::options().write(true).open(middle).expect("ours");
    file.seek(SeekFrom::Start(length(middle) / 2)).expect("ours");
    file.write_all(&[0xaa; 300]).expect("ours");
    host.start_monitord(&args);
    emit(&host, 1000, 10);
    host.await_log("no valid events");
    let (events, lost) = history(&host, 0);
    assert!(has(&events, "journal-damaged"));
    assert_eq!(lost.len(), 1, "{lost:?}");
    let (first, last) = lost[0];
    assert!(first > 1 && last < head);
    let seen = numbers(&events);
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(seen.contains(&0) && seen.contains(&999) && seen.contains(&1009));
    let start = events.iter().rfind(|event| event.action == "start").expect("the second start");
    assert!(start.seq > head, "number {} was used twice", start.seq);
}

#[test]
fn a_corrupted_end_is_dropped_and_its_numbers_are_not_reused() {
    let mut host = Host::with_monitord(&[]);
    emit(&host, 0, 1000);
    let head = host.status().seq;
    assert!(host.term().success());
    let tail = host.segments().pop().expect("a segment");
    let mut file = File::options().write(true).open(&tail).expect("ours");
    file.seek(SeekFrom::Start(20_000)).expect("ours");
    file.write_all(&[0xaa; 300]).expect("ours");
    host.start_monitord(&[]);
    emit(&host, 1000, 10);
    let (events, lost) = history(&host, 0);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].1 >= head, "{lost:?} ends before {head}");
    assert!(numbers(&events).ends_with(&[1008, 1009]));
    // A reader that had received every event continues without a repeated one.
    let (events, lost) = history(&host, head);
    assert_eq!(numbers(&events), (1000..1010).collect::<Vec<_>>());
    assert!(lost.len() <= 1);
}

#[test]
fn a_file_of_garbage_among_the_segments_is_dropped_and_told() {
    let mut host = Host::with_monitord(&[]);
    emit(&host, 0, 100);
    let head = host.status().seq;
    assert!(host.term().success());
    fs::write(host.journal().join(format!("{:020}.journal", 900)), vec![b'x'; 50_000]).expect("ours");
    fs::write(host.journal().join("notes.txt"), "no segment").expect("ours");
    host.start_monitord(&[]);
    emit(&host, 100, 10);
    let (events, lost) = history(&host, 0);
    assert_eq!(numbers(&events), (0..110).collect::<Vec<_>>());
    assert!(has(&events, "journal-damaged"));
    assert!(lost.iter().all(|(first, _)| *first > head), "{lost:?}");
    assert!(host.journal().join("notes.txt").exists());
}

#[test]
fn a_full_disk_costs_only_history_and_the_journal_recovers() {
    fill_the_disk("interval");
}

#[test]
fn a_full_disk_stops_nothing_when_each_event_is_synced_first() {
    fill_the_disk("always");
}

fn fill_the_disk(sync: &str) {
    need_root();
    let args = ["--journal-bytes", "256M", "--ring-bytes", "128K", "--sync", sync];
    let mut host = Host::new();
    let state = host.mount_tmpfs("state", 512 << 10);
    host.start_monitord(&args);
    let filler = state.join("filler");
    fs::write(&filler, vec![0; 100 << 10]).expect("room");
    let mut live = host.follow_from(0);
    let (mut nth, mut failed) = (0, None);
    while failed.is_none() {
        assert!(nth < 10_000, "the disk does not fill up");
        emit_only(&host, nth, 100);
        nth += 100;
        let events = live.until(|event| event.id == (nth - 1).to_string());
        failed = events.into_iter().find(|event| event.action == "journal-failed");
    }
    let reason =
        failed.and_then(|event| event.attributes.get("reason").map(str::to_owned)).expect("a reason");
    assert!(reason.contains("No space left"), "{reason}");
    assert!(host.status().journal.is_some_and(|journal| journal.failed.is_some()));
    // New events are still sent, without a gap in their numbers.
    for _ in 0..30 {
        emit_only(&host, nth, 100);
        nth += 100;
        live.until(|event| event.id == (nth - 1).to_string());
    }

    fs::remove_file(&filler).expect("ours");
    host.wait_until("the journal to recover", || {
        emit_only(&host, nth, 1);
        nth += 1;
        host.status().journal.is_some_and(|journal| journal.failed.is_none())
    });
    live.until(|event| event.action == "journal-recovered");
    host.await_log("can be written again");
    let head = host.status().seq;
    host.kill9();
    host.start_monitord(&args);
    // monitord's start is an event itself, which may not be numbered yet.
    host.wait_until("numbers to go on", || host.status().seq > head);
    let (events, lost) = history(&host, 0);
    assert_eq!(lost.len(), 1, "one hole, where the disk was full: {lost:?}");
    assert!(numbers(&events).contains(&(nth - 1)));
}

#[test]
fn a_kill_while_the_disk_is_full_gives_no_number_twice() {
    need_root();
    let args = ["--journal-bytes", "256M", "--ring-bytes", "128K"];
    let mut host = Host::new();
    host.mount_tmpfs("state", 256 << 10);
    host.start_monitord(&args);
    let mut live = host.follow_from(0);
    let (mut nth, mut seen) = (0, 0);
    for _ in 0..4 {
        // More events than the disk has room for, and than numbers are reserved for at a time.
        for _ in 0..60 {
            emit_only(&host, nth, 100);
            nth += 100;
            let events = live.until(|event| event.id == (nth - 1).to_string());
            assert!(events[0].seq > seen, "number {} was given twice", events[0].seq);
            seen = events.last().expect("the last one").seq;
        }
        assert!(host.logs().contains("No space left"), "the disk does not fill up");
        host.kill9();
        host.start_monitord(&args);
        // A reader continues after the last event that it has seen, whose number is not ahead of the newest one.
        live = host.follow_from(seen);
        live.welcome();
        match live.item() {
            Item::Event(event) => assert!(event.seq > seen),
            Item::Lost { first, last } => assert!(first == seen + 1 && last >= first),
            item => panic!("not expected: {item:?}"),
        }
    }
}

#[test]
fn a_read_only_journal_serves_history_and_events_go_to_memory() {
    need_root();
    let mut host = Host::new();
    let state = host.mount_tmpfs("state", 4 << 20);
    host.start_monitord(&[]);
    emit(&host, 0, 100);
    let head = host.status().seq;
    assert!(host.term().success());
    host.remount(&state, true);
    host.start_monitord(&[]);
    host.await_log("Read-only file system");
    emit(&host, 100, 10);
    let (events, _) = history(&host, 0);
    assert_eq!(numbers(&events), (0..110).collect::<Vec<_>>());
    assert!(has(&events, "journal-failed"));
    assert!(host.status().seq > head);
    assert!(host.term().success());
}

#[test]
fn without_a_journal_directory_events_are_kept_in_memory() {
    let mut host = Host::new();
    fs::write(host.path("state"), "a file where a directory should be").expect("ours");
    host.start_monitord(&[]);
    host.await_log("kept in memory only");
    emit(&host, 0, 10);
    let (events, _) = history_of_memory(&host);
    assert_eq!(numbers(&events), (0..10).collect::<Vec<_>>());
    assert!(has(&events, "journal-failed"));
}

/// All of history if numbers do not begin at 1, since there is no journal.
fn history_of_memory(host: &Host) -> (Vec<Event>, Vec<(u64, u64)>) {
    let mut subscriber = host.subscribe(Subscribe { after: Some(0), ..Subscribe::default() });
    subscriber.welcome();
    match subscriber.item() {
        Item::Lost { first: 1, last } => history(host, last),
        item => panic!("not told what is gone: {item:?}"),
    }
}

#[test]
fn without_a_journal_a_returning_reader_is_told_what_it_missed() {
    let mut host = Host::with_monitord(&["--journal-dir", "none"]);
    emit_only(&host, 0, 10);
    let mut reader = host.subscribe(Subscribe { since: Some(0), follow: true, ..Subscribe::default() });
    let seen = reader.until(|event| event.id == "9").pop().expect("the last").seq;
    assert!(!host.journal().exists());
    host.kill9();
    host.start_monitord(&["--journal-dir", "none"]);
    emit_only(&host, 10, 10);
    let mut reader = host.follow_from(seen);
    reader.welcome();
    match reader.item() {
        Item::Lost { first, last } => {
            assert_eq!(first, seen + 1);
            let events = reader.until(|event| event.id == "19");
            assert_eq!(events[0].seq, last + 1);
            assert_eq!(numbers(&events), (10..20).collect::<Vec<_>>());
        }
        item => panic!("not told what is gone: {item:?}"),
    }
}

#[test]
fn with_sync_always_nothing_is_lost_over_a_kill() {
    let args = ["--sync", "always"];
    let mut host = Host::with_monitord(&args);
    // A FIFO that no process has open loses its content.
    let _engine = File::options().read(true).write(true).open(host.fifo()).expect("monitord made it");
    for round in 0..5 {
        emit_only(&host, round * 200, 200);
        host.kill9();
        host.start_monitord(&args);
    }
    let mut reader = host.follow_from(0);
    assert_eq!(numbers(&reader.until(|event| event.id == "999")), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_non_segment_with_a_segments_name_costs_no_other_segment() {
    let mut host = Host::with_monitord(&[]);
    let sender = host.sender();
    for nth in 0..10 {
        sender.send(Event::new("test", "tick", nth.to_string())).expect("small");
    }
    host.await_seq(11);
    assert!(host.term().success());
    let name = |seq: u64| host.journal().join(format!("{seq:020}.journal"));
    nix::unistd::mkfifo(&name(1000), nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::os::unix::fs::symlink("/dev/zero", name(2000)).expect("linked");
    fs::create_dir(name(3000)).expect("made");
    fs::write(name(u64::MAX), "SMPJRNL").expect("written");
    let seq = u64::MAX.to_le_bytes();
    fs::write(host.journal().join("seq"), [&seq[..], &crc32c::crc32c(&seq).to_le_bytes()].concat())
        .expect("written");
    host.start_monitord(&[]);
    let filters = vec!["type=test".into()];
    let (events, _) = host.subscribe(Subscribe { after: Some(0), filters, ..Subscribe::default() }).to_end();
    assert_eq!(events.len(), 10, "{}", host.logs());
    assert!(host.status().journal.expect("a journal").failed.is_none(), "{}", host.logs());
    assert!(host.status().seq < 100);
}
