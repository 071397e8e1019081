//! A shim without an engine: the real program, runc, and a busybox bundle that each test makes.

use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use sampan_ipc::container::{AttachMessage, CONTROL_MAX, Control, Exec, Phase, Restart, Streams};
use sampan_ipc::frame::{self, Decoder};
use sampan_ipc::record::{Scanner, Step};
use sampan_ipc::shim::{Action, Identity, Log, Rootfs, Setup, ShimMessage, ShimRequest, State};
use sampan_shim::dir::state_file;
use sampan_tests::host::{PATIENCE, binary, need_root, wait_until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Path of the runtime; the shim does not search `PATH`.
fn runc() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("runc")).find(|path| path.exists());
    found.expect("runc is installed").to_string_lossy().into_owned()
}

/// A container, its shim, and what the test needs for them.
struct Container {
    dir: tempfile::TempDir,
    setup: Setup,
    config: Value,
    fifo: File,
    events: Vec<u8>,
    engine: Option<Engine>,
}

/// A connection to the shim.
struct Engine {
    stream: UnixStream,
    decoder: Decoder,
    number: u64,
}

impl Container {
    /// A container that runs `script` in a shell.
    fn new(script: &str) -> Self {
        Self::of(&["/bin/sh", "-c", script])
    }

    fn of(args: &[&str]) -> Self {
        need_root();
        let dir = tempfile::Builder::new().prefix("sampan-shim.").tempdir().expect("a private directory");
        let path = |name: &str| dir.path().join(name);
        for name in [
            "data",
            "run",
            "layer/bin",
            "layer/proc",
            "layer/dev",
            "layer/etc",
            "runtime",
            "data/c/upper",
            "data/c/work",
            "data/c/rootfs",
        ] {
            fs::create_dir_all(path(name)).expect("made");
        }
        // Made by the engine: the file that identifies the directory's container.
        fs::write(path("data/c/container.json"), "{}").expect("written");
        fs::copy("/bin/busybox", path("layer/bin/busybox")).expect("busybox-static is installed");
        for name in ["sh", "cat", "sleep", "echo", "true", "dd", "stty", "seq", "kill", "head", "tr"] {
            std::os::unix::fs::symlink("busybox", path("layer/bin").join(name)).expect("a link");
        }
        nix::unistd::mkfifo(&path("fifo"), Mode::from_bits_truncate(0o600)).expect("a FIFO");
        let fifo =
            File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path("fifo"));
        let id =
            format!("{:064x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u128);
        let setup = Setup {
            version: sampan_ipc::shim::VERSION,
            identity: Identity {
                id: id.clone(),
                name: "web".into(),
                image: "busybox".into(),
                labels: vec![("a".into(), "b".into())],
            },
            dir: path("data/c"),
            run: path("run").join(&id),
            fifo: path("fifo"),
            runtime: vec![runc(), "--root".into(), path("runtime").to_string_lossy().into()],
            bundle: path("data/c"),
            rootfs: Rootfs::Overlay {
                lower: vec![path("layer")],
                upper: path("data/c/upper"),
                work: path("data/c/work"),
                target: path("data/c/rootfs"),
            },
            log: Log::JsonFile { path: path("data/c/log"), max_bytes: 0, max_files: 0 },
            stop_signal: 15,
            stop_timeout_ms: 10_000,
            ..Setup::default()
        };
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin"]},
            "root": {"path": path("data/c/rootfs"), "readonly": false},
            "hostname": "box",
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
                       {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}],
            "linux": {"cgroupsPath": format!("/sampan-test-{id}"),
                      "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}
        });
        let fifo = fifo.expect("open");
        Container { dir, setup, config, fifo, events: Vec::new(), engine: None }
    }

    fn start(&mut self) -> &mut Self {
        self.start_with(&[])
    }

    /// Starts the shim, with the descriptors of an attached client.
    fn start_with(&mut self, descriptors: &[&OwnedFd]) -> &mut Self {
        fs::write(self.setup.bundle.join("config.json"), self.config.to_string()).expect("written");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        // Started like by the engine: as an orphan in a new session.
        let mut shim = Command::new("setsid");
        shim.arg("--fork").arg(binary("sampan-shim")).stdin(Stdio::from(OwnedFd::from(theirs)));
        assert!(shim.status().expect("setsid starts").success());
        drop(shim);
        let mut engine = Engine { stream: ours, decoder: Decoder::new(frame::FRAME_MAX), number: 0 };
        engine.send(&frame::encode(&self.setup).expect("small"), descriptors);
        self.engine = Some(engine);
        self
    }

    /// Starts the shim with a client that reads stdout and stderr, and writes stdin if that is open.
    fn start_attached(&mut self) -> Attached {
        let streams = Streams { stdin: self.setup.open_stdin, stdout: true, stderr: true };
        self.setup.attach = Some(streams);
        let (client, theirs) = Attached::new(streams);
        self.start_with(&theirs.iter().collect::<Vec<_>>());
        client
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("started")
    }

    fn ask(&mut self, action: Action) -> Result<String, (u8, String)> {
        self.engine().ask(action, &[])
    }

    /// Waits until `fits` holds for the state; returns the state.
    fn until(&mut self, fits: impl Fn(&State) -> bool) -> State {
        loop {
            match self.engine().receive().expect("the shim lives") {
                ShimMessage::State(state) if fits(&state) => return state,
                _ => {}
            }
        }
    }

    /// Waits for the end of the shim.
    fn ended(&mut self) -> State {
        while self.engine().receive().is_some() {}
        self.state()
    }

    fn state(&self) -> State {
        state_file::read(&self.setup.dir.join("state")).expect("a whole state")
    }

    /// All events so far: action, and attributes as `key=value`.
    fn events(&mut self) -> Vec<(String, Vec<String>)> {
        let mut bytes = [0; 65536];
        while let Ok(len @ 1..) = self.fifo.read(&mut bytes) {
            self.events.extend_from_slice(&bytes[..len]);
        }
        let (mut scanner, mut events) = (Scanner::new(&self.events), Vec::new());
        while let Some(Step::Record(record)) = scanner.next() {
            assert_eq!(record.event.id, self.setup.identity.id);
            assert_eq!(record.event.labels().get("a"), Some("b"));
            let facts = record.event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            events.push((record.event.action.to_owned(), facts));
        }
        events
    }

    fn actions(&mut self) -> Vec<String> {
        self.events().into_iter().map(|(action, _)| action).collect()
    }

    fn fact(&mut self, action: &str, key: &str) -> String {
        let events = self.events();
        let (_, facts) = events.iter().rev().find(|(a, _)| a == action).expect("the event");
        let prefix = format!("{key}=");
        facts.iter().find_map(|fact| fact.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    }

    /// The messages in the log, joined.
    fn log(&self, stream: &str) -> String {
        let text = fs::read_to_string(self.setup.dir.join("log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object a line"));
        lines
            .filter(|line| line["stream"] == stream)
            .map(|line| line["log"].as_str().expect("text").to_owned())
            .collect()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let root = self.dir.path().join("runtime");
        let _ = Command::new("runc")
            .arg("--root")
            .arg(root)
            .args(["delete", "--force", &self.setup.identity.id])
            .output();
    }
}

impl Engine {
    fn send(&mut self, bytes: &[u8], descriptors: &[&OwnedFd]) {
        let raw: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Receives the next message of the shim; `None` once it has ended.
    fn receive(&mut self) -> Option<ShimMessage> {
        receive(&mut self.stream, &mut self.decoder)
    }

    fn ask(&mut self, action: Action, descriptors: &[&OwnedFd]) -> Result<String, (u8, String)> {
        self.number += 1;
        let ask = ShimRequest { number: self.number, action };
        self.send(&frame::encode(&ask).expect("small"), descriptors);
        loop {
            match self.receive().expect("an answer") {
                ShimMessage::Reply { number, result } if number == ask.number => return result,
                _ => {}
            }
        }
    }
}

fn receive<T: serde::de::DeserializeOwned>(stream: &mut UnixStream, decoder: &mut Decoder) -> Option<T> {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    loop {
        if let Some(message) = decoder.next_message().expect("good frames") {
            return Some(message);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(len) => decoder.push(&bytes[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("waited in vain for the shim: {error}"),
        }
    }
}

/// The client's ends of an attachment.
struct Attached {
    control: UnixStream,
    decoder: Decoder,
    stdin: Option<File>,
    stdout: Option<File>,
    /// Kept open, or the container could not write to it.
    _stderr: Option<File>,
}

impl Attached {
    fn new(streams: Streams) -> (Self, Vec<OwnedFd>) {
        let (control, theirs) = UnixStream::pair().expect("a pair");
        let mut theirs = vec![OwnedFd::from(theirs)];
        let mut pipe = |wanted: bool, is_input: bool| {
            let (read, write) = wanted.then(|| nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe"))?;
            let (ours, other) = if is_input { (write, read) } else { (read, write) };
            theirs.push(other);
            Some(File::from(ours))
        };
        let (stdin, stdout, stderr) =
            (pipe(streams.stdin, true), pipe(streams.stdout, false), pipe(streams.stderr, false));
        (Attached { control, decoder: Decoder::new(CONTROL_MAX), stdin, stdout, _stderr: stderr }, theirs)
    }

    fn receive(&mut self) -> Option<AttachMessage> {
        receive(&mut self.control, &mut self.decoder)
    }

    fn send_control(&mut self, control: Control) {
        self.control.write_all(&frame::encode(&control).expect("small")).expect("said");
    }

    fn output(&mut self) -> String {
        let mut text = String::new();
        self.stdout.take().expect("attached").read_to_string(&mut text).expect("text");
        text
    }
}

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").expect("read").contains(&*path.to_string_lossy())
}

#[test]
fn a_run_is_told_in_order_with_its_exit_code_and_its_log() {
    let mut container = Container::new("echo out; echo err >&2; printf tail; exit 7");
    container.start();
    let running = container.until(|state| state.phase == Phase::Running);
    assert!(running.pid > 0 && running.shim > 0);
    let state = container.ended();
    assert_eq!((state.phase, state.exit_code, state.pid, state.shim), (Phase::Exited, 7, 0, 0));
    assert!(state.is_announced && state.finished > state.started && !state.oom_killed);
    assert_eq!(container.actions(), ["start", "die"]);
    assert_eq!(container.fact("die", "exitCode"), "7");
    assert_eq!(container.fact("die", "execDuration"), "0");
    assert_eq!(container.fact("die", "pid"), running.pid.to_string());
    assert_eq!((container.log("stdout"), container.log("stderr")), ("out\ntail".into(), "err\n".into()));
    assert!(!is_mounted(container.dir.path()));
}

#[test]
fn an_attached_client_feeds_stdin_and_reads_all_output() {
    for log in [Log::None, Log::JsonFile { path: PathBuf::new(), max_bytes: 0, max_files: 0 }] {
        let mut container = Container::of(&["/bin/cat"]);
        if log == Log::None {
            container.setup.log = Log::None;
        }
        container.setup.open_stdin = true;
        let mut client = container.start_attached();
        let mut stdin = client.stdin.take().expect("attached");
        let text: String = (0..1_400_000).map(|nth| format!("{nth}\n")).collect();
        let sent = text.clone();
        let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).expect("written"));
        assert!(client.output() == text, "10 MB whole and in order");
        writer.join().expect("no panic");
        assert!(matches!(client.receive(), Some(AttachMessage::Started(_))));
        assert_eq!(client.receive(), Some(AttachMessage::Exited(0)));
        container.ended();
        assert_eq!(container.actions(), ["attach", "start", "die"]);
    }
}

#[test]
fn the_exit_status_reports_a_missing_or_unusable_program() {
    for (program, status) in [("/nope", 127), ("nope", 127), ("/etc", 126)] {
        let mut container = Container::of(&[program]);
        let mut client = container.start_attached();
        let Some(AttachMessage::Failed(got, reason)) = client.receive() else {
            panic!("told of the failure")
        };
        assert_eq!(got, status, "{program}: {reason}");
        let state = container.ended();
        assert_eq!((state.phase, state.exit_code), (Phase::Created, i32::from(status)));
        assert_eq!(state.error, reason);
        assert_eq!(container.actions(), ["attach"]);
        assert_eq!(container.log("stderr"), "");
    }
}

#[test]
fn stop_sends_its_signal_then_kills_and_says_each() {
    let mut container = Container::new("trap '' TERM; echo ready; while :; do sleep 1; done");
    container.start();
    container.until(|state| state.phase == Phase::Running);
    let log = container.setup.dir.join("log");
    wait_until("the trap", String::new, || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
    assert_eq!(container.ask(Action::Stop(0, 100)), Ok(String::new()));
    let state = container.ended();
    assert_eq!((state.exit_code, state.stopped_by_hand), (137, true));
    assert_eq!(container.actions(), ["start", "kill", "kill", "die", "stop"]);
    assert_eq!(container.fact("kill", "signal"), "9");
}

#[test]
fn kill_pause_and_unpause_do_what_they_say() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    container.until(|state| state.phase == Phase::Running);
    assert_eq!(container.ask(Action::Unpause).map_err(|e| e.1), Err("container web is not paused".into()));
    assert_eq!(container.ask(Action::Pause), Ok(String::new()));
    assert_eq!(container.state().phase, Phase::Paused);
    assert_eq!(container.ask(Action::Unpause), Ok(String::new()));
    assert_eq!(container.ask(Action::Kill(9)), Ok(String::new()));
    assert_eq!(container.ended().exit_code, 137);
    assert_eq!(container.actions(), ["start", "pause", "unpause", "kill", "die"]);
}

#[test]
fn an_execution_runs_beside_with_its_own_exit_code() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    container.until(|state| state.phase == Phase::Running);
    let streams = Streams { stdin: true, stdout: true, stderr: true };
    let (mut client, theirs) = Attached::new(streams);
    let exec = Exec { command: vec!["cat".into()], streams, ..Exec::default() };
    let process = json!({"args": ["/bin/sh", "-c", "cat; exit 3"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
    let id = container
        .engine()
        .ask(Action::Exec(exec.clone(), process.to_string()), &theirs.iter().collect::<Vec<_>>())
        .expect("it runs");
    drop(theirs);
    client.stdin.take().expect("attached").write_all(b"hello").expect("written");
    assert_eq!(client.output(), "hello");
    assert!(matches!(client.receive(), Some(AttachMessage::Started(_))));
    assert_eq!(client.receive(), Some(AttachMessage::Exited(3)));
    let bad = json!({"args": ["nope"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
    let detached = Exec { detach: true, command: vec!["nope".into()], ..Exec::default() };
    assert_eq!(container.ask(Action::Exec(detached, bad.to_string())).map_err(|e| e.0), Err(127));
    assert_eq!(container.ask(Action::Pids), Ok(String::new()));
    assert_eq!(container.ask(Action::Stop(9, -1)), Ok(String::new()));
    container.ended();
    let events = [
        "start",
        "exec_create: cat",
        "exec_start: cat",
        "exec_die",
        "exec_create: nope",
        "exec_die",
        "top",
        "kill",
        "die",
        "stop",
    ];
    assert_eq!(container.actions(), events);
    assert_eq!(id.len(), 64);
}

#[test]
fn a_policy_starts_it_again_until_it_has_failed_so_often() {
    let mut container = Container::new("exit 1");
    container.setup.restart = Restart::OnFailure(2);
    container.start();
    let state = container.ended();
    assert_eq!((state.restarts, state.exit_code, state.phase), (2, 1, Phase::Exited));
    assert_eq!(container.actions(), ["start", "die", "start", "restart", "die", "start", "restart", "die"]);
}

#[test]
fn a_manual_restart_stops_and_starts_and_removal_is_complete() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    let first = container.until(|state| state.phase == Phase::Running).pid;
    assert_eq!(container.ask(Action::Restart(9, -1)), Ok(String::new()));
    assert_ne!(container.state().pid, first);
    assert_eq!(container.ask(Action::Remove), Ok(String::new()));
    while container.engine().receive().is_some() {}
    assert_eq!(
        container.actions(),
        ["start", "kill", "die", "stop", "start", "restart", "kill", "die", "destroy"]
    );
    assert!(!container.setup.dir.exists() && !container.setup.run.exists());
}

#[test]
fn a_terminal_has_its_size_and_follows_the_clients() {
    let mut container = Container::new("stty size; read line; stty size; echo got $line");
    container.setup.tty = true;
    container.setup.size = (33, 77);
    container.config["process"]["terminal"] = true.into();
    let streams = Streams { stdin: true, ..Streams::default() };
    let (mut client, _) = Attached::new(Streams::default());
    let (control, their_control) = UnixStream::pair().expect("a pair");
    let (mut terminal, theirs) = UnixStream::pair().expect("a pair");
    client.control = control;
    container.setup.attach = Some(streams);
    container.start_with(&[&their_control.into(), &theirs.into()]);
    assert!(matches!(client.receive(), Some(AttachMessage::Started(_))));
    client.send_control(Control::Resize(44, 88));
    container.until(|state| state.phase == Phase::Running);
    let mut pending = Vec::new();
    wait_until("the resize", String::new, || {
        pending = container.actions();
        pending.contains(&"resize".to_owned())
    });
    terminal.write_all(b"line\n").expect("typed");
    assert_eq!(client.receive(), Some(AttachMessage::Exited(0)));
    drop(client);
    container.ended();
    let mut text = String::new();
    terminal.read_to_string(&mut text).expect("text");
    assert!(text.contains("44 88") && text.contains("got line"), "{text}");
    assert_eq!(
        (container.fact("resize", "height"), container.fact("resize", "width")),
        ("44".into(), "88".into())
    );
}

#[test]
fn what_the_kernel_kills_for_memory_is_told() {
    let mut container = Container::new("x=a; while :; do x=$x$x; done");
    container.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    container.start();
    let state = container.ended();
    assert!(state.oom_killed && state.exit_code == 137, "{state:?}");
    assert_eq!(container.actions(), ["start", "oom", "die"]);
}

#[test]
fn a_client_that_reads_nothing_delays_neither_asks_nor_the_end() {
    let mut container =
        Container::new("while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done");
    let mut client = container.start_attached();
    assert!(matches!(client.receive(), Some(AttachMessage::Started(_))));
    let log = container.setup.dir.join("log");
    // The capacity of a pipe depends on writes and on the number of pipes, so the test waits until the log grows no
    // more.
    let (mut len, mut since) = (0, std::time::Instant::now());
    let seen = || format!("the log has {:?} bytes", fs::metadata(&log).map(|file| file.len()));
    wait_until("a full pipe", seen, || {
        let now = fs::metadata(&log).map_or(0, |file| file.len());
        if std::mem::replace(&mut len, now) != now {
            since = std::time::Instant::now();
        }
        now > 0 && since.elapsed() > std::time::Duration::from_secs(1)
    });
    assert_eq!(container.ask(Action::Stop(9, -1)), Ok(String::new()));
    assert_eq!(container.ended().exit_code, 137);
    let output = client.output();
    assert!(output == container.log("stdout") && output.len() < 400_000, "{} bytes", output.len());
    assert_eq!(client.receive(), Some(AttachMessage::Exited(137)));
    assert_eq!(client.receive(), None);
}

#[test]
fn a_killed_shim_leaves_no_mount() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    let state = container.until(|state| state.phase == Phase::Running);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(state.shim), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    while container.engine().receive().is_some() {}
    assert!(!is_mounted(container.dir.path()));
    assert_eq!(container.state().phase, Phase::Running);
}

#[test]
fn odd_descriptors_and_invalid_frames_are_refused() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    container.until(|state| state.phase == Phase::Running);
    let (control, theirs) = UnixStream::pair().expect("a pair");
    let file = OwnedFd::from(File::open("/etc/passwd").expect("open"));
    let streams = Streams { stdout: true, ..Streams::default() };
    let refused = container.engine().ask(Action::Attach(streams), &[&theirs.into(), &file]);
    assert!(refused.expect_err("refused").1.contains("neither a pipe"));
    drop(control);
    let mut other = UnixStream::connect(container.setup.run.join("shim.sock")).expect("connected");
    other.write_all(&[0xff; 4096]).expect("written");
    other.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut rest = Vec::new();
    let _ = other.read_to_end(&mut rest);
    assert!(other.as_fd().as_raw_fd() > 0);
    assert_eq!(container.ask(Action::Kill(9)), Ok(String::new()));
    container.ended();
}

#[test]
fn an_idle_shim_has_one_thread_and_little_memory() {
    let mut container = Container::of(&["/bin/sleep", "1000"]);
    container.start();
    let shim = container.until(|state| state.phase == Phase::Running).shim;
    // The shim replies after its loop has finished all work of the start.
    assert_eq!(container.ask(Action::Policy(Restart::No)), Ok(String::new()));
    let read = |name: &str| fs::read_to_string(format!("/proc/{shim}/{name}")).expect("it lives");
    let number = |text: &str, key: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(key)).expect("the line");
        line.split_ascii_whitespace().nth(1).expect("a word").parse().expect("a number")
    };
    assert_eq!(number(&read("status"), "Threads:"), 1);
    // The program of a debug build is ten times as large.
    let bound =
        if binary("sampan-shim").metadata().expect("it is there").len() < 2 << 20 { 614 } else { 4096 };
    // The shim releases memory a while after the start.
    let pss = || number(&read("smaps_rollup"), "Pss:");
    wait_until("little memory", || format!("{} KiB, at most {bound}", pss()), || pss() <= bound);
    assert_eq!(container.ask(Action::Kill(9)), Ok(String::new()));
    container.ended();
}
