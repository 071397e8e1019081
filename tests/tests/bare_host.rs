//! Hosts with a read-only root file system, or without /proc.

use sampan_tests::engine::Engine;
use sampan_tests::host::{Host, binary, need_root};
use sampan_tests::registry::{Image, Layer, Packing, ScriptedRegistry};
use std::process::{Command, Output, Stdio};

/// Prepares a program in a new mount namespace, in which the shell commands `mounts` run first.
fn in_mounts(mounts: &str, program: &str) -> Command {
    need_root();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", &format!("{mounts}; exec \"$0\" \"$@\"")]).arg(binary(program));
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const READ_ONLY: &str = "mount -t tmpfs -o ro none /var/lib; mount -t tmpfs -o ro none /run";

#[test]
fn a_daemon_on_a_read_only_root_names_the_directory_to_move() {
    let host = Host::new();
    let run = |program: &str, moved: &[&str]| {
        let mut command = in_mounts(READ_ONLY, program);
        for name in ["SAMPAN_RUN_DIR", "SAMPAN_STATE_DIR", "SAMPAN_DATA_DIR", "NOTIFY_SOCKET", "LISTEN_FDS"] {
            command.env_remove(name);
        }
        for name in moved {
            command.env(format!("SAMPAN_{name}_DIR"), host.path(&name.to_lowercase()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let fails = |mut command: Command| {
        let output = command.output().expect("unshare(1)");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    };
    let said = fails(run("sampan-engine", &["RUN"]));
    assert!(said.contains("/var/lib is on a read-only file system; set SAMPAN_DATA_DIR"), "{said}");
    let said = fails(run("sampan-engine", &["DATA"]));
    assert!(said.contains("/run is on a read-only file system; set SAMPAN_RUN_DIR"), "{said}");
    let said = fails(run("sampan-monitord", &["STATE"]));
    assert!(said.contains("/run is on a read-only file system; set SAMPAN_RUN_DIR"), "{said}");
    // Without a directory for its journal, monitord serves, and its log gives the reason and a hint.
    let mut monitord = run("sampan-monitord", &["RUN"]);
    let log = host.log_file();
    let mut child = monitord.stderr(log).spawn().expect("unshare(1)");
    let says = || host.logs().contains("set SAMPAN_STATE_DIR to a path that you can write to");
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.wait_until("the hint", says)));
    child.kill().expect("it runs");
    child.wait().expect("ours");
    said.expect("the hint");
}

#[test]
fn without_proc_a_deep_verification_calls_no_layer_broken() {
    let registry = ScriptedRegistry::start();
    let image = Image::of(&[Layer::of(&[("a", b"x")], Packing::Gzip)], "amd64");
    registry.publish("app", &image);
    let engine = Engine::start();
    engine.pull(&registry.reference("app")).expect("pulled");
    let engine = engine.killed_and_restarted_by(&mut in_mounts("mount -t tmpfs none /proc", "sampan-engine"));
    let sampan = |args: &[&str]| {
        let mut command = Command::new(binary("sampan"));
        command.args(args).env("SAMPAN_RUN_DIR", engine.dir.path().join("run")).stdin(Stdio::null());
        command.output().expect("built")
    };
    let output = sampan(&["image", "verify", "--deep"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 of 4 blobs and layers in the store could not be verified"), "{said}");
    assert!(said.contains("/proc is not mounted for the engine"), "{said}");
    assert!(!said.contains("damaged:") && said.contains("hint: no damage was found"), "{said}");
    // Verifying blobs needs no /proc.
    assert!(sampan(&["image", "verify"]).status.success());
    let engine = engine.killed_and_restarted();
    let mut verify = Command::new(binary("sampan"));
    verify.args(["image", "verify", "--deep"]).env("SAMPAN_RUN_DIR", engine.dir.path().join("run"));
    assert!(verify.output().expect("built").status.success(), "{}", engine.log());
}
