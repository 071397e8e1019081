//! Two FIFOs: facts come by one, all other events by the other, with a mark; no other program can forge a fact.

use nix::sys::signal::Signal;
use nix::unistd::{Gid, chown};
use sampan_ipc::event::{EMITTED_TAG, FACT_KINDS, Origin};
use sampan_ipc::watch::{Item, Subscribe};
use sampan_ipc::{Event, record, time};
use sampan_tests::engine::Engine;
use sampan_tests::host::{Host, PATIENCE, binary, need_root, wait_until};
use sampan_tests::process;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn sampan(host: &Host, args: &[&str]) -> Output {
    host.command("sampan").args(args).output().expect("built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn opened(path: &Path) -> File {
    File::options().write(true).open(path).expect("monitord made it")
}

/// All of history.
fn history(host: &Host) -> Vec<Event> {
    host.subscribe(Subscribe { after: Some(0), ..Subscribe::default() }).to_end().0
}

/// Waits until an event with this ID can be read.
fn await_id(host: &Host, id: &str) {
    let wish = Subscribe { after: Some(0), filters: vec![format!("id={id}")], ..Subscribe::default() };
    host.wait_until(&format!("event {id}"), || !host.subscribe(wish.clone()).to_end().0.is_empty());
}

#[test]
fn emit_refuses_every_type_of_facts_by_name_and_writes_nothing() {
    let host = Host::with_monitord(&[]);
    let emit_fifo = host.emit_fifo().to_str().expect("a plain path").to_owned();
    for kind in FACT_KINDS {
        for args in [&["emit", kind, "die", "web"][..], &["emit", kind, "die", "web", "--fifo", &emit_fifo]] {
            let output = sampan(&host, args);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(&format!("type {kind:?} is not allowed")), "{stderr}");
            assert!(stderr.contains("\nhint: ") && stderr.contains("monitor.fifo"), "{stderr}");
        }
    }
    let mut batch = host.command("sampan");
    batch.args(["emit", "--batch"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut batch = batch.spawn().expect("built");
    let lines = b"{\"type\":\"backup\",\"action\":\"done\",\"id\":\"1\"}\n{\"type\":\"image\",\"action\":\"pull\",\"id\":\"2\"}\n";
    batch.stdin.take().expect("piped").write_all(lines).expect("read");
    let output = batch.wait_with_output().expect("ours");
    let stderr = text(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("line 2: type \"image\""), "{stderr}");
    await_id(&host, "1");
    let told: Vec<Event> = history(&host).into_iter().filter(|event| event.kind != "backup").collect();
    assert!(told.iter().all(|event| event.kind == "daemon" && event.action == "start"), "{told:?}");
    // A process that may write to the monitor FIFO can still write any type.
    let facts = host.fifo();
    let args = ["emit", "volume", "create", "mine", "--fifo", facts.to_str().expect("a plain path")];
    assert!(sampan(&host, &args).status.success());
    await_id(&host, "mine");
    let fact = history(&host).into_iter().find(|event| event.id == "mine").expect("taken");
    assert_eq!(fact.origin, Origin::Facts);
}

#[test]
fn facts_in_the_emit_fifo_are_refused_whatever_bytes_they_have() {
    let mut host = Host::with_monitord(&[]);
    let mut reader = host.follow_from(0);
    let mut fifo = opened(&host.emit_fifo());
    let forged = |kind: &str, nth: u64| {
        let event = Event { writer: 1, counter: nth, lost: 3, ..Event::new(kind, "die", "forged") };
        record::encode(&event.with("exitCode", 1).with("origin", "facts")).expect("small")
    };
    let mut counter = 0;
    let mut garbage = 0;
    for kind in FACT_KINDS {
        counter += 1;
        let good = forged(kind, counter);
        fifo.write_all(&good).expect("room");
        // A tag of its own, a flag, or another version: none of these is a record.
        for (at, value) in [(record::HEADER_LEN, EMITTED_TAG), (record::HEADER_LEN, 1), (5, 1), (4, 2)] {
            let mut bad = good.clone();
            bad[at] = value;
            let crc = crc32c::crc32c(&bad[record::HEADER_LEN..]);
            bad[8..12].copy_from_slice(&crc.to_le_bytes());
            garbage += bad.len() as u64;
            fifo.write_all(&bad).expect("room");
        }
    }
    // Types that only resemble those of facts are allowed.
    for kind in ["containers", "daemon-x", "my.image", "tasks"] {
        let event = Event { writer: 2, counter: 1, ..Event::new(kind, "die", "allowed") };
        fifo.write_all(&record::encode(&Event { kind: kind.into(), ..event }).expect("small")).expect("room");
    }
    let (mut told, mut first, mut skipped, mut allowed) = (0, String::new(), 0, 0);
    while told < FACT_KINDS.len() as u64 || skipped < garbage || allowed < 4 {
        let event = reader.event();
        assert_ne!(event.id, "forged", "{event:?}");
        let number = |key| event.attributes.get(key).and_then(|n| n.parse::<u64>().ok()).expect("a number");
        match event.action.as_str() {
            "emit-refused" => {
                told += number("count");
                if first.is_empty() {
                    first = event.attributes.get("type").unwrap_or_default().to_owned();
                }
            }
            "fifo-garbage" => {
                assert_eq!(event.attributes.get("fifo"), Some("emit"));
                skipped += number("bytes");
            }
            "die" => {
                assert_eq!((event.id.as_str(), event.origin), ("allowed", Origin::Emit));
                allowed += 1;
                continue;
            }
            _ => {}
        }
        assert_eq!((event.kind.as_str(), event.origin), ("daemon", Origin::Facts), "{event:?}");
    }
    assert_eq!((told, first.as_str(), skipped), (FACT_KINDS.len() as u64, FACT_KINDS[0], garbage));
    host.signal(Signal::SIGUSR1);
    host.await_log(&format!("emit_refused={}", FACT_KINDS.len()));
    host.await_log("records of the emit FIFO, the first of type container");
    assert!(history(&host).iter().all(|event| event.id != "forged"));
    assert_eq!(host.status().writers_lost, 0, "a refused record says nothing");
    assert!(host.term().success());
}

#[test]
fn a_flood_of_forged_records_costs_one_report_per_second() {
    let host = Host::with_monitord(&[]);
    let since = std::time::Instant::now();
    let emitter = host.emitter();
    for nth in 0..50_000 {
        emitter.send(Event::new("container", "die", nth.to_string())).expect("small");
    }
    assert!(emitter.flush(PATIENCE));
    emitter.send(Event::new("flood", "end", "end")).expect("small");
    await_id(&host, "end");
    let refused = |host: &Host| -> Vec<u64> {
        let told = history(host).into_iter().filter(|event| event.action == "emit-refused");
        told.map(|event| event.attributes.get("count").expect("a count").parse().expect("a number")).collect()
    };
    host.wait_until("all to be told", || refused(&host).iter().sum::<u64>() == 50_000);
    let (events, bound) = (refused(&host).len() as u64, since.elapsed().as_secs() + 2);
    assert!(events <= bound, "{events} events");
    let lines = host.logs().matches("records of the emit FIFO").count() as u64;
    assert!(lines <= bound, "{lines} log lines");
}

#[test]
fn marks_are_in_every_format_and_filter_and_outlive_a_restart() {
    let mut host = Host::with_monitord(&[]);
    assert!(sampan(&host, &["emit", "backup", "done", "theirs", "origin=facts"]).status.success());
    host.sender().send(Event::new("backup", "done", "ours")).expect("small");
    for id in ["theirs", "ours"] {
        await_id(&host, id);
    }
    for round in 0..3 {
        let print = |more: &[&str]| {
            let args = [&["events", "--after", "0", "--no-follow", "-f", "type=backup"], more].concat();
            let output = sampan(&host, &args);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let line = print(&["-f", "id=theirs"]);
        assert!(line.ends_with(" backup done theirs (origin=emit, origin=facts)\n"), "{line}");
        assert!(print(&["-f", "id=ours"]).ends_with(" backup done ours\n"));
        let json: serde_json::Value =
            serde_json::from_str(&print(&["-f", "id=theirs", "--format", "json"])).expect("JSON");
        assert_eq!((&json["origin"], &json["attributes"]["origin"]), (&"emit".into(), &"facts".into()));
        assert!(!print(&["-f", "id=ours", "--format", "json"]).contains("origin"));
        let logfmt = print(&["-f", "id=theirs", "--format", "logfmt"]);
        assert!(logfmt.ends_with(" id=theirs origin=emit attr.origin=facts\n"), "{logfmt}");
        assert!(!print(&["-f", "id=ours", "--format", "logfmt"]).contains("origin"));
        let ids = |origin: &str| {
            let printed = print(&["-f", &format!("origin={origin}"), "--format", "json"]);
            let ids = printed.lines().map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"]
                    .as_str()
                    .expect("text")
                    .to_owned()
            });
            ids.collect::<Vec<_>>()
        };
        assert_eq!((ids("emit"), ids("facts")), (vec!["theirs".to_owned()], vec!["ours".to_owned()]));
        // First from the ring, then from the journal after a restart, and once more.
        if round == 0 {
            host.kill9();
        } else {
            assert!(host.term().success());
        }
        host.start_monitord(&[]);
    }
    let output = sampan(&host, &["events", "-f", "origin=engine"]);
    let stderr = text(&output.stderr);
    assert!(!output.status.success() && stderr.contains("origins are facts, emit"), "{stderr}");
    let wrong = Subscribe { filters: vec!["origin=engine".into()], ..Subscribe::default() };
    assert!(host.subscribe(wrong).refusal().message.contains("origins are facts, emit"));
}

#[test]
fn what_events_prints_of_an_emitted_event_can_be_emitted_again() {
    let host = Host::with_monitord(&[]);
    assert!(sampan(&host, &["emit", "backup", "done", "once"]).status.success());
    await_id(&host, "once");
    let printed =
        sampan(&host, &["events", "--after", "0", "--no-follow", "-f", "type=backup", "--format", "json"]);
    assert!(text(&printed.stdout).contains(r#""origin":"emit""#));
    let mut batch =
        host.command("sampan").args(["emit", "--batch"]).stdin(Stdio::piped()).spawn().expect("built");
    batch.stdin.take().expect("piped").write_all(&printed.stdout).expect("read");
    assert!(batch.wait().expect("ours").success());
    host.wait_until("the second one", || {
        history(&host).iter().filter(|event| event.id == "once").count() == 2
    });
}

#[test]
fn the_largest_emitted_record_is_taken_and_one_byte_more_is_not() {
    let mut host = Host::with_monitord(&[]);
    let sized = |padding: usize| Event::new("backup", "done", "large").with("padding", "x".repeat(padding));
    let fits = |padding: usize| record::encode(&sized(padding)).is_ok();
    let largest = (0..record::RECORD_MAX).rev().find(|padding| fits(*padding)).expect("one that fits");
    assert_eq!(record::encode(&sized(largest)).expect("fits").len(), record::RECORD_MAX);
    let emitter = host.emitter();
    emitter.send(sized(largest + 1)).expect_err("too large");
    for _ in 0..100 {
        emitter.send(sized(largest)).expect("fits");
    }
    assert!(emitter.flush(PATIENCE));
    let check = |host: &Host| {
        let large: Vec<Event> = history(host).into_iter().filter(|event| event.id == "large").collect();
        let is_whole =
            |event: &Event| event.attributes.get("padding").is_some_and(|text| text.len() == largest);
        assert!(large.iter().all(|event| event.origin == Origin::Emit && is_whole(event)));
        large.len()
    };
    host.wait_until("all of them", || check(&host) == 100);
    host.kill9();
    host.start_monitord(&[]);
    assert_eq!(check(&host), 100);
    assert!(!host.logs().contains("damaged"), "{}", host.logs());
}

#[test]
fn an_emitted_record_cannot_pass_for_the_repeat_of_a_fact() {
    let mut host = Host::with_monitord(&[]);
    // Opened for reading too, so that the FIFO keeps what is written while no monitord runs.
    let hold = |path: &Path| File::options().read(true).write(true).open(path).expect("monitord made it");
    let (mut facts, mut emit) = (hold(&host.fifo()), hold(&host.emit_fifo()));
    let bytes = |kind: &str, counter, id: &str| {
        let event = Event { writer: 7, counter, time: 1, ..Event::new(kind, "tick", id) };
        record::encode(&event).expect("small")
    };
    facts.write_all(&bytes("container", 1, "first")).expect("room");
    // An attacker that has seen the engine's identity on the socket writes a record with the engine's next number.
    emit.write_all(&bytes("backup", 2, "thief")).expect("room");
    for id in ["first", "thief"] {
        await_id(&host, id);
    }
    host.kill9();
    facts.write_all(&bytes("container", 1, "first")).expect("held open");
    facts.write_all(&bytes("container", 2, "second")).expect("held open");
    emit.write_all(&bytes("backup", 2, "thief")).expect("held open");
    emit.write_all(&bytes("backup", 1, "other")).expect("held open");
    host.start_monitord(&[]);
    for id in ["second", "other"] {
        await_id(&host, id);
    }
    let ids: Vec<String> = history(&host).into_iter().filter(|e| e.kind != "daemon").map(|e| e.id).collect();
    assert_eq!(ids, ["first", "thief", "second", "other"], "a real repeat is known, and nothing else");
    assert_eq!(host.status().repeated, 2);
}

/// Fills one FIFO while monitord is stopped, and then writes a single event to the other one. That event does not have
/// to wait until the full FIFO is empty.
fn overtake(args: &[&str], full: Origin) {
    let host = Host::with_monitord(args);
    let (loud, quiet) = match full {
        Origin::Emit => (host.emit_fifo(), host.fifo()),
        Origin::Facts => (host.fifo(), host.emit_fifo()),
    };
    host.signal(Signal::SIGSTOP);
    host.wait_until("monitord to be stopped", || process::state(host.pid()) == 'T');
    let record = |kind: &str, counter| {
        let event = Event { writer: 5, counter, ..Event::new(kind, "tick", "x") };
        record::encode(&event.with("padding", "x".repeat(100))).expect("small")
    };
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut fifo = File::options().write(true).custom_flags(flags).open(loud).expect("monitord made it");
    let mut sent = 0;
    while fifo.write(&record("loud", sent + 1)).is_ok() {
        sent += 1;
    }
    opened(&quiet).write_all(&record("quiet", 1)).expect("room");
    host.signal(Signal::SIGCONT);
    host.wait_until("all to be taken", || {
        history(&host).iter().filter(|event| event.kind == "loud" || event.kind == "quiet").count() as u64
            == sent + 1
    });
    let before = history(&host).iter().take_while(|event| event.kind != "quiet").count();
    // Two windows of 64 KiB per turn; twice that, since the turn in which monitord was stopped may have begun already.
    let bound = 4 * (64 << 10) / record("loud", 1).len() + 2;
    assert!(sent > 2 * bound as u64, "only {sent} fill a FIFO");
    assert!(before <= bound, "{before} of {sent} came first, at most {bound} may");
}

#[test]
fn an_event_waits_for_only_a_few_windows_of_the_other_fifo() {
    for args in [&[][..], &["--sync", "always"]] {
        for full in [Origin::Emit, Origin::Facts] {
            overtake(args, full);
        }
    }
}

/// While two writers keep one FIFO full, events of the other FIFO still arrive one after the other.
fn flood(args: &[&str], flooded: Origin) {
    let host = Host::with_monitord(&[&["--journal-bytes", "4M"], args].concat());
    let (loud, quiet) = match flooded {
        Origin::Emit => (host.emit_fifo(), host.sender()),
        Origin::Facts => (host.fifo(), host.emitter()),
    };
    let wish = Subscribe { filters: vec!["type=quiet".into()], follow: true, ..Subscribe::default() };
    let mut reader = host.subscribe(wish);
    reader.welcome();
    let flooding = AtomicBool::new(true);
    thread::scope(|scope| {
        for writer in 1..=2u64 {
            let (loud, flooding) = (&loud, &flooding);
            scope.spawn(move || {
                let mut fifo = opened(loud);
                for counter in 1.. {
                    if !flooding.load(Ordering::Relaxed) {
                        return;
                    }
                    let event = Event { writer, counter, ..Event::new("loud", "tick", counter.to_string()) };
                    // The write blocks while the FIFO is full, so the FIFO is never empty.
                    fifo.write_all(&record::encode(&event).expect("small")).expect("monitord reads");
                }
            });
        }
        host.wait_until("the flood to run", || host.status().seq > 5_000);
        let before = host.status().seq;
        for nth in 0..100 {
            quiet.send(Event::new("quiet", "tick", nth.to_string())).expect("small");
            let event = reader.event();
            assert_eq!(event.id, nth.to_string());
            assert_ne!(event.origin, flooded);
        }
        host.wait_until("the flood to go on", || host.status().seq > before + 1_000);
        flooding.store(false, Ordering::Relaxed);
    });
}

#[test]
fn a_flood_of_emitted_events_does_not_hold_back_facts() {
    flood(&[], Origin::Emit);
}

#[test]
fn a_flood_of_facts_does_not_hold_back_emitted_events() {
    flood(&[], Origin::Facts);
}

#[test]
fn with_sync_always_a_flood_does_not_delay_the_other_fifo() {
    flood(&["--sync", "always"], Origin::Emit);
    flood(&["--sync", "always"], Origin::Facts);
}

/// Lines of /etc/group.
const GROUPS: &str = "root:x:0:\nsampan:x:64401:\nsampan-facts:x:64402:\n";
const GROUP: u32 = 64401;
const FACTS_GROUP: u32 = 64402;

/// Starts monitord as root on a host with these groups: a mount namespace has them in /etc/group.
fn with_groups(host: &mut Host, groups: &str) {
    fs::write(host.path("group"), groups).expect("written");
    let script = r#"mount --bind "$1" /etc/group && exec "$0""#;
    let mut command = host.command_of("unshare".as_ref());
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.arg(binary("sampan-monitord")).arg(host.path("group"));
    // Other users must be able to reach the FIFOs, so that only the FIFOs' modes refuse access.
    fs::create_dir_all(host.path("run")).expect("ours");
    for dir in ["", "run"] {
        fs::set_permissions(host.path(dir), Permissions::from_mode(0o755)).expect("ours");
    }
    host.start(command);
}

/// Whether an unprivileged process of this group can open the file for writing, and for reading.
fn may(group: u32, path: &Path) -> (bool, bool) {
    let open = |how: &str| {
        let mut command = Command::new("timeout");
        command.args(["10", "sh", "-c", how]).arg("sh").arg(path).uid(65_534).gid(group);
        command.stderr(Stdio::null()).status().expect("a shell").success()
    };
    (open(r#": >>"$1""#), open(r#": <>"$1""#) || open(r#": <"$1""#))
}

#[test]
fn a_member_of_sampan_may_emit_but_not_write_facts() {
    need_root();
    let mut host = Host::new();
    with_groups(&mut host, GROUPS);
    assert_eq!(may(GROUP, &host.emit_fifo()), (true, false));
    assert_eq!(may(GROUP, &host.fifo()), (false, false));
    assert_eq!(may(FACTS_GROUP, &host.emit_fifo()), (false, false));
    assert_eq!(may(FACTS_GROUP, &host.fifo()), (true, false));
    assert_eq!((may(65_534, &host.emit_fifo()), may(65_534, &host.fifo())), ((false, false), (false, false)));
    let owned = |path: &Path| {
        fs::metadata(path).map(|meta| (meta.uid(), meta.gid(), meta.mode() & 0o7777)).expect("there")
    };
    assert_eq!(owned(&host.fifo()), (0, FACTS_GROUP, 0o620));
    assert_eq!(owned(&host.emit_fifo()), (0, GROUP, 0o620));
}

#[test]
fn without_the_groups_the_fifos_are_their_owners_alone() {
    need_root();
    let mut host = Host::new();
    with_groups(&mut host, "root:x:0:\nsampanx:x:64401:\n");
    for path in [host.fifo(), host.emit_fifo()] {
        let meta = fs::metadata(&path).expect("there");
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o600));
        assert_eq!(may(GROUP, &path), (false, false));
    }
}

#[test]
fn fifos_that_another_installation_left_are_put_right() {
    need_root();
    let mut host = Host::new();
    fs::create_dir(host.path("run")).expect("ours");
    for path in [host.fifo(), host.emit_fifo()] {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("ours");
        chown(&path, Some(65_534.into()), Some(Gid::from_raw(65_534))).expect("root may");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("ours");
    }
    with_groups(&mut host, GROUPS);
    for (path, group) in [(host.fifo(), FACTS_GROUP), (host.emit_fifo(), GROUP)] {
        let meta = fs::metadata(&path).expect("there");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, group, 0o620));
    }
    let logs = host.logs();
    assert!(logs.contains("from user 65534 to") && logs.contains("from 666 to"), "{logs}");
}

/// Starts a monitord that gets both FIFOs and the listener under these names, as from systemd.
fn passed(names: &str) {
    let mut host = Host::new();
    fs::create_dir(host.path("run")).expect("ours");
    for path in [host.fifo(), host.emit_fifo()] {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
            .expect("ours");
    }
    let listener = UnixListener::bind(host.socket()).expect("ours");
    // The emit FIFO comes first: a descriptor is recognized by its name, or else by its file.
    let script = r#"exec 3<>"$1" 4<>"$2" 5<&0 0</dev/null; LISTEN_PID=$$ exec "$0" --emit-fifo "$1" --fifo /nowhere/fifo --socket /nowhere/socket"#;
    let mut command = host.command_of("sh".as_ref());
    command.args(["-c", script]).arg(binary("sampan-monitord")).arg(host.emit_fifo()).arg(host.fifo());
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command.env("LISTEN_FDS", "3").env("LISTEN_FDNAMES", names);
    host.start(command);
    host.emitter().send(Event::new("test", "tick", "theirs")).expect("small");
    host.sender().send(Event::new("container", "start", "ours")).expect("small");
    for id in ["theirs", "ours"] {
        await_id(&host, id);
    }
    let origin = |id: &str| history(&host).into_iter().find(|event| event.id == id).map(|event| event.origin);
    assert_eq!((origin("theirs"), origin("ours")), (Some(Origin::Emit), Some(Origin::Facts)));
}

#[test]
fn passed_fifos_are_known_by_their_names_or_by_their_files() {
    passed("emit:fifo:events");
    passed("unknown:unknown:unknown");
}

#[test]
fn fifo_content_outlives_monitord_while_the_engine_holds_it() {
    // An engine and a monitord of one directory.
    let mut host = Host::new();
    fs::create_dir(host.path("run")).expect("ours");
    let engine = Engine::start_by(tempfile::tempdir().expect("a directory"), &mut {
        let mut command = host.command("sampan-engine");
        command.arg("--fifo").arg(host.fifo()).arg("--emit-fifo").arg(host.emit_fifo());
        command
    });
    host.wait_until("the engine to make both", || host.fifo().exists() && host.emit_fifo().exists());
    for round in 0..4 {
        // The writer ends before monitord starts: meanwhile only the engine has the FIFO open.
        for (nth, path) in [host.fifo(), host.emit_fifo()].into_iter().enumerate() {
            let event = Event {
                writer: 90,
                counter: round + 1,
                ..Event::new("test", "tick", format!("{round}-{nth}"))
            };
            let bytes = record::encode(&Event { time: time::now(), ..event }).expect("small");
            opened(&path).write_all(&bytes).expect("room");
        }
        host.start_monitord(&[]);
        for nth in 0..2 {
            await_id(&host, &format!("{round}-{nth}"));
        }
        if round == 1 {
            assert!(host.term().success());
        } else {
            host.kill9();
        }
        if round >= 1 {
            for path in [host.fifo(), host.emit_fifo()] {
                let other = host.path("run/other");
                nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
                    .expect("ours");
                fs::rename(&other, &path).expect("replaced");
                let is_held = || {
                    let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK;
                    nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()).is_ok()
                };
                wait_until("the engine to hold the new one", || host.logs(), is_held);
            }
        }
    }
    host.start_monitord(&[]);
    assert_eq!(history(&host).iter().filter(|event| event.kind == "test").count(), 8, "each once");
    drop(engine);
}

#[test]
fn own_events_of_monitord_are_facts() {
    let host = Host::with_monitord(&[]);
    let mut reader = host.follow_from(0);
    reader.welcome();
    match reader.item() {
        Item::Event(event) => assert_eq!((event.kind.as_str(), event.action.as_str()), ("daemon", "start")),
        item => panic!("not a fact: {item:?}"),
    }
}

#[test]
fn a_writer_that_locks_a_fifo_keeps_no_monitord_out() {
    use nix::fcntl::{Flock, FlockArg};
    let mut host = Host::with_monitord(&[]);
    let open =
        |path: std::path::PathBuf| std::fs::File::options().write(true).open(path).expect("monitord made it");
    let lock = |file| Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
    let locks = [lock(open(host.fifo())), lock(open(host.emit_fifo()))];
    assert!(locks.iter().all(Result::is_ok), "the lock means nothing: {locks:?}");
    host.kill9();
    host.start_monitord(&[]);
    let (status, says) = host.run_to_end(host.command("sampan-monitord"));
    assert_eq!(status.code(), Some(100), "a second one is kept out all the same: {says}");
}

#[test]
fn a_writer_with_anothers_identity_suppresses_no_event() {
    use std::io::Write;
    let mut host = Host::with_monitord(&[]);
    let record = |counter: u64, id: &str| {
        let event = Event { writer: 7, counter, ..Event::new("backup", "done", id) };
        sampan_ipc::record::encode(&event).expect("small")
    };
    let mut fifo = std::fs::File::options().read(true).write(true).open(host.emit_fifo()).expect("there");
    for counter in 2..6 {
        fifo.write_all(&record(counter, "forged")).expect("room");
    }
    host.await_seq(5);
    host.kill9();
    for counter in 2..6 {
        fifo.write_all(&record(counter, &format!("true-{counter}"))).expect("room");
    }
    host.start_monitord(&[]);
    host.await_seq(10);
    let mut past = host.subscribe(Subscribe {
        after: Some(0),
        filters: vec!["type=backup".into()],
        ..Subscribe::default()
    });
    let ids: Vec<String> = past.to_end().0.into_iter().map(|event| event.id).collect();
    assert_eq!(ids[4..], ["true-2", "true-3", "true-4", "true-5"]);
}
