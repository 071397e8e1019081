//! Runs a test once more, in a child process that sees a different host: other control groups, another systemd, other
//! users.
//!
//! The real host is not changed: mounts are in a mount namespace that ends with the child, and a systemd for the test
//! can write only to the test's directory.

use crate::host::{need_root, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable of the child process, in which the test's body runs.
pub(crate) const INSIDE: &str = "SAMPAN_TEST_INSIDE";
/// Source of the library that [`crun`] preloads.
const LOCKED: &str = "#define _GNU_SOURCE\n\
    #include <dlfcn.h>\n\
    #include <sys/resource.h>\n\
    int setrlimit(__rlimit_resource_t what, const struct rlimit *limit) {\n\
        int (*real)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, \"setrlimit\");\n\
        return what == RLIMIT_MEMLOCK ? 0 : real(what, limit);\n\
    }\n";

/// The control groups that a systemd for a test has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// The host's hierarchies, with a group of the test as their root.
    OfHost,
    /// Only version 2.
    Version2,
}

/// A function of sh that mounts the present hierarchies below `$1/sys/fs/cgroup`. systemd mounts missing hierarchies
/// there, adds links and makes directories read-only. Therefore the file system of the mount points is a new one, not
/// the host's.
pub(crate) const MOUNT_GROUPS: &str = r#"
mount_groups() {
    version=$(stat -f -c %T /sys/fs/cgroup)
    groups=$(awk '/ - cgroup/ { print $5, $(NF - 2), $NF }' /proc/self/mountinfo)
    [ -n "$1" ] || umount -R /sys/fs/cgroup
    if [ "$version" = cgroup2fs ]; then
        mount -t cgroup2 none "$1/sys/fs/cgroup"
        return
    fi
    mount -t tmpfs -o mode=755 none "$1/sys/fs/cgroup"
    echo "$groups" | while read -r place kind options; do
        case $options in *name=*) options=none,name=${options##*name=} ;; *) options=${options#r[wo],} ;; esac
        [ "$kind" = cgroup2 ] && options=rw
        mkdir -p "$1$place"
        mount -t "$kind" -o "$options" none "$1$place"
    done
}
"#;

/// Enters a new group `$1` in each hierarchy, and makes it the root of the visible groups. A new cpuset group has no
/// CPU yet: it and the groups below it get the CPUs of its parent.
pub(crate) const ENTER: &str = r#"
set -e
mount --make-rprivate /
[ "$2" = Version2 ] && mount -t cgroup2 none /sys/fs/cgroup
for top in $(awk '/ - cgroup/ { print $5 }' /proc/self/mountinfo | sort -u); do
    [ -e "$top/cgroup.procs" ] || continue
    mkdir "$top/$1"
    if [ -e "$top/cpuset.mem_exclusive" ]; then
        for file in cpuset.cpus cpuset.mems; do cat "$top/$file" >"$top/$1/$file"; done
        echo 1 >"$top/$1/cgroup.clone_children"
    fi
    echo $$ >"$top/$1/cgroup.procs"
done
exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child sh -c "$BOOT" sh "$3"
"#;

/// Starts systemd with one unit, in the directory `$1`, and none of the host's. Everything but that directory and the
/// mounts made here is read-only. systemd recognizes by the variable `container` that it must not touch the machine.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount_groups ""
for place in /run /var/log /etc/systemd /usr/lib/systemd/system /usr/lib/systemd/system-generators; do
    mount -t tmpfs none "$place"
done
mkdir /etc/systemd/system
cp "$1/test.service" /etc/systemd/system
mount --bind "$1/console" /dev/console
mount --bind "$1" "$1"
mount -o remount,bind,ro /
container=sampan exec /usr/lib/systemd/systemd --system --unit=test.service --log-target=console --show-status=no
"#;

/// Runs `test`, a test's function or a closure in it, in a unit of a systemd that is process 1.
pub fn under_systemd<F: FnOnce()>(groups: Groups, test: F) {
    need_root();
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let dir = tempfile::Builder::new().prefix("sampan-systemd.").tempdir().expect("a directory");
    let (temp, console, out) = (dir.path().join("tmp"), dir.path().join("console"), dir.path().join("out"));
    fs::create_dir(&temp).expect("made");
    fs::write(&console, "").expect("written");
    fs::write(dir.path().join("test.service"), unit::<F>(&temp, &out)).expect("written");
    let name = format!("sampan-test-{}", dir.path().extension().expect("random letters").display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", ENTER, "sh", &name, &format!("{groups:?}")]).arg(dir.path());
    let output = command.env("BOOT", [MOUNT_GROUPS, BOOT].concat()).output().expect("util-linux");
    let gone = || remove_groups(&name);
    wait_until("the control groups to go", || name.clone(), gone);
    let text = [&out, &console].map(|file| fs::read_to_string(file).unwrap_or_default()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "inside: {output:?}\n{text}");
}

/// The unit that runs the test which contains `F`; systemd ends when the unit does.
fn unit<F>(temp: &Path, out: &Path) -> String {
    let program = std::env::current_exe().expect("a running program has a path");
    let kept = ["PATH", "SAMPAN_BIN_DIR", "RUST_BACKTRACE"];
    let kept = kept
        .iter()
        .filter_map(|name| Some(format!("Environment=\"{name}={}\"\n", std::env::var(name).ok()?)));
    format!(
        "[Unit]\nDefaultDependencies=no\nSuccessAction=exit-force\nFailureAction=exit-force\n\
         [Service]\nType=oneshot\nEnvironment={INSIDE}=1 \"TMPDIR={}\"\n{}\
         ExecStart=\"{}\" --exact {} --nocapture\nStandardOutput=append:{out}\nStandardError=append:{out}\n",
        temp.display(),
        kept.collect::<String>(),
        program.display(),
        name_of::<F>(),
        out = out.display(),
    )
}

/// Removes the groups `name` at the top of all hierarchies; true if they no longer exist.
pub(crate) fn remove_groups(name: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounted");
    let tops =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    tops.map(|top| Path::new(top).join(name)).all(|group| remove_group(&group))
}

fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// Runs `test`, a test's function or a closure in it, on a host that has only control groups of version 2.
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

/// Runs `test`, a test's function or a closure in it, on a host with these additional users and groups (lines of
/// passwd(5) and group(5)), and without the host's accounts whose name begins with `sampan`.
pub fn with_accounts<F: FnOnce()>(users: &str, groups: &str, test: F) {
    need_root();
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let dir = tempfile::Builder::new().prefix("sampan-accounts.").tempdir().expect("a directory");
    for (name, lines) in [("passwd", users), ("group", groups)] {
        let host = fs::read_to_string(Path::new("/etc").join(name)).expect("every host has it");
        let host = host.lines().filter(|line| !line.starts_with("sampan"));
        let all = host.chain(lines.lines()).map(|line| format!("{line}\n")).collect::<String>();
        fs::write(dir.path().join(name), all).expect("written");
    }
    let script = "mount --make-rprivate / && mount --bind \"$0/passwd\" /etc/passwd && \
                  mount --bind \"$0/group\" /etc/group && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(dir.path());
    run_again::<F>(command);
}

/// Runs the test which contains `F` as the last arguments of `command`.
pub(crate) fn run_again<F>(mut command: Command) {
    let program = std::env::current_exe().expect("a running program has a path");
    command.arg(program).args(["--exact", name_of::<F>(), "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("util-linux");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // If the name matches no test, the run succeeds without running one.
    assert!(output.status.success() && text.contains("1 passed"), "inside: {}\n{text}", output.status);
}

/// Name of the test that contains the closure `F`.
fn name_of<F>() -> &'static str {
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").expect("a function in a crate").1
}

/// Path of a crun for this host. If this process may not lock unlimited memory, a wrapper in `dir` makes crun ignore
/// that: its version 1.8 insists on raising that limit before it loads its device filter, which only kernels before
/// 5.11 need.
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

/// True if a process may lock unlimited memory; a child process tries it.
fn may_lock_all() -> bool {
    let status = Command::new("prlimit").args(["--memlock=unlimited", "true"]).status();
    status.expect("util-linux").success()
}
