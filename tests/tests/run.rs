//! The command line for containers, with the real engine, shim and runtime: output and exit status of each command, and
//! what is visible inside the container.

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use sampan_tests::command_line;
use sampan_tests::host::{binary, need_root, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

const TOOLS: &str =
    "sh ls cat echo sleep true id env stty seq kill dd test wc hostname touch mkdir grep mount pwd ulimit";

/// An installation with the image `bb:1`: busybox, and users.
struct Host {
    dir: TempDir,
    children: Vec<Child>,
}

impl Host {
    fn new() -> Self {
        need_root();
        let dir = tempfile::Builder::new().prefix("sampan-run.").tempdir().expect("a directory");
        let mut host = Host { dir, children: Vec::new() };
        host.daemon("sampan-monitord", &["monitor", "status"]);
        host.daemon("sampan-engine", &["info"]);
        host.import();
        host
    }

    fn daemon(&mut self, name: &str, asks: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let child = self.command(name).stdout(Stdio::null()).stderr(log).spawn().expect("built");
        self.children.push(child);
        wait_until(name, || self.log(), || self.sampan(asks).status.success());
    }

    fn import(&self) {
        let root = self.path("root");
        fs::create_dir_all(root.join("bin")).expect("a directory");
        fs::create_dir_all(root.join("etc")).expect("a directory");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static");
        for tool in TOOLS.split(' ') {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).expect("a link");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nme:x:7:8:me:/:/bin/sh\n")
            .expect("a file");
        let tar = self.path("bb.tar");
        let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(made.expect("tar").success());
        self.ok(&["import", "bb:1", tar.to_str().expect("text"), "--cmd", "/bin/true"]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        for (name, dir) in [("RUN", "run"), ("STATE", "state"), ("DATA", "data")] {
            command.env(format!("SAMPAN_{name}_DIR"), self.path(dir));
        }
        command.stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    fn sampan(&self, args: &[&str]) -> Output {
        self.command("sampan").args(args).output().expect("built")
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        command_line::ok(self.command("sampan").args(args), || self.log())
    }

    /// Exit code and standard error of a command.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.sampan(args);
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn inspect(&self, name: &str, pointer: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ok(&["inspect", name])).expect("JSON");
        all.pointer(&format!("/0{pointer}")).cloned().unwrap_or(Value::Null)
    }

    /// Runs a command on a terminal of this size; returns the terminal's other end.
    fn on_terminal(&self, args: &[&str]) -> (Child, File, File) {
        let size = Winsize { ws_row: 31, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let (master, slave) = (File::from(pair.master), File::from(pair.slave));
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let child = self
            .command("sampan")
            .args(args)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("built");
        (child, master, slave)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let ids = self.sampan(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&ids.stdout).lines() {
            self.sampan(&["rm", "-f", id]);
        }
        for mut child in self.children.drain(..).rev() {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

/// Reads until `text` has arrived.
fn until(from: &mut impl Read, text: &str) -> String {
    let (mut all, mut byte) = (Vec::new(), [0; 1]);
    while !String::from_utf8_lossy(&all).contains(text) {
        match from.read(&mut byte) {
            Ok(1) => all.extend(byte),
            _ => panic!("no {text:?} in {:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn run_ends_as_its_command_does() {
    let host = Host::new();
    let output = host.sampan(&["run", "--rm", "bb:1", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(7), &b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(host.fails(&["run", "--rm", "bb:1", "/none"]).0, 127);
    assert_eq!(host.fails(&["run", "--rm", "bb:1", "/etc/passwd"]).0, 126);
    assert_eq!(host.fails(&["run", "--rm", "--pull=never", "none:1"]).0, 125);
    let (code, why) = host.fails(&["run", "--memory", "1x", "bb:1"]);
    assert!(code == 125 && why.contains("--memory \"1x\""), "{why}");
    wait_until("removal", || host.log(), || host.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn options_have_their_effect_inside() {
    let host = Host::new();
    fs::write(host.path("env"), "# no\nB=2\nA=0\n").expect("a file");
    fs::create_dir(host.path("src")).expect("a directory");
    fs::write(host.path("src/f"), "bound\n").expect("a file");
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--env-file", "env", "-e", "A=1"], "echo $A$B", "12\n"),
        (&["-w", "/etc"], "pwd", "/etc\n"),
        (&["-u", "me"], "id -u; id -g", "7\n8\n"),
        (&["-h", "box"], "hostname", "box\n"),
        (&["-v", "./src:/s:ro"], "cat /s/f; touch /s/g 2>/dev/null || echo ro", "bound\nro\n"),
        (&["--mount", "type=bind,src=src,dst=/s"], "touch /s/g && echo rw", "rw\n"),
        (&["--tmpfs", "/t:size=1m"], "grep -c ' /t tmpfs ' /proc/mounts", "1\n"),
        (&["--read-only"], "touch /x 2>/dev/null || echo ro", "ro\n"),
        (&["--entrypoint", "/bin/echo"], "x", "-c x\n"),
        (&["--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
    ];
    for (options, script, expected) in cases {
        let shell: &[&str] = if options.contains(&"--entrypoint") { &["-c"] } else { &["sh", "-c"] };
        let args = [&["run", "--rm"], *options, &["bb:1"], shell, &[*script]].concat();
        assert_eq!(host.ok(&args), *expected, "{options:?}");
    }
}

#[test]
fn a_container_lives_and_is_looked_after() {
    let host = Host::new();
    let script = "trap 'exit 3' TERM; echo one; echo two >&2; while true; do sleep 0.1; done";
    let id = host.ok(&["run", "-d", "--name", "web", "--label", "a=b", "bb:1", "sh", "-c", script]);
    assert_eq!(id.trim().len(), 64);
    assert_eq!(host.ok(&["exec", "-e", "X=5", "web", "sh", "-c", "echo $X"]), "5\n");
    assert_eq!(host.fails(&["exec", "web", "sh", "-c", "exit 6"]).0, 6);
    assert_eq!(host.fails(&["exec", "web", "/none"]).0, 127);
    assert!(host.ok(&["top", "web"]).contains("trap 'exit 3' TERM"));
    wait_until("its output", || host.log(), || host.ok(&["logs", "web"]) == "one\n");
    let stamped = host.ok(&["logs", "-t", "--tail", "2", "web"]);
    assert!(stamped.ends_with("Z one\n"), "{stamped}");
    host.ok(&["pause", "web"]);
    assert!(host.ok(&["ps"]).contains("(Paused)"));
    host.ok(&["unpause", "web"]);
    host.ok(&["rename", "web", "w2"]);
    assert_eq!(host.fails(&["rm", "w2"]).0, 1);
    assert_eq!(host.ok(&["stop", "w2"]), "w2\n");
    assert_eq!(host.ok(&["wait", "w2"]), "3\n");
    assert!(host.ok(&["ps", "-a"]).contains("Exited (3) "));
    assert_eq!(host.ok(&["start", "w2"]), "w2\n");
    assert_eq!(host.inspect("w2", "/State/Running"), true);
    host.ok(&["kill", "-s", "KILL", "w2"]);
    assert_eq!(host.ok(&["wait", "w2"]), "137\n");
    let unit = host.ok(&["generate", "systemd", "--new", "w2"]);
    assert!(
        unit.contains(" run --unit ") && unit.contains(" --name=w2 ") && unit.contains(" bb:1 sh -c "),
        "{unit}"
    );
    assert_eq!(host.ok(&["rm", "w2"]), "w2\n");
    assert_eq!(host.fails(&["inspect", "w2"]).0, 1);
    let made = host.ok(&["create", "--cidfile", "cid", "bb:1"]);
    assert_eq!(fs::read_to_string(host.path("cid")).expect("a file"), made.trim());
    assert_eq!(host.fails(&["create", "--cidfile", "cid", "bb:1"]).0, 125);
    assert!(host.ok(&["container", "prune", "-f"]).contains(made.trim()));
}

#[test]
fn streams_are_whole_and_signals_arrive() {
    let host = Host::new();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(host.path("noise"), &data).expect("a file");
    // Input from a file and from a pipe, output to a pipe.
    let from_file = host
        .command("sampan")
        .args(["run", "--rm", "-i", "--log-driver", "none", "bb:1", "cat"])
        .stdin(File::open(host.path("noise")).expect("a file"))
        .output()
        .expect("built");
    assert!(from_file.stdout == data, "{} bytes came", from_file.stdout.len());
    let mut child = host
        .command("sampan")
        .args(["run", "--rm", "-i", "bb:1", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("built");
    child.stdin.take().expect("a pipe").write_all(&data).expect("written");
    assert_eq!(child.wait_with_output().expect("it ends").stdout, b"3000000\n");

    let script = "trap 'echo got; exit 12' USR1; echo ready; while true; do sleep 0.1; done";
    let mut child = host
        .command("sampan")
        .args(["run", "--rm", "bb:1", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("built");
    let mut stdout = child.stdout.take().expect("a pipe");
    until(&mut stdout, "ready\n");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1).expect("it runs");
    until(&mut stdout, "got\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(12));

    let mut child = host
        .command("sampan")
        .args(["run", "--name", "on", "bb:1", "sh", "-c", "while true; do echo y; done"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("built");
    until(child.stdout.as_mut().expect("a pipe"), "y\n");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").signal(), Some(Signal::SIGPIPE as i32));
    assert_eq!(host.inspect("on", "/State/Running"), true);
}

#[test]
fn a_terminal_is_sized_detached_from_and_restored() {
    let host = Host::new();
    let (mut child, mut master, slave) = host.on_terminal(&["run", "-it", "--name", "t", "bb:1", "sh"]);
    until(&mut master, "# ");
    assert!(!tcgetattr(&slave).expect("a terminal").local_flags.contains(LocalFlags::ICANON));
    master.write_all(b"stty size\n").expect("typed");
    until(&mut master, "31 101");
    master.write_all(b"\x10").expect("typed");
    master.write_all(b"\x11").expect("typed");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(tcgetattr(&slave).expect("a terminal").local_flags.contains(LocalFlags::ICANON));
    assert_eq!(host.inspect("t", "/State/Running"), true);

    let (mut child, mut master, slave) = host.on_terminal(&["attach", "t"]);
    wait_until(
        "raw mode",
        || host.log(),
        || !tcgetattr(&slave).expect("a terminal").local_flags.contains(LocalFlags::ICANON),
    );
    master.write_all(b"echo a$((1+1))b; exit 9\n").expect("typed");
    until(&mut master, "a2b");
    assert_eq!(child.wait().expect("it ends").code(), Some(9));
    assert!(tcgetattr(&slave).expect("a terminal").local_flags.contains(LocalFlags::ICANON));
    assert_eq!(host.fails(&["run", "-it", "bb:1", "sh"]).0, 125, "no terminal, no -it");
}

#[test]
fn a_log_is_followed_across_rotations_without_loss() {
    let host = Host::new();
    let script = "i=0; while test $i -lt 1000; do echo line $i; i=$((i+1)); test $((i % 50)) = 0 && sleep 0.05; done; true";
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    host.ok(&[&["run", "-d", "--name", "l"], &limits[..], &["bb:1", "sh", "-c", script]].concat());
    let all = host.ok(&["logs", "-f", "l"]);
    let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    assert!(all == expected, "{} lines", all.lines().count());
}

#[test]
fn what_docker_has_and_is_not_here_is_said_by_name() {
    let refused = |args: &[&str]| {
        let output = Command::new(binary("sampan")).args(args).output().expect("built");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let cases: [(&[&str], &str, &str); 9] = [
        (&["rm", "-fv", "web"], "there is no option \"-v\"", "anonymous volumes"),
        (&["run", "-d", "-p", "80:80", "bb:1"], "there is no option \"-p\"", "--network host"),
        (
            &["container", "create", "--health-cmd=x", "bb:1"],
            "there is no option \"--health-cmd\"",
            "health checks",
        ),
        (&["stats"], "there is no command \"stats\"", "top"),
        (&["system", "prune"], "there is no command \"prune\"", "container prune"),
        (&["system", "events"], "there is no command \"events\"", "'sampan events'"),
        (&["compose", "up"], "there is no command \"compose\"", "generate systemd"),
        (&["run", "--gpus=all", "bb:1"], "there is no option \"--gpus\"", "--device"),
        (&["-H", "tcp://there", "ps"], "there is no option \"-H\"", "this host"),
    ];
    for (args, message, hint) in cases {
        let (code, said) = refused(args);
        let (error, hinted) = said.split_once("\nhint: ").unwrap_or_else(|| panic!("{args:?}: {said}"));
        assert_eq!(code, Some(125), "{args:?}");
        assert!(error.contains(message) && hinted.contains(hint), "{args:?}: {said}");
    }
    // Other errors are reported by the argument parser.
    for args in [&["run", "--nonsense", "bb:1"][..], &["pull", "-p", "bb:1"], &["strat"]] {
        let (code, said) = refused(args);
        assert!(code == Some(125) && said.contains("Usage:"), "{args:?}: {said}");
    }
}

#[test]
fn a_run_without_its_requested_terminal_makes_no_container() {
    let host = Host::new();
    let (code, why) = host.fails(&["run", "-i", "-t", "bb:1"]);
    assert!(code == 125 && why.contains("not a TTY"), "{why}");
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_unit_survives_engine_restarts_and_bad_ps_options_fail() {
    let host = Host::new();
    host.ok(&["run", "-d", "--name", "web", "bb:1", "sleep", "1000"]);
    // If a required unit is restarted, the service is restarted too. systemd.unit(5).
    let unit = host.ok(&["generate", "systemd", "web"]);
    assert!(unit.contains("Wants=network-online.target sampan-engine.socket\n"), "{unit}");
    assert!(!unit.contains("Requires="), "{unit}");
    let (code, why) = host.fails(&["top", "web", "-Q"]);
    assert_eq!(code, 1);
    assert!(why.starts_with("error: ps -Q failed: unsupported") && !why.contains("\\n"), "{why}");
}
