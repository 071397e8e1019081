//! `sampan emit --batch` in pipelines: after jq, for a long time, and with lines that are no events.

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::host::{Host, binary, wait_until};
use serde_json::Value;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Prepares `sampan` of this installation with piped output.
fn sampan(host: &Host, args: &[&str]) -> Command {
    let mut command = host.command("sampan");
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All events of `kind` so far, as printed by `sampan events`.
fn events(host: &Host, kind: &str) -> Vec<Value> {
    let filter = format!("type={kind}");
    let args = ["events", "--after", "0", "--no-follow", "--format", "json", "--filter", &filter];
    let printed = output(sampan(host, &args));
    assert!(printed.status.success(), "{}", stderr(&printed));
    let text = String::from_utf8(printed.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Runs a shell script that finds this host's `sampan`.
fn pipeline(host: &Host, script: &str) -> Output {
    let mut command = host.command_of("sh".as_ref());
    let dir = binary("sampan").parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-euc", script]).env("PATH", format!("{dir}:{path}"));
    command.output().expect("a shell")
}

#[test]
fn a_round_through_jq_keeps_time_and_attributes_of_an_event() {
    let host = Host::with_monitord(&[]);
    let facts = r#""attributes":{"big":"18446744073709551617","small":0.1000000000000000055,"huge":1e400}"#;
    for (id, time) in [("1", "1714979045.123456789"), ("2", "9007199254.740993001"), ("3", "-0.000000001")] {
        let line = format!(r#"{{"type":"test","action":"tick","id":"{id}","time":"{time}",{facts}}}"#);
        let said = pipeline(&host, &format!("printf '%s\\n' '{line}' | sampan emit --batch"));
        assert!(said.status.success(), "{}", stderr(&said));
    }
    let script = "sampan events --after 0 --no-follow --format json --filter type=test \
                  | jq -c '.type = \"copy\"' | sampan emit --batch";
    let said = pipeline(&host, script);
    assert!(said.status.success(), "{}", stderr(&said));
    let (before, after) = (events(&host, "test"), events(&host, "copy"));
    assert_eq!((before.len(), after.len()), (3, 3));
    for (before, after) in before.iter().zip(&after) {
        for field in ["time", "timeNano", "id", "attributes"] {
            assert_eq!(before[field], after[field], "{field}");
        }
    }
    let expected = serde_json::json!({
        "big": "18446744073709551617", "small": "0.1000000000000000055", "huge": "1e400",
    });
    assert_eq!(before[0]["attributes"], expected);
}

/// A running batch; its standard input stays open until [`Batch::close`].
struct Batch {
    child: Child,
    stdin: Option<ChildStdin>,
    notes: Arc<Mutex<String>>,
}

impl Batch {
    fn start(host: &Host, args: &[&str]) -> Self {
        let mut command = sampan(host, &[&["emit", "--batch"], args].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("built");
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take().expect("piped"));
        let notes = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&notes);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut notes = kept.lock().expect("no panic holds it");
                notes.push_str(&line);
                notes.push('\n');
            }
        });
        Batch { child, stdin, notes }
    }

    fn write(&mut self, lines: &str) {
        self.stdin.as_mut().expect("open").write_all(lines.as_bytes()).expect("it reads");
    }

    fn close(&mut self) {
        self.stdin = None;
    }

    fn notes(&self) -> String {
        self.notes.lock().expect("no panic holds it").clone()
    }

    fn await_note(&self, text: &str) {
        wait_until(&format!("a note of {text:?}"), || self.notes(), || self.notes().contains(text));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }

    /// Waits for the end of the batch; returns its status.
    fn end(&mut self) -> ExitStatus {
        let (mut status, notes) = (None, Arc::clone(&self.notes));
        let said = || notes.lock().expect("no panic holds it").clone();
        wait_until("the batch to end", said, || {
            status = self.child.try_wait().expect("ours");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(id: impl Display) -> String {
    format!(r#"{{"type":"test","action":"tick","id":"{id}"}}"#) + "\n"
}

fn ids(host: &Host) -> Vec<String> {
    events(host, "test").iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

fn numbers(range: Range<usize>) -> Vec<String> {
    range.map(|nth| nth.to_string()).collect()
}

#[test]
fn a_batch_waits_for_an_absent_and_for_a_restarted_monitord() {
    let mut host = Host::new();
    let mut batch = Batch::start(&host, &[]);
    batch.write(&line(0));
    batch.await_note("events wait until monitord takes them: cannot open");
    host.start_monitord(&[]);
    batch.await_note("monitord takes events again");
    for round in 0..3 {
        let first = 1 + round * 200;
        batch.write(&(first..first + 100).map(line).collect::<String>());
        host.kill9();
        batch.write(&(first + 100..first + 200).map(line).collect::<String>());
        host.start_monitord(&[]);
    }
    batch.close();
    assert!(batch.end().success(), "{}", batch.notes());
    assert_eq!(ids(&host), numbers(0..601));
}

#[test]
fn spooled_events_are_delivered_before_a_batch_ends() {
    let mut host = Host::with_monitord(&[]);
    host.kill9();
    let mut batch = Batch::start(&host, &[]);
    batch.write(&(0..50).map(line).collect::<String>());
    batch.close();
    batch.await_note("events wait until monitord takes them: nobody reads");
    host.start_monitord(&[]);
    assert!(batch.end().success(), "{}", batch.notes());
    assert_eq!(ids(&host), numbers(0..50));
}

#[test]
fn a_producer_waits_while_monitord_is_stopped_and_loses_nothing() {
    const EVENTS: usize = 4000;
    let host = Host::with_monitord(&[]);
    let fifo = host.path("run/emit.fifo");
    let fifo = if fifo.exists() { fifo } else { host.fifo() };
    let fifo = File::options().read(true).write(true).open(fifo).expect("monitord made it");
    let capacity = usize::try_from(fcntl(&fifo, FcntlArg::F_GETPIPE_SZ).expect("a FIFO")).expect("positive");
    // Events that may be held at once: in the FIFO, the spool, the read buffer, a line and the pipe. Each has more than
    // a KiB.
    let held_max = (capacity >> 10) + 256 + 128 + 64;
    host.signal(Signal::SIGSTOP);
    let mut batch = Batch::start(&host, &[]);
    let mut stdin = batch.stdin.take().expect("open");
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let writer = std::thread::spawn(move || {
        let fill = "x".repeat(1000);
        for nth in 0..EVENTS {
            let text =
                format!(r#"{{"type":"test","action":"tick","id":"{nth}","attributes":{{"fill":"{fill}"}}}}"#);
            writeln!(stdin, "{text}").expect("it reads");
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    batch.await_note("events wait until monitord takes them: the FIFO is full");
    let held = written.load(Ordering::SeqCst);
    assert!(held <= held_max, "{held} events were read although nobody takes them");
    host.signal(Signal::SIGCONT);
    writer.join().expect("a writer that fails says so");
    assert!(batch.end().success(), "{}", batch.notes());
    let events = events(&host, "test");
    assert!(events.iter().all(|event| event["writerLost"].is_null()));
    assert_eq!(ids(&host), numbers(0..EVENTS));
}

#[test]
fn a_batch_with_a_timeout_gives_up_and_says_what_was_written() {
    let mut host = Host::with_monitord(&[]);
    let mut batch = Batch::start(&host, &["--timeout", "1"]);
    batch.write(&("\n".to_owned() + &line(0) + &line(1)));
    host.wait_until("both events", || ids(&host).len() == 2);
    host.kill9();
    batch.write(&line(2));
    assert_eq!(batch.end().code(), Some(1));
    batch.await_note("nobody reads");
    batch
        .await_note("2 events were written, the last one of line 3; 1 more line was read and is not written");
    batch.await_note("hint: is monitord running?");
}

#[test]
fn a_batch_ended_by_a_signal_reports_what_was_written() {
    let mut host = Host::with_monitord(&[]);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut batch = Batch::start(&host, &[]);
        let before = ids(&host).len();
        batch.write(&line("taken"));
        host.wait_until("the event", || ids(&host).len() == before + 1);
        host.kill9();
        batch.write(&(line("waits") + &line("waits too")));
        batch.await_note("events wait");
        batch.signal(signal);
        assert_eq!(batch.end().signal(), Some(signal as i32));
        batch.await_note(&format!(
            "ended by {signal}: 1 event was written, of line 1; 2 more lines were read and are not written"
        ));
        host.start_monitord(&[]);
    }
    // The same holds while no event waits.
    let mut batch = Batch::start(&host, &[]);
    batch.write(&line("last"));
    host.wait_until("the event", || ids(&host).iter().any(|id| id == "last"));
    batch.signal(Signal::SIGTERM);
    assert_eq!(batch.end().signal(), Some(Signal::SIGTERM as i32));
    batch.await_note("ended by SIGTERM: 1 event was written, of line 1");
}

#[test]
fn bad_lines_are_told_with_their_numbers_and_passed_over() {
    let host = Host::with_monitord(&[]);
    let mut batch = Batch::start(&host, &[]);
    let too_long = format!(r#"{{"type":"test","action":"tick","id":"{}"}}"#, "x".repeat(100_000)) + "\n";
    let too_large = format!(r#"{{"type":"test","action":"tick","id":"{}"}}"#, "x".repeat(5000)) + "\n";
    let wrong = "no json\n\n[1]\n{\"type\":\"test\"}\n";
    batch.write(&(line(0) + wrong + &line(1) + &too_long + &too_large + &line(2)));
    batch.stdin.as_mut().expect("open").write_all(b"{\"type\":\"\xff\"}\n").expect("it reads");
    batch.write(r#"{"type":"test","action":"tick","id":"3"}"#);
    batch.close();
    assert_eq!(batch.end().code(), Some(2));
    for says in [
        // The batch reports line numbers of its input; the column is the column in the line.
        "error: line 2: bad event: expected ident, at column 2; skipped",
        "error: line 4: bad event: ",
        "error: line 5: bad event: missing field `action`; skipped",
        "error: line 7: the line is longer than 65536 bytes, so the event is too large; skipped",
        "error: line 8: event takes ",
        "error: line 10: bad event: ",
        "error: 6 lines were not events; 4 events were written, the last one of line 11",
    ] {
        batch.await_note(says);
    }
    assert_eq!(ids(&host), numbers(0..4));

    let mut batch = Batch::start(&host, &["--strict"]);
    batch.write(&(line(4) + "no json\n" + &line(5)));
    assert_eq!(batch.end().code(), Some(2));
    batch.await_note("error: line 2: bad event: ");
    batch.await_note("(1 event was written, of line 1");
    assert_eq!(ids(&host), numbers(0..5));
}

#[test]
fn what_events_prints_of_lost_events_is_passed_over_with_a_note() {
    let host = Host::with_monitord(&[]);
    let mut batch = Batch::start(&host, &[]);
    let notices = "{\"lost\":{\"first\":3,\"last\":9}}\n{\"journal\":{\"id\":\"7\"}}\n";
    batch.write(&(line(0) + notices + &line(1)));
    batch.close();
    assert!(batch.end().success(), "{}", batch.notes());
    batch.await_note("note: line 2 is not an event but a notice (\"lost\"); skipped");
    batch.await_note("note: line 3 is not an event but a notice (\"journal\"); skipped");
    assert_eq!(ids(&host), numbers(0..2));
}

#[test]
fn another_file_at_the_fifos_path_is_named_with_a_hint() {
    let host = Host::with_monitord(&[]);
    let (file, absent) = (host.path("file"), host.path("absent"));
    std::fs::write(&file, "kept").expect("written");
    let (file_name, absent_name) = (file.display().to_string(), absent.display().to_string());
    let named: [(&str, &[&str], &str); 3] = [
        (&file_name, &[], "hint: give --fifo the path of the FIFO that monitord reads"),
        (&file_name, &["--batch"], "hint: give --fifo the path of the FIFO that monitord reads"),
        (&absent_name, &[], "hint: is the monitord that reads this FIFO running?"),
    ];
    for (path, args, hint) in named {
        let event: &[&str] = if args.is_empty() { &["test", "tick", "1"] } else { args };
        let said = output(sampan(&host, &[&["emit", "--fifo", path], event].concat()));
        assert_eq!(said.status.code(), Some(1));
        assert!(stderr(&said).contains(hint), "{}", stderr(&said));
        assert!(!stderr(&said).contains("sampan up"), "{}", stderr(&said));
    }
    assert_eq!(std::fs::read(&file).expect("there"), b"kept");
    assert!(!absent.exists());
    let host = Host::new();
    std::fs::create_dir(host.path("run")).expect("made");
    for name in ["monitor.fifo", "emit.fifo"] {
        std::fs::write(host.path("run").join(name), "").expect("written");
    }
    let said = output(sampan(&host, &["emit", "test", "tick", "1"]));
    assert!(stderr(&said).contains("it is not a FIFO\nhint: remove the file "), "{}", stderr(&said));
}
