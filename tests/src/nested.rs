//! A test that runs once more, in a process of its own, on a host that looks different: its control groups.
//!
//! The host outside is not changed: what is mounted is mounted in a namespace that goes with that process.

use crate::host::need_root;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the second process, which is to do what the test is for.
const INSIDE: &str = "SAMPAN_TEST_INSIDE";
/// What `LD_PRELOAD` adds to crun, see [`crun`].
const LOCKED: &str = "#define _GNU_SOURCE\n\
    #include <dlfcn.h>\n\
    #include <sys/resource.h>\n\
    int setrlimit(__rlimit_resource_t what, const struct rlimit *limit) {\n\
        int (*real)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, \"setrlimit\");\n\
        return what == RLIMIT_MEMLOCK ? 0 : real(what, limit);\n\
    }\n";

/// Runs `test`, a test's function or a closure in it, on a host that has control groups of version 2 alone.
pub fn on_version_2<F: FnOnce()>(test: F) {
    need_root();
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let script = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    run_again::<F>(command);
}

/// Runs the test that `F` is in as the last arguments of `command`.
fn run_again<F>(mut command: Command) {
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = path.split_once("::").expect("a function in a crate");
    let program = std::env::current_exe().expect("a running program has a path");
    command.arg(program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("util-linux");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // A name that fits no test makes a run of none, which ends well.
    assert!(output.status.success() && said.contains("1 passed"), "inside: {}\n{said}", output.status);
}

/// crun; where this process may not lock any amount of memory, with that wish of its passed over: its version 1.8
/// insists on it before it loads its filter of devices, for the sake of kernels older than 5.11.
///
/// What is made is made in `dir`.
pub fn crun(dir: &Path) -> PathBuf {
    let crun = PathBuf::from("/usr/bin/crun");
    assert!(crun.exists(), "Debian's package crun");
    if may_lock_all() {
        return crun;
    }
    let (source, library, wrapper) = (dir.join("locked.c"), dir.join("locked.so"), dir.join("crun"));
    fs::write(&source, LOCKED).expect("written");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(made.expect("Debian's package gcc").success());
    let script = format!("#!/bin/sh\nLD_PRELOAD={} exec {} \"$@\"\n", library.display(), crun.display());
    fs::write(&wrapper, script).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("set");
    wrapper
}

/// True if a process may lock any amount of memory: asked of one that ends then.
fn may_lock_all() -> bool {
    let status = Command::new("prlimit").args(["--memlock=unlimited", "true"]).status();
    status.expect("util-linux").success()
}
