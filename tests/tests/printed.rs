//! Output and exit status of commands: nothing that a terminal interprets is printed, and all commands end the same
//! way.

use nix::fcntl::{FcntlArg, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe};
use sampan_ipc::engine::{Job, JobState};
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::host::{Host, binary};
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// Prepares `sampan` of the engine's installation.
fn sampan(engine: &Engine, args: &[&str]) -> Command {
    let mut command = Command::new(binary("sampan"));
    command.args(args).env("SAMPAN_RUN_DIR", engine.dir.path().join("run")).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn run(engine: &Engine, args: &[&str]) -> Output {
    sampan(engine, args).output().expect("built")
}

/// Runs a command that must succeed; returns its standard output.
fn ok(engine: &Engine, args: &[&str]) -> String {
    let output = run(engine, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Characters that a terminal interprets or that reorder a line, one of each kind.
const HIDDEN: &str = "\u{1b}\u{7f}\u{85}\u{9b}\u{200f}\u{2028}\u{202e}\u{2066}";
/// The characters of [`HIDDEN`] as JSON escapes.
const ESCAPED: &str = r"\u001b\u007f\u0085\u009b\u200f\u2028\u202e\u2066";

fn assert_printable(text: &str) {
    let raw = |c: char| c != '\n' && (c.is_control() || HIDDEN.contains(c));
    assert!(!text.contains(raw), "{text:?}");
}

#[test]
fn json_and_logfmt_events_have_no_terminal_controls() {
    let host = Host::with_monitord(&[]);
    let value = format!("k={HIDDEN}");
    let emitted = host.command("sampan").args(["emit", "test", "tick", HIDDEN, &value]).status();
    assert!(emitted.expect("built").success());
    for format in ["json", "logfmt"] {
        let args = ["events", "--after", "0", "--no-follow", "--filter", "type=test", "--format", format];
        let printed = text(&host.command("sampan").args(args).output().expect("built").stdout);
        assert_printable(&printed);
        assert_eq!(printed.matches(&format!("\"{ESCAPED}\"")).count(), 2, "{printed}");
    }
}

#[test]
fn json_lists_and_documents_have_no_terminal_controls() {
    let engine = Engine::start();
    let tar = engine.dir.path().join("layer.tar");
    std::fs::write(&tar, Layer::of(&[("a", b"x")], Packing::Plain).tar).expect("written");
    let label = format!("label={HIDDEN}");
    ok(&engine, &["import", "--label", &label, "demo:1", tar.to_str().expect("text")]);
    let printed = ok(&engine, &["inspect", "demo:1"]);
    assert_printable(&printed);
    assert!(printed.contains(&format!("\"label\": \"{ESCAPED}\"")), "{printed}");
    let document: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(document[0]["Config"]["Labels"]["label"], HIDDEN, "{printed}");
    for args in [&["images", "--format", "json"][..], &["info", "--json"], &["jobs", "--format", "json"]] {
        assert_printable(&ok(&engine, args));
    }
    // An argument with such characters is repeated in a result.
    let output = run(&engine, &["pull", "--progress", "json", &format!("demo{HIDDEN}:1")]);
    assert_printable(&text(&output.stdout));
    assert!(text(&output.stdout).contains(ESCAPED), "{}", text(&output.stdout));
}

/// Publishes an image whose one layer arrives at this number of bytes per second.
fn slow_image(registry: &ScriptedRegistry, bytes_per_second: usize) -> String {
    let layer = Layer::large("slow", 4_000_000, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    registry.publish("slow", &image);
    registry.answer(
        &format!("slow/blobs/{}", Digest::of(&layer.blob)),
        Reply::Slow(layer.blob, bytes_per_second),
    );
    registry.reference("slow")
}

/// A running command; dropping it kills it.
struct Running(Child);

impl std::ops::Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the end of a child that ends by itself.
fn end(engine: &Engine, child: &mut Child) -> ExitStatus {
    let mut status = None;
    engine.wait_until("the command to end", || {
        status = child.try_wait().expect("ours");
        status.is_some()
    });
    status.expect("it has ended")
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
}

#[test]
fn every_command_dies_silently_of_sigpipe() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let layer = Layer::of(&[("a", b"x")], Packing::Plain);
    registry.publish("small", &Image::of(std::slice::from_ref(&layer), "amd64"));
    let tar = engine.dir.path().join("layer.tar");
    std::fs::write(&tar, &layer.tar).expect("written");
    ok(&engine, &["import", "demo:1", tar.to_str().expect("text")]);
    let archive = engine.dir.path().join("demo.tar").display().to_string();
    ok(&engine, &["save", "--output", &archive, "demo:1"]);
    let small = registry.reference("small");
    let cases: [&[&str]; 20] = [
        &["pull", &small],
        &["pull", "--quiet", &small],
        &["pull", "--progress", "json", &small],
        &["pull", "--progress", "bars", &small],
        &["pull", "--detach", &small],
        &["load", "--input", &archive],
        &["save", "--output", &archive, "demo:1"],
        &["save", "demo:1"],
        &["import", "demo:2", tar.to_str().expect("text")],
        &["push", "demo:1", &format!("oci:{archive}.layout:x")],
        &["images"],
        &["images", "--format", "json"],
        &["inspect", "demo:1"],
        &["tag", "demo:1", "demo:3"],
        &["ps", "--all"],
        &["info"],
        &["version"],
        &["system", "df"],
        &["image", "verify"],
        &["image", "prune"],
    ];
    for args in cases {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let output = sampan(&engine, args).stdout(writer).stderr(Stdio::piped()).output().expect("built");
        let said = text(&output.stderr);
        match (output.status.signal(), args) {
            // Like docker, `tag` prints nothing on success.
            (None, ["tag", ..]) => assert!(output.status.success(), "{said}"),
            (signal, _) => assert_eq!(signal, Some(Signal::SIGPIPE as i32), "{args:?}: {said}"),
        }
        let notes_alone = said.lines().all(|line| line.starts_with("note: "));
        assert!(notes_alone, "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_leaves_ends_a_pull_that_has_nothing_to_say() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let reference = slow_image(&registry, 1000);
    for style in ["json", "plain"] {
        let mut command = sampan(&engine, &["pull", "--progress", style, &reference]);
        let mut child =
            Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built"));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.next().expect("a line").is_ok());
        drop(lines);
        assert_eq!(end(&engine, &mut child).signal(), Some(Signal::SIGPIPE as i32), "{style}");
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert_eq!(said, "", "{style}");
    }
    let is_cancelled = |job: &Job| job.state == JobState::Cancelled;
    engine.wait_until("the jobs to end", || engine.jobs().iter().all(is_cancelled));
}

#[test]
fn a_signal_ends_a_json_pull_with_a_result_per_reference() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let layer = Layer::of(&[("a", b"x")], Packing::Gzip);
    registry.publish("small", &Image::of(&[layer], "amd64"));
    let (slow, small) = (slow_image(&registry, 100_000), registry.reference("small"));
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut command = sampan(&engine, &["pull", "--progress", "json", &small, &slow, &small]);
        let mut child =
            Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built"));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON"));
        let (mut is_small_done, mut is_slow_begun) = (false, false);
        while !(is_small_done && is_slow_begun) {
            let line = lines.next().expect("more lines");
            is_small_done |= line["type"] == "job" && line["state"] == "done";
            is_slow_begun |= line["state"] == "downloading";
        }
        signal(&child, number);
        let results: Vec<Value> = lines.filter(|line| line["type"] == "result").collect();
        assert_eq!(end(&engine, &mut child).signal(), Some(number as i32));
        let states: Vec<(&str, &str)> = results
            .iter()
            .map(|line| (line["asked"].as_str().expect("text"), line["state"].as_str().expect("text")))
            .collect();
        assert_eq!(states, [(small.as_str(), "done"), (&slow, "failed"), (&small, "done")]);
        assert_eq!(results[1]["error"], format!("ended by {number}"));
    }
}

#[test]
fn a_pull_whose_output_nobody_takes_still_dies_of_a_signal() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let reference = slow_image(&registry, 200_000);
    let (_reader, writer) = pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    let mut command = sampan(&engine, &["pull", "--progress", "json", &reference]);
    let mut child = Running(command.stdout(writer).spawn().expect("built"));
    drop(command);
    // By then the command has more to print than the pipe holds: it prints ten lines per second.
    let come = || engine.jobs().iter().flat_map(|job| &job.rows).map(|row| row.current).max();
    engine.wait_until("the layer to come", || come().is_some_and(|bytes| bytes > 500_000));
    signal(&child, Signal::SIGTERM);
    assert_eq!(end(&engine, &mut child).signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn json_progress_is_printed_though_all_else_is_to_be_quiet() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    registry.publish("small", &Image::of(&[Layer::of(&[("a", b"x")], Packing::Gzip)], "amd64"));
    let printed = ok(&engine, &["pull", "--quiet", "--progress", "json", &registry.reference("small")]);
    let last: Value = serde_json::from_str(printed.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["type"], &last["state"]), (&Value::from("result"), &Value::from("done")));
    // Progress is not mixed into an archive on standard output.
    let archive = sampan(&engine, &["save", "--progress", "json", &registry.reference("small")]);
    let archive = { archive }.output().expect("built");
    assert!(archive.status.success(), "{}", text(&archive.stderr));
    assert!(tar::Archive::new(&archive.stdout[..]).entries().expect("a tar").all(|entry| entry.is_ok()));
}

#[test]
fn a_terminal_that_is_dumb_or_of_no_type_gets_lines() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    registry.publish("small", &Image::of(&[Layer::of(&[("a", b"x")], Packing::Gzip)], "amd64"));
    for term in [Some(""), Some("dumb"), None] {
        let pty = openpty(None, None).expect("a pty");
        let mut command = sampan(&engine, &["pull", &registry.reference("small")]);
        match term {
            Some(term) => command.env("TERM", term),
            None => command.env_remove("TERM"),
        };
        let mut child = Running(command.stdout(File::from(pty.slave)).spawn().expect("built"));
        drop(command);
        let mut bytes = Vec::new();
        // When the other side is closed, a reader of a pseudoterminal gets EIO.
        let _ = File::from(pty.master).read_to_end(&mut bytes);
        assert!(child.wait().expect("ours").success());
        let printed = String::from_utf8_lossy(&bytes);
        assert!(printed.contains("@sha256:") && !printed.contains('\x1b'), "{term:?}: {printed:?}");
    }
}

#[test]
fn an_unmatchable_filter_is_refused_and_days_are_a_duration() {
    let host = Host::with_monitord(&["--journal-age", "1d12h"]);
    let events = |args: &[&str]| {
        let all = [&["events", "--no-follow"], args].concat();
        host.command("sampan").args(all).output().expect("built")
    };
    for (filter, meant) in [
        ("type=Container", "write type=container"),
        ("event=Start", "write event=start"),
        ("type=a,b", "write type=a and type=b as separate filters"),
    ] {
        let output = events(&["--filter", filter]);
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains(meant), "{}", text(&output.stderr));
    }
    let day_ago = ["emit", "test", "tick", "old", "--time", "23h"];
    assert!(host.command("sampan").args(day_ago).status().expect("built").success());
    for (since, count) in [("1d", 1), ("0.5d", 0), ("1w", 1)] {
        let output = events(&["--since", since, "--filter", "type=test"]);
        assert_eq!(text(&output.stdout).lines().count(), count, "{since}: {}", text(&output.stderr));
    }
}
