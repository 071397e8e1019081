//! A test that runs once more, in a process of its own, on a host that looks different: its control groups, systemd.
//!
//! The host outside is not changed: what is mounted is mounted in a namespace that goes with that process, and a
//! systemd of the test's own can write nowhere but in the test's directory.

use crate::host::{need_root, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the second process, which is to do what the test is for.
pub(crate) const INSIDE: &str = "SAMPAN_TEST_INSIDE";
/// What `LD_PRELOAD` adds to crun, see [`crun`].
const LOCKED: &str = "#define _GNU_SOURCE\n\
    #include <dlfcn.h>\n\
    #include <sys/resource.h>\n\
    int setrlimit(__rlimit_resource_t what, const struct rlimit *limit) {\n\
        int (*real)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, \"setrlimit\");\n\
        return what == RLIMIT_MEMLOCK ? 0 : real(what, limit);\n\
    }\n";

/// Which control groups a systemd of a test's own has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Those of the host, below a group of the test's own.
    OfHost,
    /// Version 2 alone.
    Version2,
}

/// A function of sh that mounts, below `$1/sys/fs/cgroup`, the hierarchies that are mounted now. systemd mounts what lacks,
/// links, and makes read-only what it finds there: so the file system that holds the mounts is a new one, and not the host's.
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

/// Goes into a group `$1` of its own in each hierarchy, and makes it the root of what is seen. A new group in cpuset has
/// no processor yet: it gets those of the one above, and so do all below it.
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

/// Starts systemd with one unit, of the directory `$1`: nothing else of the host's is started, and all but that directory
/// and what is mounted here is read-only. systemd knows by `container` that it must not touch the machine.
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
    let said = [&out, &console].map(|file| fs::read_to_string(file).unwrap_or_default()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "inside: {output:?}\n{said}");
}

/// The unit that runs the test that `F` is in; systemd ends as it does.
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

/// Removes the groups `name` at the top of all hierarchies; true if they are gone.
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

/// Runs `test`, a test's function or a closure in it, on a host that has these users and groups, lines of passwd(5) and
/// group(5), beside its own; none of the host's own is called `sampan…`.
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

/// Runs the test that `F` is in as the last arguments of `command`.
pub(crate) fn run_again<F>(mut command: Command) {
    let program = std::env::current_exe().expect("a running program has a path");
    command.arg(program).args(["--exact", name_of::<F>(), "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("util-linux");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // A name that fits no test makes a run of none, which ends well.
    assert!(output.status.success() && said.contains("1 passed"), "inside: {}\n{said}", output.status);
}

/// The name of the test that the closure `F` is in.
fn name_of<F>() -> &'static str {
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").expect("a function in a crate").1
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
