//! The command line as users and scripts use it, with real processes, output and signals.

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent().and_then(Path::parent).expect("target/…/deps").join(name)
}

/// An installation in its own directory.
struct Host {
    dir: TempDir,
    children: Vec<Child>,
}

impl Host {
    fn empty() -> Self {
        Host { dir: tempfile::tempdir().expect("a directory"), children: Vec::new() }
    }

    fn with_monitord() -> Self {
        let mut host = Host::empty();
        host.start("sampan-monitord");
        host
    }

    fn with_engine() -> Self {
        let mut host = Host::with_monitord();
        host.start("sampan-engine");
        host
    }

    fn start(&mut self, name: &str) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let child = self.command(binary(name)).stdout(Stdio::null()).stderr(log).spawn().expect("built");
        self.children.push(child);
        let asks: &[&str] = if name == "sampan-engine" { &["info"] } else { &["monitor", "status"] };
        let deadline = Instant::now() + PATIENCE;
        while !self.sampan(asks).status.success() {
            assert!(Instant::now() < deadline, "{name} does not come up: {}", self.log());
        }
    }

    fn kill_monitord(&mut self) {
        let mut monitord = self.children.remove(0);
        monitord.kill().expect("it runs");
        monitord.wait().expect("ours");
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, dir) in [("RUN", "run"), ("STATE", "state"), ("DATA", "data")] {
            command.env(format!("SAMPAN_{name}_DIR"), self.dir.path().join(dir));
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command until it ends.
    fn sampan<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(binary("sampan")).args(args).output().expect("built")
    }

    /// Runs a command that must succeed; returns its standard output.
    fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.sampan(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    fn emit(&self, id: &str) {
        self.ok(&["emit", "test", "tick", id]);
    }

    fn follow(&self, args: &[&str]) -> Follower {
        let mut command = self.command(binary("sampan"));
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        Follower::of(command)
    }

    /// Waits until `count` subscribers are connected.
    fn await_subscribers(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status: Value =
                serde_json::from_str(&self.ok(&["monitor", "status", "--json"])).expect("JSON");
            if status["subscribers"].as_array().expect("an array").len() == count {
                return;
            }
            assert!(Instant::now() < deadline, "not {count} subscribers: {status}");
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.dir.path().join(name);
        // Pseudorandom bytes, which no compression shortens.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes as u64;
        let noise = (0..bytes).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let mut tar = tar::Builder::new(File::create(&path).expect("a file"));
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, "noise", &noise.collect::<Vec<u8>>()[..]).expect("written");
        tar.finish().expect("written");
        path
    }

    /// Serves an image with a layer of `bytes` bytes from this host's engine, at `rate`.
    fn serve(&self, bytes: usize, rate: &str) -> (Follower, String) {
        let (lower, upper) = (self.file("lower.tar", bytes), self.file("upper.tar", 1000));
        self.ok(&[OsStr::new("import"), OsStr::new("demo:1"), lower.as_os_str(), upper.as_os_str()]);
        let mut server = self.follow(&["serve", "--listen", "127.0.0.1:0", "--rate", rate]);
        let line = server.line();
        let address = line.strip_prefix("serving on ").expect(&line).to_owned();
        (server, format!("{address}/library/demo:1"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command whose lines are read as they arrive.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("built");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Follower { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    fn id(&mut self) -> String {
        let event: Value = serde_json::from_str(&self.line()).expect("JSON");
        event["id"].as_str().expect("an id").to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Waits for the end of the command; returns its status and its standard error.
    fn end(&mut self) -> (std::process::ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("ours") {
                let mut text = String::new();
                self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut text));
                return (status, text);
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_emitted_event_is_printed_in_every_format() {
    let host = Host::with_monitord();
    host.ok(&[
        "emit",
        "backup",
        "done",
        "nightly",
        "bytes=4096",
        "note=a b",
        "--label",
        "tier=x",
        "--time",
        "1714979045.5",
    ]);
    let print =
        |format| host.ok(&["events", "--after", "0", "--no-follow", "-f", "type=backup", "--format", format]);
    let line = print("line");
    let time = line.split(' ').next().expect("a time").to_owned();
    assert_eq!(line, format!("{time} backup done nightly (origin=emit, bytes=4096, note=a b, tier=x)\n"));
    let event: Value = serde_json::from_str(&print("json")).expect("JSON");
    assert_eq!(event["timeNano"], 1_714_979_045_500_000_000_i64);
    assert_eq!((&event["time"], &event["type"]), (&Value::from(time.clone()), &Value::from("backup")));
    assert_eq!(event["attributes"], serde_json::json!({"bytes": "4096", "note": "a b"}));
    assert_eq!((&event["labels"]["tier"], &event["origin"]), (&Value::from("x"), &Value::from("emit")));
    let logfmt = print("logfmt");
    let seq = &event["seq"];
    let rest =
        r#"type=backup action=done id=nightly origin=emit attr.bytes=4096 attr.note="a b" label.tier=x"#;
    assert_eq!(logfmt, format!("time={time} seq={seq} {rest}\n"));
}

#[test]
fn an_event_of_a_reserved_type_is_refused_and_not_written() {
    let host = Host::with_monitord();
    let large = format!("big={}", "x".repeat(5000));
    let cases: [(&[&str], &str); 7] = [
        (&["emit", "Test", "tick", "1"], "type \"Test\" is not allowed"),
        (&["emit", "test", "tick:x", "1"], "action \"tick:x\" is not allowed"),
        (&["emit", "test", "tick", "1", "novalue"], "attribute \"novalue\" is not allowed"),
        (&["emit", "test", "tick", "1", "a=1", "a=2"], "attribute key \"a\" occurs twice"),
        (&["emit", "test", "tick", "1", "--label", "=x"], "label key \"\" is not allowed"),
        (&["emit", "test", "tick", "1", "--time", "soon"], "time \"soon\" is not understood"),
        (&["emit", "test", "tick", "1", &large], "the largest field is attribute \"big\" with 5003"),
    ];
    for (args, says) in cases {
        let output = host.sampan(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).starts_with("error: ") && stderr(&output).contains(says),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(host.sampan(&["emit", "test"]).status.code(), Some(2));
    assert_eq!(host.ok(&["events", "--after", "0", "--no-follow", "-f", "type=test"]), "");
}

#[test]
fn without_monitord_commands_fail_with_a_hint() {
    let host = Host::empty();
    for args in
        [&["emit", "test", "tick", "1"][..], &["events"], &["monitor", "status"], &["images"], &["pull", "x"]]
    {
        let output = host.sampan(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&output).starts_with("error: cannot ") && stderr(&output).contains("\nhint: "),
            "{args:?}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_fifo_that_nobody_reads_is_waited_for_and_then_reported() {
    let mut host = Host::with_monitord();
    host.kill_monitord();
    let output = host.sampan(&["emit", "test", "tick", "1", "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nobody reads"), "{}", stderr(&output));
    let mut waiting = host.follow(&["emit", "test", "tick", "patient"]);
    host.start("sampan-monitord");
    assert!(waiting.end().0.success());
    assert!(host.ok(&["events", "--after", "0", "--no-follow", "-n", "patient"]).contains("patient"));
}

#[test]
fn invalid_arguments_are_refused_with_what_is_allowed() {
    let host = Host::with_monitord();
    let cases: [(&[&str], &str); 7] = [
        (&["events", "-f", "nme=web"], "keys are type, event"),
        (&["events", "-f", "type"], "is not KEY=VALUE"),
        (&["events", "-S", "yesterday"], "RFC 3339"),
        (&["events", "-S", "1m", "-U", "2m"], "is later than until"),
        (&["events", "--nonsense"], "unexpected argument"),
        (&["serve", "--rate", "fast"], "rate \"fast\""),
        (&["serve", "--limit-rate", "fast"], "rate \"fast\""),
    ];
    for (args, says) in cases {
        let output = host.sampan(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    assert!(host.sampan(&["--help"]).status.success());
}

#[test]
fn a_printed_time_is_taken_by_since_and_until_to_the_nanosecond() {
    let host = Host::with_monitord();
    for id in ["1", "2", "3"] {
        host.emit(id);
    }
    let lines = host.ok(&["events", "--after", "0", "--no-follow", "-f", "type=test"]);
    let second = lines.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a time");
    let ids = |args: &[&str]| {
        let args = [&["events", "--no-follow", "-f", "type=test"], args].concat();
        host.ok(&args)
            .lines()
            .map(|line| line.split(' ').nth(3).expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&["-S", second]), ["2", "3"]);
    assert_eq!(ids(&["-S", "1h", "-U", second]), ["1", "2"]);
    assert_eq!(ids(&["-S", second, "-U", second]), ["2"]);
    assert_eq!(ids(&["-S", "0"]), ["1", "2", "3"]);
}

#[test]
fn a_repeated_local_time_is_the_earlier_one() {
    let host = Host::with_monitord();
    let cases = [
        ("2024-11-03T01:30", "2024-11-03T05:30:00.000000000+00:00"),
        ("2024-03-10 02:30", "2024-03-10T07:30:00.000000000+00:00"),
        ("2024-07-01", "2024-07-01T04:00:00.000000000+00:00"),
    ];
    for (local, utc) in cases {
        let mut emit = host.command(binary("sampan"));
        emit.args(["emit", "test", "tick", local, "--time", local]).env("TZ", "America/New_York");
        assert!(emit.status().expect("built").success());
        let mut events = host.command(binary("sampan"));
        events.args(["events", "--after", "0", "--no-follow", "-n", local]).env("TZ", "UTC");
        let printed = String::from_utf8(events.output().expect("built").stdout).expect("text");
        assert_eq!(printed, format!("{utc} test tick {local} (origin=emit)\n"));
    }
}

#[test]
fn each_line_comes_at_once_and_only_from_now_on() {
    let host = Host::with_monitord();
    host.emit("before");
    let mut follower = host.follow(&["events", "--format", "json", "-f", "type=test"]);
    host.await_subscribers(1);
    for id in ["1", "2", "3"] {
        host.emit(id);
        assert_eq!(follower.id(), id);
    }
    follower.signal(Signal::SIGINT);
    assert_eq!(follower.end().0.signal(), Some(Signal::SIGINT as i32));
}

#[test]
fn a_follower_survives_kill_9_of_monitord_without_gap_or_repeat() {
    let mut host = Host::with_monitord();
    let mut follower = host.follow(&["events", "--after", "0", "--format", "json", "-f", "type=test"]);
    for round in 0..5 {
        for nth in 0..20 {
            host.emit(&format!("{round}.{nth}"));
            assert_eq!(follower.id(), format!("{round}.{nth}"));
        }
        host.kill_monitord();
        host.start("sampan-monitord");
    }
    follower.signal(Signal::SIGTERM);
    let (status, notes) = follower.end();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(notes.matches("waiting for it to return").count(), 5, "{notes}");
}

#[test]
fn without_reconnection_the_end_of_monitord_is_a_failure() {
    let mut host = Host::with_monitord();
    let mut follower = host.follow(&["events", "--no-reconnect"]);
    host.await_subscribers(1);
    host.kill_monitord();
    let (status, says) = follower.end();
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("broke off") && says.contains("hint: "), "{says}");
}

#[test]
fn a_cursor_file_goes_on_behind_the_last_line() {
    let mut host = Host::with_monitord();
    let cursor = host.dir.path().join("cursor");
    let args =
        ["events", "--format", "json", "-f", "type=test", "--cursor-file", cursor.to_str().expect("text")];
    let mut follower = host.follow(&args);
    host.await_subscribers(1);
    // The position is stored before the first event, so that this event cannot be missed.
    let deadline = Instant::now() + PATIENCE;
    while !cursor.exists() {
        assert!(Instant::now() < deadline, "no cursor file");
    }
    follower.signal(Signal::SIGTERM);
    follower.end();
    for id in ["1", "2", "3"] {
        host.emit(id);
    }
    let mut follower = host.follow(&args);
    assert_eq!([follower.id(), follower.id(), follower.id()], ["1", "2", "3"]);
    follower.signal(Signal::SIGTERM);
    follower.end();
    // With a cursor file, the command waits for a monitord that is not running yet.
    host.kill_monitord();
    let mut follower = host.follow(&args);
    host.start("sampan-monitord");
    host.emit("4");
    assert_eq!(follower.id(), "4");
    drop(follower);
    fs::write(&cursor, "no number").expect("writable");
    let output = host.sampan(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot use cursor file"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_leaves_ends_the_stream_quietly() {
    let host = Host::with_monitord();
    let mut command = host.command(binary("sampan"));
    let mut child =
        command.args(["events"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built");
    host.await_subscribers(1);
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ours");
    assert_eq!(output.status.signal(), Some(Signal::SIGPIPE as i32));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_signal_ends_the_stream_of_a_reader_that_stopped_reading() {
    let host = Host::with_monitord();
    let batch: String =
        (0..5000).map(|nth| format!(r#"{{"type":"test","action":"tick","id":"{nth}"}}"#) + "\n").collect();
    write_batch(&host, &batch);
    let mut command = host.command(binary("sampan"));
    let mut child = command.args(["events", "--after", "0"]).stdout(Stdio::piped()).spawn().expect("built");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 10]).expect("it writes");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    assert_eq!(child.wait().expect("ours").signal(), Some(Signal::SIGTERM as i32));
}

fn write_batch(host: &Host, lines: &str) -> Output {
    let mut command = host.command(binary("sampan"));
    command.args(["emit", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("built");
    // A write error is no failure: the command may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(lines.as_bytes());
    child.wait_with_output().expect("ours")
}

#[test]
fn a_batch_keeps_its_order_and_names_a_bad_line() {
    let host = Host::with_monitord();
    let lines: String = (0..3000)
        .map(|nth| {
            format!(r#"{{"type":"test","action":"tick","id":"{nth}","attributes":{{"n":{nth}}}}}"#) + "\n"
        })
        .collect();
    assert!(write_batch(&host, &lines).status.success());
    let printed = host.ok(&["events", "--after", "0", "--no-follow", "--format", "json", "-f", "type=test"]);
    let ids: Vec<String> = printed
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    assert!(ids.iter().enumerate().all(|(nth, id)| *id == nth.to_string()) && ids.len() == 3000);
    // Printed events can be emitted again.
    let output = write_batch(&host, &printed);
    assert!(output.status.success(), "{}", stderr(&output));
    let output =
        write_batch(&host, "\n{\"type\":\"test\",\"action\":\"last\",\"id\":\"x\"}\n{\"type\":\"test\"}\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("line 3") && stderr(&output).contains("missing field `action`"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.ok(&["events", "--after", "0", "--no-follow", "-f", "event=last"]).lines().count(), 1);
}

#[test]
fn a_pull_prints_plain_lines_and_last_the_digest_reference() {
    let host = Host::with_engine();
    let (mut server, reference) = host.serve(300_000, "2M/s");
    let printed = host.ok(&["pull", "--tls-verify=false", &reference]);
    let lines: Vec<&str> = printed.lines().collect();
    let name = reference.strip_suffix(":1").expect("a tag");
    let last = lines.last().expect("a line");
    assert!(last.starts_with(&format!("{name}@sha256:")), "{printed}");
    assert_eq!(
        lines.iter().filter(|line| line.contains(": complete ") || line.contains(": exists ")).count(),
        2
    );
    assert_eq!(host.ok(&["pull", "--quiet", "--tls-verify=false", &reference]), format!("{last}\n"));
    let digests = host.ok(&["images", "--format", "{{.Digest}}"]);
    let digest = digests.lines().next().expect("an image").to_owned();
    assert!(digest.starts_with("sha256:") && last.ends_with(&digest), "{digest}");
    let inspected: Value = serde_json::from_str(&host.ok(&["inspect", &reference])).expect("JSON");
    assert_eq!(inspected[0]["Digest"], digest);
    host.ok(&["tag", &reference, "other:2"]);
    assert!(host.ok(&["images"]).contains("docker.io/library/other"));
    assert_eq!(host.ok(&["rmi", "other:2"]), "Untagged: docker.io/library/other:2\n");
    let target = format!("{}/elsewhere/demo:9", reference.split('/').next().expect("an address"));
    let push = host.sampan(&["push", "--tls-verify=false", &reference, &target]);
    assert!(stderr(&push).contains("hint: the registry takes no pushes"), "{}", stderr(&push));
    let import = host.sampan(&["import", "/dev/null", "demo:1"]);
    assert!(stderr(&import).contains("hint: the name comes first"), "{}", stderr(&import));
    server.signal(Signal::SIGINT);
    assert_eq!(server.end().0.signal(), Some(Signal::SIGINT as i32));
}

#[test]
fn json_progress_is_one_object_a_line_and_ends_with_the_result() {
    let (host, puller) = (Host::with_engine(), Host::with_engine());
    let (_server, reference) = host.serve(200_000, "1M/s");
    let printed = puller.ok(&["pull", "--progress", "json", "--tls-verify=false", &reference]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a line");
    assert_eq!((&last["type"], &last["state"]), (&Value::from("result"), &Value::from("done")));
    assert!(lines.iter().any(|line| line["state"] == "complete" && line["current"] == line["total"]));
}

#[test]
fn ctrl_c_ends_a_pull_within_a_second() {
    let (host, puller) = (Host::with_engine(), Host::with_engine());
    let (_server, reference) = host.serve(4_000_000, "200K/s");
    let mut pull = puller.follow(&["pull", "--tls-verify=false", &reference]);
    while !pull.line().contains("downloading") {}
    pull.signal(Signal::SIGINT);
    let begun = Instant::now();
    assert_eq!(pull.end().0.signal(), Some(Signal::SIGINT as i32));
    let deadline = begun + Duration::from_secs(1);
    loop {
        let jobs: Value = serde_json::from_str(&puller.ok(&["jobs", "--format", "json"])).expect("JSON");
        if jobs["state"] == "cancelled" {
            break;
        }
        assert!(Instant::now() < deadline, "the job goes on: {jobs}");
    }
    assert_eq!(puller.ok(&["images", "--quiet"]), "");
}

#[test]
fn on_a_terminal_a_pull_draws_bars_in_place() {
    let (host, puller) = (Host::with_engine(), Host::with_engine());
    let (_server, reference) = host.serve(500_000, "1M/s");
    for (columns, wants) in [(120, "[======"), (80, "KiB/490.00 KiB")] {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pty");
        let mut command = puller.command(binary("sampan"));
        command.args(["pull", "--tls-verify=false", &reference]).env("TERM", "never-heard-of");
        let mut child = command.stdout(File::from(pty.slave)).spawn().expect("built");
        // The command has the last copy of the other end.
        drop(command);
        let mut bytes = Vec::new();
        // When the other side is closed, a reader of a pseudoterminal gets EIO.
        let _ = File::from(pty.master).read_to_end(&mut bytes);
        assert!(child.wait().expect("ours").success(), "{}", puller.log());
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(wants) && text.contains("\x1b[3A") && text.contains("2/2 layers"), "{text}");
        assert!(text.lines().last().expect("a line").contains("@sha256:"), "{text}");
        puller.ok(&["rmi", &reference]);
    }
}

#[test]
fn up_starts_all_daemons_and_stops_all() {
    let host = Host::empty();
    let mut up = host.follow(&["up"]);
    let mut docker = None;
    loop {
        let line = up.line();
        docker = docker.or_else(|| line.strip_prefix("docker  ").map(str::trim).map(str::to_owned));
        if line.starts_with("ready") {
            break;
        }
    }
    let docker = docker.expect("the socket for docker's clients");
    UnixStream::connect(&docker).expect("the gateway listens");
    host.emit("1");
    // `sampan up` gives the engine a notification socket, which the runtime must not take for a container's.
    let info = host.ok(&["info"]);
    if nix::unistd::geteuid().is_root() {
        assert!(info.lines().any(|line| line.starts_with("runtime") && line.contains("(/")), "{info}");
    }
    let second = host.sampan(&["up"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another instance"), "{}", stderr(&second));
    up.signal(Signal::SIGINT);
    assert!(up.end().0.success());
    assert_eq!(host.sampan(&["monitor", "status"]).status.code(), Some(1));
    assert!(UnixStream::connect(&docker).is_err(), "the gateway has ended, too");
    // When one daemon dies, `sampan up` ends the others.
    let mut up = host.follow(&["up"]);
    while !up.line().starts_with("ready") {}
    let info: Value = serde_json::from_str(&host.ok(&["info", "--json"])).expect("JSON");
    let pid = i32::try_from(info["pid"].as_i64().expect("a number")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let (status, says) = up.end();
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("sampan-engine ended"), "{says}");
    assert_eq!(host.sampan(&["monitor", "status"]).status.code(), Some(1));
}

#[test]
fn what_a_person_typed_is_explained_in_words_of_this_program() {
    let host = Host::with_engine();
    for (args, words) in [
        (&["watch", "abc"][..], "expected the number of a job; 'sampan jobs' lists them"),
        (&["cancel", "1x"][..], "expected the number of a job"),
        (&["pull", "http://127.0.0.1:1/a"][..], "it is a URL; leave out the scheme"),
    ] {
        let out = host.sampan(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(125), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
