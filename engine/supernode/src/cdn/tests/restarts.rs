//! What a restarted process makes of the files that an earlier one left.

use super::*;
use crate::cdn::CdnStatus;
use crate::cdn::piece_file::SIZE;
use crate::cdn::record::Record;
use std::fs::OpenOptions;
use std::path::PathBuf;

/// Copies a directory as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed").flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

fn task_dir(home: &Path) -> PathBuf {
    home.join("tasks").join(task().prefix()).join(task().to_string())
}

/// The files of a process that was killed when `at` bytes had come.
fn killed_at(home: &Path, content: Vec<u8>, at: usize, states_length: bool) -> Arc<Origin> {
    let running = super::home();
    let mut rig = Rig::new(running.path(), content);
    rig.origin.set(|state| {
        state.states_length = states_length;
        state.faults = [Fault::Stop(at as u64)].into();
    });
    assert_eq!(rig.trigger(), TriggerOutcome::Begins);
    rig.origin.wait_until(|state| state.stopped == 1);
    copy(running.path(), home);
    rig.origin.release();
    rig.end().0.expect("fetched");
    rig.origin.sent();
    rig.origin.set(|state| state.requests.clear());
    Arc::clone(&rig.origin)
}

fn open(home: &Path, origin: &Arc<Origin>) -> Rig {
    Rig::open(home, Arc::clone(origin), CdnSettings::default(), |_| {})
}

#[test]
fn a_complete_file_needs_no_fetch_and_no_reading() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(2 * piece_len() + 7, 21));
    rig.fetch();
    let md5 = rig.cdn.content_md5(&task());
    let mut rig = rig.restart(home.path());
    let records = rig.cdn.load();
    assert_eq!(records.len(), 1);
    assert!(records[0].is_complete && records[0].id == task() && records[0].content_md5 == md5);
    assert_eq!(rig.cdn.status(&task()), None, "not in memory yet");
    assert_eq!(rig.cdn.activate(&task()), Some(CdnStatus::Success));
    rig.assert_complete();
    assert_eq!(rig.trigger(), TriggerOutcome::Complete);
    assert_eq!(rig.origin.requests().len(), 1, "that of the first process");
    // Another boot changes nothing: the file is durable.
    let mut rig = rig.restart_with(home.path(), |shared| shared.boot_id = Some("another".to_owned()));
    assert_eq!(rig.trigger(), TriggerOutcome::Complete);
    rig.assert_complete();
}

#[test]
fn a_killed_fetch_continues_with_the_pieces_that_are_missing() {
    let len = 3 * piece_len() + 99;
    let content = bytes(len, 22);
    for states_length in [true, false] {
        for at in [0, 100, piece_len() - 1, piece_len() + 65_536, 3 * piece_len() + 1] {
            let home = home();
            let origin = killed_at(home.path(), content.clone(), at, states_length);
            let mut rig = open(home.path(), &origin);
            let there = (at / piece_len()) as u32;
            // A process that is killed before it has the first record leaves a directory that is no task.
            assert_eq!(rig.cdn.activate(&task()), Some(CdnStatus::Waiting));
            assert!(rig.cdn.ready_pieces(&task()).eq(0..there), "known before anything is fetched");
            assert!(rig.fetch().into_iter().eq(there..PIECES.count(len as u64)));
            let back = u64::from(there > 0 && !states_length);
            let from = u64::from(there) * piece_len() as u64;
            assert_eq!(origin.requests(), [(from - back, None)], "killed at {at}");
            assert_eq!(origin.sent(), len as u64 - from + back);
        }
    }
}

#[test]
fn every_torn_state_of_the_files_leads_to_the_whole_file() {
    let len = 3 * piece_len() + 99;
    let pristine = home();
    let origin = killed_at(pristine.path(), bytes(len, 23), 2 * piece_len() + 500, true);
    let write = |dir: &Path, name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).expect("written");
    let cut = |dir: &Path, name: &str, len: u64| {
        OpenOptions::new().write(true).open(dir.join(name)).and_then(|file| file.set_len(len)).expect("cut");
    };
    type Tear<'a> = Box<dyn Fn(&Path) + 'a>;
    // What is torn, and how many pieces are fetched then.
    let mut states: Vec<(String, Tear<'_>, usize)> = Vec::new();
    for at in (0..2 * SIZE).step_by(13).chain([1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE - 1, 2 * SIZE]) {
        let missing = 4 - at / SIZE;
        states.push((
            format!("pieces of {at} bytes"),
            Box::new(move |dir| cut(dir, "pieces", at as u64)),
            missing,
        ));
    }
    for at in (0..2 * SIZE).step_by(17) {
        let tear = move |dir: &Path| {
            let mut bytes = fs::read(dir.join("pieces")).expect("read");
            bytes[at] ^= 0x10;
            write(dir, "pieces", &bytes);
        };
        states.push((format!("a flipped bit in byte {at} of pieces"), Box::new(tear), 4 - at / SIZE));
    }
    let record = fs::read(task_dir(pristine.path()).join("record")).expect("read");
    for at in (0..record.len()).step_by(41) {
        states.push((
            format!("a record of {at} bytes"),
            Box::new(move |dir| cut(dir, "record", at as u64)),
            4,
        ));
        let mut flipped = record.clone();
        flipped[at] ^= 0x20;
        let tear = move |dir: &Path| write(dir, "record", &flipped);
        states.push((format!("a flipped bit in byte {at} of record"), Box::new(tear), 4));
    }
    let remove = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).expect("removed");
    states.push(("no content".to_owned(), Box::new(remove("content")), 4));
    states.push(("no pieces".to_owned(), Box::new(remove("pieces")), 4));
    states.push(("no record".to_owned(), Box::new(remove("record")), 4));
    states.push((
        "half of the content".to_owned(),
        Box::new(move |dir| cut(dir, "content", len as u64 / 2)),
        3,
    ));
    states.push((
        "content that is too long".to_owned(),
        Box::new(move |dir| cut(dir, "content", 9 << 20)),
        2,
    ));
    states.push(("a draft of the record".to_owned(), Box::new(|dir| write(dir, "record.new", b"SMPT")), 2));
    states.push(("torn access times".to_owned(), Box::new(|dir| write(dir, "access", &[7; 11])), 2));
    let zeros = |dir: &Path| {
        let file = OpenOptions::new().append(true).open(dir.join("pieces")).expect("open");
        io::Write::write_all(&mut &file, &[0; 3 * SIZE]).expect("written");
    };
    states.push(("zeros behind the pieces".to_owned(), Box::new(zeros), 2));
    for (name, tear, missing) in states {
        let home = home();
        copy(pristine.path(), home.path());
        tear(&task_dir(home.path()));
        let mut rig = open(home.path(), &origin);
        origin.sent();
        rig.trigger();
        let (result, _) = rig.end();
        result.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        rig.assert_complete();
        let rest = len - (4 - missing) * piece_len();
        assert_eq!(origin.sent(), rest as u64, "{name}");
        rig.settle();
        assert_eq!(leftovers(home.path()), (1, 0), "{name}");
        let mut names: Vec<_> = fs::read_dir(task_dir(home.path())).expect("listed").flatten().collect();
        names.retain(|entry| entry.file_name() != "access");
        assert_eq!(names.len(), 3, "{name}: {names:?}");
        let mut rig = rig.restart(home.path());
        assert_eq!(rig.trigger(), TriggerOutcome::Complete, "{name}");
    }
}

#[test]
fn after_a_power_failure_pieces_are_verified_before_they_are_offered() {
    let (home, len) = (home(), 4 * piece_len());
    let origin = killed_at(home.path(), bytes(len, 24), 3 * piece_len() + 5, true);
    // The digest of piece 1 has reached the disk, its content has not.
    let content = OpenOptions::new().write(true).open(task_dir(home.path()).join("content")).expect("open");
    content.write_all_at(&[0; 4096], PIECES.offset(1) + 100).expect("written");
    let change = |shared: &mut Shared| shared.boot_id = Some("another boot".to_owned());
    let mut rig = Rig::open(home.path(), Arc::clone(&origin), CdnSettings::default(), change);
    assert_eq!(rig.cdn.activate(&task()), Some(CdnStatus::Waiting));
    assert_eq!(rig.cdn.ready_pieces(&task()).count(), 0);
    assert_eq!(rig.fetch(), [0, 2, 1, 3], "first those that are good");
    let at = |number| PIECES.offset(number);
    assert_eq!(origin.requests(), [(at(1), Some(at(2))), (at(3), None)]);
}

#[test]
fn a_version_that_the_disk_does_not_have_replaces_it() {
    let (home, len) = (home(), 3 * piece_len());
    let origin = killed_at(home.path(), bytes(len, 25), 2 * piece_len() + 5, true);
    origin.set(|state| {
        state.content = bytes(len, 26);
        state.version += 1;
    });
    let mut rig = open(home.path(), &origin);
    assert_eq!(rig.fetch(), [0, 1, 2]);
    // A complete file is replaced, too.
    origin.set(|state| {
        state.content = bytes(len, 27);
        state.version += 1;
    });
    assert_eq!(rig.fetch(), [0, 1, 2]);
    rig.settle();
    assert_eq!(leftovers(home.path()), (1, 0));
}

#[test]
fn a_file_without_a_version_is_trusted_only_while_it_is_active() {
    let (home, content) = (home(), bytes(piece_len(), 28));
    let mut rig = Rig::new(home.path(), content.clone());
    rig.origin.set(|state| state.has_etag = false);
    rig.fetch();
    assert_eq!(rig.trigger(), TriggerOutcome::Complete);
    let mut rig = rig.restart(home.path());
    assert_eq!(rig.fetch(), [0], "it may have changed");
    // Unless a digest tells what it must be.
    let mut rig = rig.restart(home.path());
    let file = FileInfo { md5: Some(Md5::digest(&content).into()), ..rig.file() };
    rig.trigger_file(file.clone());
    rig.end().0.expect("fetched");
    let mut rig = rig.restart(home.path());
    assert_eq!(rig.trigger_file(file), TriggerOutcome::Complete);
}

#[test]
fn a_part_of_a_file_without_a_version_is_continued_only_in_one_process() {
    let (home, len) = (home(), 3 * piece_len());
    let mut rig = Rig::new(home.path(), bytes(len, 40));
    rig.origin.set(|state| {
        state.has_etag = false;
        state.faults = [Fault::Cut(piece_len() as u64 + 9), Fault::Status(404)].into();
    });
    assert!(rig.fail().is_of_source());
    assert!(rig.cdn.ready_pieces(&task()).eq([0]), "clients have it already");
    rig.origin.set(|state| state.faults = [Fault::Cut(piece_len() as u64), Fault::Status(404)].into());
    rig.fail();
    assert!(rig.cdn.ready_pieces(&task()).eq([0, 1]));
    let mut rig = rig.restart(home.path());
    assert_eq!(rig.cdn.activate(&task()), None);
    assert!(!rig.cdn.has_files());
    assert_eq!(rig.fetch(), [0, 1, 2]);
}

#[test]
fn any_order_of_faults_and_restarts_ends_with_the_whole_file() {
    for seed in 1..=25u64 {
        let draws = bytes(800, seed);
        let mut draws = draws.as_chunks::<8>().0.iter().map(|draw| u64::from_le_bytes(*draw));
        let mut below = |bound: u64| draws.next().expect("enough draws") % bound;
        let (home, len) = (home(), below(3 * piece_len() as u64 + 2));
        let mut rig = Rig::new(home.path(), bytes(len as usize, seed));
        rig.origin.set(|state| {
            (state.has_etag, state.states_length, state.takes_ranges) =
                (below(2) == 0, below(2) == 0, below(3) > 0);
        });
        for _ in 0..below(5) {
            let faults = (0..below(12)).map(|_| match below(8) {
                0 => Fault::Status(404),
                1 => Fault::Status(503),
                2 => Fault::Cut(below(2)),
                _ => Fault::Cut(below(len + 1)),
            });
            let faults = faults.collect();
            rig.origin.set(|state| state.faults = faults);
            match rig.trigger() {
                TriggerOutcome::Begins => drop(rig.end()),
                TriggerOutcome::Complete => rig.assert_complete(),
                TriggerOutcome::Runs => panic!("seed {seed}: it has ended"),
            }
            if below(2) == 0 {
                rig = rig.restart(home.path());
            }
        }
        rig.origin.set(|state| state.faults.clear());
        if rig.trigger() == TriggerOutcome::Begins {
            let (result, _) = rig.end();
            result.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        }
        println!("seed {seed}: {len} bytes");
        rig.assert_complete();
        rig.settle();
        assert_eq!(leftovers(home.path()), (1, 0), "seed {seed}");
    }
}

#[test]
fn what_is_no_task_is_removed_at_the_start() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(10, 29));
    rig.fetch();
    let tasks = home.path().join("tasks");
    let other = TaskId::new("http://origin/other", "", "").to_string();
    fs::create_dir_all(tasks.join("abc/def")).expect("made");
    fs::create_dir_all(tasks.join(&other[..3]).join(&other)).expect("made");
    fs::write(tasks.join(&other[..3]).join(&other).join("content"), "x").expect("written");
    fs::write(tasks.join("file"), "x").expect("written");
    // A task in the directory of another one.
    copy(&task_dir(home.path()), &tasks.join(&other[..3]).join(&other));
    // What the last process did not remove any more.
    fs::create_dir_all(home.path().join("trash/1/2")).expect("made");
    let mut rig = rig.restart(home.path());
    rig.settle();
    assert_eq!(rig.trigger(), TriggerOutcome::Complete);
    assert_eq!(leftovers(home.path()).1, 0);
    assert_eq!(rig.cdn.load().len(), 1);
    assert!(!tasks.join("abc").exists() && !tasks.join("file").exists());
    assert!(!tasks.join(&other[..3]).join(&other).exists());
}

#[test]
fn a_second_process_cannot_use_the_same_files() {
    let home = home();
    let rig = Rig::new(home.path(), Vec::new());
    let origin: Arc<dyn Source> = Arc::new(Link(Arc::clone(&rig.origin)));
    let second = Cdn::open(home.path(), origin, |_| {}, CdnSettings::default());
    let error = second.err().expect("an error").to_string();
    assert!(error.contains("another supernode"), "{error}");
}

#[test]
fn records_hold_no_header_of_a_client() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(10, 30));
    let file = FileInfo { is_protected: true, ..rig.file() };
    let headers = vec![("Authorization".to_owned(), "Bearer sesame".to_owned())];
    let request = Request { url: URL.to_owned(), headers };
    rig.cdn.trigger(&task(), file, request, rig.now).expect("triggered");
    rig.end().0.expect("fetched");
    for entry in fs::read_dir(task_dir(home.path())).expect("listed").flatten() {
        let bytes = fs::read(entry.path()).expect("read");
        assert!(!bytes.windows(6).any(|part| part == b"sesame"), "{:?}", entry.path());
    }
    let record = Record::read(&task_dir(home.path()).join("record")).expect("a record");
    assert!(record.file.is_protected);
    assert_eq!(Some(record), rig.cdn.record(&task()));
}
