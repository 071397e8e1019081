//! Many tasks: the queue, deletions, checks, evictions.

use super::*;
use crate::cdn::eviction::Marks;
use crate::cdn::{CdnStatus, Pattern};

fn id(number: usize) -> TaskId {
    TaskId::new(&format!("http://origin/{number}"), "", "")
}

#[test]
fn a_bounded_number_of_fetches_runs_and_the_others_wait() {
    let home = home();
    let rig = Rig::new(home.path(), bytes(100_000, 31));
    let Rig { cdn, origin, .. } = rig;
    drop(cdn);
    let settings = CdnSettings { fetches_max: 3, ..CdnSettings::default() };
    let mut rig = Rig::open(home.path(), origin, settings, |_| {});
    rig.origin.set(|state| state.faults = (0..10).map(|_| Fault::Stop(50_000)).collect());
    for number in 0..10 {
        let file = rig.file();
        assert_eq!(rig.trigger_task(&id(number), file.clone()), TriggerOutcome::Begins);
        assert_eq!(rig.trigger_task(&id(number), file), TriggerOutcome::Runs);
    }
    rig.origin.wait_until(|state| state.stopped == 3);
    let statuses: Vec<_> = (0..10).filter_map(|number| rig.cdn.status(&id(number))).collect();
    assert_eq!(statuses[..3], [CdnStatus::Running; 3]);
    assert_eq!(statuses[3..], [CdnStatus::Waiting; 7]);
    assert!(rig.cdn.is_fetching());
    rig.origin.release();
    for _ in 0..10 {
        rig.end().0.expect("fetched");
    }
    assert!(!rig.cdn.is_fetching());
    assert_eq!(lock(&rig.origin.state).open_max, 3);
    assert_eq!(rig.origin.requests().len(), 10);
}

#[test]
fn a_task_that_is_deleted_in_mid_fetch_can_begin_anew_at_once() {
    for with_file in [true, false] {
        let home = home();
        let len = 2 * piece_len();
        let mut rig = Rig::new(home.path(), bytes(len, 32));
        let at = piece_len() as u64 + 70_000;
        rig.origin.set(|state| state.faults = [Fault::Stop(at)].into());
        rig.trigger();
        rig.origin.wait_until(|state| state.stopped == 1);
        rig.cdn.delete(&task(), with_file);
        assert_eq!((rig.cdn.status(&task()), rig.cdn.has_files()), (None, !with_file));
        // The thread of the first fetch may still run. Its messages count for nothing.
        let numbers = rig.fetch();
        assert_eq!(numbers, if with_file { vec![0, 1] } else { vec![1] });
        rig.settle();
        assert_eq!((leftovers(home.path()), open_files(home.path())), ((1, 0), 2), "lock and content");
    }
}

#[test]
fn a_deleted_task_has_no_event_and_its_open_file_stays_readable() {
    let home = home();
    let content = bytes(1000, 33);
    let mut rig = Rig::new(home.path(), content.clone());
    rig.fetch();
    let file = rig.cdn.content(&task()).expect("open");
    rig.cdn.delete(&task(), true);
    rig.settle();
    assert!(rig.cdn.content(&task()).is_none() && rig.cdn.piece(&task(), 0).is_none());
    assert_eq!((rig.cdn.has_files(), leftovers(home.path()).1), (false, 0));
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 0).expect("a transfer that runs ends well");
    assert!(bytes == content);
    rig.origin.set(|state| state.faults = [Fault::Stop(10)].into());
    rig.trigger();
    rig.origin.wait_until(|state| state.stopped == 1);
    rig.cdn.reset(&task());
    let message = rig.messages.recv_timeout(PATIENCE).expect("the thread ends");
    assert!(rig.cdn.on_message(message).is_none());
    while rig.cdn.is_fetching() {
        let message = rig.messages.recv_timeout(PATIENCE).expect("the thread ends");
        assert!(rig.cdn.on_message(message).is_none());
    }
}

#[test]
fn only_bad_pieces_are_fetched_again() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(4 * piece_len() + 5, 34));
    rig.fetch();
    rig.origin.sent();
    let path = rig.cdn.dir(&task()).content();
    let damage = |number| {
        let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
        file.write_all_at(b"damage", PIECES.offset(number) + 10).expect("written");
    };
    damage(1);
    damage(3);
    // The piece that the client names is good, so the client is wrong.
    assert!(rig.cdn.check_pieces(&task(), Some(2)));
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert!(bad.is_empty());
    assert!(rig.cdn.check_pieces(&task(), Some(3)));
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert_eq!(bad, [1, 3]);
    assert!(!rig.cdn.is_ready(&task(), 1) && rig.cdn.is_ready(&task(), 2));
    let (result, numbers) = rig.end();
    result.expect("repaired");
    assert_eq!((numbers, rig.origin.sent()), (vec![1, 3], 2 * piece_len() as u64));
    rig.assert_complete();
    // A process that is killed after the check has noted the bad pieces.
    let mut rig = rig.restart(home.path());
    rig.trigger();
    damage(0);
    assert!(rig.cdn.check_pieces(&task(), None));
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert_eq!(bad, [0]);
    rig.end().0.expect("repaired");
    fs::remove_file(&path).expect("removed");
    assert!(!rig.cdn.check_file(&task()));
    assert!(rig.cdn.check_pieces(&task(), None));
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert_eq!(bad, [0, 1, 2, 3, 4]);
    rig.end().0.expect("repaired");
    rig.assert_complete();
}

#[test]
fn a_check_waits_for_the_fetch_and_a_restart_repairs_what_it_found() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(2 * piece_len(), 35));
    rig.origin.set(|state| state.faults = [Fault::Stop(10)].into());
    rig.trigger();
    rig.origin.wait_until(|state| state.stopped == 1);
    assert!(rig.cdn.check_pieces(&task(), None));
    rig.origin.release();
    rig.end().0.expect("fetched");
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert!(bad.is_empty());

    // Without a request, bad pieces wait for the next registration.
    let mut rig = rig.restart(home.path());
    rig.cdn.activate(&task());
    let file = fs::OpenOptions::new().write(true).open(rig.cdn.dir(&task()).content()).expect("open");
    file.write_all_at(b"damage", 10).expect("written");
    rig.cdn.check_pieces(&task(), None);
    let CdnEvent::Checked { bad, .. } = rig.event() else { panic!("not checked") };
    assert_eq!((bad, rig.cdn.status(&task())), (vec![0], Some(CdnStatus::Waiting)));
    let mut rig = rig.restart(home.path());
    assert_eq!(rig.cdn.activate(&task()), Some(CdnStatus::Waiting));
    assert!(rig.cdn.ready_pieces(&task()).eq([1]));
    assert_eq!(rig.fetch(), [0]);
}

#[test]
fn the_source_pattern_offers_all_pieces_and_stores_nothing() {
    let home = home();
    let Rig { cdn, origin, .. } = Rig::new(home.path(), bytes(10, 36));
    drop(cdn);
    let settings = CdnSettings { pattern: Pattern::Source, ..CdnSettings::default() };
    let mut rig = Rig::open(home.path(), origin, settings, |_| {});
    let pieces = Pieces { is_wrapped: false, ..PIECES };
    let file = FileInfo { pieces, length: Some(5 << 20), ..rig.file() };
    assert_eq!(rig.trigger_file(file.clone()), TriggerOutcome::Complete);
    assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::Success));
    assert!(rig.cdn.ready_pieces(&task()).eq(0..5));
    assert!(rig.cdn.is_ready(&task(), 4) && !rig.cdn.is_ready(&task(), 5));
    assert!(rig.cdn.piece(&task(), 0).is_none() && rig.cdn.content(&task()).is_none());
    assert!(!rig.cdn.check_pieces(&task(), None));
    for file in [FileInfo { length: None, ..file.clone() }, FileInfo { takes_ranges: false, ..file }] {
        let refused = rig.cdn.trigger(&id(1), file, Request::default(), rig.now);
        assert!(matches!(refused, Err(CdnError::NoRanges)));
    }
    assert_eq!((rig.origin.requests(), rig.cdn.has_files()), (vec![], false));
}

#[test]
fn a_full_disk_chooses_the_file_that_was_idle_longest() {
    let home = home();
    let rig = Rig::new(home.path(), bytes(1000, 37));
    let Rig { cdn, origin, .. } = rig;
    drop(cdn);
    let marks = Marks { young: Some(u64::MAX), full: Some(u64::MAX) };
    let settings = CdnSettings { marks, ..CdnSettings::default() };
    let mut rig = Rig::open(home.path(), Arc::clone(&origin), settings.clone(), |_| {});
    let start = rig.now;
    for number in 0..5 {
        let file = rig.file();
        rig.now = start + Duration::from_secs(number as u64 * 86_400);
        rig.trigger_task(&id(number), file);
        rig.end().0.expect("fetched");
    }
    let now = start + Duration::from_secs(30 * 86_400);
    rig.cdn.touch(&id(0), now);
    let chosen = |cdn: &Cdn, busy: &dyn Fn(&TaskId) -> bool| cdn.gc_task_ids(busy, now).expect("asked");
    assert_eq!(chosen(&rig.cdn, &|_| false), [id(1)], "one in ten, and at least one");
    assert_eq!(chosen(&rig.cdn, &|task| *task == id(1)), [id(2)], "one that is used stays");
    rig.settle();
    drop(rig);
    // The access times survive a restart.
    let rig = Rig::open(home.path(), Arc::clone(&origin), settings, |_| {});
    assert_eq!(chosen(&rig.cdn, &|_| false), [id(1)]);
    drop(rig);
    let marks = Marks { young: Some(0), full: Some(0) };
    let rig = Rig::open(home.path(), origin, CdnSettings { marks, ..CdnSettings::default() }, |_| {});
    assert_eq!(chosen(&rig.cdn, &|_| false), []);
}

#[test]
fn nothing_is_left_of_many_fetches_that_end_in_every_way() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(10_000, 38));
    for number in 0..300 {
        rig.origin.set(|state| {
            state.faults = match number % 4 {
                0 => VecDeque::new(),
                1 => [Fault::Status(404)].into(),
                2 => (0..10).map(|_| Fault::Cut(0)).collect(),
                _ => [Fault::Stop(10)].into(),
            };
        });
        let file = rig.file();
        rig.trigger_task(&id(number), file);
        if number % 4 == 3 {
            rig.origin.wait_until(|state| state.stopped == 1);
            rig.cdn.delete(&id(number), true);
            while rig.cdn.is_fetching() {
                let message = rig.messages.recv_timeout(PATIENCE).expect("the thread ends");
                assert!(rig.cdn.on_message(message).is_none());
            }
        } else {
            let (result, _) = rig.end();
            assert_eq!(result.is_ok(), number % 4 == 0);
            rig.cdn.content(&id(number));
            rig.cdn.delete(&id(number), number % 8 == 0);
        }
    }
    rig.settle();
    assert_eq!(open_files(home.path()), 1, "the lock");
    assert!(rig.cdn.active.is_empty() && rig.cdn.workers.is_idle() && rig.cdn.workers.waiting() == 0);
    assert_eq!(rig.cdn.stored.len(), 37, "each eighth was kept");
    assert_eq!(leftovers(home.path()).1, 0);
}
