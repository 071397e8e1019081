//! The supernode's units as `make install` installs them, under a real systemd as process 1.

use sampan_tests::dragonfly::{Peer, Wish, assert_complete};
use sampan_tests::host::wait_until;
use sampan_tests::http_client::{HttpClient, Response};
use sampan_tests::machine::Machine;
use sampan_tests::origin_server::Origin;
use sampan_tests::rounds;
use sampan_tests::supernode::CONTROL;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SERVICE: &str = "sampan-supernode.service";
const SOCKETS: [&str; 2] = ["sampan-supernode.socket", "sampan-supernode-download.socket"];
const SUPERNODE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, CONTROL);
/// The address of a client in the machine's network.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Writes the machine's `sampan.toml`: the table of the supernode, which may fetch from loopback, with `more` keys.
fn configure(machine: &Machine, more: &str) {
    fs::create_dir_all(machine.path("/etc/sampan")).expect("made");
    let text = format!("[supernode]\nallow-origin = [\"127.0.0.0/8\"]\n{more}");
    fs::write(machine.path("/etc/sampan/sampan.toml"), text).expect("written");
}

/// Asks whether the supernode is there, on a connection of its own.
fn ping() -> io::Result<Response> {
    HttpClient::from(CLIENT, SUPERNODE).get("/_ping")
}

/// Downloads a file through the supernode at `supernode`, and compares it.
fn download(supernode: SocketAddrV4) {
    let (origin, content) = Origin::with_file(9 << 20);
    let peer = Peer::new(CLIENT);
    let outcome = peer.download(&[supernode], Wish::of(&origin.url("/file"))).wait();
    assert_complete(&[outcome], &content);
}

/// Lines with owner and mode of files in the machine.
fn stat(machine: &Machine, paths: &[&str]) -> String {
    machine.stdout_of(&[&["stat", "--format", "%U %G %a %n"], paths].concat())
}

#[test]
fn the_first_client_starts_the_supernode_which_serves_it() {
    Machine::installed(|machine| {
        configure(machine, "");
        machine.systemctl(&[&["enable", "--now"], SOCKETS.as_slice()].concat());
        assert_eq!(machine.main_pid(SERVICE), None);
        machine.enter_network();
        download(SUPERNODE);
        machine.await_unit(SERVICE, "active");
        let words = ["sampan", "events", "--after", "0", "--no-follow"];
        let events = || machine.stdout_of(&words);
        let expected = ["daemon start sampan-supernode", "task create ", "task finish ", "peer register "];
        let are_there = || expected.iter().all(|event| events().contains(event));
        wait_until("the events", || format!("{}\n{}", events(), machine.logs()), are_there);
    });
}

#[test]
fn the_supernode_has_a_user_without_privileges_of_its_own() {
    Machine::installed(|machine| {
        configure(machine, "");
        machine.systemctl(&["start", SERVICE, "sampan-engine.socket"]);
        let state = "/var/lib/sampan-supernode";
        let home = format!("{state}/supernode");
        let own = |path: &str, mode: &str| format!("sampan-supernode sampan-supernode {mode} {path}\n");
        let [lock, key] = ["lock", "ticket.key"].map(|name| format!("{home}/{name}"));
        let expected = [own(state, "700"), own(&home, "700"), own(&lock, "600"), own(&key, "600")].concat();
        assert_eq!(stat(machine, &[state, &home, &lock, &key]), expected.trim_end());
        let id = |words: &[&str]| machine.stdout_of(&[&["id"], words].concat());
        let uid = machine.status_of(SERVICE, "Uid:");
        assert!(uid.iter().all(|uid| *uid == id(&["-u", "sampan-supernode"])), "{uid:?}");
        let groups: BTreeSet<String> = machine.status_of(SERVICE, "Groups:").into_iter().collect();
        let known: BTreeSet<String> = id(&["-G", "sampan-supernode"]).split(' ').map(str::to_owned).collect();
        assert_eq!(id(&["-Gn", "sampan-supernode"]), "sampan-supernode sampan-facts");
        assert!(groups.is_subset(&known), "{groups:?}");
        for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
            assert_eq!(machine.status_of(SERVICE, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(machine.status_of(SERVICE, "NoNewPrivs:"), ["1"]);
        let itself = ["setpriv", "--reuid=sampan-supernode", "--regid=sampan-supernode", "--init-groups"];
        let run = |words: &[&str]| {
            machine.run(&[&itself, ["env", "SAMPAN_RUN_DIR=/run/sampan"].as_slice(), words].concat())
        };
        for words in [["sampan", "images"].as_slice(), &["sampan", "emit", "a", "b", "c"]] {
            let refused = run(words);
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && why.contains("Permission denied"), "{words:?}: {refused:?}");
        }
        let fact = ["sampan", "emit", "--fifo", "/run/sampan/monitor.fifo", "task", "create", "x"];
        assert!(run(&fact).status.success());
    });
}

#[test]
fn no_client_is_refused_while_the_supernode_restarts() {
    Machine::installed(|machine| {
        configure(machine, "");
        machine.systemctl(&["enable", "--now", SERVICE]);
        machine.enter_network();
        let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let is_over = AtomicBool::new(false);
        let connect = || {
            while !is_over.load(Ordering::SeqCst) {
                match ping() {
                    Ok(response) if response.status == 200 => served.fetch_add(1, Ordering::SeqCst),
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                        refused.fetch_add(1, Ordering::SeqCst)
                    }
                    // The supernode was killed while it had the connection.
                    _ => continue,
                };
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(connect);
            }
            let all_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..rounds(50) {
                    for words in [
                        ["kill", "--signal=KILL", "--kill-who=main", SERVICE].as_slice(),
                        &["restart", SERVICE],
                        &["stop", SERVICE],
                    ] {
                        machine.run(&[&["systemctl"], words].concat());
                        let before = served.load(Ordering::SeqCst);
                        let goes_on = || served.load(Ordering::SeqCst) > before + 2;
                        wait_until("answers", || machine.logs(), goes_on);
                    }
                }
            }));
            is_over.store(true, Ordering::SeqCst);
            if let Err(panic) = all_well {
                std::panic::resume_unwind(panic);
            }
        });
        assert_eq!(refused.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_bad_configuration_is_final_and_a_mended_one_starts() {
    Machine::installed(|machine| {
        configure(machine, "no-such-key = 1\n");
        assert!(!machine.run(&["systemctl", "start", SERVICE]).status.success());
        machine.await_unit(SERVICE, "failed");
        assert_eq!(machine.property(SERVICE, "ExecMainStatus"), "2");
        assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
        assert!(machine.logs().contains("no-such-key"), "{}", machine.logs());
        // Each client starts the supernode, which turns the client away. The ports stay open.
        machine.enter_network();
        for _ in 0..30 {
            assert!(ping().is_err());
        }
        machine.await_unit(SERVICE, "failed");
        for socket in SOCKETS {
            assert_eq!(machine.property(socket, "SubState"), "listening", "{}", machine.logs());
        }
        configure(machine, "");
        assert_eq!(ping().expect("the next client starts the supernode").status, 200);
        machine.systemctl(&["stop", SERVICE]);
        machine.systemctl(&["start", SERVICE]);
        for unit in SOCKETS.into_iter().chain([SERVICE]) {
            machine.await_unit(unit, "active");
        }
    });
}

#[test]
fn a_secret_for_root_alone_reaches_the_supernode() {
    Machine::installed(|machine| {
        // The lines of docs/systemd.md.
        configure(machine, "secret-file = \"/run/credentials/sampan-supernode.service/secret\"\n");
        machine.drop_in(SERVICE, "[Service]\nLoadCredential=secret:/etc/sampan/supernode.secret\n");
        fs::write(machine.path("/etc/sampan/supernode.secret"), "correct-horse-battery-staple\n")
            .expect("written");
        machine.stdout_of(&["chmod", "600", "/etc/sampan/supernode.secret"]);
        machine.systemctl(&["start", SERVICE]);
        machine.enter_network();
        let status = |authorization: &[(&str, &str)]| {
            let answer = HttpClient::from(CLIENT, SUPERNODE).request("GET", "/version", authorization, b"");
            answer.expect("an answer").status
        };
        assert_eq!(status(&[]), 401);
        assert_eq!(status(&[("Authorization", "Bearer wrong-horse-battery-staple")]), 401);
        assert_eq!(status(&[("Authorization", "Bearer correct-horse-battery-staple")]), 200);
    });
}

#[test]
fn drop_ins_move_the_ports_and_the_directory() {
    Machine::installed(|machine| {
        configure(machine, "home-dir = \"/srv/supernode\"\n");
        for (socket, port) in SOCKETS.into_iter().zip([9002, 9001]) {
            machine.drop_in(socket, &format!("[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"));
        }
        machine.drop_in(SERVICE, "[Service]\nReadWritePaths=/srv/supernode\n");
        let words = ["install", "-d", "-o", "sampan-supernode", "-g", "sampan-supernode", "-m", "700"];
        machine.stdout_of(&[&words, ["/srv/supernode"].as_slice()].concat());
        machine.systemctl(&["start", SERVICE]);
        machine.enter_network();
        let refused = ping().expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        download(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9002));
        let names = machine.stdout_of(&["ls", "/srv/supernode"]);
        assert!(names.lines().any(|name| name == "tasks"), "{names}");
    });
}

#[test]
fn uninstalled_the_supernode_leaves_nothing_but_data() {
    Machine::installed(|machine| {
        configure(machine, "");
        machine.systemctl(&["enable", "--now", SERVICE]);
        // The commands of docs/systemd.md.
        machine.systemctl(&[&["disable", "--now", SERVICE], SOCKETS.as_slice()].concat());
        let events = ["sampan-monitord.service", "sampan-monitord.socket", "sampan-emit.socket"];
        machine.systemctl(&[&["disable", "--now"], events.as_slice(), &["sampan-events.socket"]].concat());
        machine.systemctl(&["stop", "hold-sampan-fifo@monitor.service", "hold-sampan-fifo@emit.service"]);
        machine.uninstall();
        machine.systemctl(&["daemon-reload"]);
        assert_eq!(machine.stdout_of(&["systemctl", "list-units", "--all", "--no-legend", "*sampan*"]), "");
        assert_eq!(machine.files_in_usr(), Vec::<PathBuf>::new());
        let left = machine.stdout_of(&["find", "/etc/systemd", "/var/lib", "-name", "*sampan*"]);
        let left: BTreeSet<&str> = left.lines().collect();
        assert_eq!(left, ["/var/lib/sampan-monitord", "/var/lib/sampan-supernode"].into());
    });
}
