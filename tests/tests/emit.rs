//! `sampan emit --batch` as other programs use it: behind jq, for hours, with lines that are no events.

use sampan_tests::host::{Host, binary};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

/// `sampan` of this installation, with everything piped but its input.
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

/// All events of `kind` so far, as `events` prints them.
fn events(host: &Host, kind: &str) -> Vec<Value> {
    let filter = format!("type={kind}");
    let args = ["events", "--after", "0", "--no-follow", "--format", "json", "--filter", &filter];
    let printed = output(sampan(host, &args));
    assert!(printed.status.success(), "{}", stderr(&printed));
    let text = String::from_utf8(printed.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Runs a pipeline of a shell that knows this host's `sampan`, with `input` on its standard input.
fn pipeline(host: &Host, script: &str) -> Output {
    let mut command = host.command_of("sh".as_ref());
    let dir = binary("sampan").parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-euc", script]).env("PATH", format!("{dir}:{path}"));
    command.output().expect("a shell")
}

#[test]
fn a_round_through_jq_changes_neither_the_time_nor_the_attributes_of_an_event() {
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
