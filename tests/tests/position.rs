//! The position of a reader: no event that it must receive is lost, whatever is killed. docs/events.md has the table of
//! cases.

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, mkfifo};
use sampan_ipc::Event;
use sampan_tests::cursor::{held, writes};
use sampan_tests::host::{Host, PATIENCE, need_root, wait_until};
use sampan_tests::process;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A running `sampan events`, whose lines are read as they arrive.
struct Reader {
    child: Child,
    lines: Receiver<String>,
    notes: PathBuf,
}

impl Reader {
    fn start(host: &Host, cursor: &Path, args: &[&str]) -> Self {
        let notes = host.path(&format!("notes.{}", fs::read_dir(host.path("")).expect("ours").count()));
        let mut command = events(host, cursor, args);
        command.stdout(Stdio::piped()).stderr(File::create(&notes).expect("ours"));
        let mut child = command.spawn().expect("built");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Reader { child, lines, notes }
    }

    /// The ID of the next event, which must arrive.
    fn id(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line; {}", self.notes()));
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        event["id"].as_str().map_or(line, str::to_owned)
    }

    fn ids(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.id()).collect()
    }

    fn notes(&self) -> String {
        fs::read_to_string(&self.notes).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }

    /// Ends the reader by SIGTERM; returns the lines that were not read yet.
    fn term(mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        assert_eq!(
            self.child.wait().expect("ours").signal(),
            Some(Signal::SIGTERM as i32),
            "{}",
            self.notes()
        );
        self.lines.iter().collect()
    }

    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        self.child.wait().expect("ours");
        self.lines.iter().collect()
    }
}

fn events(host: &Host, cursor: &Path, args: &[&str]) -> Command {
    let mut command = host.command("sampan");
    command.args(["events", "--filter", "type=test", "--cursor-file"]).arg(cursor).args(args);
    if !args.contains(&"--exec") {
        command.args(["--format", "json"]);
    }
    command
}

/// Runs `sampan events` until it ends.
fn run(host: &Host, cursor: &Path, args: &[&str]) -> Output {
    events(host, cursor, args).output().expect("built")
}

fn ids_of(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ids = text.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        event["id"].as_str().map_or(line.to_owned(), str::to_owned)
    });
    ids.collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Emits events with these IDs, and waits until monitord has them.
fn emit(host: &Host, ids: &[&str]) {
    let (sender, before) = (host.sender(), host.status().seq);
    for id in ids {
        sender.send(Event::new("test", "tick", *id)).expect("small");
    }
    host.await_seq(before + ids.len() as u64);
}

#[test]
fn a_reader_stopped_during_monitords_end_prints_all_it_received() {
    let mut host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    let reader = Reader::start(&host, &cursor, &[]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    reader.signal(Signal::SIGSTOP);
    emit(&host, &["1", "2", "3"]);
    assert!(host.term().success());
    reader.signal(Signal::SIGCONT);
    assert_eq!(reader.ids(3), ["1", "2", "3"]);
    assert_eq!(reader.kill(), [""; 0]);
    host.start_monitord(&[]);
    emit(&host, &["4"]);
    let next = Reader::start(&host, &cursor, &[]);
    // Events that were flushed less than the interval before the kill may be repeated; events that were not flushed
    // must be.
    let first = next.id();
    assert!(["1", "2", "3", "4"].contains(&first.as_str()), "{first}");
}

#[test]
fn the_cursor_never_passes_a_line_that_could_not_be_written() {
    let host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    emit(&host, &["1", "2", "3"]);
    for end in [&["--no-follow"][..], &["--until", "now"]] {
        let mut command = events(&host, &cursor, &[&["--after", "0"], end].concat());
        let full = File::options().write(true).open("/dev/full").expect("there");
        let output = command.stdout(full).output().expect("built");
        assert!(!output.status.success() && stderr(&output).contains("standard output"), "{output:?}");
    }
    assert_eq!(ids_of(&run(&host, &cursor, &["--after", "0", "--no-follow"])), ["1", "2", "3"]);
    assert_eq!(ids_of(&run(&host, &cursor, &["--after", "0", "--no-follow"])), [""; 0]);
}

#[test]
fn what_is_no_regular_file_is_never_taken_for_a_cursor_file() {
    need_root();
    let host = Host::with_monitord(&[]);
    emit(&host, &["1"]);
    let (device, fifo, directory, large, link) =
        (host.path("null"), host.path("fifo"), host.path("directory"), host.path("large"), host.path("link"));
    mknod(&device, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).expect("root may make a device");
    mkfifo(&fifo, Mode::S_IRWXU).expect("made");
    fs::create_dir(&directory).expect("made");
    fs::write(&large, vec![b'7'; 5 << 20]).expect("written");
    for (path, says) in [
        (&device, "it is a device"),
        (&fifo, "it is a FIFO"),
        (&directory, "it is a directory"),
        (&large, "does not hold a position"),
    ] {
        let output = run(&host, path, &["--no-follow"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains(says) && stderr(&output).contains("hint: name"),
            "{}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
    assert!(fs::symlink_metadata(&device).expect("there").file_type().is_char_device());
    assert_eq!(fs::metadata(&large).expect("there").len(), 5 << 20);
    std::os::unix::fs::symlink("target", &link).expect("linked");
    assert_eq!(ids_of(&run(&host, &link, &["--after", "0", "--no-follow"])), ["1"]);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(ids_of(&run(&host, &host.path("target"), &["--no-follow"])), [""; 0]);
}

#[test]
fn a_filtering_reader_is_never_told_lost_for_events_it_saw_pass() {
    let host = Host::with_monitord(&["--journal-bytes", "128K"]);
    let cursor = host.path("cursor");
    let reader = Reader::start(&host, &cursor, &["--after", "0"]);
    emit(&host, &["1"]);
    assert_eq!(reader.id(), "1");
    let flood = || {
        let (sender, before) = (host.sender(), host.status().seq);
        for nth in 0..3000 {
            sender.send(Event::new("noise", "tick", nth.to_string())).expect("small");
        }
        assert!(sender.flush(PATIENCE));
        host.await_seq(before + 3000);
        before + 3000
    };
    let head = flood();
    assert!(host.status().journal.expect("a journal").extent.first > 2, "event 1 is gone from the journal");
    host.wait_until("the reader's position", || held(&cursor) >= head);
    assert_eq!(reader.term(), [""; 0]);
    emit(&host, &["2"]);
    let reader = Reader::start(&host, &cursor, &[]);
    assert_eq!(reader.id(), "2");
    assert!(!reader.notes().contains("gone"), "{}", reader.notes());
    // The same bound holds for a command that ends after history.
    let (cursor, head) = (host.path("other"), flood());
    assert!(run(&host, &cursor, &["--after", "0", "--no-follow"]).status.success());
    assert!(held(&cursor) >= head, "{} of {head}", held(&cursor));
}

#[test]
fn a_cursor_file_without_content_is_reported_and_begins_anew() {
    let host = Host::with_monitord(&[]);
    emit(&host, &["1", "2"]);
    for (nth, content) in [&[][..], &[0; 64], &[0; 7]].into_iter().enumerate() {
        let cursor = host.path(&format!("cursor{nth}"));
        fs::write(&cursor, content).expect("written");
        let output = run(&host, &cursor, &["--no-follow"]);
        assert_eq!(ids_of(&output), ["1", "2"]);
        assert!(stderr(&output).contains("has lost its content"), "{}", stderr(&output));
        let output = run(&host, &cursor, &["--no-follow"]);
        assert_eq!((ids_of(&output), stderr(&output)), (Vec::new(), String::new()), "told once");
    }
}

#[test]
fn a_cursor_file_of_the_first_version_goes_on_and_is_told_once() {
    let host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    emit(&host, &["1", "2", "3"]);
    fs::write(&cursor, format!("{}\n", host.status().seq - 1)).expect("written");
    let output = run(&host, &cursor, &["--no-follow"]);
    assert_eq!(ids_of(&output), ["3"]);
    assert!(stderr(&output).contains("does not name its journal"), "{}", stderr(&output));
    assert_eq!(stderr(&run(&host, &cursor, &["--no-follow"])), "");
}

#[test]
fn a_cursor_file_is_written_once_a_second_under_any_load() {
    let host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    let begun = Instant::now();
    let reader = Reader::start(&host, &cursor, &[]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    for nth in 0..300 {
        emit(&host, &[&nth.to_string()]);
        assert_eq!(reader.id(), nth.to_string());
    }
    assert_eq!(reader.term(), [""; 0]);
    // One write at the start, one for the position at which it began, one at the end, and one per second.
    let most = 4 + begun.elapsed().as_secs();
    assert!(u64::from(writes(&cursor)) <= most, "{} writes, at most {most}", writes(&cursor));
    assert_eq!(held(&cursor), host.status().seq, "the end is remembered");
    assert_eq!(fs::metadata(&cursor).expect("there").len(), 64);
}

#[test]
fn a_second_reader_of_a_cursor_file_is_refused_with_a_pid() {
    let host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    let first = Reader::start(&host, &cursor, &[]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    let output = run(&host, &cursor, &["--no-follow"]);
    let expected = format!("another reader uses it, process {}", first.child.id());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    first.kill();
    assert!(run(&host, &cursor, &["--no-follow"]).status.success());
}

#[test]
fn an_unwritable_cursor_file_ends_the_reader_before_any_event() {
    need_root();
    let mut host = Host::with_monitord(&[]);
    emit(&host, &["1"]);
    let disk = host.mount_tmpfs("disk", 64 << 10);
    let filler = disk.join("filler");
    let mut full = File::create(&filler).expect("room");
    assert!(std::io::copy(&mut std::io::repeat(7), &mut full).is_err());
    let output = run(&host, &disk.join("cursor"), &["--after", "0", "--no-follow"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(stderr(&output).contains("hint: free some disk space"), "{}", stderr(&output));
    fs::remove_file(filler).expect("there");
    drop(full);
    fs::write(disk.join("old"), "0\n").expect("room");
    host.remount(&disk, true);
    let output = run(&host, &disk.join("old"), &["--no-follow"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(
        stderr(&output).contains("hint: name a file on a file system that is writable"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_replaced_journal_is_reported_and_read_from_its_start() {
    let mut host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    emit(&host, &["a", "b", "c", "d"]);
    assert_eq!(ids_of(&run(&host, &cursor, &["--after", "0", "--no-follow"])).len(), 4);
    let running = Reader::start(&host, &host.path("running"), &["--after", "0"]);
    assert_eq!(running.ids(4), ["a", "b", "c", "d"]);
    host.kill9();
    fs::remove_dir_all(host.journal()).expect("there");
    host.start_monitord(&[]);
    emit(&host, &["1", "2", "3", "4", "5", "6", "7"]);
    let output = run(&host, &cursor, &["--no-follow"]);
    let all = [r#"{"journal":{"replaced":true}}"#, "1", "2", "3", "4", "5", "6", "7"];
    assert_eq!(ids_of(&output), all);
    assert_eq!(ids_of(&run(&host, &cursor, &["--no-follow"])), [""; 0], "told once");
    assert_eq!(running.ids(8), all, "a reader that was connected is told as well");
}

#[test]
fn numbers_that_fall_hold_no_reader_up() {
    let mut host = Host::with_monitord(&["--journal-dir", "none"]);
    let cursor = host.path("cursor");
    let running = Reader::start(&host, &host.path("running"), &[]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    emit(&host, &["a"]);
    assert_eq!(running.id(), "a");
    assert!(run(&host, &cursor, &["--no-follow"]).status.success());
    // As with a clock that starts in 1970: the next numbers are lower than the reader's.
    let ahead = held(&cursor) + (1 << 50);
    fs::write(&cursor, format!("{ahead}\n")).expect("written");
    host.kill9();
    host.start_monitord(&["--journal-dir", "none"]);
    emit(&host, &["b"]);
    let replaced = r#"{"journal":{"replaced":true}}"#;
    assert_eq!(ids_of(&run(&host, &cursor, &["--no-follow"])), [replaced, "b"]);
    assert_eq!(running.ids(2), [replaced, "b"]);
}

/// A script in the test's directory that appends its argument to `done`.
fn script(host: &Host, name: &str, text: &str) -> String {
    let path = host.path(name);
    fs::write(&path, text).expect("written");
    format!("sh {}", path.display())
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_command_runs_for_each_event_and_the_cursor_waits_for_it() {
    let host = Host::with_monitord(&[]);
    let (cursor, done) = (host.path("cursor"), host.path("done"));
    emit(&host, &["1", "2", "3", "4", "5"]);
    // The command fails for the third event until the test has made a file that it needs.
    let command = script(
        &host,
        "react",
        &format!(
            "read -r line; [ \"$SAMPAN_EVENT_ID\" != 3 ] || [ -e {0}/mended ] || exit 7\n\
             case $line in *'\"id\":\"'$SAMPAN_EVENT_ID'\"'*) echo $SAMPAN_EVENT_SEQ $SAMPAN_EVENT_ID >>{1} ;; esac\n",
            host.path("").display(),
            done.display()
        ),
    );
    let exec = ["--after", "0", "--no-follow", "--exec", &command];
    let mut reader = Reader::start(&host, &cursor, &exec);
    wait_until("a failure", || reader.notes(), || reader.notes().contains("failed for event"));
    assert!(reader.notes().contains("(status 7); retrying in 1 s"), "{}", reader.notes());
    assert_eq!(lines(&done).len(), 2);
    reader.signal(Signal::SIGTERM);
    assert_eq!(reader.child.wait().expect("ours").signal(), Some(Signal::SIGTERM as i32));
    fs::write(host.path("mended"), "").expect("written");
    let output = run(&host, &cursor, &exec);
    assert!(output.status.success(), "{}", stderr(&output));
    let ids: Vec<String> = lines(&done).iter().map(|line| line.split(' ').skip(1).collect()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
}

#[test]
fn an_event_whose_command_always_fails_is_set_aside() {
    let host = Host::with_monitord(&[]);
    let (cursor, done) = (host.path("cursor"), host.path("done"));
    emit(&host, &["1", "bad", "3"]);
    let command = format!("test \"$SAMPAN_EVENT_ID\" != bad && cat >>{}", done.display());
    let args = ["--after", "0", "--no-follow", "--exec-retries", "0", "--exec", &command];
    let output = run(&host, &cursor, &args);
    assert!(output.status.success() && stderr(&output).contains("set aside in"), "{}", stderr(&output));
    assert_eq!(lines(&done).len(), 2);
    let aside = lines(&host.path("cursor.failed"));
    assert!(aside.len() == 1 && aside[0].contains("\"id\":\"bad\""), "{aside:?}");
    assert_eq!(
        fs::metadata(host.path("cursor.failed")).expect("there").mode() & 0o777,
        0o600,
        "whole events"
    );
    // If the failed event cannot be stored, the cursor stays before it.
    mkfifo(&host.path("third.failed"), Mode::S_IRWXU).expect("made");
    let output = run(&host, &host.path("third"), &args);
    assert!(!output.status.success() && stderr(&output).contains("cannot set event"), "{}", stderr(&output));
    let cursor = host.path("second");
    fs::create_dir(host.path("second.failed")).expect("made");
    let output = run(&host, &cursor, &args);
    assert!(!output.status.success() && stderr(&output).contains("cannot set event"), "{}", stderr(&output));
    let rest = run(&host, &cursor, &["--no-follow"]);
    assert_eq!(ids_of(&rest), ["bad", "3"]);
}

#[test]
fn a_command_is_given_events_in_batches_and_need_not_read_them() {
    let host = Host::with_monitord(&[]);
    let (cursor, done) = (host.path("cursor"), host.path("done"));
    let ids: Vec<String> = (0..250).map(|nth| nth.to_string()).collect();
    emit(&host, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let command = format!("wc -l >>{}", done.display());
    let output =
        run(&host, &cursor, &["--after", "0", "--no-follow", "--exec-batch", "100", "--exec", &command]);
    assert!(output.status.success(), "{}", stderr(&output));
    let counts: Vec<usize> = lines(&done).iter().map(|line| line.parse().expect("a count")).collect();
    assert_eq!((counts.iter().sum::<usize>(), counts.iter().max()), (250, Some(&100)), "{counts:?}");
    let output = run(&host, &host.path("other"), &["--after", "0", "--no-follow", "--exec", "true"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_signal_reaches_the_command_and_its_event_is_run_again() {
    let host = Host::with_monitord(&[]);
    let (cursor, began) = (host.path("cursor"), host.path("began"));
    emit(&host, &["1"]);
    let command = format!("echo >>{}; exec sleep 1000", began.display());
    let mut reader = Reader::start(&host, &cursor, &["--after", "0", "--exec", &command]);
    wait_until("the command", || reader.notes(), || began.exists());
    reader.signal(Signal::SIGTERM);
    assert_eq!(reader.child.wait().expect("ours").signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(ids_of(&run(&host, &cursor, &["--no-follow"])), ["1"]);
}

/// The pipeline of docs/events.md, whose last part is killed.
#[test]
fn a_pipeline_that_acknowledges_loses_nothing_when_it_is_killed() {
    let host = Host::with_monitord(&[]);
    let (cursor, done, acks) = (host.path("cursor"), host.path("done"), host.path("acks"));
    mkfifo(&acks, Mode::S_IRWXU).expect("made");
    let ids: Vec<String> = (0..300).map(|nth| nth.to_string()).collect();
    emit(&host, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let sampan = sampan_tests::host::binary("sampan");
    let pipeline = |stop_at: usize, end: &str| {
        format!(
            "{} events -f type=test --after 0 {end} --cursor-file {} --format json --ack-fd 3 3<{acks} |\n\
             jq --unbuffered -r '\"\\(.seq) \\(.id)\"' |\n\
             while read -r seq id; do echo $id >>{done}; [ $id = {stop_at} ] && kill -9 $BASHPID; echo $seq >&3; done 3>{acks}",
            sampan.display(),
            cursor.display(),
            acks = acks.display(),
            done = done.display()
        )
    };
    let sh = |text: String| {
        let mut command = host.command_of(Path::new("/bin/bash"));
        command.args(["-c", &text]).output().expect("a shell")
    };
    let output = sh(pipeline(15, ""));
    assert!(!output.status.success());
    // The reader notices that no process can acknowledge any more.
    host.wait_until("the pipeline to end", || host.status().subscribers.is_empty());
    assert_eq!(lines(&done).len(), 16);
    let output = sh(pipeline(1000, "--no-follow"));
    assert!(output.status.success(), "{}", stderr(&output));
    let mut all: Vec<usize> = lines(&done).iter().map(|id| id.parse().expect("a number")).collect();
    assert!(all.len() < 300 + 17, "only what was not acknowledged came again: {}", all.len());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
    let output = sh(pipeline(1000, "--no-follow"));
    assert!(
        output.status.success() && lines(&done).len() < 300 + 17,
        "all is acknowledged: {}",
        stderr(&output)
    );
}

#[test]
fn a_consumer_that_leaves_events_unacknowledged_is_told_so() {
    let host = Host::with_monitord(&[]);
    let (cursor, acks) = (host.path("cursor"), host.path("acks"));
    mkfifo(&acks, Mode::S_IRWXU).expect("made");
    emit(&host, &["1", "2", "3"]);
    let sampan = sampan_tests::host::binary("sampan");
    let text = format!(
        "{} events -f type=test --after 0 --no-follow --cursor-file {} --format json --ack-fd 3 3<{acks} |\n\
         {{ exec 4>{acks}; read -r a; printf 'nonsense\\n\\377\\n%0256d3\\n' 0 >&4; echo 2 >&4; cat >/dev/null; }}; exit ${{PIPESTATUS[0]}}",
        sampan.display(),
        cursor.display(),
        acks = acks.display(),
    );
    let output = host.command_of(Path::new("/bin/bash")).args(["-c", &text]).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1));
    let says = stderr(&output);
    assert!(
        says.contains("without acknowledging all events")
            && says.contains("\"nonsense\" is not a sequence number"),
        "{says}"
    );
    assert_eq!(ids_of(&run(&host, &cursor, &["--no-follow"])), ["2", "3"]);
    let output = run(&host, &cursor, &["--ack-fd", "77"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("descriptor 77"), "{}", stderr(&output));
}

#[test]
fn a_program_of_version_1_is_served_as_before() {
    use sampan_ipc::watch::{Item, Request, Subscribe, opening_1};
    use sampan_tests::subscriber::Subscriber;
    let host = Host::with_monitord(&[]);
    emit(&host, &["1", "2"]);
    let subscribe = Subscribe { after: Some(0), filters: vec!["type=test".into()], ..Subscribe::default() };
    let mut old = Subscriber::connect(&host.socket()).expect("monitord serves");
    old.send(&opening_1(Request::Subscribe(subscribe)).expect("small")).expect("room");
    assert!(matches!(old.item(), Item::Welcome { version: 1, .. }));
    let (events, _) = old.to_end();
    assert_eq!(events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(old.lineage.is_none() && old.positions.is_empty(), "version 1 knows neither");
}

#[test]
fn nothing_is_written_to_a_reader_that_knows_its_position() {
    let host = Host::with_monitord(&[]);
    let reader = Reader::start(&host, &host.path("cursor"), &["--filter", "event=none"]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    emit(&host, &["1"]);
    host.wait_until("the position", || held(&host.path("cursor")) == host.status().seq);
    // The reader releases memory once, a second after the last event.
    process::await_rest(host.pid(), std::time::Duration::from_millis(1500), || host.logs());
    drop(reader);
}

#[test]
fn a_cursor_file_that_is_removed_in_use_ends_the_reader() {
    let host = Host::with_monitord(&[]);
    let cursor = host.path("cursor");
    let mut reader = Reader::start(&host, &cursor, &["--after", "0", "--cursor-interval", "1ms"]);
    host.wait_until("the reader", || host.status().subscribers.len() == 1);
    fs::remove_file(&cursor).expect("there");
    // The next write of the position notices it, perhaps before this event.
    emit(&host, &["1"]);
    assert_eq!(reader.child.wait().expect("ours").code(), Some(1));
    assert!(reader.notes().contains("removed while it was in use"), "{}", reader.notes());
}
