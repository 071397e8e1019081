//! monitord as a service: bad paths, bad clients, signals, limits, systemd.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use sampan_ipc::watch::{End, Item, Opening, Reason, Request, Subscribe, VERSION, VERSION_MIN};
use sampan_ipc::{Event, frame};
use sampan_tests::host::{Host, PATIENCE, binary, need_root};
use sampan_tests::process;
use sampan_tests::subscriber::Subscriber;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let mut host = Host::with_monitord(&[]);
    let command = host.command("sampan-monitord");
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(100), "{logs}");
    assert!(logs.contains("in use by another sampan-monitord") && logs.contains("events.sock"), "{logs}");
    // Another monitor FIFO, but the same emit FIFO.
    let mut command = host.command("sampan-monitord");
    command.arg("--fifo").arg(host.path("other.fifo")).arg("--socket").arg(host.path("other.sock"));
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(100), "{logs}");
    assert!(logs.contains("in use by another sampan-monitord") && logs.contains("emit.fifo"), "{logs}");
    // Other FIFOs, but the same journal.
    let mut command = host.command("sampan-monitord");
    command.arg("--emit-fifo").arg(host.path("another.fifo"));
    command.arg("--fifo").arg(host.path("other.fifo")).arg("--socket").arg(host.path("other.sock"));
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(100), "{logs}");
    assert_eq!(host.status().pid, host.pid());
}

#[test]
fn a_file_in_the_place_of_the_fifo_is_named_and_left_alone() {
    let mut host = Host::new();
    fs::create_dir(host.path("run")).expect("ours");
    fs::write(host.fifo(), "precious").expect("ours");
    let command = host.command("sampan-monitord");
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(1), "{logs}");
    assert!(logs.contains("monitor.fifo") && logs.contains("a regular file, not a FIFO"), "{logs}");
    assert_eq!(fs::read(host.fifo()).expect("still there"), b"precious");
}

#[test]
fn a_socket_path_that_is_too_long_is_told_with_the_bound() {
    let mut host = Host::new();
    let mut command = host.command("sampan-monitord");
    command.arg("--socket").arg(host.path(&"d".repeat(120)));
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(1), "{logs}");
    assert!(logs.contains("cannot listen on") && logs.contains("at most 107"), "{logs}");
}

#[test]
fn a_user_without_permission_is_told_what_it_may_not_open() {
    need_root();
    const NOBODY: u32 = 65534;
    let mut host = Host::new();
    // The user must be able to reach the program and the directory, so that only the directory's mode refuses access.
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = host.path("sampan-monitord");
    fs::copy(binary("sampan-monitord"), &program).expect("room");
    host.start_monitord(&[]);
    assert!(host.term().success());
    let mut command = host.command_of(&program);
    command.uid(NOBODY).gid(NOBODY);
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(1), "{logs}");
    assert!(logs.contains("cannot listen on") && logs.contains("Permission denied"), "{logs}");

    let mut command = host.command_of(&program);
    command.uid(NOBODY).gid(NOBODY).env("SAMPAN_RUN_DIR", host.path("theirs"));
    let (status, logs) = host.run_to_end(command);
    assert_eq!(status.code(), Some(1), "{logs}");
    assert!(logs.contains("cannot make directory") && logs.contains("Permission denied"), "{logs}");
}

#[test]
fn bad_arguments_and_keys_exit_with_2_and_name_what_is_allowed() {
    let mut host = Host::new();
    let config = host.path("sampan.toml");
    fs::write(&config, "[monitord]\nring-byte = \"1M\"\n").expect("ours");
    let config = config.to_str().expect("a plain path").to_owned();
    let cases = [
        (vec!["--ring-bytes", "lots"], "a size from 128K to 1G"),
        (vec!["--sync", "sometimes"], "always, interval or never"),
        (vec!["--journal-age", "0s"], "a time of 1ms or more"),
        (vec!["--colour"], "--colour"),
        (vec!["--config", &config], "ring-byte"),
        (vec!["--config", "/does/not/exist"], "/does/not/exist"),
    ];
    for (args, expected) in cases {
        let mut command = host.command("sampan-monitord");
        command.args(&args);
        let (status, logs) = host.run_to_end(command);
        assert_eq!(status.code(), Some(2), "{args:?}: {logs}");
        assert!(logs.starts_with("error: ") && logs.contains("hint: "), "{args:?}: {logs}");
        assert!(logs.contains(expected), "{args:?}: {logs}");
    }
    assert!(!host.fifo().exists(), "nothing half-done");
}

/// Connects a thousand subscribers; each has received its welcome.
fn thousand(host: &Host) -> Vec<Subscriber> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("own limit");
    let mut subscribers: Vec<Subscriber> = (0..1000).map(|_| host.follow_from(0)).collect();
    for subscriber in &mut subscribers {
        subscriber.welcome();
    }
    subscribers
}

#[test]
fn sigterm_drains_the_fifo_and_ends_a_thousand_streams() {
    let mut host = Host::with_monitord(&[]);
    let before = process::anonymous_bytes(host.pid());
    let mut subscribers = thousand(&host);
    let each = process::anonymous_bytes(host.pid()).saturating_sub(before) / 1000;
    assert!(each <= 1024, "{each} bytes for each subscriber");
    let sender = host.sender();
    for nth in 0..500 {
        sender.send(Event::new("test", "tick", nth.to_string())).expect("small");
    }
    assert!(sender.flush(PATIENCE));
    host.signal(Signal::SIGTERM);
    thread::scope(|scope| {
        for part in subscribers.chunks_mut(250) {
            scope.spawn(move || {
                for subscriber in part {
                    let (events, end) = subscriber.to_end();
                    assert_eq!(end, End::Shutdown);
                    assert_eq!(events.iter().filter(|event| event.kind == "test").count(), 500);
                    assert_eq!(events.last().map(|event| event.action.as_str()), Some("stop"));
                }
            });
        }
    });
    assert!(host.await_end().success());
    assert!(!host.socket().exists(), "its socket is taken away");
}

#[test]
fn sighup_reads_the_configuration_again_and_survives_a_bad_one() {
    let mut host = Host::new();
    let config = host.path("sampan.toml");
    let write = |text: &str| fs::write(&config, text).expect("ours");
    let bytes_max = |host: &Host| host.status().journal.map(|journal| journal.extent.bytes_max);
    write("[monitord]\njournal-bytes = \"1M\"\n");
    host.start_monitord(&["--config", config.to_str().expect("a plain path")]);
    assert_eq!(bytes_max(&host), Some(1 << 20));

    write("[monitord]\njournal-bytes = \"2M\"\nring-bytes = \"1M\"\n");
    host.signal(Signal::SIGHUP);
    host.wait_until("the new size", || bytes_max(&host) == Some(2 << 20));
    host.await_log("'ring-bytes' changed: this takes effect when");

    write("[monitord]\njournal-byte = \"3M\"\n");
    host.signal(Signal::SIGHUP);
    host.await_log("unknown field `journal-byte`");
    assert_eq!(bytes_max(&host), Some(2 << 20));
    assert!(host.term().success());
}

#[test]
fn sigusr1_logs_the_counters() {
    let host = Host::with_monitord(&[]);
    host.signal(Signal::SIGUSR1);
    host.await_log("skipped_bytes=0");
    assert!(host.logs().contains("seq=1 "), "{}", host.logs());
}

#[test]
fn a_subscriber_takes_less_than_a_kibibyte_and_leaks_none() {
    let host = Host::with_monitord(&[]);
    // The first round grows tables and fills the allocator's caches, so it is not measured.
    drop(thousand(&host));
    host.wait_until("all to be gone", || host.status().subscribers.is_empty());
    let (memory, descriptors) = (process::anonymous_bytes(host.pid()), process::descriptors(host.pid()));
    for _ in 0..3 {
        let subscribers = thousand(&host);
        let each = process::anonymous_bytes(host.pid()).saturating_sub(memory) / 1000;
        assert!(each <= 1024, "{each} bytes more for each subscriber");
        drop(subscribers);
        host.wait_until("all to be gone", || host.status().subscribers.is_empty());
    }
    assert_eq!(process::descriptors(host.pid()), descriptors);
    let after = process::anonymous_bytes(host.pid());
    assert!(after <= memory + (128 << 10), "anonymous memory grew from {memory} to {after}");
}

#[test]
fn an_idle_monitord_never_wakes_up_and_is_small() {
    let host = Host::with_monitord(&[]);
    let mut quiet: Vec<Subscriber> = (0..10).map(|_| host.follow_from(0)).collect();
    for subscriber in &mut quiet {
        assert_eq!(subscriber.event().action, "start");
    }
    // The start is complete, including the first sync, once a second passes without a wake-up.
    let look = || process::context_switches(host.pid());
    let (mut last, mut since) = (look(), Instant::now());
    host.wait_until("monitord to be idle", || {
        let now = look();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
    thread::sleep(Duration::from_secs(5));
    assert_eq!(look(), last, "it woke up for nothing");
    let (anonymous, pss) = (process::anonymous_bytes(host.pid()), process::pss_bytes(host.pid()));
    println!("idle: {} KiB PSS, of them {} KiB anonymous", pss >> 10, anonymous >> 10);
    // In a debug build, code is much of the PSS, so only anonymous memory is checked there.
    assert!(anonymous <= 1 << 20, "{anonymous} bytes of anonymous memory");
    assert!(cfg!(debug_assertions) || pss <= 1 << 20, "{pss} bytes PSS");
}

#[test]
fn too_many_subscribers_of_one_user_are_refused_with_the_limit() {
    let host = Host::with_monitord(&["--subscribers-per-uid-max", "3"]);
    let mut served: Vec<Subscriber> = (0..3).map(|_| host.follow_from(0)).collect();
    for subscriber in &mut served {
        subscriber.welcome();
    }
    let refusal = host.follow_from(0).refusal();
    assert_eq!(refusal.reason, Reason::Limit);
    assert!(refusal.message.contains("3 subscribers of user"), "{}", refusal.message);
    // There is room again as soon as a subscriber disconnects.
    served.pop();
    host.wait_until("room for one more", || matches!(host.follow_from(0).item(), Item::Welcome { .. }));
    served.clear();
    host.wait_until("the refusals to be counted", || {
        let mut status = Subscriber::ask(&host.socket(), Request::Status).expect("monitord serves");
        matches!(status.item(), Item::Status(status) if status.refused > 0)
    });
}

#[test]
fn too_many_subscribers_in_all_are_refused_with_the_limit() {
    let host = Host::with_monitord(&["--subscribers-max", "2"]);
    let mut served = [host.follow_from(0), host.follow_from(0)];
    for subscriber in &mut served {
        subscriber.welcome();
    }
    let refusal = host.follow_from(0).refusal();
    assert_eq!(refusal.reason, Reason::Limit);
    assert!(refusal.message.contains("2 subscribers are served"), "{}", refusal.message);
}

#[test]
fn hostile_clients_get_the_spoken_versions_and_are_closed() {
    let host = Host::with_monitord(&[]);
    let request = Request::Subscribe(Subscribe { follow: true, ..Subscribe::default() });
    let version = frame::encode(&Opening { version: 9, request }).expect("small");
    let cases: [(Vec<u8>, Reason); 5] = [
        (vec![0xff; 64], Reason::Request),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Reason::Request),
        (u32::MAX.to_le_bytes().repeat(2), Reason::Request),
        (frame::encode(&[VERSION, 77]).expect("small"), Reason::Request),
        (version, Reason::Version),
    ];
    for (bytes, reason) in cases {
        let mut client = Subscriber::connect(&host.socket()).expect("monitord serves");
        client.send(&bytes).expect("room");
        let refusal = client.refusal();
        assert_eq!((refusal.reason, refusal.versions), (reason, vec![VERSION, VERSION_MIN]), "{bytes:?}");
        // Bytes that the server has not read turn the close into a reset.
        assert!(!matches!(client.try_next(), Ok(Some(_))), "still open");
    }
    assert_eq!(host.status().subscribers.len(), 0);
}

#[test]
fn a_client_that_goes_on_talking_is_closed_and_others_are_not() {
    let host = Host::with_monitord(&[]);
    let mut other = host.follow_from(0);
    other.welcome();
    let mut talker = host.follow_from(0);
    talker.welcome();
    talker.send(&[0; 1000]).expect("room");
    while matches!(talker.try_next(), Ok(Some(_))) {}
    host.wait_until("the talker to be gone", || host.status().subscribers.len() == 1);
}

#[test]
fn a_client_that_says_nothing_is_closed_after_a_while() {
    let host = Host::with_monitord(&[]);
    let mut silent = Subscriber::connect(&host.socket()).expect("monitord serves");
    assert!(matches!(silent.try_next(), Ok(None)));
    host.await_log("no request within 10 s");
}

/// The socket to which a service sends its state. sd_notify(3).
fn notify_socket(host: &Host) -> UnixDatagram {
    let socket = UnixDatagram::bind(host.path("notify")).expect("ours");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    socket
}

/// Waits until a message contains the line `wanted`.
fn await_message(socket: &UnixDatagram, wanted: &str) {
    let mut bytes = [0; 4096];
    loop {
        let len = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("never told {wanted}: {error}"));
        if String::from_utf8_lossy(&bytes[..len]).lines().any(|line| line == wanted) {
            return;
        }
    }
}

#[test]
fn systemd_passes_fifo_and_listener_and_gets_notifications() {
    let mut host = Host::new();
    fs::create_dir(host.path("run")).expect("ours");
    nix::unistd::mkfifo(&host.fifo(), nix::sys::stat::Mode::from_bits_truncate(0o620)).expect("ours");
    let listener = UnixListener::bind(host.socket()).expect("ours");
    let notify = notify_socket(&host);
    // As systemd does: descriptors from 3 on, and the ID of the process that they are for. sd_listen_fds(3).
    let script = r#"exec 3<>"$1" 4<&0 0</dev/null; LISTEN_PID=$$ exec "$0" --fifo /nowhere/fifo --socket /nowhere/socket"#;
    let mut command = host.command_of("sh".as_ref());
    command.args(["-c", script]).arg(binary("sampan-monitord")).arg(host.fifo());
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "fifo:events");
    command.env("NOTIFY_SOCKET", host.path("notify")).env("WATCHDOG_USEC", "200000");
    host.start(command);
    await_message(&notify, "READY=1");
    await_message(&notify, "WATCHDOG=1");

    let sender = host.sender();
    sender.send(Event::new("test", "tick", "1")).expect("small");
    let mut subscriber = host.follow_from(0);
    subscriber.until(|event| event.id == "1");
    host.signal(Signal::SIGHUP);
    await_message(&notify, "RELOADING=1");
    await_message(&notify, "READY=1");
    assert!(host.term().success());
    await_message(&notify, "STOPPING=1");
    assert!(host.socket().exists() && host.fifo().exists(), "what systemd made is left to it");
}

#[test]
fn logs_carry_priorities_when_the_journal_reads_them() {
    use std::os::unix::fs::MetadataExt;
    let mut host = Host::new();
    let meta = host.log_file().metadata().expect("a file");
    let mut command: Command = host.command("sampan-monitord");
    command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
    host.start(command);
    host.await_log("<6>serving ");
    assert!(host.term().success());
}
