//! The progress of pulls for a user or a script: several pulls at once, terminals of any size, and JSON.

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::engine::{Answer, Job, JobState, Request, Verify};
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::host::binary;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, Reply, ScriptedRegistry};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

fn sampan(engine: &Engine, args: &[&str]) -> Command {
    let mut command = Command::new(binary("sampan"));
    command.args(args).env("SAMPAN_RUN_DIR", engine.dir.path().join("run")).stdin(Stdio::null());
    command
}

fn run(engine: &Engine, args: &[&str]) -> Output {
    sampan(engine, args).output().expect("built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Publishes an image of one layer as `name:t`; a `rate` over zero limits its bytes per second.
fn publish(registry: &ScriptedRegistry, name: &str, bytes: usize, rate: usize) -> (String, String) {
    let layer = Layer::large(name, bytes, Packing::Gzip);
    let small = Layer::of(&[(name, b"x")], Packing::Gzip);
    let image = Image::of(&[layer.clone(), small], "amd64");
    registry.publish(name, &image);
    if rate > 0 {
        let blob = format!("{name}/blobs/{}", Digest::of(&layer.blob));
        registry.answer(&blob, Reply::Slow(layer.blob, rate));
    }
    (registry.reference(name), format!("{}/{name}@{}\n", registry.address, image.digest()))
}

#[test]
fn a_failed_pull_ends_no_other_and_results_keep_their_order() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (first, first_result) = publish(&registry, "first", 400_000, 400_000);
    let (second, second_result) = publish(&registry, "second", 1000, 0);
    let missing = registry.reference("missing");
    let args = ["pull", &first, &missing, &second, &first];
    let output = run(&engine, &args);
    assert_eq!(output.status.code(), Some(1));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let results = format!("{first_result}{second_result}{first_result}");
    assert!(stdout.ends_with(&results), "{stdout}");
    assert!(
        stdout.contains(&format!("{first} ")) && stdout.contains(&format!("{missing}: failed\n")),
        "{stdout}"
    );
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(
        stderr.contains(&format!("error: cannot pull {missing}")) && stderr.contains("hint: "),
        "{stderr}"
    );
    let quiet = run(&engine, &["pull", "--quiet", &first, &second]);
    assert_eq!(
        (quiet.status.code(), text(&quiet.stdout)),
        (Some(0), format!("{first_result}{second_result}"))
    );
    assert_eq!(text(&quiet.stderr), "");
    // A name that is not a reference is bad usage, unless another pull was tried.
    assert_eq!(run(&engine, &["pull", "NO", "NO:2"]).status.code(), Some(125));
    let mixed = run(&engine, &["pull", "NO", &second]);
    assert_eq!((mixed.status.code(), text(&mixed.stdout).ends_with(&second_result)), (Some(1), true));
    assert_eq!(run(&engine, &["pull"]).status.code(), Some(125));
    assert_eq!(run(&engine, &["pull", "--limit-rate", "fast", &first]).status.code(), Some(125));
}

#[test]
fn several_detached_pulls_print_their_numbers_and_go_on() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (first, _) = publish(&registry, "first", 100_000, 200_000);
    let (second, _) = publish(&registry, "second", 1000, 0);
    let output = run(&engine, &["pull", "--detach", &first, "NO", &second]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "1\n2\n".to_owned()));
    assert!(text(&output.stderr).contains("error: "));
    engine.wait_until("both to be there", || engine.images().len() == 2);
}

/// Runs this many jobs; returns their numbers.
fn numbers(engine: &Engine, jobs: usize) -> Vec<u64> {
    let number = |_| {
        let mut answers = engine.ask(Request::Verify(Verify { deep: false })).all().into_iter();
        answers
            .find_map(|answer| if let Answer::Job(job) = answer { Some(job.id) } else { None })
            .expect("a job")
    };
    (0..jobs).map(number).collect()
}

#[test]
fn the_numbers_of_jobs_go_on_after_kill_9() {
    let (mut engine, mut last) = (Engine::start(), 0);
    for jobs in [3, 70, 1, 0, 1] {
        let numbers = numbers(&engine, jobs);
        assert!(
            numbers.is_sorted() && numbers.iter().all(|number| *number > last),
            "{numbers:?} after {last}"
        );
        last = numbers.last().copied().unwrap_or(last);
        engine = engine.killed_and_restarted();
    }
}

#[test]
fn jobs_run_without_a_place_for_their_numbers() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(dir.path().join("data/job-ids")).expect("a directory in the way");
    let engine = Engine::start_in(dir);
    assert_eq!(numbers(&engine, 150), (1..=150).collect::<Vec<_>>());
    assert_eq!(engine.log().matches("job-ids, so the next engine").count(), 1, "it is said once");
}

#[test]
fn more_references_than_parallel_pulls_are_printed_in_order() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (references, results): (Vec<String>, Vec<String>) =
        (0..20).map(|nth| publish(&registry, &format!("image{nth}"), 1000, 0)).unzip();
    let args: Vec<&str> =
        ["pull", "--quiet"].into_iter().chain(references.iter().map(String::as_str)).collect();
    let output = run(&engine, &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), results.concat());
}

#[test]
fn ctrl_c_ends_all_pulls() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (first, _) = publish(&registry, "first", 3_000_000, 100_000);
    let (second, _) = publish(&registry, "second", 3_000_000, 100_000);
    let mut child =
        sampan(&engine, &["pull", &first, &second]).stdout(Stdio::piped()).spawn().expect("built");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    // The order in which layers begin does not matter.
    let begun = lines.filter(|line| line.contains(": downloading")).filter(|line| {
        let is_large = |reference: &str| line.starts_with(reference) && line.contains(" MiB");
        is_large(&first) || is_large(&second)
    });
    assert_eq!(begun.take(2).count(), 2);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("ours").signal(), Some(Signal::SIGINT as i32));
    let is_cancelled = |job: &Job| job.state == JobState::Cancelled;
    engine.wait_until("both to end", || engine.jobs().iter().filter(|job| is_cancelled(job)).count() == 2);
}

#[test]
fn all_tags_of_a_repository_are_named_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let (registry, engine) = (DockerRegistry::start(dir.path()), Engine::start());
    let image = Image::of(&[Layer::of(&[("a", b"x")], Packing::Gzip)], "amd64");
    let tags: Vec<String> = ["1", "2"]
        .iter()
        .map(|tag| registry.push(&format!("many:{tag}"), std::slice::from_ref(&image)))
        .collect();
    let output = run(&engine, &["pull", "--all-tags", "--no-unpack", &format!("{}/many", registry.address)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let digest = image.digest();
    assert!(stdout.ends_with(&format!("{}@{digest}\n{}@{digest}\n", tags[0], tags[1])), "{stdout}");
    assert!(engine.named().iter().all(|name| !name.starts_with("layers/")));
}

/// The rank of a state; states of equal rank may come in any order.
fn rank(state: &str) -> u32 {
    match state {
        "waiting" => 0,
        "downloading" => 1,
        "verifying" | "extracting" => 2,
        "complete" | "exists" => 3,
        other => panic!("state {other:?}"),
    }
}

#[test]
fn json_lines_have_their_fields_and_go_one_way() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (first, _) = publish(&registry, "first", 600_000, 300_000);
    let (second, _) = publish(&registry, "second", 300_000, 300_000);
    let missing = registry.reference("missing");
    let output = run(&engine, &["pull", "--progress=json", &first, &missing, &second]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"));
    let (mut layers, mut overall, mut rates) = (HashMap::new(), 0, Vec::new());
    for line in &lines {
        match line["type"].as_str().expect("a type") {
            "layer" => {
                let (current, total) = (number(line, "current"), number(line, "total"));
                assert!(current <= total, "{line}");
                assert_eq!(line["layer"].as_str().expect("hex").len(), 12);
                assert!(
                    line["reference"].is_string() && line["note"].is_string() && line["attempt"].is_u64()
                );
                let now = (rank(line["state"].as_str().expect("a word")), current);
                let before = layers.insert((number(line, "job"), number(line, "index")), now);
                assert!(before.is_none_or(|before| before <= now), "{before:?} and then {line}");
                rates.push(number(line, "rate"));
            }
            "overall" => {
                let current = number(line, "current");
                assert!(overall <= current && current <= number(line, "total"), "{line}");
                overall = current;
                assert_eq!(number(line, "jobs"), 3);
                assert!(line["left"].is_u64() || line["left"].is_null());
            }
            "job" => assert!(line["state"].is_string() && line["layers"].is_u64()),
            "note" => assert!(line["note"].is_string()),
            "result" => {}
            other => panic!("type {other:?}"),
        }
    }
    assert_eq!(layers.len(), 4);
    assert!(layers.values().all(|(rank, _)| *rank == 3), "{layers:?}");
    // The registry sends 300 KB/s.
    let fastest = rates.iter().max().copied().unwrap_or(0);
    assert!((100_000..2_000_000).contains(&fastest), "{rates:?}");
    let results: Vec<(&str, &str)> = lines[lines.len() - 3..]
        .iter()
        .map(|line| (line["asked"].as_str().expect("a reference"), line["state"].as_str().expect("a word")))
        .collect();
    assert_eq!(results, [(first.as_str(), "done"), (&missing, "failed"), (&second, "done")]);
    assert!(lines[lines.len() - 2]["error"].as_str().expect("a reason").contains("cannot pull"));
    assert!(lines[lines.len() - 1]["digest"].as_str().expect("a digest").starts_with("sha256:"));
}

#[test]
fn a_registry_that_is_not_there_is_said_so_at_once() {
    let engine = Engine::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let reference = format!("{}/x:1", listener.local_addr().expect("an address"));
    drop(listener);
    let mut command = sampan(&engine, &["pull", "--tls-verify=false", &reference]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("built");
    let mut line = String::new();
    BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("text");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("ours").signal(), Some(Signal::SIGINT as i32));
    assert!(line.starts_with(&format!("note: manifest of {reference}: retrying in ")), "{line}");
}

/// Runs a pull on a terminal; calls `on_text` with all output so far, whenever there is more.
fn on_terminal(
    engine: &Engine,
    (columns, rows): (u16, u16),
    args: &[&str],
    mut on_text: impl FnMut(&str, &File, u32),
) -> String {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).expect("a pty");
    let slave = File::from(pty.slave);
    let mut command = sampan(engine, args);
    command.env("TERM", "xterm").stdout(slave.try_clone().expect("a descriptor"));
    let mut child = command.spawn().expect("built");
    drop(command);
    let (mut master, mut written, mut buffer) = (File::from(pty.master), Vec::new(), [0; 4096]);
    let mut slave = Some(slave);
    // When the other side is closed, a reader of a pseudoterminal gets EIO.
    while let Ok(len @ 1..) = master.read(&mut buffer) {
        written.extend_from_slice(&buffer[..len]);
        let text = String::from_utf8_lossy(&written);
        if let Some(slave) = &slave {
            on_text(&text, slave, child.id());
        }
        if text.contains("@sha256:") {
            slave = None;
        }
    }
    assert!(child.wait().expect("ours").success(), "{}", engine.log());
    String::from_utf8_lossy(&written).into_owned()
}

/// The drawn lines, without the sequences that erase and move.
fn drawn(written: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in written.split('\n').map(|line| line.trim_end_matches('\r')) {
        let mut plain = String::new();
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\x1b' => drop(chars.find(char::is_ascii_alphabetic)),
                '\r' => plain.clear(),
                c => plain.push(c),
            }
        }
        lines.push(plain);
    }
    lines
}

#[test]
fn no_line_is_wider_and_no_frame_higher_than_the_terminal() {
    let registry = ScriptedRegistry::start();
    for (columns, rows) in [(20, 4), (50, 5), (109, 24), (110, 7), (200, 3)] {
        let engine = Engine::start();
        let (first, _) = publish(&registry, "first", 300_000, 500_000);
        let (second, _) = publish(&registry, "second", 100_000, 500_000);
        let written = on_terminal(&engine, (columns, rows), &["pull", &first, &second], |_, _, _| {});
        let lines = drawn(&written);
        let frames = lines.iter().filter(|line| !line.contains("@sha256:"));
        for line in frames.clone() {
            assert!(line.chars().count() < usize::from(columns), "{columns} columns: {line:?}");
        }
        assert!(frames.clone().any(|line| line.starts_with("2/2 images, 4/4")), "{written}");
        let highest =
            written.split("\x1b[").filter_map(|part| part.split_once('A')?.0.parse::<u16>().ok()).max();
        assert!(highest.expect("redrawn") < rows, "{rows} rows: {written}");
        assert!(!written.contains("\x1b[?25l"), "the cursor is never hidden");
    }
}

#[test]
fn a_terminal_that_is_resized_is_followed_at_once() {
    let (registry, engine) = (ScriptedRegistry::start(), Engine::start());
    let (reference, result) = publish(&registry, "first", 900_000, 300_000);
    let mut resized_at = None;
    let written = on_terminal(&engine, (120, 24), &["pull", &reference], |written, slave, pid| {
        if resized_at.is_none() && written.contains("downloading  [=") {
            let slave = slave.try_clone().expect("a descriptor");
            let status = Command::new("stty").args(["cols", "40"]).stdin(slave).status().expect("coreutils");
            assert!(status.success());
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGWINCH).expect("it runs");
            resized_at = Some(written.len());
        }
    });
    let after = drawn(&written[resized_at.expect("it draws")..]);
    // A frame that was already written when the size changed may still be wide.
    let narrow = after.iter().skip_while(|line| line.contains('[') || line.is_empty());
    assert!(narrow.clone().count() > 4, "{after:?}");
    for line in narrow.filter(|line| !line.contains("@sha256:")) {
        assert!(line.chars().count() < 40 && !line.contains('['), "{line:?} of {after:?}");
    }
    assert!(written.replace('\r', "").ends_with(&result), "{written}");
}
