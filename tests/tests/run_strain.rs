//! Containers under load: a full disk, many executions, many clients with the same names, and an engine that is killed
//! during terminal sessions.

use sampan_ipc::container::Phase;
use sampan_tests::containers::Containers;
use sampan_tests::host::wait_until;
use sampan_tests::leaks;
use sampan_tests::random::Random;
use sampan_tests::terminal::Terminal;
use std::collections::HashSet;
use std::fs;
use std::sync::Mutex;

/// Number of executions one after another.
const EXECUTIONS: usize = 150;
/// Most KiB that a shim may grow in all of them; its allocator keeps some memory.
const GROWTH_MAX: usize = 256;
/// Number of concurrent clients, and of requests of each.
const CLIENTS: usize = 20;
const DEEDS: usize = 12;

#[test]
fn executions_one_after_another_leave_nothing_in_the_shim() {
    let containers = Containers::new();
    containers.stdout_of(&["run", "-d", "--name", "up", "box:1", "sleep", "1000"]);
    let [shim] = containers.shims()[..] else { panic!("one shim") };
    let execute = |nth: usize| {
        let (words, code): (&[&str], _) = match nth % 5 {
            0 => (&["exec", "-d", "up", "true"], 0),
            1 => (&["exec", "up", "/none"], 127),
            2 => (&["exec", "-i", "up", "cat"], 0),
            3 => (&["exec", "up", "sh", "-c", "sleep 1000 & exit 3"], 3),
            _ => (&["exec", "up", "true"], 0),
        };
        assert_eq!(containers.sampan(words).status.code(), Some(code), "{words:?}");
    };
    // The first executions fill caches, so they are not measured.
    (0..20).for_each(execute);
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).expect("it runs");
        let is_one = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        children.split_whitespace().filter(is_one).count()
    };
    let (descriptors, memory) = (leaks::descriptors(shim), leaks::anonymous(shim));
    (0..EXECUTIONS).for_each(execute);
    let looks =
        || format!("{} descriptors, {descriptors} before; {} zombies", leaks::descriptors(shim), zombies());
    wait_until("all of it to be gone", looks, || leaks::descriptors(shim) <= descriptors && zombies() == 0);
    let now = leaks::anonymous(shim);
    assert!(now <= memory + GROWTH_MAX, "{now} KiB, {memory} before");
    let run = containers.host.path("run/containers");
    let left: Vec<_> = fs::read_dir(run)
        .expect("listed")
        .flatten()
        .flat_map(|dir| fs::read_dir(dir.path()))
        .flatten()
        .flatten()
        .collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("exec.")), "{left:?}");
}

#[test]
fn clients_that_compete_for_names_all_get_replies() {
    let containers = Containers::new();
    // Of many concurrent requests for one name, exactly one succeeds.
    let made: Vec<bool> = std::thread::scope(|scope| {
        let create =
            || containers.sampan(&["create", "--name", "one", "box:1", "sleep", "1000"]).status.success();
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    // All concurrent requests to start it succeed, and it runs once.
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| containers.stdout_of(&["start", "one"]))));
    });
    assert_eq!(containers.shims().len(), 1);
    let ids = Mutex::new(HashSet::from([containers.summary("one").expect("runs").id]));
    containers.stdout_of(&["rm", "-f", "one"]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (containers, ids) = (&containers, &ids);
            scope.spawn(move || race(containers, ids, client as u64));
        }
    });
    for name in ["r0", "r1", "r2"] {
        containers.stdout_of(&["rm", "-f", name]);
    }
    assert_eq!(containers.stdout_of(&["ps", "-aq"]), "");
    containers.await_no_shim();
    let ids: Vec<String> = ids.into_inner().expect("no panic").into_iter().collect();
    let left = || leaks::left_of(&containers, &ids);
    wait_until("nothing to be left", || format!("{:#?}\n{}", left(), containers.log()), || left().is_empty());
    assert!(!containers.log().contains("panicked"), "{}", containers.log());
}

/// Sends random requests for three containers; none may take longer than a client waits.
fn race(containers: &Containers, ids: &Mutex<HashSet<String>>, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..DEEDS {
        let name = *random.pick(&["r0", "r1", "r2"]);
        let deeds: [&[&str]; 9] = [
            &["start", name],
            &["stop", "-t", "0", name],
            &["rm", "-f", name],
            &[
                "run",
                "-d",
                "--name",
                name,
                "--restart",
                "on-failure:2",
                "box:1",
                "sh",
                "-c",
                "sleep 0.2; exit 3",
            ],
            &["exec", name, "true"],
            &["restart", "-t", "0", name],
            &["pause", name],
            &["kill", name],
            &["run", "--rm", "--name", name, "box:1", "true"],
        ];
        let words = *random.pick(&deeds);
        let output = containers.sampan(words);
        if words[0] == "pause" {
            containers.sampan(&["unpause", name]);
        }
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if words.contains(&"-d") && said.len() == 64 {
            ids.lock().expect("no panic").insert(said);
        }
    }
}

#[test]
fn a_disk_filled_by_a_log_blocks_no_container() {
    let mut containers = Containers::new();
    containers.kill_engine();
    let small = containers.host.mount_tmpfs("small", 4 << 20);
    let table = format!("[engine]\ncontainers = \"{}\"\n", small.display());
    fs::write(containers.host.path("sampan.toml"), table).expect("written");
    containers.start_engine();
    let script = "yes | head -c 9000000; mkdir -p /run; echo >/run/done; exec sleep 1000";
    let words = [
        "run",
        "-d",
        "--name",
        "noisy",
        "--tmpfs",
        "/run",
        "--log-opt",
        "max-size=100m",
        "box:1",
        "sh",
        "-c",
        script,
    ];
    containers.stdout_of(&words);
    let pid = containers.summary("noisy").expect("runs").pid;
    let done = format!("/proc/{pid}/root/run/done");
    containers.host.wait_until("all of it to be written", || fs::exists(&done).unwrap_or(false));
    // The log is complete as far as the disk had room, and has only whole lines.
    let log = containers.stdout_of(&["logs", "noisy"]);
    assert!(log.len() > 10_000 && log.lines().all(|line| line == "y" || line.is_empty()), "{}", log.len());
    assert_eq!(containers.stdout_of(&["exec", "noisy", "echo", "on"]), "on");
    containers.stdout_of(&["stop", "-t", "0", "noisy"]);
    containers.await_summary("noisy", "its end", |s| s.phase == Phase::Exited && s.exit_code == 137);
    let id = containers.summary("noisy").expect("kept").id;
    containers.stdout_of(&["rm", "noisy"]);
    assert_eq!(containers.actions(&id, "destroy").last().map(String::as_str), Some("destroy"));
    assert_eq!(containers.stdout_of(&["run", "--rm", "box:1", "echo", "room"]), "room");
}

#[test]
fn terminals_go_on_without_an_engine_and_end_with_their_program() {
    let mut containers = Containers::new();
    let sampan = || containers.host.command("sampan");
    let at_terminal = |words: &[&str]| Terminal::start(sampan().args(words), 30, 90);
    let mut run = at_terminal(&["run", "-it", "--rm", "--name", "t", "box:1", "sh"]);
    run.type_for("echo a$((1+1))\n", "a2");
    let mut exec = at_terminal(&["exec", "-it", "t", "sh"]);
    exec.type_for("echo b$((1+2))\n", "b3");
    let id = containers.summary("t").expect("runs").id;
    containers.kill_engine();
    run.type_for("echo c$((2+2))\n", "c4");
    exec.type_for("stty size\n", "30 90");
    exec.types("exit 5\n");
    assert_eq!(exec.end(), Some(5));
    containers.start_engine();
    run.type_for("echo d$((2+3))\n", "d5");
    run.types("exit 7\n");
    assert_eq!(run.end(), Some(7));
    let actions = containers.actions(&id, "destroy");
    let once = |word: &str| actions.iter().filter(|action| action.split(':').next() == Some(word)).count();
    assert_eq!((once("exec_die"), once("die"), once("destroy")), (1, 1, 1), "{actions:?}");
}
