//! Runs the recipes of docs/events.md as they stand there, and kills their parts at random: no event is lost.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::Event;
use sampan_tests::cursor::held;
use sampan_tests::host::{Host, PATIENCE, binary};
use sampan_tests::random::Random;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// Returns the first code block of docs/events.md that contains `word`.
fn block(word: &str) -> String {
    let page = include_str!("../../docs/events.md");
    let mut blocks = page.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(word)).unwrap_or_else(|| panic!("no recipe with {word}"));
    block.split_once('\n').expect("a language").1.to_owned()
}

/// Makes a directory with `sampan` and the reader's own command, which records the event that it is given.
fn install(host: &Host) -> String {
    let bin = host.path("bin");
    fs::create_dir(&bin).expect("made");
    std::os::unix::fs::symlink(binary("sampan"), bin.join("sampan")).expect("linked");
    let on_die = bin.join("on-die");
    let done = host.path("done");
    // The command reads its standard input, as ssh and others do.
    let text = format!("#!/bin/sh\ncat >/dev/null\necho \"${{SAMPAN_EVENT_ID:-$1}}\" >>{}\n", done.display());
    fs::write(&on_die, text).expect("written");
    fs::set_permissions(&on_die, fs::Permissions::from_mode(0o755)).expect("ours");
    format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"))
}

/// Runs `command` repeatedly, and kills a part of it each time, until it has processed all events.
fn survives(seed: u64, prepare: impl Fn(&Host) -> Command) {
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let host = Host::with_monitord(&[]);
    let path = install(&host);
    let all = 400 * sampan_tests::rounds(30) as u64;
    let sender = host.sender();
    for id in 0..all {
        sender.send(Event::new("container", "die", id.to_string())).expect("small");
    }
    host.await_seq(all);
    let (deadline, mut kills) = (Instant::now() + 2 * PATIENCE * sampan_tests::rounds(10) as u32, 0);
    loop {
        let mut command = prepare(&host);
        let mut child =
            command.env("PATH", &path).process_group(0).stderr(host.log_file()).spawn().expect("a shell");
        // The position is stored once a second: a run that is killed sooner makes no progress.
        let before = held(&host.path("cursor"));
        while held(&host.path("cursor")) == before
            && child.try_wait().expect("ours").is_none()
            && !is_done(&host, all)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(2));
        }
        let missing = || missing(&host, all);
        assert!(Instant::now() < deadline, "{kills} kills, missing {:?}\n{}", missing(), host.logs());
        kill_a_part(&child, &mut random);
        kills += 1;
        // The remaining processes end by themselves, or are killed before the next run.
        let _ = kill(Pid::from_raw(-child.id().cast_signed()), Signal::SIGKILL);
        let _ = child.wait();
        if missing().is_empty() {
            break;
        }
    }
    // No event was skipped; only events that were not acknowledged before a kill are repeated.
    eprintln!("{} runs of the command for {all} events, {kills} kills", done(&host).len());
    assert!(kills > 1);
}

fn is_done(host: &Host, all: u64) -> bool {
    missing(host, all).is_empty()
}

fn missing(host: &Host, all: u64) -> Vec<String> {
    let done: HashSet<String> = done(host).into_iter().collect();
    (0..all).map(|id| id.to_string()).filter(|id| !done.contains(id)).collect()
}

fn done(host: &Host) -> Vec<String> {
    let text = fs::read_to_string(host.path("done")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Kills a random process in the group of `child`.
fn kill_a_part(child: &Child, random: &mut Random) {
    let group = child.id().to_string();
    let processes = fs::read_dir("/proc").expect("proc").filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let in_group = stat.rsplit(')').next()?.split_whitespace().nth(2)? == group;
        in_group.then_some(pid)
    });
    let processes: Vec<i32> = processes.collect();
    if !processes.is_empty() {
        let _ = kill(Pid::from_raw(*random.pick(&processes)), Signal::SIGKILL);
    }
}

#[test]
fn the_documented_pipeline_loses_no_event_to_kills() {
    let recipe = block("--ack-fd");
    survives(5, |host| {
        let (cursor, acks) = (host.path("cursor"), host.path("acks"));
        let _ = fs::remove_file(&acks);
        let text = recipe.replace("/var/lib/my/cursor", &cursor.display().to_string());
        assert!(text != recipe, "the recipe names a cursor file");
        let mut command = host.command_of(Path::new("/bin/bash"));
        command
            .current_dir(host.path(""))
            .args(["-c", &text.replace("--filter event=die", "--after 0 --filter event=die")]);
        command
    });
}

#[test]
fn the_documented_unit_loses_no_event_to_kills() {
    let recipe = block("ExecStart=/usr/bin/sampan events");
    let line = recipe.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command").to_owned();
    assert!(recipe.contains("StateDirectory=") && recipe.contains("Restart=always"));
    survives(6, |host| {
        let text = line.replace("/usr/bin/sampan", "sampan").replace("/usr/local/bin/on-die", "on-die");
        let text = text.replace("--filter event=die", "--after 0 --filter event=die");
        let mut command = host.command_of(Path::new("/bin/sh"));
        command.env("STATE_DIRECTORY", host.path("")).args(["-c", &format!("exec {text}")]);
        command
    });
}
