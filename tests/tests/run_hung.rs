//! A runtime that hangs: a request to end its container succeeds in time, no other request waits, and nothing is left
//! over.

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::container::Phase;
use sampan_tests::containers::Containers;
use sampan_tests::host::wait_until;
use sampan_tests::leaks;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time that any request may take here; by default, a runtime has two minutes.
const SOON: Duration = Duration::from_secs(30);

/// An installation with a runtime that works like runc, but hangs at the commands that [`Hung::at`] names.
struct Hung {
    containers: Containers,
    wrapper: PathBuf,
    /// The program that a hanging command executes.
    sleeper: PathBuf,
}

impl Drop for Hung {
    /// Children of a killed runtime are orphans that would outlive the test.
    fn drop(&mut self) {
        let sleeper = self.sleeper.display().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| words.starts_with(&sleeper)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Hung {
    fn new() -> Self {
        let containers = Containers::new();
        let (wrapper, sleeper) = (containers.host.path("hanging"), containers.host.path("sleeper"));
        fs::copy("/bin/sleep", &sleeper).expect("coreutils");
        // The hanging command has a child, as a real one has, and leaves a file as a mark.
        let script = format!(
            "#!/bin/sh\nfor word; do if test -e \"{0}.$word\"; then : >\"{0}.hangs\"; {1} 1000; fi; done\n\
             exec runc \"$@\"\n",
            wrapper.display(),
            sleeper.display()
        );
        fs::write(&wrapper, script).expect("written");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("set");
        Hung { containers, wrapper, sleeper }
    }

    fn mark(&self, word: &str) -> PathBuf {
        let mut path = self.wrapper.clone().into_os_string();
        path.push(format!(".{word}"));
        path.into()
    }

    /// Makes the runtime hang at this command from now on.
    fn at(&self, word: &str) {
        let _ = fs::remove_file(self.mark("hangs"));
        fs::write(self.mark(word), "").expect("written");
    }

    /// Ends hanging at this command from now on.
    fn no_more_at(&self, word: &str) {
        fs::remove_file(self.mark(word)).expect("there");
    }

    fn await_hanging(&self) {
        wait_until("the runtime to hang", || self.containers.log(), || self.mark("hangs").exists());
    }

    /// Creates a container with this runtime; the container ends at SIGTERM.
    fn create(&self, name: &str) -> String {
        let runtime = self.wrapper.to_str().expect("text");
        let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
        let words = ["create", "-t", "-i", "--name", name, "--runtime", runtime, "box:1", "sh", "-c", script];
        self.containers.stdout_of(&words)
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.containers.host.command("sampan");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("built")
    }

    /// Checks that other containers work: none of their requests waits for the hanging one.
    fn check_others(&self) {
        let begun = Instant::now();
        assert_eq!(self.containers.stdout_of(&["run", "--rm", "box:1", "echo", "on"]), "on");
        self.containers.stdout_of(&["info"]);
        self.containers.stdout_of(&["ps", "-a"]);
        assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    }

    /// Checks that nothing is left over of the container or its runtime.
    fn check_gone(&self, id: &str) {
        let ids = [id.to_owned()];
        let ours = self.wrapper.display().to_string();
        let hanging = || processes().into_iter().filter(|words| words.contains(&ours)).collect::<Vec<_>>();
        let left = || [leaks::left_of(&self.containers, &ids), hanging()].concat();
        wait_until(
            "nothing to be left",
            || format!("{:#?}\n{}", left(), self.containers.log()),
            || left().is_empty(),
        );
    }
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("mounted").flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok()).collect()
}

/// Exit code and standard error of a process that must end soon.
fn end_of(child: Child) -> (Option<i32>, String) {
    let begun = Instant::now();
    let Output { status, stderr, .. } = child.wait_with_output().expect("ours");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_stop_kill_or_removal_ends_a_hanging_start() {
    let hung = Hung::new();
    let id = hung.create("one");
    for words in [&["stop", "-t", "1", "one"][..], &["kill", "one"], &["rm", "-f", "one"]] {
        hung.at("run");
        let start = hung.spawn(&["start", "one"]);
        hung.await_hanging();
        hung.check_others();
        let (code, why) = end_of(hung.spawn(words));
        match words[0] {
            "kill" => {
                assert!(code == Some(1) && why.contains("is not running: the OCI runtime did not"), "{why}")
            }
            _ => assert_eq!((code, why.as_str()), (Some(0), ""), "{words:?}"),
        }
        let (code, why) = end_of(start);
        assert!(code == Some(1) && why.contains("did not finish in") && why.contains("killed"), "{why}");
        hung.no_more_at("run");
        if words[0] != "rm" {
            hung.containers.await_no_shim();
            hung.containers.stdout_of(&["start", "one"]);
            hung.containers.stdout_of(&["stop", "one"]);
        }
    }
    assert!(hung.containers.summary("one").is_none());
    hung.check_gone(&id);
}

#[test]
fn an_interrupted_client_ends_a_hanging_start_or_exec() {
    let hung = Hung::new();
    let id = hung.create("one");
    hung.at("run");
    let start = hung.spawn(&["start", "-a", "one"]);
    hung.await_hanging();
    kill(Pid::from_raw(i32::try_from(start.id()).expect("a pid")), Signal::SIGINT).expect("ours");
    let (code, why) = end_of(start);
    assert!(code == Some(125) && why.contains("did not finish in"), "{code:?} {why}");
    hung.no_more_at("run");
    hung.containers.await_no_shim();

    // In raw mode, Ctrl-C is no signal.
    let size = Winsize { ws_row: 20, ws_col: 70, ws_xpixel: 0, ws_ypixel: 0 };
    let typed = |verb: &str, words: &[&str]| {
        hung.at(verb);
        let pair = openpty(&size, None).expect("a terminal");
        let (mut master, slave) = (File::from(pair.master), File::from(pair.slave));
        let end = || Stdio::from(slave.try_clone().expect("cloned"));
        let mut command = hung.containers.host.command("sampan");
        command.args(words).stdin(end()).stdout(end()).stderr(Stdio::piped());
        let child = command.spawn().expect("built");
        hung.await_hanging();
        master.write_all(b"\x03").expect("typed");
        let (code, why) = end_of(child);
        assert!(code == Some(125) && why.contains("did not finish in"), "{words:?} {code:?} {why}");
        hung.no_more_at(verb);
    };
    typed("run", &["start", "-a", "-i", "one"]);
    hung.containers.await_no_shim();
    hung.containers.stdout_of(&["start", "one"]);
    typed("exec", &["exec", "-it", "one", "sh"]);
    assert_eq!(hung.containers.summary("one").expect("there").phase, Phase::Running);
    hung.containers.stdout_of(&["exec", "one", "true"]);
    hung.containers.stdout_of(&["rm", "-f", "one"]);
    hung.check_gone(&id);
}

#[test]
fn a_hanging_exec_pause_or_top_delays_no_stop_and_no_removal() {
    let hung = Hung::new();
    let mut ids = Vec::new();
    for (verb, words) in [
        ("exec", &["exec", "one", "true"][..]),
        ("pause", &["pause", "one"]),
        ("ps", &["top", "one"]),
        ("resume", &["unpause", "one"]),
    ] {
        for end in [&["stop", "-t", "1", "one"][..], &["kill", "one"], &["rm", "-f", "one"]] {
            let id = hung.create("one");
            hung.containers.stdout_of(&["start", "one"]);
            if verb == "resume" {
                hung.containers.stdout_of(&["pause", "one"]);
            }
            hung.at(verb);
            let asked = hung.spawn(words);
            hung.await_hanging();
            hung.check_others();
            let (code, why) = end_of(hung.spawn(end));
            assert_eq!((code, why.as_str()), (Some(0), ""), "{verb}, {end:?}");
            let (code, _) = end_of(asked);
            assert_ne!(code, Some(0), "{verb}, {end:?}");
            hung.no_more_at(verb);
            if end[0] != "rm" {
                hung.containers.await_summary("one", "its end", |s| s.phase == Phase::Exited);
                hung.containers.stdout_of(&["rm", "one"]);
            }
            hung.check_gone(&id);
            ids.push(id);
        }
    }
}

#[test]
fn a_hanging_pause_fails_in_time_and_the_container_goes_on() {
    let hung = Hung::new();
    let id = hung.create("one");
    hung.containers.stdout_of(&["start", "one"]);
    hung.at("pause");
    let (code, why) = end_of(hung.spawn(&["pause", "one"]));
    assert!(code == Some(1) && why.contains("did not finish in 10"), "{why}");
    hung.containers.stdout_of(&["exec", "one", "true"]);
    hung.containers.stdout_of(&["rm", "-f", "one"]);
    hung.check_gone(&id);
}

#[test]
fn a_delete_that_hangs_is_done_without_the_runtime() {
    let hung = Hung::new();
    let id = hung.create("one");
    hung.containers.stdout_of(&["start", "one"]);
    hung.at("delete");
    let (code, why) = end_of(hung.spawn(&["stop", "-t", "5", "one"]));
    assert_eq!((code, why.as_str()), (Some(0), ""));
    hung.await_hanging();
    hung.check_others();
    hung.containers.await_no_shim();
    assert!(
        hung.containers
            .stdout_of(&["inspect", "one"])
            .contains("delete: the OCI runtime did not finish in 10")
    );
    assert_eq!(leaks::left_running(&hung.containers, std::slice::from_ref(&id)), [""; 0]);
    // A next start of the container works.
    hung.containers.stdout_of(&["start", "one"]);
    let (code, why) = end_of(hung.spawn(&["rm", "-f", "one"]));
    assert_eq!((code, why.as_str()), (Some(0), ""));
    hung.check_gone(&id);
}

#[test]
fn a_shim_killed_during_a_delete_leaves_and_starts_nothing() {
    let mut hung = Hung::new();
    let id = hung.create("one");
    for has_engine in [true, false] {
        hung.containers.stdout_of(&["start", "one"]);
        hung.containers.stdout_of(&["exec", "one", "true"]);
        hung.at("delete");
        hung.containers.stdout_of(&["kill", "one"]);
        hung.await_hanging();
        hung.no_more_at("delete");
        if !has_engine {
            hung.containers.kill_engine();
        }
        for shim in hung.containers.shims() {
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
        }
        if !has_engine {
            hung.containers.start_engine();
        }
        let left = || leaks::left_running(&hung.containers, std::slice::from_ref(&id));
        wait_until(
            "nothing to be left",
            || format!("{:#?}\n{}", left(), hung.containers.log()),
            || left().is_empty(),
        );
        let summary = hung.containers.summary("one").expect("there");
        assert_eq!((summary.phase, summary.exit_code), (Phase::Exited, 137), "{summary:?}");
    }
    hung.containers.stdout_of(&["rm", "one"]);
    let events = hung.containers.events(&id, "destroy");
    let died: Vec<_> = events.iter().filter(|event| event.action == "die").collect();
    assert_eq!(died.len(), 2, "{events:?}");
    assert!(died.iter().all(|event| event.attributes.get("reason").is_none()), "{died:?}");
    hung.check_gone(&id);
}

#[test]
fn a_hanging_runtime_does_not_keep_a_shimless_container_alive() {
    let hung = Hung::new();
    // With control groups of version 1, frozen processes do not end by SIGKILL.
    for is_paused in [false, true] {
        let id = hung.create("one");
        hung.containers.stdout_of(&["start", "one"]);
        if is_paused {
            hung.containers.stdout_of(&["pause", "one"]);
        }
        hung.at("delete");
        for shim in hung.containers.shims() {
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
        }
        hung.await_hanging();
        hung.check_others();
        hung.containers.await_summary("one", "its end", |s| {
            s.phase == Phase::Exited && s.error == "its shim was killed"
        });
        assert_eq!(leaks::left_running(&hung.containers, std::slice::from_ref(&id)), [""; 0]);
        assert!(hung.containers.log().contains("does not delete it"), "{}", hung.containers.log());
        hung.containers.stdout_of(&["rm", "one"]);
        hung.check_gone(&id);
        hung.no_more_at("delete");
    }
}

#[test]
fn runtimes_that_do_not_say_what_they_are_keep_nobody_else() {
    let hung = Hung::new();
    hung.at("--version");
    let create = |runtime: &str| hung.spawn(&["create", "--runtime", runtime, "box:1"]);
    let check_refused = |clients: Vec<Child>| {
        for client in clients {
            let (code, why) = end_of(client);
            assert!(code == Some(1) && why.contains("did not finish in"), "{code:?} {why}");
        }
    };
    // Concurrent requests for one runtime share one wait.
    check_refused((0..8).map(|_| create(hung.wrapper.to_str().expect("text"))).collect());
    let others: Vec<String> = (0..8).map(|nth| format!("{}{nth}", hung.wrapper.display())).collect();
    for other in &others {
        fs::copy(&hung.wrapper, other).expect("copied");
    }
    hung.at("--version");
    // Twice as many requests as the engine has threads.
    let strangers: Vec<Child> = others.iter().map(|other| create(other)).collect();
    hung.await_hanging();
    hung.check_others();
    check_refused(strangers);
}
