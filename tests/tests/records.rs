//! `docs/records.md`: its golden bytes, and its writer in Python, against a real monitord.

use sampan_ipc::{Event, record};
use sampan_tests::host::{Host, wait_until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The only code block of `language` in the document.
fn block(language: &str) -> String {
    let document = include_str!("../../docs/records.md");
    let fence = format!("```{language}\n");
    let (_, rest) = document.split_once(&fence).expect("there is one");
    assert!(!rest.contains(&fence), "there is one only");
    rest.split("```\n").next().expect("a block ends").to_owned()
}

/// The FIFO that the writer writes to: the emit FIFO if monitord has one.
fn fifo(host: &Host) -> PathBuf {
    let emit = host.path("run/emit.fifo");
    if emit.exists() { emit } else { host.fifo() }
}

/// Prepares a script with the document's writer and `path`, the FIFO of this host.
fn python(host: &Host, script: &str) -> Command {
    let writer = host.path("writer.py");
    fs::write(&writer, block("python")).expect("written");
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!("import sys\nfrom writer import *\npath = sys.argv[1]\n{script}"));
    command.arg(fifo(host)).env("PYTHONPATH", writer.parent().expect("a directory"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Output of a script that must succeed.
fn prints(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("python3 of Debian's package python3");
    assert!(status.success(), "{}", text(&stderr));
    text(&stdout)
}

/// All events of type `test` so far.
fn events(host: &Host) -> Vec<Value> {
    let args = ["events", "--after", "0", "--no-follow", "--format", "json", "--filter", "type=test"];
    let output = host.command("sampan").args(args).output().expect("built");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn ids(host: &Host) -> Vec<String> {
    events(host).iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn the_golden_bytes_are_what_both_writers_make_of_the_event() {
    let golden: Vec<u8> = block("hex")
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte in hexadecimal"))
        .collect();
    let event = Event {
        writer: 0x0102_0304_0506_0708,
        counter: 300,
        time: 1_714_979_045_123_456_789,
        ..Event::new("backup", "done", "nightly").with("bytes", 4096).label("owner", "ops")
    };
    let ours = record::encode(&event).expect("small");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&ours), hex(&golden));
    let script = "print(record(0x0102030405060708, 300, 0, 1714979045123456789, ('backup', 'done', 'nightly'), \
                  {'bytes': '4096'}, {'owner': 'ops'}).hex(), hex(crc32c(b'123456789')))";
    assert_eq!(prints(python(&Host::new(), script)), format!("{} 0xe3069283\n", hex(&golden)));
}

#[test]
fn events_of_the_python_writer_arrive_as_they_were_emitted() {
    let host = Host::with_monitord(&[]);
    let script = r#"
emitter = Emitter(path)
assert emitter.emit("test", "exec_start: sh -c 'x'", "\u00e9\n\u202e", {"k": "v" * 300, "e": ""})
assert emitter.emit("test", "tick", "many", {f"k{n}": str(n) for n in range(256)})
assert emitter.emit("test", "tick", "full", {"fill": "x" * 4020})
try:
    emitter.emit("test", "tick", "too large", {"fill": "x" * 5000})
    sys.exit("it was taken")
except ValueError as error:
    print(error)
assert emitter.emit("test", "tick", "last", labels={"owner": "ops"})
"#;
    assert!(prints(python(&host, script)).contains("at most 4084 fit"));
    host.wait_until("all events", || events(&host).len() == 4);
    let events = events(&host);
    assert_eq!(
        (&events[0]["action"], &events[0]["id"]),
        (&"exec_start: sh -c 'x'".into(), &"\u{e9}\n\u{202e}".into())
    );
    assert_eq!(events[0]["attributes"], serde_json::json!({"k": "v".repeat(300), "e": ""}));
    assert_eq!(events[1]["attributes"].as_object().expect("an object").len(), 256);
    assert_eq!(events[2]["attributes"]["fill"].as_str().map(str::len), Some(4020));
    assert_eq!((&events[3]["id"], &events[3]["labels"]["owner"]), (&"last".into(), &"ops".into()));
    assert_eq!(host.status().skipped_bytes, 0);
}

#[test]
fn concurrent_python_writers_neither_mix_nor_lose_records() {
    const WRITERS: usize = 4;
    const EACH: usize = 500;
    let host = Host::with_monitord(&[]);
    let script = format!(
        r#"
emitter = Emitter(path)
for n in range({EACH}):
    emitter.emit("test", "tick", str(n), {{"writer": str(os.getpid()), "fill": "x" * (n * 7 % 1000)}})
while not emitter.flush():
    time.sleep(0.001)
assert emitter.lost == 0
"#
    );
    let children: Vec<Child> =
        (0..WRITERS).map(|_| python(&host, &script).spawn().expect("python3")).collect();
    for child in children {
        let output = child.wait_with_output().expect("ours");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    host.wait_until("all events", || events(&host).len() >= WRITERS * EACH);
    let events = events(&host);
    assert_eq!((events.len(), host.status().skipped_bytes), (WRITERS * EACH, 0));
    let mut next = std::collections::HashMap::new();
    for event in &events {
        let expected = next.entry(event["attributes"]["writer"].as_str().expect("text")).or_insert(0);
        assert_eq!(event["id"], expected.to_string());
        *expected += 1;
    }
    assert_eq!(next.len(), WRITERS);
}

#[test]
fn the_python_writer_outlives_monitord_and_counts_what_it_drops() {
    let mut host = Host::with_monitord(&[]);
    // The script writes its progress to one file, and waits for another file before it continues.
    let script = r#"
def await_file(name):
    while not os.path.exists(name):
        time.sleep(0.001)

emitter = Emitter(path)
assert emitter.emit("test", "tick", "0")
open("written", "x")
await_file("killed")
for n in range(1, 1101):
    assert not emitter.emit("test", "tick", str(n))
open("waiting", "x")
while not emitter.flush():
    time.sleep(0.001)
print(emitter.lost)
"#;
    let mut child = python(&host, script).current_dir(host.path("")).spawn().expect("python3");
    let mut is_there = |name: &str| {
        host.wait_until(name, || {
            assert!(child.try_wait().expect("ours").is_none(), "the writer has ended");
            host.path(name).exists()
        });
    };
    is_there("written");
    wait_until("the first event", || host.logs(), || ids(&host) == ["0"]);
    host.kill9();
    fs::write(host.path("killed"), "").expect("written");
    host.wait_until("waiting", || host.path("waiting").exists());
    host.start_monitord(&[]);
    let output = child.wait_with_output().expect("ours");
    assert!(output.status.success() && text(&output.stdout) == "0\n", "{}", text(&output.stderr));
    host.wait_until("the last event", || ids(&host).last().is_some_and(|id| id == "1100"));
    let events = events(&host);
    let expected: Vec<String> = (0..1101).filter(|n| *n == 0 || *n > 100).map(|n| n.to_string()).collect();
    assert_eq!(ids(&host), expected);
    assert_eq!(events[1]["writerLost"], 100, "{}", events[1]);
}

#[test]
fn the_python_writer_never_writes_into_what_is_no_fifo() {
    let host = Host::new();
    fs::create_dir(host.path("run")).expect("made");
    fs::write(host.fifo(), "kept").expect("written");
    let said = python(&host, "Emitter(path).emit('test', 'tick', '1')").output().expect("python3");
    assert!(text(&said.stderr).contains("is not a FIFO"), "{}", text(&said.stderr));
    assert_eq!(fs::read(host.fifo()).expect("there"), b"kept");
}
