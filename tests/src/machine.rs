//! A virtual host for one test: a root directory, a real systemd as process 1, and Sampan installed by `make install`.
//!
//! The test runs once more in a mount namespace, so that its mounts disappear with it. From there it boots the machine
//! as often as it likes: a boot keeps the root directory, clears `/run`, and has a new boot ID. The machine sees the
//! host's `/usr` below its own changes, and no other directory of the host. It has its own control group, its own
//! network namespace, and of the host's units only targets, slices and journald.

use crate::containers::busybox;
use crate::host::{binary, need_root, wait_until};
use crate::nested::{self, ENTER, INSIDE, MOUNT_GROUPS};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// The units of Sampan that an administrator enables, starts and stops, in the order of their dependencies.
pub const UNITS: [&str; 6] = [
    "sampan-monitord.socket",
    "sampan-emit.socket",
    "sampan-events.socket",
    "sampan-monitord.service",
    "sampan-engine.socket",
    "sampan-engine.service",
];
/// The host's units that the machine has, in addition to targets and slices.
const HOST_UNITS: [&str; 5] = [
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-poweroff.service",
    "systemd-reboot.service",
];
/// Units that the machine starts although no unit of Sampan requires them: the unit, and the target that wants it.
const WANTED: [(&str, &str); 3] = [
    ("systemd-journald.service", "sysinit.target"),
    ("systemd-journald.socket", "sockets.target"),
    ("systemd-journald-dev-log.socket", "sockets.target"),
];
/// Files of the host's `/etc` that locate libraries, programs, users and groups.
const HOST_FILES: [&str; 7] =
    ["alternatives", "group", "ld.so.cache", "ld.so.conf", "nsswitch.conf", "passwd", "shadow"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes `$1/root` the root directory of this process, mounts what systemd needs there, and executes systemd, which
/// recognizes by the variable `container` that it must not touch the host. First, it writes its process ID on the host
/// to `$1/pid`.
const BOOT: &str = r#"
set -e
read -r pid rest </proc/self/stat
echo "$pid" >"$1/pid.new"
mv "$1/pid.new" "$1/pid"
root=$1/root
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind "$1/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t sysfs sysfs "$root/sys"
mount_groups "$root"
mount -t tmpfs -o mode=755 none "$root/run"
mount -t tmpfs -o mode=755 none "$root/dev"
device() { mknod -m 666 "$root/dev/$1" c "$2" "$3"; }
device null 1 3; device zero 1 5; device full 1 7; device random 1 8; device urandom 1 9; device tty 5 0
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs none "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
: >"$root/dev/console"
mount --bind "$1/console" "$root/dev/console"
cd "$root"
pivot_root . .
umount -l .
cd /
# On a host systemd does this by itself, in a container it does not: it mounts credentials in a namespace of a child.
mount --make-rshared /
exec env -i container=sampan "PATH=$PATH" /usr/lib/systemd/systemd --system --log-target=journal --show-status=no
"#;

/// Enters the group `test` of the machine `$1` in each hierarchy, and the namespaces of its process 1, `$2`; executes
/// the remaining arguments there.
const RUN: &str = r#"
for top in $(awk '/ - cgroup/ { print $5 }' /proc/self/mountinfo | sort -u); do
    [ -e "$top/$1/cgroup.procs" ] || continue
    mkdir -p "$top/$1/test"
    echo $$ >"$top/$1/test/cgroup.procs"
done
pid=$2
shift 2
exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup -- "$@"
"#;

/// A machine, running or not.
#[derive(Debug)]
pub struct Machine {
    dir: TempDir,
    /// Name of its control group.
    name: String,
    init: Option<(Child, Pid)>,
}

impl Machine {
    /// Runs `test`, a test's function or a closure in it, with a machine that has booted. Sampan is installed, its user
    /// and groups exist, and none of its units is enabled.
    pub fn installed<F: FnOnce(&mut Machine)>(test: F) {
        need_root();
        if std::env::var_os(INSIDE).is_none() {
            let mut command = Command::new("unshare");
            command.arg("--mount");
            return nested::run_again::<F>(command);
        }
        let mut machine = Machine::new();
        machine.boot();
        machine.install();
        machine.stdout_of(&["systemd-sysusers", "sampan.conf"]);
        machine.stdout_of(&["systemctl", "daemon-reload"]);
        test(&mut machine);
        machine.pull_plug();
    }

    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-machine.").tempdir().expect("a directory");
        let name = format!("sampan-test-{}", dir.path().extension().expect("random letters").display());
        let machine = Machine { dir, name, init: None };
        machine.make_root();
        machine
    }

    fn make_root(&self) {
        let (root, units) = (self.file("root"), self.file("units"));
        let make = |path: &Path| fs::create_dir_all(path).expect("made");
        for dir in ["units", "none", "layer"] {
            make(&self.file(dir));
        }
        for dir in ["dev", "etc/systemd/system", "proc", "root", "run", "sys", "usr", "var/lib", "var/log"] {
            make(&root.join(dir));
        }
        for dir in ["tmp", "var/tmp"] {
            DirBuilder::new().mode(0o777).create(root.join(dir)).expect("made");
            run(Command::new("chmod").arg("1777").arg(root.join(dir)));
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, root.join(name)).expect("linked");
            }
        }
        for name in HOST_FILES {
            let from = Path::new("/etc").join(name);
            if from.exists() {
                run(Command::new("cp").arg("-a").arg(from).arg(root.join("etc")));
            }
        }
        // The host may have users and groups of another installation of Sampan: the machine must not.
        for name in ["passwd", "group", "shadow"] {
            let (path, mut text) = (root.join("etc").join(name), String::new());
            for line in fs::read_to_string(&path).unwrap_or_default().lines() {
                if !line.starts_with("sampan") {
                    text += &format!("{line}\n");
                }
            }
            fs::write(path, text).expect("written");
        }
        fs::write(root.join("etc/hostname"), "machine\n").expect("written");
        fs::write(root.join("etc/machine-id"), uuid().replace('-', "")).expect("written");
        // By default, journald reads the kernel's log and turns auditing on: both would affect the host.
        let journald = "[Journal]\nReadKMsg=no\nAudit=\nRateLimitIntervalSec=0\n";
        fs::write(root.join("etc/systemd/journald.conf"), journald).expect("written");
        // By default a shutdown waits 90 s for processes that ignore SIGTERM, such as `sleep` as process 1 of a
        // container.
        let manager = "[Manager]\nDefaultTimeoutStopSec=3s\n";
        fs::write(root.join("etc/systemd/system.conf"), manager).expect("written");
        let host = Path::new("/usr/lib/systemd/system");
        for entry in fs::read_dir(host).expect("Debian's package systemd").flatten() {
            let name = entry.file_name().into_string().expect("text");
            if name.ends_with(".target") || name.ends_with(".slice") || HOST_UNITS.contains(&name.as_str()) {
                run(Command::new("cp").arg("-a").arg(entry.path()).arg(&units));
            }
        }
        let _ = fs::remove_file(units.join("default.target"));
        symlink("multi-user.target", units.join("default.target")).expect("linked");
        for (unit, by) in WANTED {
            let wants = units.join(format!("{by}.wants"));
            make(&wants);
            symlink(Path::new("..").join(unit), wants.join(unit)).expect("linked");
        }
        let bind = |from: &Path, to: &Path| {
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mounted")
        };
        bind(&root, &root);
        self.mount_usr(&root.join("usr"));
        bind(&units, &root.join("usr/lib/systemd/system"));
        bind(&self.file("none"), &root.join("usr/lib/systemd/system-generators"));
    }

    /// Mounts the host's `/usr`, unchanged, below a layer for the machine's changes.
    fn mount_usr(&self, place: &Path) {
        let layer = self.file("layer");
        let try_it = || {
            let (upper, work) = (layer.join("upper"), layer.join("work"));
            fs::create_dir_all(&upper).and_then(|()| fs::create_dir_all(&work)).expect("made");
            let options = format!("lowerdir=/usr,upperdir={},workdir={}", upper.display(), work.display());
            mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        };
        // An overlay cannot be the upper layer of another one: if /tmp is on an overlay, the changes are kept in
        // memory.
        let in_memory = || {
            mount(Some("tmpfs"), &layer, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .and_then(|()| try_it())
        };
        try_it().or_else(|_| in_memory()).expect("overlayfs");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts systemd, and waits until all enabled units are up.
    pub fn boot(&mut self) {
        assert!(self.init.is_none(), "it runs");
        fs::write(self.file("boot_id"), uuid() + "\n").expect("written");
        fs::write(self.file("console"), "").expect("written");
        let _ = fs::remove_file(self.file("pid"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", ENTER, "sh"]);
        command.args([&self.name, "OfHost"]).arg(self.dir.path());
        command.env("BOOT", [MOUNT_GROUPS, BOOT].concat()).env("PATH", PATH).stdin(Stdio::null());
        command.stderr(fs::File::create(self.file("boot.log")).expect("a file"));
        let child = command.spawn().expect("util-linux");
        let pid = || fs::read_to_string(self.file("pid")).ok()?.trim().parse().ok().map(Pid::from_raw);
        wait_until("process 1 of the machine", || self.console(), || pid().is_some());
        self.init = pid().map(|pid| (child, pid));
        let mut state = String::new();
        let is_up = || {
            let output = self.run(&["systemctl", "is-system-running"]);
            state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            state == "running" || state == "degraded"
        };
        wait_until("the machine to be up", || self.logs(), is_up);
        assert_eq!(state, "running", "{}", self.logs());
    }

    /// Shuts the machine down in order.
    pub fn shut_down(&mut self) {
        self.run(&["systemctl", "poweroff"]);
        let console = self.file("console");
        let logs = || fs::read_to_string(&console).unwrap_or_default();
        // If the shutdown takes too long, the process is put back so that dropping the machine ends it.
        let (child, _) = self.init.as_mut().expect("it runs");
        wait_until("the machine to be off", logs, || child.try_wait().expect("ours").is_some());
        self.init = None;
        self.await_no_groups();
    }

    /// Kills all processes of the machine, as a power failure would.
    pub fn pull_plug(&mut self) {
        if let Some((mut child, pid)) = self.init.take() {
            let _ = kill(pid, Signal::SIGKILL);
            child.wait().expect("ours");
            self.await_no_groups();
        }
    }

    fn await_no_groups(&self) {
        let gone = || nested::remove_groups(&self.name);
        wait_until("the control groups to go", || self.name.clone(), gone);
    }

    /// Runs `make install` into the machine, with the binaries that the test uses.
    pub fn install(&self) {
        self.make("install-built");
    }

    /// Runs `make uninstall`.
    pub fn uninstall(&self) {
        self.make("uninstall");
    }

    fn make(&self, target: &str) {
        let (programs, share) = (binary("sampan"), self.file("share"));
        let programs = programs.parent().expect("a file has a directory");
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut command = Command::new("make");
        command.args(["-s", "-C", concat!(env!("CARGO_MANIFEST_DIR"), "/.."), target, "PREFIX=/usr"]);
        command.args([set("DESTDIR", &self.path("/")), set("BIN", programs), set("SHARE", &share)]);
        command.arg(set("GENERATE", &binary("examples/generate")));
        run(&mut command);
    }

    /// The host's path of a file `inside` the machine; valid while the machine runs.
    pub fn path(&self, inside: &str) -> PathBuf {
        let (_, pid) = self.init.as_ref().expect("it runs");
        PathBuf::from(format!("/proc/{pid}/root/")).join(inside.trim_start_matches('/'))
    }

    /// Moves the calling thread into the machine's network, with all threads that it starts from now on.
    pub fn enter_network(&self) {
        let network = File::open(self.path("/proc/1/ns/net")).expect("mounted");
        setns(network, CloneFlags::CLONE_NEWNET).expect("root may");
    }

    /// Prepares a command in the machine, as root.
    ///
    /// Killing the resulting process does not end the command in the machine.
    pub fn command(&self, words: &[&str]) -> Command {
        let (_, pid) = self.init.as_ref().expect("it runs");
        let mut command = Command::new("sh");
        command.args(["-c", RUN, "sh", &self.name, &pid.to_string()]).args(words);
        command.env_clear().envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command until it ends.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("sh")
    }

    /// Runs a command that must succeed; returns its standard output without the last line end.
    pub fn stdout_of(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {}, {stderr}\n{}", output.status, self.logs());
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// Runs a `systemctl` command that must succeed; returns its standard output without the last line end.
    pub fn systemctl(&self, words: &[&str]) -> String {
        self.stdout_of(&[&["systemctl"], words].concat())
    }

    /// Makes the image `box:1`, with busybox, in the machine's engine.
    pub fn import_box(&self) {
        let layer = busybox().into_inner().expect("to memory");
        fs::write(self.path("/root/box.tar"), layer).expect("written");
        self.stdout_of(&["sampan", "import", "box:1", "/root/box.tar"]);
    }

    /// The words of a line of `/proc/PID/status` of the unit's main process, after the line's name.
    pub fn status_of(&self, unit: &str, name: &str) -> Vec<String> {
        let pid = self.main_pid(unit).expect("it runs");
        let status = fs::read_to_string(self.path(&format!("/proc/{pid}/status"))).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5)");
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Number of processes of the machine whose command line begins with these words, apart from the search itself.
    pub fn running(&self, words: &[&str]) -> usize {
        let line = words.iter().map(|word| format!("{word}\0")).collect::<String>();
        let processes = fs::read_dir(self.path("/proc")).expect("mounted").flatten();
        let is_it = |path: &PathBuf| fs::read_to_string(path.join("cmdline")).is_ok_and(|it| it == line);
        processes.map(|process| process.path()).filter(is_it).count()
    }

    /// Files in the machine's `/usr` that the host does not have, apart from units.
    pub fn files_in_usr(&self) -> Vec<PathBuf> {
        let (mut files, mut dirs) = (Vec::new(), vec![self.file("layer/upper")]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("ours").flatten() {
                let kind = entry.file_type().expect("it is there");
                if kind.is_dir() {
                    dirs.push(entry.path());
                } else if kind.is_file() || kind.is_symlink() {
                    files.push(entry.path());
                }
            }
        }
        files
    }

    /// Returns a property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit])
    }

    /// Main process of a service, as a process ID in the machine; `None` if the service is not running.
    pub fn main_pid(&self, unit: &str) -> Option<String> {
        Some(self.property(unit, "MainPID")).filter(|pid| pid != "0")
    }

    /// Waits until a unit is in `state`.
    pub fn await_unit(&self, unit: &str, state: &str) {
        let seen = || format!("{}\n{}", self.property(unit, "ActiveState"), self.logs());
        wait_until(&format!("{unit} to be {state}"), seen, || self.property(unit, "ActiveState") == state);
    }

    /// Writes a drop-in for a unit, and makes systemd read it.
    pub fn drop_in(&self, unit: &str, text: &str) {
        let dir = self.path("/etc/systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("test.conf"), text)).expect("written");
        self.systemctl(&["daemon-reload"]);
    }

    /// Returns the output of systemd's console and the end of the journal.
    pub fn logs(&self) -> String {
        let log = self.run(&["journalctl", "--no-pager", "--lines", "3000", "--output", "short-precise"]);
        format!("{}{}", self.console(), String::from_utf8_lossy(&log.stdout))
    }

    fn console(&self) -> String {
        ["boot.log", "console"].map(|name| fs::read_to_string(self.file(name)).unwrap_or_default()).concat()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init.is_some() {
            eprintln!("{}", self.logs());
        }
        if let Some((mut child, pid)) = self.init.take() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = child.wait();
            // The kernel removes dead processes from their control groups with a delay.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while !nested::remove_groups(&self.name) && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        // Unmounts in this process's namespace, so that the directory can be removed.
        let _ = umount2(&self.file("root"), MntFlags::MNT_DETACH);
        let _ = umount2(&self.file("layer"), MntFlags::MNT_DETACH);
    }
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let output = command.output().expect("it is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").expect("mounted").trim().to_owned()
}
