//! What commands print, and how they end: nothing that a terminal acts on, and one way to end for all of them.

use sampan_tests::engine::Engine;
use sampan_tests::host::{Host, binary};
use sampan_tests::registry::{Layer, Packing};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

/// `sampan` of the installation of an engine.
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

/// Runs a command that must succeed; gives its standard output.
fn ok(engine: &Engine, args: &[&str]) -> String {
    let output = run(engine, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Characters that a terminal acts on or that reorder a line, one of each kind.
const HIDDEN: &str = "\u{1b}\u{7f}\u{85}\u{9b}\u{200f}\u{2028}\u{202e}\u{2066}";
/// The same as JSON escapes them.
const ESCAPED: &str = r"\u001b\u007f\u0085\u009b\u200f\u2028\u202e\u2066";

fn assert_printable(text: &str) {
    let raw = |c: char| c != '\n' && (c.is_control() || HIDDEN.contains(c));
    assert!(!text.contains(raw), "{text:?}");
}

#[test]
fn events_as_json_and_logfmt_hold_nothing_that_a_terminal_acts_on() {
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
fn lists_and_documents_as_json_hold_nothing_that_a_terminal_acts_on() {
    let engine = Engine::start();
    let tar = engine.dir.path().join("layer.tar");
    std::fs::write(&tar, Layer::of(&[("a", b"x")], Packing::Plain).tar).expect("written");
    let label = format!("label={HIDDEN}");
    ok(&engine, &["import", "--label", &label, "demo:1", tar.to_str().expect("text")]);
    let printed = ok(&engine, &["inspect", "demo:1"]);
    assert_printable(&printed);
    assert!(printed.contains(&format!("\"label\": \"{ESCAPED}\"")), "{printed}");
    let document: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(document[0]["config"]["config"]["Labels"]["label"], HIDDEN, "{printed}");
    for args in [&["images", "--format", "json"][..], &["info", "--json"], &["jobs", "--format", "json"]] {
        assert_printable(&ok(&engine, args));
    }
    // What a person typed comes back in a result.
    let output = run(&engine, &["pull", "--progress", "json", &format!("demo{HIDDEN}:1")]);
    assert_printable(&text(&output.stdout));
    assert!(text(&output.stdout).contains(ESCAPED), "{}", text(&output.stdout));
}
