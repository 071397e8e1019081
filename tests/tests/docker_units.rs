//! The units of the Docker API as `make install` installs them, under a real systemd as process 1.

use sampan_tests::host::wait_until;
use sampan_tests::machine::Machine;
use std::process::Output;

const SERVICE: &str = "sampan-docker-api.service";
const SOCKET: &str = "sampan-docker-api.socket";
const PATH: &str = "/run/sampan/docker.sock";
/// Ends the gateway soon after its last client.
const SHORT_IDLE: &str = "[Service]\nExecStart=\nExecStart=/usr/bin/sampan-docker-api --idle-timeout 300ms\n";

/// Runs curl on the socket in the machine, with `words` before it.
fn curl(machine: &Machine, words: &[&str], path: &str) -> Output {
    let url = format!("http://docker{path}");
    let curl = ["curl", "--silent", "--show-error", "--fail-with-body", "--unix-socket", PATH, url.as_str()];
    machine.run(&[words, curl.as_slice()].concat())
}

/// Asks root's curl for `path`; the answer must be a success.
fn get(machine: &Machine, path: &str) -> String {
    let output = curl(machine, &[], path);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {}{stderr}\n{}", text(&output), machine.logs());
    text(&output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_first_client_starts_the_gateway_which_ends_when_idle() {
    Machine::installed(|machine| {
        machine.drop_in(SERVICE, SHORT_IDLE);
        machine.systemctl(&["enable", "--now", SOCKET]);
        assert_eq!(machine.main_pid(SERVICE), None);
        for _ in 0..3 {
            assert_eq!(get(machine, "/_ping"), "OK");
            wait_until("the idle end", || machine.logs(), || machine.main_pid(SERVICE).is_none());
            machine.await_unit(SERVICE, "inactive");
            assert_eq!(machine.property(SERVICE, "Result"), "success");
        }
        assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
        assert_eq!(machine.property(SOCKET, "SubState"), "listening");
    });
}

#[test]
fn through_the_unit_a_client_reaches_engine_and_monitord() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", SOCKET, "sampan-engine.socket", "sampan-events.socket"]);
        // The gateway starts the engine and monitord as any client does.
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        machine.import_box();
        assert!(get(machine, "/images/json").contains("box:1"));
        assert!(get(machine, "/events?since=0&until=9").is_empty());
        assert!(get(machine, "/info").contains("\"ID\":"));
        // ps(1) must see processes of root from within the unit.
        machine.stdout_of(&["sampan", "run", "--detach", "--name", "web", "box:1", "sleep", "2001"]);
        assert!(get(machine, "/containers/web/top").contains("sleep 2001"));
    });
}

#[test]
fn a_member_of_sampan_admin_may_connect_and_nobody_else() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", SOCKET]);
        let stat = machine.stdout_of(&["stat", "--format", "%U %G %a %F", PATH]);
        assert_eq!(stat, "root sampan-admin 660 socket");
        let user = |group: &str| {
            let groups = format!("--groups={group}");
            curl(machine, &["setpriv", "--reuid=12345", "--regid=12345", &groups], "/_ping")
        };
        assert_eq!(text(&user("sampan-admin")), "OK");
        for group in ["sampan", "sampan-facts"] {
            let refused = user(group);
            // curl(1): 7 is "Failed to connect to host".
            assert_eq!(refused.status.code(), Some(7), "{group}: {refused:?}");
        }
    });
}

#[test]
fn the_gateway_has_a_user_with_two_groups_and_no_privileges() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", SERVICE]);
        let id = |words: &[&str]| machine.stdout_of(&[&["id"], words, &["sampan-docker-api"]].concat());
        let uid = machine.status_of(SERVICE, "Uid:");
        assert!(uid.iter().all(|uid| *uid == id(&["-u"])), "{uid:?}");
        let groups = id(&["-Gn"]);
        let mut groups: Vec<&str> = groups.split(' ').collect();
        groups.sort_unstable();
        assert_eq!(groups, ["sampan", "sampan-admin", "sampan-docker-api"]);
        for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
            assert_eq!(machine.status_of(SERVICE, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(machine.status_of(SERVICE, "NoNewPrivs:"), ["1"]);
    });
}

#[test]
fn a_killed_gateway_comes_back_and_serves() {
    Machine::installed(|machine| {
        machine.systemctl(&["start", SOCKET]);
        assert_eq!(get(machine, "/_ping"), "OK");
        let killed = machine.main_pid(SERVICE).expect("it waits for clients");
        machine.systemctl(&["kill", "--signal=KILL", "--kill-who=main", SERVICE]);
        let is_new = || machine.main_pid(SERVICE).is_some_and(|pid| pid != killed);
        wait_until("another process", || machine.logs(), is_new);
        assert_eq!(get(machine, "/_ping"), "OK");
    });
}

#[test]
fn bad_arguments_are_final_and_the_socket_stays_open() {
    Machine::installed(|machine| {
        let broken = SHORT_IDLE.replace("300ms", "soon");
        machine.drop_in(SERVICE, &broken);
        machine.systemctl(&["start", SOCKET]);
        for _ in 0..30 {
            assert!(!curl(machine, &[], "/_ping").status.success());
        }
        machine.await_unit(SERVICE, "failed");
        assert_eq!(machine.property(SERVICE, "ExecMainStatus"), "2");
        assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
        assert!(machine.logs().contains("--idle-timeout \"soon\" is not a duration"), "{}", machine.logs());
        assert_eq!(machine.property(SOCKET, "SubState"), "listening", "{}", machine.logs());
        machine.drop_in(SERVICE, SHORT_IDLE);
        assert_eq!(get(machine, "/_ping"), "OK", "the next client starts the gateway");
    });
}
