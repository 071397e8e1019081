//! The tables of permissions in docs/security.md, checked for each kind of user; and directories that another user has
//! prepared.
//!
//! Users and groups are numbers, or in copies of passwd(5) and group(5) that only the test sees.

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sampan_tests::containers::Containers;
use sampan_tests::host::{Host, binary, need_root, wait_until};
use sampan_tests::nested;
use sampan_tests::users::User;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// Numbers that hosts do not assign.
const WATCH: u32 = 1_900_000_001;
const FACTS: u32 = 1_900_000_002;
const ADMIN: u32 = 1_900_000_003;
const MONITORD: u32 = 1_900_000_004;
const USERS: &str = "sampan:x:1900000004:1900000001::/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "sampan:x:1900000001:\nsampan-facts:x:1900000002:\nsampan-admin:x:1900000003:\n";

/// A user for this process only: tests run in parallel, and `/tmp/sampan-UID` is shared by the host.
fn stranger(nth: u32) -> User {
    User::new(1_000_000_000 + 4 * std::process::id() + nth)
}

/// Copies programs to a directory where every user can run them: the build's directory may be closed to others.
fn programs(dir: &Path, names: &[&str]) -> PathBuf {
    let bin = dir.join("bin");
    fs::create_dir(&bin).expect("made");
    for name in names {
        fs::copy(binary(name), bin.join(name)).expect("room");
    }
    bin
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("ours");
}

/// Owner, group and mode of a file.
fn access(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

fn mode(path: &Path) -> u32 {
    access(path).2
}

/// Runs a command until it ends: whether it succeeded, and its whole output.
fn run(mut command: Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.output().expect("timeout(1) and setpriv(1)");
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(![Some(124), Some(137)].contains(&status.code()), "it hangs: {command:?}\n{said}");
    (status.success(), said)
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("root may read");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn files_and_sockets_admit_exactly_the_users_in_the_table() {
    nested::with_accounts(USERS, GROUPS, || {
        let containers = Containers::new();
        let path = |below: &str| containers.host.path(below);
        open_to_all(&path(""));
        let sampan = programs(&path(""), &["sampan"]).join("sampan");
        containers.stdout_of(&["run", "--name", "web", "box:1", "echo", "a secret"]);

        for (below, wanted) in [
            ("run", (0, 0, 0o755)),
            ("run/engine.sock", (0, ADMIN, 0o660)),
            ("run/events.sock", (0, WATCH, 0o660)),
            ("run/emit.fifo", (0, WATCH, 0o620)),
            ("run/monitor.fifo", (0, FACTS, 0o620)),
            ("run/engine.sock.lock", (0, 0, 0o600)),
            ("run/events.sock.lock", (0, 0, 0o600)),
            ("run/monitor.fifo.lock", (0, 0, 0o600)),
            ("run/emit.fifo.lock", (0, 0, 0o600)),
            ("run/containers", (0, 0, 0o700)),
            ("run/runtime", (0, 0, 0o700)),
            ("state", (0, 0, 0o700)),
            ("state/journal", (0, 0, 0o700)),
            ("data", (0, 0, 0o700)),
            ("data/store", (0, 0, 0o700)),
            ("data/containers", (0, 0, 0o700)),
        ] {
            assert_eq!(access(&path(below)), wanted, "{below}");
        }
        let known = ["engine.sock", "events.sock", "engine.sock.lock", "events.sock.lock", "containers"];
        let known = known.into_iter().chain([
            "runtime",
            "monitor.fifo",
            "emit.fifo",
            "monitor.fifo.lock",
            "emit.fifo.lock",
        ]);
        let known: BTreeSet<String> = known.map(str::to_owned).collect();
        let there = names_in(&path("run"));
        assert!(there.is_subset(&known), "not in the table: {:?}", there.difference(&known));

        let classes = [
            ("root", User::new(0)),
            ("admin", User::member(stranger(0).uid, ADMIN)),
            ("facts", User::member(stranger(1).uid, FACTS)),
            ("watch", User::member(stranger(2).uid, WATCH)),
            ("nobody", stranger(3)),
        ];
        let admin = "become root, or join the group sampan-admin, whose members are root in all but name";
        let watch =
            "become root, or join the group sampan, whose members may watch events and emit their own";
        let facts = "become root, or join the group sampan-facts, whose members may write any event";
        let monitor_fifo = path("run/monitor.fifo");
        let fact = ["emit", "--fifo", monitor_fifo.to_str().expect("text"), "container", "die", "x"];
        let rows: [(&[&str], &[&str], &str); 6] = [
            (&["images"], &["root", "admin"], admin),
            (&["ps", "--all"], &["root", "admin"], admin),
            (&["monitor", "status"], &["root", "watch"], watch),
            (&["events", "--no-follow", "--after", "0"], &["root", "watch"], watch),
            (&["emit", "walk", "done", "x"], &["root", "watch"], watch),
            (&fact, &["root", "facts"], facts),
        ];
        for (class, user) in &classes {
            for (args, may, hint) in rows {
                let mut command = user.command(&sampan);
                command.args(args).env("SAMPAN_RUN_DIR", path("run"));
                let (well, said) = run(command);
                assert_eq!(well, may.contains(class), "{class} {args:?}: {said}");
                let refused = said.contains("Permission denied") && said.contains(&format!("hint: {hint}"));
                assert!(well || refused, "{class} {args:?}: {said}");
            }
            // Only the daemons may access files on disk, whatever groups a user is in.
            for below in ["state", "data", "state/journal", "data/store", "data/containers", "run/containers"]
            {
                let read = user.does(|| fs::read_dir(path(below)).map(drop));
                assert_eq!(read.is_ok(), *class == "root", "{class} {below}: {read:?}");
            }
            let blob = path("data/store/index.json");
            assert_eq!(user.does(|| fs::read(&blob)).is_ok(), *class == "root", "{class}");
        }
    });
}

#[test]
fn without_the_groups_sockets_are_for_root_alone() {
    nested::with_accounts("", "", || {
        let containers = Containers::new();
        let path = |below: &str| containers.host.path(below);
        open_to_all(&path(""));
        let sampan = programs(&path(""), &["sampan"]).join("sampan");
        assert_eq!((mode(&path("run/engine.sock")), mode(&path("run/events.sock"))), (0o600, 0o600));
        for (args, group) in [(&["images"][..], "sampan-admin"), (&["events", "--no-follow"], "sampan")] {
            let mut command = stranger(0).command(&sampan);
            command.args(args).env("SAMPAN_RUN_DIR", path("run"));
            let (well, said) = run(command);
            let hint = format!("hint: become root: this host has no group {group}, whose members ");
            assert!(!well && said.contains(&hint), "{said}");
        }
    });
}

#[test]
fn a_container_of_user_1000_runs_below_private_directories() {
    let containers = Containers::new();
    let script = "set -e; id -u; cat /etc/hosts >/dev/null; cat /etc/resolv.conf >/dev/null; cat /etc/group >/dev/null; \
                  echo written >/tmp/file; cat /tmp/file; ls / >/dev/null";
    let said = containers.stdout_of(&["run", "--name", "one", "-u", "1000", "box:1", "sh", "-c", script]);
    assert_eq!(said, "1000\nwritten");
    assert_eq!(containers.stdout_of(&["logs", "one"]), "1000\nwritten");
    containers.stdout_of(&["run", "-d", "--name", "two", "-u", "1000", "box:1", "sleep", "1000"]);
    assert_eq!(
        containers.stdout_of(&["exec", "two", "sh", "-c", "echo x >/tmp/y; id -u; cat /tmp/y"]),
        "1000\nx"
    );
    containers.stdout_of(&["rm", "-f", "two"]);
    assert_eq!(
        (mode(&containers.host.path("data")), mode(&containers.host.path("data/store"))),
        (0o700, 0o700)
    );
}

#[test]
fn files_left_open_by_an_earlier_version_are_closed_and_logged() {
    let mut host = Host::new();
    let all = ["state", "state/journal", "data", "data/store", "data/containers"];
    for below in all {
        fs::create_dir(host.path(below)).expect("made");
        fs::set_permissions(host.path(below), Permissions::from_mode(0o755)).expect("ours");
    }
    host.start_monitord(&[]);
    let log = File::create(host.path("engine.log")).expect("made");
    let engine = host.command("sampan-engine").stderr(log).spawn().expect("built");
    let _engine = Running(engine);
    let log = || fs::read_to_string(host.path("engine.log")).unwrap_or_default() + &host.logs();
    wait_until("the engine to listen", log, || UnixStream::connect(host.path("run/engine.sock")).is_ok());
    for below in all {
        assert_eq!(mode(&host.path(below)), 0o700, "{below}");
        let told = format!("mode of {} changed from 0755 to 0700", host.path(below).display());
        assert!(log().contains(&told), "{below}: {}", log());
    }
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/tmp/sampan-UID`, the directory of the daemons of a user without XDG_RUNTIME_DIR; removed when this is dropped.
struct Fallback(PathBuf);

impl Fallback {
    fn of(user: &User) -> Self {
        need_root();
        let path = PathBuf::from(format!("/tmp/sampan-{}", user.uid));
        assert!(path.symlink_metadata().is_err(), "{} is left of something", path.display());
        Fallback(path)
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory for programs, and a home for a user.
struct Place {
    dir: TempDir,
    bin: PathBuf,
    user: User,
}

impl Place {
    fn of(user: &User, names: &[&str]) -> Self {
        need_root();
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a directory");
        open_to_all(dir.path());
        let bin = programs(dir.path(), names);
        let place = Place { dir, bin, user: user.clone() };
        fs::create_dir(place.home()).expect("made");
        chown(place.home(), Some(user.uid), Some(user.uid)).expect("root may");
        place
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Prepares a program that the user runs, whose environment has only a home.
    fn command(&self, name: &str) -> Command {
        let mut command = self.user.command(&self.bin.join(name));
        command.env("HOME", self.home());
        command
    }
}

#[test]
fn an_ordinary_users_daemons_and_files_are_nobody_elses() {
    let (user, other) = (stranger(0), stranger(1));
    let run_dir = Fallback::of(&user);
    let place = Place::of(&user, &["sampan", "sampan-engine", "sampan-monitord"]);
    let log_path = place.dir.path().join("log");
    let mut running = Vec::new();
    for name in ["sampan-monitord", "sampan-engine"] {
        let log = File::options().create(true).append(true).open(&log_path).expect("a log");
        let mut command = user.daemon(&place.bin.join(name));
        command.env("HOME", place.home()).stdout(Stdio::null()).stderr(log);
        running.push(Running(command.spawn().expect("setpriv(1)")));
    }
    let log = || fs::read_to_string(&log_path).unwrap_or_default();
    let asks = |args: &[&str]| {
        let mut command = place.command("sampan");
        command.args(args);
        run(command)
    };
    wait_until("the engine to answer its user", log, || asks(&["info"]).0);
    wait_until("monitord to answer its user", log, || asks(&["monitor", "status"]).0);
    let (well, said) = asks(&["emit", "own", "done", "x"]);
    assert!(well, "{said}");

    assert_eq!(access(&run_dir.0), (user.uid, user.uid, 0o700));
    for name in ["engine.sock", "events.sock", "emit.fifo", "monitor.fifo"] {
        assert_eq!(access(&run_dir.0.join(name)), (user.uid, user.uid, 0o600), "{name}");
    }
    for socket in ["engine.sock", "events.sock"] {
        let error = other.does(|| UnixStream::connect(run_dir.0.join(socket))).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    for below in [".local", ".local/share/sampan", ".local/share/sampan/store", ".local/state/sampan/journal"]
    {
        assert_eq!(access(&place.home().join(below)), (user.uid, user.uid, 0o700), "{below}");
    }
    // Even root's command line does not talk to an engine that another user may have replaced.
    for asking in [other, User::new(0)] {
        for args in [&["images"][..], &["events", "--no-follow"], &["emit", "a", "b", "c"]] {
            let mut command = asking.command(&place.bin.join("sampan"));
            command.args(args).env("SAMPAN_RUN_DIR", &run_dir.0);
            let (well, said) = run(command);
            let why =
                format!("cannot trust directory {}: it belongs to user {}", run_dir.0.display(), user.uid);
            assert!(!well && said.contains(&why) && said.contains("hint: "), "{args:?}: {said}");
        }
    }
}

/// Sockets and FIFOs of an attacker, under the names that a victim's programs look for.
struct Trap {
    dir: PathBuf,
    listeners: Vec<UnixListener>,
    fifos: Vec<File>,
}

impl Trap {
    /// Makes the trap as `attacker`, who may write to `dir`.
    fn lay(attacker: &User, dir: &Path) -> Self {
        attacker.does(|| {
            let listeners = ["engine.sock", "events.sock"].map(|name| {
                let listener = UnixListener::bind(dir.join(name)).expect("bound");
                fs::set_permissions(dir.join(name), Permissions::from_mode(0o777)).expect("theirs");
                listener.set_nonblocking(true).expect("set");
                listener
            });
            let fifos = ["monitor.fifo", "emit.fifo"].map(|name| fifo(&dir.join(name)));
            Trap { dir: dir.to_owned(), listeners: listeners.into(), fifos: fifos.into() }
        })
    }

    /// Number of connections so far, and of bytes that arrived on them and in the FIFOs.
    fn caught(&mut self) -> (usize, usize) {
        let (mut connections, mut bytes) = (0, Vec::new());
        for listener in &self.listeners {
            while let Ok((mut stream, _)) = listener.accept() {
                connections += 1;
                // The program that connected has ended.
                stream.read_to_end(&mut bytes).expect("read");
            }
        }
        for fifo in &mut self.fifos {
            let mut some = [0; 4096];
            let len = fifo.read(&mut some).unwrap_or(0);
            bytes.extend_from_slice(&some[..len]);
        }
        (connections, bytes.len())
    }
}

/// A FIFO that everybody may write, open for reading.
fn fifo(path: &Path) -> File {
    mkfifo(path, Mode::from_bits_truncate(0o600)).expect("made");
    fs::set_permissions(path, Permissions::from_mode(0o666)).expect("ours");
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).expect("opened").into()
}

/// Commands of the victim, each with its standard input.
const COMMANDS: [(&[&str], &str); 9] = [
    (&["pull", "registry.invalid/box:1"], ""),
    (&["push", "box:1", "registry.invalid/box:1"], ""),
    (&["login", "--username", "ann", "--password-stdin", "registry.invalid"], "hunter2"),
    (&["run", "--env", "SECRET=hunter2", "box:1"], ""),
    (&["images"], ""),
    (&["events"], ""),
    (&["events", "--no-follow", "--no-reconnect"], ""),
    (&["monitor", "status"], ""),
    (&["emit", "backup", "done", "x"], ""),
];

/// Runs all commands and the daemons as the victim; each must fail with `why` and a hint.
fn expect_refusals(place: &Place, variables: &[(&str, &Path)], why: &str) {
    let auth = place.home().join("auth.json");
    // Base64 of ann:hunter2.
    fs::write(&auth, r#"{"auths":{"registry.invalid":{"auth":"YW5uOmh1bnRlcjI="}}}"#).expect("written");
    chown(&auth, Some(place.user.uid), None).expect("root may");
    let daemons = ["sampan-engine", "sampan-monitord"].map(|name| (name, &[][..], ""));
    let all = COMMANDS.iter().map(|(args, input)| ("sampan", *args, *input));
    let up: &[&str] = &["up"];
    for (program, args, input) in all.chain([("sampan", up, "")]).chain(daemons) {
        let mut command = place.command(program);
        command.args(args).envs(variables.iter().copied()).env("REGISTRY_AUTH_FILE", &auth);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("timeout(1)");
        let mut stdin = child.stdin.take().expect("piped");
        // A write error is no failure: the command may end before it reads.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("ours");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            matches!(output.status.code(), Some(1 | 125)),
            "{program} {args:?}: {:?}: {said}",
            output.status
        );
        assert!(said.contains(why) && said.contains("hint: "), "{program} {args:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn nothing_is_sent_or_made_where_another_user_was_first() {
    let (victim, attacker) = (stranger(0), stranger(1));
    let place = Place::of(&victim, &["sampan", "sampan-engine", "sampan-monitord"]);
    let theirs = place.dir.path().join("theirs");
    fs::create_dir(&theirs).expect("made");
    chown(&theirs, Some(attacker.uid), Some(attacker.uid)).expect("root may");
    for kind in ["their directory", "one that everybody may write", "a link to theirs", "the victim's, open"]
    {
        let run_dir = Fallback::of(&victim);
        let path = &run_dir.0;
        let make = |mode: u32| {
            fs::create_dir(path).expect("/tmp is sticky");
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("their own");
        };
        let why = match kind {
            "their directory" => {
                attacker.does(|| make(0o755));
                format!("cannot trust directory {}: it belongs to user {}", path.display(), attacker.uid)
            }
            "one that everybody may write" => {
                attacker.does(|| make(0o777));
                format!("cannot trust directory {}: it belongs to user {}", path.display(), attacker.uid)
            }
            "a link to theirs" => {
                attacker.does(|| symlink(&theirs, path).expect("/tmp is sticky"));
                format!("cannot trust directory {}: it is a symbolic link or a file", path.display())
            }
            _ => {
                victim.does(|| make(0o777));
                format!("cannot trust directory {}: its mode 0777 lets group or others write", path.display())
            }
        };
        let mut trap = Trap::lay(&attacker, path);
        let before = names_in(&trap.dir);
        expect_refusals(&place, &[], &why);
        assert_eq!(trap.caught(), (0, 0), "{kind}");
        assert_eq!(names_in(&trap.dir), before, "{kind}");
        drop(run_dir);
        fs::remove_dir_all(&theirs).expect("root may");
        fs::create_dir(&theirs).expect("made");
        chown(&theirs, Some(attacker.uid), Some(attacker.uid)).expect("root may");
    }
}

#[test]
fn directories_that_others_may_change_are_refused() {
    let (victim, attacker) = (stranger(0), stranger(1));
    let place = Place::of(&victim, &["sampan", "sampan-engine", "sampan-monitord"]);
    let (open, theirs) = (place.dir.path().join("open"), place.dir.path().join("theirs"));
    for (dir, mode) in [(&open, 0o1777), (&theirs, 0o755)] {
        fs::create_dir(dir).expect("made");
        fs::set_permissions(dir, Permissions::from_mode(mode)).expect("ours");
    }
    let mut trap = Trap::lay(&attacker, &open);
    let why = format!("cannot trust directory {}: its mode 1777 lets group or others write", open.display());
    expect_refusals(&place, &[("SAMPAN_RUN_DIR", &open)], &why);
    assert_eq!(trap.caught(), (0, 0));
    // A directory of the victim's own, in a directory whose owner may rename it.
    let own = theirs.join("own");
    fs::create_dir(&own).expect("made");
    chown(&own, Some(victim.uid), Some(victim.uid)).expect("root may");
    chown(&theirs, Some(attacker.uid), Some(attacker.uid)).expect("root may");
    let why = format!(
        "cannot trust directory {}: {} above it belongs to user {}",
        own.display(),
        theirs.display(),
        attacker.uid
    );
    expect_refusals(&place, &[("SAMPAN_RUN_DIR", &own)], &why);
    assert!(names_in(&own).is_empty());
}

#[test]
fn daemons_keep_no_state_or_data_where_another_user_was_first() {
    let (victim, attacker) = (stranger(0), stranger(1));
    let place = Place::of(&victim, &["sampan-engine", "sampan-monitord"]);
    // Without a home, state and data are in /tmp/sampan-UID too.
    for mode in [0o755, 0o777, 0o1777] {
        let fallback = Fallback::of(&victim);
        attacker.does(|| {
            fs::create_dir(&fallback.0).expect("/tmp is sticky");
            fs::set_permissions(&fallback.0, Permissions::from_mode(mode)).expect("their own");
        });
        for name in ["sampan-engine", "sampan-monitord"] {
            let mut command = place.user.command(&place.bin.join(name));
            command.env("XDG_RUNTIME_DIR", place.home());
            let (well, said) = run(command);
            let why = format!("{} above it belongs to user {}", fallback.0.display(), attacker.uid);
            assert!(!well && said.contains(&why) && said.contains("hint: "), "{name}: {said}");
        }
        assert!(names_in(&fallback.0).is_empty());
    }
}

/// A socket that root has made and `user` listens on; the kernel reports that user to each client.
fn listen_as(user: &User, path: &Path) -> UnixListener {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &UnixAddr::new(path).expect("short")).expect("bound");
    fs::set_permissions(path, Permissions::from_mode(0o666)).expect("ours");
    user.does(|| listen(&fd, Backlog::new(16).expect("small")).expect("listens"));
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).expect("set");
    listener
}

#[test]
fn a_stranger_who_listens_in_a_directory_of_roots_hears_nothing() {
    nested::with_accounts(USERS, GROUPS, || {
        let (victim, attacker) = (stranger(0), stranger(1));
        let place = Place::of(&victim, &["sampan"]);
        let dir = place.dir.path().join("run");
        fs::create_dir(&dir).expect("made");
        let listeners = ["engine.sock", "events.sock"].map(|name| listen_as(&attacker, &dir.join(name)));
        let fifos = ["monitor.fifo", "emit.fifo"].map(|name| {
            let opened = fifo(&dir.join(name));
            chown(dir.join(name), Some(attacker.uid), None).expect("root may");
            opened
        });
        let mut trap = Trap { dir: dir.clone(), listeners: listeners.into(), fifos: fifos.into() };
        for (args, input) in COMMANDS {
            let mut command = place.command("sampan");
            command.args(args).env("SAMPAN_RUN_DIR", &dir).stdin(File::open("/dev/null").expect("there"));
            if !input.is_empty() {
                let file = place.home().join("input");
                fs::write(&file, input).expect("written");
                command.stdin(File::open(file).expect("there"));
            }
            let (well, said) = run(command);
            let listens = format!("a process of user {} listens on it", attacker.uid);
            let belongs = format!("FIFO {}", dir.display());
            let is_told = said.contains(&listens) || said.contains(&belongs);
            assert!(!well && is_told && said.contains("hint: nothing was sent"), "{args:?}: {said}");
        }
        let (connections, bytes) = trap.caught();
        assert!(connections > 0 && bytes == 0, "{connections} connections, {bytes} bytes");
    });
}

#[test]
fn monitords_user_is_trusted_for_events_but_not_as_an_engine() {
    nested::with_accounts(USERS, GROUPS, || {
        let monitord = User::new(MONITORD);
        let place = Place::of(&stranger(0), &["sampan"]);
        let dir = place.dir.path().join("run");
        fs::create_dir(&dir).expect("made");
        let [engine, events] =
            ["engine.sock", "events.sock"].map(|name| listen_as(&monitord, &dir.join(name)));
        let fifos = ["monitor.fifo", "emit.fifo"].map(|name| {
            let opened = fifo(&dir.join(name));
            chown(dir.join(name), Some(MONITORD), None).expect("root may");
            opened
        });
        let command = |args: &[&str]| {
            let mut command = place.command("sampan");
            command.args(args).env("SAMPAN_RUN_DIR", &dir);
            command
        };
        let (well, said) = run(command(&["images"]));
        assert!(!well && said.contains(&format!("a process of user {MONITORD} listens on it")), "{said}");
        // This monitord accepts the connection, sends nothing, and closes.
        let waiting = command(&["monitor", "status"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut waiting = Running(waiting.expect("timeout(1)"));
        let mut heard = [0; 1];
        let accept = || events.accept().ok();
        let mut accepted = None;
        wait_until("the client to connect", String::new, || {
            accepted = accepted.take().or_else(accept);
            accepted.is_some()
        });
        let (mut stream, _) = accepted.expect("connected");
        stream.set_nonblocking(false).expect("set");
        stream.read_exact(&mut heard).expect("a request");
        drop(stream);
        assert!(!waiting.0.wait().expect("ours").success());
        let (well, said) = run(command(&["emit", "backup", "done", "x"]));
        assert!(well, "{said}");
        let mut trap = Trap { dir: dir.clone(), listeners: vec![engine], fifos: fifos.into() };
        let (connections, bytes) = trap.caught();
        assert!(connections == 1 && bytes > 0, "{connections} connections, {bytes} bytes in FIFOs");
    });
}

#[test]
fn a_fifo_may_belong_to_a_system_user_but_to_no_person() {
    // A container that has the host's FIFO mounted.
    nested::with_accounts("", "", || {
        let place = Place::of(&stranger(0), &["sampan"]);
        let dir = place.dir.path().join("run");
        fs::create_dir(&dir).expect("made");
        let mut opened = fifo(&dir.join("emit.fifo"));
        for (owner, may) in [(993, true), (1000, false), (stranger(1).uid, false)] {
            chown(dir.join("emit.fifo"), Some(owner), None).expect("root may");
            let mut command = place.command("sampan");
            command.args(["emit", "backup", "done", "x"]).env("SAMPAN_RUN_DIR", &dir);
            let (well, said) = run(command);
            assert_eq!(well, may, "{owner}: {said}");
            assert_eq!(opened.read(&mut [0; 4096]).is_ok_and(|len| len > 0), may, "{owner}");
        }
    });
}

#[test]
fn only_root_may_name_the_path_of_an_oci_runtime() {
    nested::with_accounts(USERS, GROUPS, || {
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a directory");
        open_to_all(dir.path());
        let (ran, wrapper) = (dir.path().join("ran"), dir.path().join("wrapper"));
        let script = format!("#!/bin/sh\n: >{}\nexec runc \"$@\"\n", ran.display());
        for path in [&wrapper, &dir.path().join("other")] {
            fs::write(path, &script).expect("written");
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
        }
        let containers = Containers::configured(&format!("runtimes = {{ wrapped = {wrapper:?} }}"));
        open_to_all(&containers.host.path(""));
        let sampan = programs(&containers.host.path(""), &["sampan"]).join("sampan");
        let admin = User::member(stranger(0).uid, ADMIN);
        let create = |user: &User, runtime: &str| {
            let mut command = user.command(&sampan);
            command.args(["create", "--runtime", runtime, "box:1", "true"]);
            command.env("SAMPAN_RUN_DIR", containers.host.path("run"));
            let _ = fs::remove_file(&ran);
            let (well, said) = run(command);
            (well, ran.exists(), said)
        };
        let other = dir.path().join("other");
        let (wrapper, other) = (wrapper.to_str().expect("text"), other.to_str().expect("text"));
        for (runtime, why) in [
            (other, "only root may have the engine run a program by its path"),
            ("./other", "only root may have the engine run a program by its path"),
            ("sh", "the configuration has no runtime of that name"),
        ] {
            let (well, ran, said) = create(&admin, runtime);
            assert!(!well && !ran && said.contains(why), "{runtime}: {said}");
            assert!(said.contains("hint: --runtime takes crun, runc, or a name of"), "{runtime}: {said}");
        }
        for (user, runtime) in
            [(&admin, "wrapped"), (&admin, "runc"), (&admin, wrapper), (&User::new(0), other)]
        {
            let (well, ran, said) = create(user, runtime);
            // The engine does not ask a runtime that it has tried before for its version again.
            assert!(well && (ran || runtime == "runc" || runtime == wrapper), "{runtime}: {said}");
        }
        let (well, ran, said) = create(&User::new(0), "sh");
        assert!(!well && !ran && said.contains("the configuration has no runtime of that name"), "{said}");
    });
}
