//! The output of containers in `sampan logs`, in log files and in the journal.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sampan_ipc::container::Phase;
use sampan_tests::containers::Containers;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Gives this thread and its children a journal socket of their own; returns the socket that journald would read.
fn own_journal() -> UnixDatagram {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let mount =
        |kind, target, flags| mount(Some("none"), target, kind, flags, None::<&str>).expect("mounted");
    mount(None::<&str>, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(Some("tmpfs"), "/run", MsFlags::empty());
    fs::create_dir_all("/run/systemd/journal").expect("made");
    let journal = UnixDatagram::bind(SOCKET).expect("bound");
    journal.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    journal
}

/// A field of a journal message, in the form with a length before the value.
fn field(message: &[u8], name: &str) -> Option<String> {
    let head = [name.as_bytes(), b"\n"].concat();
    let at = message.windows(head.len()).position(|part| part == head)? + head.len();
    let len = u64::from_le_bytes(message.get(at..at + 8)?.try_into().ok()?);
    let value = message.get(at + 8..at + 8 + usize::try_from(len).ok()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[test]
fn the_journal_gets_each_line_with_whose_it_is() {
    let journal = own_journal();
    let containers = Containers::new();
    let script = "echo out; echo err >&2";
    let words = [
        "run",
        "--name",
        "j",
        "--log-driver",
        "journald",
        "--log-opt",
        "tag=mine",
        "box:1",
        "sh",
        "-c",
        script,
    ];
    containers.stdout_of(&words);
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut bytes = [0; 4096];
        let len = journal.recv(&mut bytes).expect("a line");
        let of = |name| field(&bytes[..len], name).unwrap_or_default();
        assert_eq!((of("CONTAINER_NAME"), of("SYSLOG_IDENTIFIER")), ("j".to_owned(), "mine".to_owned()));
        assert_eq!(of("CONTAINER_ID_FULL"), containers.summary("j").expect("kept").id);
        lines.push((of("PRIORITY"), of("MESSAGE")));
    }
    lines.sort();
    assert_eq!(lines, [("3", "err"), ("6", "out")].map(|(p, m)| (p.to_owned(), m.to_owned())));
    let output = containers.sampan(&["logs", "j"]);
    assert!(!output.status.success(), "the journal's lines are journalctl's to show");
}

#[test]
fn lines_are_chosen_by_time_and_number() {
    let containers = Containers::new();
    let script = "echo one; sleep 0.05; echo two >&2; sleep 0.05; printf three";
    containers.sampan(&["run", "--name", "l", "box:1", "sh", "-c", script]);
    containers.await_summary("l", "its end", |summary| summary.phase == Phase::Exited);
    let logs = |words: &[&str]| {
        let output = containers.sampan(&[&["logs"], words, &["l"]].concat());
        assert!(output.status.success());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(logs(&[]), ("one\nthree".to_owned(), "two\n".to_owned()));
    assert_eq!(logs(&["--tail", "2"]), ("three".to_owned(), "two\n".to_owned()));
    assert_eq!(logs(&["-n", "0"]), (String::new(), String::new()));
    let (_, stamped) = logs(&["-t"]);
    let (time, rest) = stamped.split_once(' ').expect("a time");
    assert_eq!(rest, "two\n");
    assert_eq!(logs(&["--since", time]), ("three".to_owned(), "two\n".to_owned()));
    assert_eq!(logs(&["--until", time]), ("one\n".to_owned(), "two\n".to_owned()));
    assert_eq!(logs(&["--since", "2000-01-01", "--until", "2001-01-01"]), (String::new(), String::new()));
    assert!(!containers.sampan(&["logs", "--tail", "x", "l"]).status.success());
}

#[test]
fn logs_go_on_over_restarts_and_rotations_in_a_few_files() {
    let mut containers = Containers::new();
    let script = "i=0; while test $i -lt 40; do echo line $i; sleep 0.01; i=$((i+1)); done; exit 1";
    let options = ["--restart", "on-failure:2", "--log-opt", "max-size=1k", "--log-opt", "max-file=3"];
    let id = containers
        .stdout_of(&[&["run", "-d", "--name", "r"], &options[..], &["box:1", "sh", "-c", script]].concat());
    let followed = containers
        .host
        .command("sampan")
        .args(["logs", "-f", "r"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    containers.await_summary("r", "the second run", |summary| summary.restarts == 1);
    containers.kill_engine();
    containers.start_engine();
    containers.await_summary("r", "the last end", |s| s.restarts == 2 && s.phase == Phase::Exited);
    let output = followed.expect("built").wait_with_output().expect("ours");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let run: String = (0..40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text, run.repeat(3));
    let dir = containers.host.path("data/containers").join(&id);
    let names = fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("read"));
    let sizes: Vec<u64> = names
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().expect("there").len())
        .collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size <= 1200), "{sizes:?}");
    let last = fs::read_to_string(dir.join(format!("{id}-json.log"))).expect("read");
    let line: serde_json::Value = serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
    assert_eq!((line["log"].as_str(), line["stream"].as_str()), (Some("line 39\n"), Some("stdout")));
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
}
