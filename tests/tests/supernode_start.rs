//! The start of the supernode: what it refuses, and what the log then tells the operator to do.

use sampan_tests::host::Host;
use sampan_tests::supernode::Supernode;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// Starts supernode number `number` with additional arguments, which must fail; returns its exit status and its log.
fn refused(number: u8, args: &[&str]) -> (Option<i32>, String) {
    let (status, log) = Host::new().run_to_end(Supernode::new(number, args).command());
    (status.code(), log)
}

#[test]
fn a_start_that_fails_tells_what_can_be_done() {
    let running = Supernode::start(1, &[]);
    let file = running.host().path("file");
    fs::write(&file, "precious").expect("written");
    let open = running.host().path("open");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("ours");
    let below = open.join("home");
    let [file, below, home] = [&file, &below, running.home()].map(|path| path.to_str().expect("text"));
    for (number, args, status, expected) in [
        (1, ["--task-idle", "1m"], 100, "hint: 'ss -ltnp' shows the process that listens there; --port sets"),
        // An address of the documentation's block, which no host has. RFC 5737.
        (2, ["--listen", "192.0.2.1"], 1, "hint: --listen needs an address of this host"),
        (2, ["--home-dir", home], 100, &format!("another supernode uses {home}")),
        (2, ["--home-dir", file], 1, "hint: set --home-dir to "),
        (2, ["--home-dir", below], 1, "hint: set --home-dir to "),
        (2, ["--home-dir", "/proc/x"], 1, "cannot make directory /proc/x"),
        (2, ["--fifo", file], 1, "it is a regular file, not a FIFO"),
        (2, ["--port", "abc"], 2, "error: --port 'abc' is not allowed: expected a number"),
    ] {
        let (code, log) = refused(number, &args);
        assert!(log.contains(expected), "{args:?}: {log}");
        assert!(!log.lines().any(|line| line.trim_end().ends_with("hint:")), "{args:?}: {log}");
        assert_eq!(code, Some(status), "{args:?}: {log}");
    }
    assert_eq!(fs::read(file).expect("there"), b"precious");
}

#[test]
fn an_empty_home_that_others_may_write_is_closed_and_logged() {
    let mut supernode = Supernode::new(1, &[]);
    fs::create_dir(supernode.home()).expect("made");
    fs::set_permissions(supernode.home(), Permissions::from_mode(0o777)).expect("ours");
    supernode.start_again();
    let mode = fs::metadata(supernode.home()).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    let line = format!("mode of {} changed from 0777 to 0700", supernode.home().display());
    assert_eq!(supernode.logs().matches(&line).count(), 1, "{}", supernode.logs());
    supernode.term();
    // HOME has files now.
    fs::set_permissions(supernode.home(), Permissions::from_mode(0o777)).expect("ours");
    let (status, log) = Host::new().run_to_end(supernode.command());
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("lets group or others write") && log.contains("hint: if nobody else"), "{log}");
}

#[test]
fn a_secret_that_every_user_can_read_is_warned_of() {
    let host = Host::new();
    let secret = host.path("secret");
    fs::write(&secret, "correct-horse-battery-staple\n").expect("written");
    for (mode, warnings) in [(0o640, 0), (0o644, 1)] {
        fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("ours");
        let mut supernode = Supernode::new(1, &["--secret-file", secret.to_str().expect("text")]);
        supernode.spawn();
        supernode.wait_until("the ports", || supernode.logs().contains("listening on"));
        let logs = supernode.logs();
        assert_eq!(logs.matches("every user of this host can read the secret").count(), warnings, "{logs}");
        supernode.term();
    }
}

#[test]
fn events_that_nobody_took_are_counted_at_the_end_with_the_cause() {
    let mut supernode = Supernode::start(1, &[]);
    assert!(supernode.term().success());
    let (fifo, logs) = (supernode.host().fifo(), supernode.logs());
    let line = format!("2 events could not be written into the monitor FIFO {}: ", fifo.display());
    let cause = logs.split(&line).nth(1).unwrap_or_else(|| panic!("{logs}"));
    assert!(cause.starts_with("cannot open ") && cause.contains("No such file"), "{logs}");
}
