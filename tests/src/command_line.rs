//! Runs commands until they end, and checks their status.
//!
//! Called by the hosts of these tests, each with its own command and the log of its own engine. Starts nothing in the
//! background.

use serde_json::Value;
use std::process::{Command, Output};

/// Runs a command that must succeed; returns its standard output. Panics with standard error and `log` if it fails.
pub fn ok(command: &mut Command, log: impl Fn() -> String) -> String {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}\n{}", words(command), log());
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail with `status`; returns its standard output and standard error.
pub fn fails(command: &mut Command, status: i32, log: impl Fn() -> String) -> String {
    let output = run(command);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(status), "{}: {text}\n{}", words(command), log());
    text
}

/// Runs a command that must succeed and print JSON.
pub fn json(command: &mut Command, log: impl Fn() -> String) -> Value {
    let text = ok(command, log);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error} in {text}", words(command)))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot start {}: {error}", words(command)))
}

/// The arguments, for messages. The program and its environment are the host's, and say nothing about the test.
fn words(command: &Command) -> String {
    format!("{:?}", command.get_args().collect::<Vec<_>>())
}
