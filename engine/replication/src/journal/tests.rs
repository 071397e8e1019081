//! Tests of the journals as a whole, and what the tests of their parts share.

use super::*;
use crate::record::{ArtifactNews, SavedSession};
use sampan_ipc::engine::Credential;
use sampan_ipc::replication::{Bytes, Operation, Outcome};
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

/// Random records of one execution, the same for the same seed. The generator is splitmix64.
pub(super) struct RandomRecords(pub(super) u64);

impl RandomRecords {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % u64::from(bound)) as u32
    }

    fn word(&mut self, kind: &str) -> String {
        format!("{kind}{}", self.below(4))
    }

    fn state(&mut self) -> State {
        State::ALL[self.below(State::ALL.len() as u32) as usize]
    }

    fn outcome(&mut self) -> Outcome {
        use Outcome::*;
        [None, Copied, Unchanged, Mounted, Skipped, Deleted][self.below(6) as usize]
    }

    fn error(&mut self) -> LastError {
        match self.below(3) {
            0 => LastError { class: ErrorClass::Temporary, message: self.word("the network failed ") },
            _ => LastError::default(),
        }
    }

    /// The next record; a final state of the execution once in `ends`.
    pub(super) fn next(&mut self, ends: u32) -> Record {
        let (task, attempt, artifact) = (self.below(3), self.below(3), self.below(4));
        match self.below(16) {
            0 if self.below(ends) == 0 => {
                let state = [State::Finished, State::Stopped, State::Error][self.below(3) as usize];
                Record::Execution { state, at: 77, error: self.error() }
            }
            0 => Record::Execution { state: State::Running, at: 7, error: self.error() },
            1 => {
                let (source, destination) = (self.word("source/"), self.word("destination/"));
                let operation = if self.below(2) == 0 { Operation::Transfer } else { Operation::Delete };
                Record::Planned { source, destination, operation }
            }
            2 => {
                let artifacts = (0..self.below(4)).map(|_| (self.word("tag"), self.word("to"))).collect();
                Record::Artifacts { task, artifacts }
            }
            3 | 4 => Record::Task { task, state: State::Running, error: self.error() },
            5 => Record::Task { task, state: self.state(), error: self.error() },
            6..=8 => {
                let news = ArtifactNews {
                    state: self.state(),
                    outcome: (self.below(2) == 0).then(|| self.outcome()),
                    digest: (self.below(2) == 0).then(|| self.word("sha256:")),
                    bytes: (self.below(2) == 0)
                        .then(|| Bytes { total: self.below(99).into(), ..Bytes::default() }),
                    error: (self.below(2) == 0).then(|| self.error()),
                    note: (self.below(2) == 0).then(|| self.word("note ")),
                };
                Record::Artifact { task, attempt, artifact, news }
            }
            9..=11 => {
                let (digest, size) = (self.word("sha256:"), self.below(1000).into());
                let (outcome, error) = (self.outcome(), self.error());
                Record::Blob { task, attempt, artifact, digest, size, outcome, error }
            }
            12..=14 => Record::Session(SavedSession {
                repository: self.word("r"),
                digest: self.word("sha256:"),
                location: self.word("https://r/"),
                offset: self.below(9999).into(),
                ..SavedSession::default()
            }),
            _ => {
                let is_lost = self.below(2) == 0;
                Record::SessionEnded { repository: self.word("r"), digest: self.word("sha256:"), is_lost }
            }
        }
    }
}

/// An order with everything that a policy's execution has.
pub(super) fn order() -> Order {
    let credential = Credential {
        registry: "registry.example".to_owned(),
        username: "ann".to_owned(),
        password: "open sesame".to_owned(),
        ..Credential::default()
    };
    Order {
        policy: "nightly".to_owned(),
        source: "docker://a/b".to_owned(),
        destination: "docker://c/d".to_owned(),
        credentials: vec![credential],
        policy_text: "source = 'docker://a/b'".to_owned(),
        ..Order::default()
    }
}

fn state(state: State) -> Record {
    Record::Execution { state, at: 99, error: LastError::default() }
}

fn session(nth: u64) -> Record {
    Record::Session(SavedSession {
        repository: "c/d".to_owned(),
        digest: "sha256:1".to_owned(),
        size: 1 << 40,
        location: format!("https://registry.example/v2/c/d/blobs/uploads/{nth}"),
        offset: nth,
        ..SavedSession::default()
    })
}

/// Records a task with one artifact.
fn plan(journal: &Journal) {
    let (source, destination) = ("a/b".to_owned(), "c/d".to_owned());
    let tag = || "1".to_owned();
    for record in [
        Record::Planned { source, destination, operation: Operation::Transfer },
        Record::Artifacts { task: 0, artifacts: vec![(tag(), tag())] },
        Record::Task { task: 0, state: State::Running, error: LastError::default() },
    ] {
        journal.record(record).expect("recorded");
    }
}

/// Runs an execution to this state, and finishes its journal.
fn run(journals: &Journals, id: u64, last: State) {
    let journal = journals.begin(id, order()).expect("begun");
    plan(&journal);
    journal.record(session(1)).expect("recorded");
    journal.record(Record::Task { task: 0, state: last, error: LastError::default() }).expect("recorded");
    journal.record(state(last)).expect("recorded");
    journals.finish(id);
}

fn open(dir: &Path) -> (Journals, Vec<Arc<Journal>>) {
    Journals::open(dir).expect("opened")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn all(journals: &Journals) -> Vec<(u64, State)> {
    journals.list(&Listing::default()).iter().map(|execution| (execution.id, execution.state)).collect()
}

#[test]
fn a_restarted_engine_finds_what_its_predecessor_did() {
    let dir = directory();
    let (journals, unfinished) = open(&dir.path().join("replication"));
    assert!(unfinished.is_empty());
    let mut models = Vec::new();
    for id in [12, 3] {
        let journal = journals.begin(id, order()).expect("begun");
        plan(&journal);
        journal.record(session(id)).expect("recorded");
        models.insert(0, journal.read(Model::clone));
    }
    drop(journals);
    let (journals, unfinished) = open(&dir.path().join("replication"));
    let found: Vec<Model> = unfinished.iter().map(|journal| journal.read(Model::clone)).collect();
    assert_eq!(found, models);
    assert_eq!(unfinished[0].id(), 3, "the oldest first");
    assert_eq!((journals.newest_id(), journals.get(12).map(|journal| journal.id())), (12, Some(12)));
    let again = journals.begin(12, order());
    assert!(matches!(again, Err(JournalError::Write { id: 12, .. })), "no journal is overwritten");
}

#[test]
fn two_engines_never_share_a_directory() {
    let dir = directory();
    let first = open(dir.path());
    let refused = Journals::open(dir.path()).expect_err("a second engine");
    assert!(matches!(&refused, JournalError::Locked(path) if path == dir.path()), "{refused}");
    drop(first);
    open(dir.path());
}

#[test]
fn nobody_else_can_read_the_journals() {
    let dir = directory();
    let root = dir.path().join("replication");
    let (journals, _) = open(&root);
    run(&journals, 1, State::Stopped);
    let journal = journals.begin(2, order()).expect("begun");
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    for dir in [&root, &root.join("history")] {
        assert_eq!(mode(dir), 0o700);
    }
    for file in ["1.kept", "2.journal", "history/1", "lock"] {
        assert_eq!(mode(&root.join(file)), 0o600, "{file}");
    }
    drop(journal);
}

#[test]
fn a_journal_that_ends_anywhere_gives_an_earlier_state() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    let mut models = vec![journal.read(Model::clone)];
    let mut random = RandomRecords(1);
    for _ in 0..30 {
        journal.record(random.next(u32::MAX)).expect("recorded");
        models.push(journal.read(Model::clone));
    }
    drop((journals, journal));
    let path = dir.path().join("1.journal");
    let bytes = fs::read(&path).expect("read");
    let mut last = 0;
    for len in 0..=bytes.len() {
        fs::write(&path, &bytes[..len]).expect("cut");
        let (journals, unfinished) = open(dir.path());
        let Some(journal) = unfinished.first() else {
            assert_eq!((last, path.exists()), (0, false), "cut at {len}");
            continue;
        };
        let model = journal.read(Model::clone);
        let at = models[last..].iter().position(|earlier| *earlier == model);
        last += at.unwrap_or_else(|| panic!("cut at {len}: no earlier state"));
        // The journal goes on behind the cut.
        journal.record(session(1)).expect("recorded");
        let model = journal.read(Model::clone);
        drop((journals, unfinished));
        let (_, unfinished) = open(dir.path());
        assert_eq!(unfinished[0].read(Model::clone), model, "cut at {len}");
    }
    assert_eq!(models[last], models[30]);
    assert_eq!(names(dir.path()), ["1.journal", "history", "lock"]);
}

#[test]
fn garbage_behind_the_last_record_is_cut_off() {
    let dir = directory();
    for garbage in [&[0; 5000][..], &[0xff; 20], b"\x05\0\0\0nonsense"] {
        let (journals, unfinished) = open(dir.path());
        if unfinished.is_empty() {
            plan(&journals.begin(1, order()).expect("begun"));
        }
        let before = journals.get(1).expect("it runs").read(Model::clone);
        drop((journals, unfinished));
        let path = dir.path().join("1.journal");
        let bytes = fs::read(&path).expect("read");
        fs::write(&path, [&bytes, garbage].concat()).expect("written");
        let (_, unfinished) = open(dir.path());
        assert_eq!(unfinished[0].read(Model::clone), before);
        assert_eq!(fs::read(&path).expect("read"), bytes);
    }
}

#[test]
fn a_damaged_journal_stops_no_engine_and_can_be_resumed() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    let first = fs::metadata(dir.path().join("1.journal")).expect("a file").len() as usize;
    plan(&journal);
    let sound = journals.begin(2, order()).expect("begun");
    drop((journals, journal, sound));
    let path = dir.path().join("1.journal");
    let bytes = fs::read(&path).expect("read");
    for at in [first, first + 3, first + 5, first + 12] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        fs::write(&path, damaged).expect("written");
        for _ in 0..2 {
            let (journals, unfinished) = open(dir.path());
            assert_eq!(unfinished.iter().map(|journal| journal.id()).collect::<Vec<_>>(), [2], "byte {at}");
            assert_eq!(all(&journals), [(2, State::Pending), (1, State::Error)], "byte {at}");
            let found = journals.find(1).expect("an execution").execution;
            assert_eq!(found.error.class, ErrorClass::Host);
            assert!(found.error.message.contains("1.damaged"), "{}", found.error.message);
            let (again, model) = journals.order_of(1).expect("an order");
            assert_eq!((again, model.tasks.len()), (order(), 0));
        }
        assert!(!path.exists() && dir.path().join("1.damaged").exists());
    }
    // A journal of which nothing can be read is moved aside, too.
    fs::write(dir.path().join("7.journal"), b"nonsense").expect("written");
    fs::create_dir(dir.path().join("8.journal")).expect("made");
    let (journals, unfinished) = open(dir.path());
    assert_eq!((unfinished.len(), journals.find(7)), (1, None));
    assert!(dir.path().join("7.damaged").exists());
}

#[test]
fn a_full_disk_changes_neither_the_file_nor_the_state() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    plan(&journal);
    let path = dir.path().join("1.journal");
    let (model, bytes) = (journal.read(Model::clone), fs::read(&path).expect("read"));
    for space in 0..40 {
        journal.with_file(|file| file.space = space);
        let refused = journal.record(session(5)).expect_err("a full disk");
        let JournalError::Write { id: 1, source } = &refused else { panic!("{refused}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(journal.read(Model::clone), model);
        assert_eq!(fs::read(&path).expect("read"), bytes, "{space} bytes fit");
    }
    journal.with_file(|file| file.space = u64::MAX);
    journal.record(session(5)).expect("recorded");
    let model = journal.read(Model::clone);
    drop((journals, journal));
    assert_eq!(open(dir.path()).1[0].read(Model::clone), model);
}

#[test]
fn after_a_failed_sync_the_journal_is_written_anew() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    plan(&journal);
    let model = journal.read(Model::clone);
    journal.with_file(|file| file.fails_to_sync = true);
    journal.record(session(5)).expect_err("a failing disk");
    assert_eq!(journal.read(Model::clone), model);
    // What was not synced may be gone from the file, although nothing says so.
    let path = dir.path().join("1.journal");
    fs::write(&path, b"").expect("emptied");
    journal.with_file(|file| file.fails_to_sync = false);
    journal.record(session(6)).expect("recorded");
    let model = journal.read(Model::clone);
    drop((journals, journal));
    assert_eq!(open(dir.path()).1[0].read(Model::clone), model);
}

#[test]
fn threads_that_write_at_once_share_a_sync() {
    const THREADS: u64 = 8;
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    let path = dir.path().join("1.journal");
    let barrier = Barrier::new(THREADS as usize + 1);
    std::thread::scope(|scope| {
        // While this thread holds the file, one thread waits for it with its record, and the others behind that one.
        journal.with_file(|_| {
            for nth in 0..THREADS {
                let (journal, barrier) = (&journal, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for round in 0..50 {
                        let (repository, digest) = (format!("r{nth}"), format!("sha256:{round}"));
                        let saved = SavedSession { repository, digest, ..SavedSession::default() };
                        journal.record(Record::Session(saved)).expect("recorded");
                    }
                });
            }
            barrier.wait();
            journal.wait_for_waiting(THREADS as usize);
        });
    });
    let syncs = journal.with_file(|file| file.syncs);
    assert!(syncs < THREADS * 50, "{syncs}");
    let model = journal.read(Model::clone);
    assert_eq!(model.sessions.len() as u64, THREADS * 50);
    assert!(path.exists());
    drop((journals, journal));
    assert_eq!(open(dir.path()).1[0].read(Model::clone), model);
}

#[test]
fn a_journal_does_not_grow_with_the_number_of_chunks() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    plan(&journal);
    // 16 MiB of acknowledgements. Without a sync each, which is not what this is about.
    let padding = "x".repeat(16 << 10);
    let len = || fs::metadata(dir.path().join("1.journal")).expect("a file").len();
    let mut largest = 0;
    for nth in 0..1024 {
        let news = ArtifactNews { state: State::TransferBlob, ..ArtifactNews::default() };
        let news = ArtifactNews { outcome: Some(Outcome::Unchanged), note: Some(padding.clone()), ..news };
        journal.record(Record::Artifact { task: 0, attempt: 1, artifact: 0, news }).expect("recorded");
        if nth % 100 == 0 {
            journal.record(session(nth)).expect("recorded");
        }
        largest = largest.max(len());
    }
    assert!(largest < 5 << 20, "{largest}");
    assert!(largest > 3 << 20, "{largest}: a small file is left alone");
    let model = journal.read(Model::clone);
    drop((journals, journal));
    let (_, unfinished) = open(dir.path());
    assert_eq!(unfinished[0].read(Model::clone), model);
}

#[test]
fn a_finished_execution_is_in_the_history_without_secrets() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    for (id, last) in [(1, State::Finished), (2, State::Canceled), (3, State::Stopped), (4, State::Error)] {
        run(&journals, id, last);
    }
    run(&journals, 5, State::Skipped);
    assert_eq!(names(dir.path()), ["3.kept", "4.kept", "history", "lock"]);
    let history = fs::read(dir.path().join("history/1")).expect("read");
    assert!(!history.windows(6).any(|bytes| bytes == b"sesame"), "a password is in the history");
    drop(journals);
    let (journals, unfinished) = open(dir.path());
    assert!(unfinished.is_empty());
    use State::*;
    assert_eq!(all(&journals), [(5, Skipped), (4, Error), (3, Stopped), (2, Canceled), (1, Finished)]);
    let found = journals.find(1).expect("an execution");
    assert_eq!((found.execution.tasks, found.execution.ended), (1, 99));
    assert_eq!((found.tasks[0].0.state, found.tasks[0].1[0].source.as_str()), (Finished, "1"));
    let (again, model) = journals.order_of(1).expect("an order");
    assert_eq!((again, model.tasks.len()), (Order { credentials: Vec::new(), ..order() }, 1));
    assert_eq!(journals.find(6), None);
    // Only an execution that can be resumed still has credentials and sessions.
    let (again, model) = journals.order_of(3).expect("an order");
    assert_eq!((again, model.sessions.len()), (order(), 1));
    journals.drop_kept(3);
    let (again, model) = journals.order_of(3).expect("an order");
    assert_eq!((again.credentials.len(), model.sessions.len()), (0, 0));
    assert_eq!(journals.newest_id(), 4);
}

#[test]
fn records_that_come_after_the_end_are_ignored() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    journal.record(state(State::Finished)).expect("recorded");
    journals.finish(1);
    let before = journal.read(Model::clone);
    journal.record(session(1)).expect("ignored");
    assert_eq!(journal.read(Model::clone), before);
    journals.finish(1);
    assert_eq!(all(&journals), [(1, State::Finished)]);
}

#[test]
fn a_kill_while_an_execution_is_finished_loses_and_repeats_nothing() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    journal.record(state(State::Stopped)).expect("recorded");
    let path = dir.path().join("1.journal");
    let bytes = fs::read(&path).expect("read");
    drop(journals);
    // Killed before the history, then behind it.
    for _ in 0..3 {
        fs::write(&path, &bytes).expect("written");
        fs::write(dir.path().join("1.new"), b"half").expect("written");
        let (journals, unfinished) = open(dir.path());
        assert!(unfinished.is_empty());
        assert_eq!(all(&journals), [(1, State::Stopped)]);
        assert_eq!(names(dir.path()), ["1.kept", "history", "lock"]);
    }
}

#[test]
fn an_execution_waits_until_the_history_can_take_it() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    fs::remove_dir(dir.path().join("history")).expect("removed");
    run(&journals, 1, State::Finished);
    assert_eq!(all(&journals), [(1, State::Finished)]);
    assert!(dir.path().join("1.journal").exists());
    fs::create_dir(dir.path().join("history")).expect("made");
    let second = journals.begin(2, order()).expect("begun");
    assert!(!dir.path().join("1.journal").exists());
    assert_eq!(all(&journals), [(2, State::Pending), (1, State::Finished)]);
    drop(second);
}

#[test]
fn a_listing_is_by_policy_time_and_number() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    for id in 1..=5 {
        let policy = if id % 2 == 0 { "even" } else { "odd" };
        let journal = journals.begin(id, Order { policy: policy.to_owned(), ..order() }).expect("begun");
        journal.record(state(State::Finished)).expect("recorded");
        if id != 3 {
            journals.finish(id);
        }
    }
    let ids =
        |listing: &Listing| -> Vec<u64> { journals.list(listing).iter().map(|found| found.id).collect() };
    assert_eq!(ids(&Listing { limit: 2, ..Listing::default() }), [5, 4]);
    assert_eq!(ids(&Listing { policy: "odd".to_owned(), ..Listing::default() }), [5, 3, 1]);
    let third = journals.find(3).expect("an execution").execution.started;
    assert_eq!(ids(&Listing { since: Some(third), ..Listing::default() }), [5, 4, 3]);
    let odd = Listing { policy: "odd".to_owned(), since: Some(third), limit: 1 };
    assert_eq!(ids(&odd), [5]);
}

#[test]
fn few_stopped_executions_can_be_resumed_and_not_for_long() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    for id in 1..=KEPT_MAX as u64 + 5 {
        let journal = journals.begin(id, order()).expect("begun");
        journal.record(state(State::Stopped)).expect("recorded");
        journals.finish(id);
    }
    assert_eq!(journals.files("kept").expect("listed"), (6..=KEPT_MAX as u64 + 5).collect::<Vec<_>>());
    let old = SystemTime::now() - KEPT_AGE - Duration::from_secs(60);
    let file = OpenOptions::new().write(true).open(dir.path().join("7.kept")).expect("opened");
    file.set_modified(old).expect("an old file");
    drop(journals);
    let (journals, _) = open(dir.path());
    let kept = journals.files("kept").expect("listed");
    assert_eq!((kept.len(), kept.contains(&7)), (KEPT_MAX - 1, false));
    assert_eq!(all(&journals).len(), KEPT_MAX + 5, "the history still has all of them");
}

#[test]
fn a_start_reads_none_of_100000_ended_executions() {
    let dir = directory();
    let (journals, _) = open(dir.path());
    let journal = journals.begin(1, order()).expect("begun");
    plan(&journal);
    journal.record(state(State::Finished)).expect("recorded");
    let model = journal.read(Model::clone);
    for id in 2..=100_000 {
        let mut past = past::past(&model);
        past.described.execution.id = id;
        lock(&journals.history).append(&past, false).expect("appended");
    }
    journals.finish(1);
    drop((journals, journal));
    let (before, segments) = (bytes_read(), names(&dir.path().join("history")).len());
    let (journals, unfinished) = open(dir.path());
    let by_start = bytes_read() - before;
    assert!(unfinished.is_empty() && segments > 2, "{segments} segments");
    assert!(by_start < 64 << 10, "the start read {by_start} bytes");
    let last = Listing { limit: 10, ..Listing::default() };
    assert_eq!(journals.list(&last).len(), 10);
    let by_list = bytes_read() - before;
    assert!(by_list < 1 << 20, "a short list read {by_list} bytes");
    assert_eq!(all(&journals).len(), 100_000);
    assert!(bytes_read() - before > 10 << 20, "reads are counted");
    assert_eq!(journals.find(2).expect("an execution").execution.id, 2);
    // Segments that nobody can read hold up no start, and no new execution.
    for segment in names(&dir.path().join("history")) {
        fs::write(dir.path().join("history").join(segment), b"nonsense, and more of it").expect("written");
    }
    drop(journals);
    let (journals, _) = open(dir.path());
    assert!(all(&journals).is_empty());
    run(&journals, 100_001, State::Finished);
    assert_eq!(all(&journals), [(100_001, State::Finished)]);
}

/// Bytes that this thread has read from files. proc(5), /proc/PID/io.
fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").expect("counters");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a counter");
    line.parse().expect("a number")
}
