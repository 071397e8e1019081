//! All options of `create`, `run` and `exec`, by the command line, with the real engine, shim and runtime: their
//! effects inside the container. `spec.rs` tests details of bundles, `run_life.rs` the life of containers.

use sampan_ipc::container::Phase;
use sampan_spec::host::Host;
use sampan_tests::containers::Containers;
use sampan_tests::host::wait_until;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Output of a script in a container with these options.
fn inside(containers: &Containers, options: &[&str], script: &str) -> String {
    containers.stdout_of(&[&["run", "--rm"], options, &["box:1", "sh", "-c", script]].concat())
}

/// Exit code and standard error of a command.
fn outcome(containers: &Containers, words: &[&str]) -> (i32, String) {
    let output = containers.sampan(words);
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A field of the first document that `inspect` prints.
fn inspected(containers: &Containers, container: &str, pointer: &str) -> Value {
    let all: Value = serde_json::from_str(&containers.stdout_of(&["inspect", container])).expect("JSON");
    all.pointer(&format!("/0{pointer}")).cloned().unwrap_or(Value::Null)
}

#[test]
fn who_it_runs_as_and_what_it_may_do_is_seen_inside() {
    let containers = Containers::new();
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(containers.host.path("profile.json"), profile).expect("written");
    let who = "id -u; id -g; grep Groups /proc/self/status; echo $HOME";
    let cap = "grep CapEff /proc/self/status";
    let cases: &[(&[&str], &str, &str)] = &[
        // Like docker, the supplementary groups include the primary group.
        (&["-u", "ann"], who, "1000\n1001\nGroups:\t10 1001 \n/home/ann"),
        (&["-u", "ann:wheel"], who, "1000\n10\nGroups:\t10 \n/home/ann"),
        (&["-u", "5000", "--group-add", "7"], who, "5000\n0\nGroups:\t0 7 \n/"),
        (&["--cap-add", "NET_ADMIN", "--cap-drop", "all"], cap, "CapEff:\t0000000000001000"),
        (&["--cap-drop", "CAP_KILL"], cap, "CapEff:\t00000000a80425db"),
        (
            &["--ulimit", "nofile=100:200", "--ulimit", "core=0"],
            "ulimit -n; ulimit -H -n; ulimit -c",
            "100\n200\n0",
        ),
        (&["--security-opt", "seccomp=profile.json"], "mkdir /x 2>/dev/null || echo denied", "denied"),
        (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
        (&["--security-opt", "no-new-privileges=1"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        (&["--security-opt", "label=disable"], "echo fine", "fine"),
        (
            &["--security-opt", "systempaths=unconfined"],
            "grep -c ' /proc/sys ' /proc/self/mountinfo; true",
            "0",
        ),
        (&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward", "1"),
        // Like docker, pings need no capability.
        (&[], "cat /proc/sys/net/ipv4/ping_group_range", "0\t2147483647"),
    ];
    for (options, script, expected) in cases {
        assert_eq!(inside(&containers, options, script), *expected, "{options:?}");
    }
    let own = Host::get().capabilities.0;
    let words = inside(
        &containers,
        &["--privileged"],
        "grep -E 'CapEff|Seccomp:' /proc/self/status; touch /sys/x 2>&1; true",
    );
    assert!(words.starts_with(&format!("CapEff:\t{own:016x}\nSeccomp:\t0\n")), "{words}");
    assert!(!words.contains("Read-only"), "/sys can be written: {words}");
}

#[test]
fn devices_and_limits_are_seen_inside() {
    let containers = Containers::new();
    let host = Host::get();
    // Only opened: bytes that are written there appear in the host's log.
    let look = "(: </dev/z) && echo open; (: >/dev/z) 2>/dev/null || echo refused";
    let said = inside(&containers, &["--device", "/dev/kmsg:/dev/z:r", "--cap-add", "SYSLOG"], look);
    let is_told_apart = host.controls("devices") || host.cgroups.word() == "v2";
    assert_eq!(said.trim(), if is_told_apart { "open\nrefused" } else { "open" });
    let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "--shm-size", "1m"];
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null; \
                  cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null; cat pids/pids.max pids.max 2>/dev/null; \
                  grep -c 'size=1024k' /proc/mounts";
    let said = inside(&containers, &limits, script);
    let numbers: Vec<&str> = said.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    let of = [("memory", "67108864"), ("cpu", "50000"), ("pids", "20")];
    let expected = of.iter().filter(|(controller, _)| host.controls(controller)).map(|(_, number)| *number);
    assert_eq!(numbers, expected.chain(["1"]).collect::<Vec<_>>(), "{said}");
    // Having no limit can be requested explicitly.
    let none = ["-m", "0", "--cpus", "0", "--pids-limit", "-1", "--memory-swap", "-1"];
    assert_eq!(inside(&containers, &none, "echo free"), "free");
    assert_eq!(inside(&containers, &["--pids-limit", "0", "--cpus", "1."], "echo free"), "free");

    let too_many = (host.processors + 1).to_string();
    let refused: [(&[&str], &str); 8] = [
        (&["--cpus", &too_many], "this host has"),
        (&["--cpus", "0.001"], "at least 0.01"),
        (&["-m", "5m"], "at least 6 MiB"),
        (&["--pids-limit", "99999999999"], "4194304"),
        (&["--ulimit", "nofile=2:1"], "above the hard limit"),
        (&["--ulimit", "files=1"], "nofile"),
        (&["--device", "/dev/zero:/dev/z:rr"], "r, w and m"),
        (&["--device", "/dev/none-such"], "/dev/none-such"),
    ];
    for (options, reason) in refused {
        let (code, why) = outcome(&containers, &[&["create"], options, &["box:1"]].concat());
        assert!(code == 125 && why.contains(reason), "{options:?}: {code} {why}");
    }
    // `run --rm` returns when its command has ended: the last container may still be on its way out.
    let made = containers.stdout_of(&["ps", "-aq", "--filter", "status=created"]);
    assert_eq!(made, "", "what is refused makes nothing");
}

#[test]
fn mounts_are_seen_inside() {
    let containers = Containers::new();
    fs::create_dir(containers.host.path("src")).expect("made");
    fs::write(containers.host.path("src/f"), "bound").expect("written");
    let has = "cat /d/f; touch /d/x 2>/dev/null && echo written; rm -f /d/x";
    let small = "dd if=/dev/zero of=/d/big bs=1k count=2000 2>/dev/null || echo full; stat -c %a /d";
    let cases: &[(&[&str], &str, &str)] = &[
        (&["-v", "./src:/d"], has, "boundwritten"),
        (&["-v", "./src:/d:ro"], has, "bound"),
        (&["-v", "./src:/d:ro,rprivate"], has, "bound"),
        (&["--mount", "type=bind,source=./src,target=/d"], has, "boundwritten"),
        (&["--mount", "type=bind,src=./src,dst=/d,ro"], has, "bound"),
        (&["--mount", "Type=BIND,src=./src,dst=/d,readonly=true,consistency=cached"], has, "bound"),
        (&["--mount", "type=bind,src=./src,dst=/d,ro=false,bind-recursive=disabled"], has, "boundwritten"),
        (&["--tmpfs", "/d:size=1m,mode=700"], small, "full\n700"),
        (
            &["--tmpfs", "/d"],
            "grep ' /d ' /proc/mounts | cut -d' ' -f3,4; stat -c %a /d",
            "tmpfs rw,nosuid,nodev,noexec,relatime\n1777",
        ),
        (&["--mount", "type=tmpfs,dst=/d,tmpfs-size=1m,tmpfs-mode=1770"], small, "full\n1770"),
        (&["-v", "./src/f:/etc/f"], "cat /etc/f", "bound"),
        // Like docker, a read-only container can only write to mounts that are made for that.
        (
            &["--read-only", "--tmpfs", "/t"],
            "for f in /x /etc/hosts /etc/hostname /etc/resolv.conf /t/x; do (echo >>$f) 2>/dev/null && echo $f; done",
            "/t/x",
        ),
        (&[], "for f in /x /etc/hosts; do (echo >>$f) 2>/dev/null && echo $f; done", "/x\n/etc/hosts"),
    ];
    for (options, script, expected) in cases {
        // busybox in this image has no cut.
        let script = script.replace("cut -d' ' -f3,4", "awk '{print $3, $4}'");
        assert_eq!(inside(&containers, options, &script), *expected, "{options:?}");
    }
    let refused = [
        ("-v", "name:/d", "named volumes"),
        ("-v", "~/x:/d", "named volumes"),
        ("-v", "/d", "source or target is missing"),
        ("-v", "./src:/d:", "last colon"),
        ("-v", "./src:/d:ro,rw", "ro and rw exclude each other"),
        ("-v", "./src:/d:nonsense", "no such mount option"),
        ("-v", "./src:/d:rshared", "does not reach the host"),
        ("-v", "./src:d", "absolute path"),
        ("--mount", "type=volume,src=v,dst=/d", "named volumes"),
        ("--mount", "src=v,dst=/d", "named volumes"),
        ("--mount", "type=bind,src=/none-such,dst=/d", "/none-such"),
        ("--mount", "type=bind,src=./src,dst=/d,nonsense=1", "unknown key"),
        ("--tmpfs", "/d:size=x", "no such mount option"),
        ("--tmpfs", "d", "absolute path"),
    ];
    for (option, value, reason) in refused {
        let (code, why) = outcome(&containers, &["create", option, value, "box:1"]);
        assert!(code == 125 && why.contains(reason), "{option} {value}: {code} {why}");
    }
    assert!(!containers.host.path("~").exists(), "nothing was made of what is refused");
}

#[test]
fn names_networks_and_words_are_seen_inside() {
    let containers = Containers::new();
    let own = fs::read_link("/proc/self/ns/net").expect("a link").display().to_string();
    let host_name = Host::get().hostname.clone();
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = "hostname; cat /etc/hostname; echo $HOSTNAME; grep -c '\tharbour$' /etc/hosts";
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--hostname", "harbour"], named, "harbour\nharbour\nharbour\n1"),
        (&["--network", "none"], "ls /sys/class/net; ip addr | grep -c 127.0.0.1/8", "lo\n1"),
        (&["--network", "host"], "readlink /proc/self/ns/net; hostname", &format!("{own}\n{host_name}")),
        (&[], "grep -c ip6-localnet /etc/hosts", "1"),
        (&[], "cat /etc/resolv.conf", resolv.trim_end_matches('\n')),
        (
            &["-e", "FROM_TEST", "-e", "NOT_SET_AT_ALL", "-e", "A=", "-e", "FROM_IMAGE=no"],
            "echo $FROM_TEST ${NOT_SET_AT_ALL-unset} \"${A-unset}\" $FROM_IMAGE",
            "from-test unset  no",
        ),
        (&["-w", "/new/dir"], "pwd; ls -d /new/dir", "/new/dir\n/new/dir"),
        // Like docker, empty values are ignored.
        (
            &["-w", "", "-h", "", "--name", "", "--stop-signal", "", "--log-driver", "", "-u", ""],
            "pwd; id -u",
            "/\n0",
        ),
    ];
    for (options, script, expected) in cases {
        let words = [&["run", "--rm"], *options, &["box:1", "sh", "-c", script]].concat();
        let mut command = containers.host.command("sampan");
        let output = command.args(&words).env("FROM_TEST", "from-test").output().expect("built");
        let said = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        assert_eq!(said, *expected, "{options:?}: {output:?}");
    }
    assert_eq!(containers.stdout_of(&["run", "--rm", "--entrypoint", "", "box:1", "echo", "plain"]), "plain");
    assert_eq!(containers.stdout_of(&["run", "--rm", "--entrypoint", "echo", "box:1", "plain"]), "plain");
    let refused: [(&[&str], &str); 6] = [
        (&["--network", "bridge"], "none and host"),
        (&["--label", "a b=c"], "white space"),
        (&["--restart", "sometimes"], "no such policy"),
        (&["--restart", "always", "--rm"], "--rm"),
        (&["--log-driver", "none", "--log-opt", "max-size=1m"], "no option"),
        (&["--log-opt", "colour=red"], "no option \"colour\""),
    ];
    for (options, reason) in refused {
        let (code, why) = outcome(&containers, &[&["create"], options, &["box:1"]].concat());
        assert!(code == 125 && why.contains(reason), "{options:?}: {code} {why}");
    }
}

/// States of the container's processes that have ended and were not reaped.
fn zombies(containers: &Containers, container: &str) -> String {
    containers.stdout_of(&[
        "exec",
        container,
        "sh",
        "-c",
        "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null; true",
    ])
}

#[test]
fn a_small_init_reaps_what_nobody_waits_for() {
    let containers = Containers::new();
    for (name, options) in [("with", &["--init"][..]), ("without", &[])] {
        containers
            .stdout_of(&[&["run", "-d", "--name", name], options, &["box:1", "sleep", "1000"]].concat());
        // This process becomes an orphan when its parent ends at once.
        containers.stdout_of(&["exec", name, "sh", "-c", "(sleep 0.2; touch /done) & exit 0"]);
        let pid = containers.summary(name).expect("runs").pid;
        let done = format!("/proc/{pid}/root/done");
        containers.host.wait_until("it to end", || fs::exists(&done).unwrap_or(false));
    }
    containers.host.wait_until("the zombie to be there", || !zombies(&containers, "without").is_empty());
    containers.host.wait_until("no zombie to be there", || zombies(&containers, "with").is_empty());
    // Signals reach the program, and the container has its exit code.
    let script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done";
    containers.stdout_of(&["run", "-d", "--init", "--name", "ends", "box:1", "sh", "-c", script]);
    containers.host.wait_until("the handler", || containers.stdout_of(&["logs", "ends"]) == "ready");
    containers.stdout_of(&["stop", "ends"]);
    assert_eq!(containers.stdout_of(&["wait", "ends"]), "6");
}

#[test]
fn stop_sends_what_was_asked_for_and_waits_as_long() {
    let containers = Containers::configured("stop-timeout = 0");
    let run = |name: &str, options: &[&str], script: &str| {
        let script = format!("{script}; echo ready; while :; do sleep 0.05; done");
        containers
            .stdout_of(&[&["run", "-d", "--name", name], options, &["box:1", "sh", "-c", &script]].concat());
        containers.host.wait_until("the handler", || containers.stdout_of(&["logs", name]) == "ready");
    };
    run("other", &["--stop-signal", "USR1", "--stop-timeout", "20"], "trap '' TERM; trap 'exit 5' USR1");
    containers.stdout_of(&["stop", "other"]);
    run("short", &["--stop-timeout", "1"], "trap '' TERM");
    let begun = Instant::now();
    containers.stdout_of(&["stop", "short"]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // The default timeout would kill the container before it is done.
    run("long", &["--stop-timeout", "-1"], "trap 'sleep 1.5; exit 7' TERM");
    containers.stdout_of(&["stop", "long"]);
    assert_eq!(containers.stdout_of(&["wait", "other", "short", "long"]), "5\n137\n7");
    assert_eq!(inspected(&containers, "long", "/Config/StopTimeout"), -1);
    run("now", &["--stop-timeout", "-1"], "trap '' TERM");
    containers.stdout_of(&["stop", "-t", "0", "now"]);
    assert_eq!(containers.stdout_of(&["wait", "now"]), "137");
}

/// CPU time of a process in ticks. proc_pid_stat(5), utime.
fn worked(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    fields.split(' ').nth(11).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn a_paused_container_does_nothing_and_is_not_started() {
    let containers = Containers::new();
    containers.stdout_of(&["run", "-d", "--name", "busy", "box:1", "sh", "-c", "while :; do :; done"]);
    let pid = containers.summary("busy").expect("runs").pid;
    let begin = worked(pid);
    containers.host.wait_until("it to work", || worked(pid) > begin);
    containers.stdout_of(&["pause", "busy"]);
    let frozen = worked(pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(worked(pid), frozen);
    for words in [&["start", "busy"][..], &["start", "-a", "busy"], &["pause", "busy"]] {
        let (code, why) = outcome(&containers, words);
        assert!(code != 0 && why.contains("paused"), "{words:?}: {code} {why}");
    }
    let (code, why) = outcome(&containers, &["exec", "busy", "true"]);
    assert!(code == 125 && why.contains("paused"), "{code} {why}");
    assert_eq!(containers.summary("busy").expect("there").phase, Phase::Paused);
    containers.stdout_of(&["unpause", "busy"]);
    containers.host.wait_until("it to work", || worked(pid) > frozen);
    assert_eq!(outcome(&containers, &["unpause", "busy"]).0, 1);
}

#[test]
fn an_execution_has_the_options_that_it_was_given() {
    let containers = Containers::new();
    let words = [
        "run",
        "-d",
        "--name",
        "up",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "-u",
        "ann",
        "--cap-drop",
        "KILL",
        "box:1",
        "sleep",
        "1000",
    ];
    containers.stdout_of(&words);
    fs::write(containers.host.path("env"), "B=2\n# no\n").expect("written");
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "id -u; pwd; echo $A; echo $HOME", "1000\n/tmp\n1\n/home/ann"),
        (
            &["-u", "0:10"],
            "id -u; id -g; grep Groups /proc/self/status; echo $HOME",
            "0\n10\nGroups:\t10 \n/root",
        ),
        (&["-w", "/etc"], "pwd", "/etc"),
        (&["-w", ""], "pwd", "/tmp"),
        (&["-e", "A=2", "--env-file", "env"], "echo $A $B", "2 2"),
        (&["-u", "root"], "grep CapEff /proc/self/status", "CapEff:\t00000000a80425db"),
        (&["-t"], "tty; echo $TERM", "/dev/pts/0\r\nxterm\r"),
        (&[], "tty; test -t 1 || echo plain", "not a tty\nplain"),
    ];
    for (options, script, expected) in cases {
        let script = format!("{script}; true");
        let words = [&["exec"], *options, &["up", "sh", "-c", &script]].concat();
        assert_eq!(containers.stdout_of(&words), *expected, "{options:?}");
    }
    let own = Host::get().capabilities.0;
    let said = containers.stdout_of(&["exec", "--privileged", "up", "grep", "CapEff", "/proc/self/status"]);
    assert_eq!(said, format!("CapEff:\t{own:016x}"));
    let mut child = containers.host.command("sampan");
    child.args(["exec", "-i", "up", "sh", "-c", "cat; exit 4"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().expect("built");
    child.stdin.take().expect("a pipe").write_all(b"typed").expect("written");
    let output = child.wait_with_output().expect("ours");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(4), &b"typed"[..]));
    // Without -i, standard input is empty.
    assert_eq!(containers.stdout_of(&["exec", "up", "cat"]), "");
    assert_eq!(containers.stdout_of(&["exec", "-d", "-w", "/tmp", "up", "sh", "-c", "pwd >/tmp/made"]), "");
    let made = format!("/proc/{}/root/tmp/made", containers.summary("up").expect("runs").pid);
    let is_made = || fs::read_to_string(&made).is_ok_and(|text| text == "/tmp\n");
    containers.host.wait_until("it to be made", is_made);
    let refused = [
        (&["-u", "nobody"][..], "true", 125),
        (&["-w", "relative"], "true", 125),
        (&[], "/none", 127),
        (&[], "/etc/passwd", 126),
        (&["-d"], "/none", 127),
    ];
    for (options, word, expected) in refused {
        let (code, why) = outcome(&containers, &[&["exec"], options, &["up", word]].concat());
        assert!(code == expected && !why.is_empty(), "{options:?} {word}: {code} {why}");
    }
    let signal = containers.sampan(&["exec", "up", "sh", "-c", "kill -9 $$"]);
    assert_eq!(signal.status.code(), Some(137));
}

#[test]
fn lists_are_filtered_sorted_and_shown_as_docker_s_are() {
    let containers = Containers::new();
    let src = containers.host.path("run").display().to_string();
    containers.stdout_of(&[
        "create",
        "--name",
        "web",
        "-v",
        &format!("{src}:/d"),
        "-l",
        "tier=front",
        "box:1",
    ]);
    containers.stdout_of(&["create", "--name", "web-2", "--network", "host", "-l", "tier=back", "box:1"]);
    containers.stdout_of(&["run", "-d", "--name", "db", "-l", "tier=back", "box:1", "sleep", "1000"]);
    let id = containers.summary("db").expect("runs").id;
    let list = |filters: &[&str]| {
        let mut words = vec!["ps", "-a", "--format", "{{.Names}}"];
        filters.iter().for_each(|filter| words.extend(["--filter", filter]));
        containers.stdout_of(&words).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let cases: &[(&[&str], &[&str])] = &[
        (&["name=web"], &["web-2", "web"]),
        (&["name=^web$"], &["web"]),
        (&["name=^/web$"], &["web"]),
        (&["name=/web"], &["web-2", "web"]),
        (&["name=2$", "name=^d"], &["db", "web-2"]),
        (&["name=WEB"], &[]),
        (&["name="], &["db", "web-2", "web"]),
        (&[&format!("id={}", &id[..10])], &["db"]),
        (&["volume=/d"], &["web"]),
        (&[&format!("volume={src}")], &["web"]),
        (&["network=host"], &["web-2"]),
        (&["network=none", "network=host"], &["db", "web-2", "web"]),
        (&["label=tier=back", "status=created"], &["web-2"]),
        (&["status=created", "status=running"], &["db", "web-2", "web"]),
    ];
    for (filters, expected) in cases {
        assert_eq!(list(filters), *expected, "{filters:?}");
    }
    for filter in
        ["name=(", "name=((((a{100}){100}){100}){100})", "status=well", "nonsense=1", "exited=x", "x"]
    {
        let (code, why) = outcome(&containers, &["ps", "--filter", filter]);
        assert!(code == 125 && !why.is_empty(), "{filter}: {code} {why}");
    }
    assert_eq!(containers.stdout_of(&["ps", "-q", "--no-trunc"]), id);
    assert_eq!(containers.stdout_of(&["ps", "-q"]), id[..12]);
    assert_eq!(containers.stdout_of(&["ps", "-aq"]).lines().count(), 3);
    assert_eq!(containers.stdout_of(&["ps", "-l", "-q"]), id[..12]);
    assert!(containers.stdout_of(&["ps", "-n", "2", "--format", "table"]).contains("web-2"));
    assert!(!containers.stdout_of(&["ps", "-n", "2"]).lines().any(|line| line.ends_with(" web")));
    let table = containers.stdout_of(&["ps", "-s"]);
    let head = table.lines().next().unwrap_or_default();
    let columns = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES", "SIZE"];
    assert!(columns.iter().all(|column| head.contains(column)) && table.contains("KiB"), "{table}");
    let said = containers.stdout_of(&["top", "db", "-o", "pid,args"]);
    let pid = containers.summary("db").expect("runs").pid.to_string();
    let rows: Vec<&str> = said.lines().map(str::trim).collect();
    assert!(rows.len() == 2 && rows[1].starts_with(&pid) && rows[1].ends_with("sleep 1000"), "{said}");
}

#[test]
fn inspect_says_what_was_asked_for_and_what_the_image_says() {
    let containers = Containers::new();
    containers.stdout_of(&["create", "--name", "plain", "box:1"]);
    let of = |name: &str, pointer: &str| inspected(&containers, name, pointer);
    assert_eq!(of("plain", "/Config/Cmd"), serde_json::json!(["sh"]));
    assert_eq!(of("plain", "/Config/StopSignal"), "SIGTERM");
    assert_eq!(of("plain", "/HostConfig/LogConfig/Type"), "json-file");
    let options = ["-e", "PATH=/x:/bin", "-e", "A=1", "--device", "/dev/zero:/dev/z:r", "--stop-signal", "2"];
    let words =
        [&["run", "-d", "--name", "up", "--entrypoint", "sh"], &options[..], &["box:1", "-c", "exit 3"]];
    containers.stdout_of(&words.concat());
    assert_eq!(containers.stdout_of(&["wait", "up"]), "3");
    assert_eq!(of("up", "/Config/Env"), serde_json::json!(["PATH=/x:/bin", "FROM_IMAGE=yes", "A=1"]));
    assert_eq!(of("up", "/Config/Entrypoint"), serde_json::json!(["sh"]));
    assert_eq!(of("up", "/Config/StopSignal"), "SIGINT");
    let device = serde_json::json!([{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/z", "CgroupPermissions": "r"}]);
    assert_eq!(of("up", "/HostConfig/Devices"), device);
    assert_eq!((of("up", "/State/ExitCode"), of("up", "/State/Running")), (3.into(), false.into()));
    // A container that runs again does not count as exited, whatever its last exit code was.
    containers.stdout_of(&[
        "run",
        "-d",
        "--name",
        "again",
        "box:1",
        "sh",
        "-c",
        "test -e /ran && sleep 1000; touch /ran; exit 4",
    ]);
    assert_eq!(containers.stdout_of(&["wait", "again"]), "4");
    containers.stdout_of(&["start", "again"]);
    assert_eq!((of("again", "/State/ExitCode"), of("again", "/State/Running")), (0.into(), true.into()));
    let all: Value = serde_json::from_str(&containers.stdout_of(&["inspect", "-s", "again"])).expect("JSON");
    assert!(all[0]["SizeRw"].as_u64().is_some_and(|size| size > 0), "{all}");
}

#[test]
fn a_container_is_found_by_name_id_or_unique_prefix() {
    let containers = Containers::new();
    // Of 17 IDs, two begin with the same digit.
    let ids: Vec<String> = (0..17).map(|_| containers.stdout_of(&["create", "box:1"])).collect();
    let (mut digit, mut pair) = (String::new(), Vec::new());
    for id in &ids {
        let same: Vec<_> = ids.iter().filter(|other| other[..1] == id[..1]).collect();
        if same.len() > 1 {
            (digit, pair) = (id[..1].to_owned(), same);
        }
    }
    let (code, why) = outcome(&containers, &["container", "inspect", &digit]);
    assert_eq!(code, 1, "{why}");
    assert!(pair.iter().all(|id| why.contains(&id[..12])), "{why} does not list {pair:?}");
    for id in &ids {
        let unique = (1..=64)
            .map(|len| &id[..len])
            .find(|part| ids.iter().filter(|other| other.starts_with(part)).count() == 1);
        let found = inspected(&containers, unique.expect("ids differ"), "/Id");
        assert_eq!(found, id.as_str());
    }
    // An exact name takes precedence over a prefix of an ID.
    let taken = ids[0][..3].to_owned();
    containers.stdout_of(&["rename", &ids[1], &taken]);
    assert_eq!(inspected(&containers, &taken, "/Id"), ids[1].as_str());
    assert_eq!(
        containers
            .stdout_of(&[&["rm"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
            .lines()
            .count(),
        17
    );
}

#[test]
fn the_waits_of_a_policy_double_from_a_tenth_of_a_second() {
    let containers = Containers::new();
    let id = containers.stdout_of(&["run", "-d", "--restart", "always", "--name", "w", "box:1", "false"]);
    let events = containers.events_up_to(&id, "restart", 5);
    let times = |action: &str| {
        let of = events.iter().filter(|event| event.action == action);
        of.map(|event| event.time).collect::<Vec<_>>()
    };
    let (ends, starts) = (times("die"), times("restart"));
    let waits: Vec<i64> = ends.iter().zip(&starts).map(|(end, start)| (start - end) / 1_000_000).collect();
    for (wait, least) in waits.iter().zip([100, 200, 400, 800, 1600]) {
        assert!(*wait >= least, "{waits:?} ms");
    }
    assert_eq!(waits.len(), 5);
    let counts = events.iter().filter_map(|event| event.attributes.get("restartCount"));
    assert_eq!(counts.collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    wait_until(
        "the wait",
        || containers.log(),
        || containers.summary("w").is_some_and(|summary| summary.phase == Phase::Restarting),
    );
    containers.stdout_of(&["rm", "-f", "w"]);
}
