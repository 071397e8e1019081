//! An installation in a private directory: a monitord that can be killed, stopped and started again.
//!
//! Used by the end-to-end tests. Programs are found beside the test, in `target/PROFILE`, or in
//! `SAMPAN_BIN_DIR`. Ends only what it started; unmounts and removes what it made.

pub use crate::subscriber::PATIENCE;
use crate::subscriber::Subscriber;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::sender::FifoSender;
use sampan_ipc::watch::{Item, Request, Status, Subscribe};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The path of one of this project's programs.
///
/// Panics with what to do if it is not built.
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("SAMPAN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = std::env::current_exe().expect("a running program has a path");
            let parent = test.parent().expect("a file has a directory");
            // A test lies in target/PROFILE/deps, a program in target/PROFILE.
            let dir = if parent.ends_with("deps") { parent.parent() } else { Some(parent) };
            dir.expect("target/PROFILE").to_owned()
        }
    };
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run 'make test', which builds it", path.display());
    path
}

/// For a test that mounts a file system or changes its user: fails with what to do if that is not allowed.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts or changes its user: run 'make test' as root"
    );
}

/// Waits until `condition` holds; panics with `logs` after [`PATIENCE`].
pub fn wait_until(what: &str, logs: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}\n{}", logs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// One installation.
#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    monitord: Option<Child>,
    mounts: Vec<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// An installation where nothing runs yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a private directory");
        Host { dir, monitord: None, mounts: Vec::new() }
    }

    /// An installation with a monitord started with `args`, ready to serve.
    pub fn with_monitord(args: &[&str]) -> Self {
        let mut host = Self::new();
        host.start_monitord(args);
        host
    }

    /// A path in the private directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The monitor FIFO.
    pub fn fifo(&self) -> PathBuf {
        self.path("run/monitor.fifo")
    }

    /// The emit FIFO.
    pub fn emit_fifo(&self) -> PathBuf {
        self.path("run/emit.fifo")
    }

    /// The events socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/events.sock")
    }

    /// The journal's directory.
    pub fn journal(&self) -> PathBuf {
        self.path("state/journal")
    }

    /// The journal's segment files, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.journal()).expect("the journal's directory");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let mut segments: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "journal")).collect();
        segments.sort();
        segments
    }

    /// A command of this installation, with nothing on its standard input.
    pub fn command(&self, name: &str) -> Command {
        self.command_of(&binary(name))
    }

    /// The program at `path` as a command of this installation.
    pub fn command_of(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        for (name, dir) in [("RUN", "run"), ("STATE", "state"), ("DATA", "data")] {
            command.env(format!("SAMPAN_{name}_DIR"), self.path(dir));
        }
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("JOURNAL_STREAM");
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// The file that the logs of all monitords of this installation go to, to be written at its end.
    pub fn log_file(&self) -> File {
        File::options().create(true).append(true).open(self.path("monitord.log")).expect("a log file")
    }

    /// What monitord has logged so far.
    pub fn logs(&self) -> String {
        fs::read(self.path("monitord.log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into())
    }

    /// Starts monitord with `args` and waits until it serves.
    pub fn start_monitord(&mut self, args: &[&str]) {
        let mut command = self.command("sampan-monitord");
        command.args(args);
        self.start(command);
    }

    /// Starts a monitord that `command` describes and waits until it serves.
    pub fn start(&mut self, command: Command) {
        self.spawn(command);
        let deadline = Instant::now() + PATIENCE;
        while self.try_status().is_none() {
            if let Ok(Some(status)) = self.child().try_wait() {
                panic!("monitord ended with {status}\n{}", self.logs());
            }
            assert!(Instant::now() < deadline, "monitord does not come up\n{}", self.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Starts a monitord that `command` describes and waits for nothing.
    pub fn spawn(&mut self, mut command: Command) {
        assert!(self.monitord.is_none(), "one at a time");
        // Its own group: a Ctrl-C at the test's terminal is not meant for it.
        command.stdout(Stdio::null()).stderr(self.log_file()).process_group(0);
        self.monitord = Some(command.spawn().expect("monitord starts"));
    }

    /// Runs monitord with `args` until it ends by itself; gives its status and what it logged meanwhile.
    pub fn run_to_end(&mut self, mut command: Command) -> (ExitStatus, String) {
        let before = self.logs().len();
        command.stdout(Stdio::null()).stderr(self.log_file());
        let mut child = command.spawn().expect("monitord starts");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("ours") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("monitord does not end\n{}", self.logs());
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        (status, self.logs().split_off(before))
    }

    fn child(&mut self) -> &mut Child {
        self.monitord.as_mut().expect("a monitord was started")
    }

    /// monitord's process id.
    pub fn pid(&self) -> u32 {
        self.monitord.as_ref().expect("a monitord was started").id()
    }

    /// Sends `signal` to monitord.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("monitord runs");
    }

    /// Kills monitord as if the power went: it gets to do nothing more.
    pub fn kill9(&mut self) {
        let mut child = self.monitord.take().expect("a monitord was started");
        child.kill().expect("monitord runs");
        child.wait().expect("ours");
    }

    /// Asks monitord to stop and waits until it has; gives its exit status.
    pub fn term(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.await_end()
    }

    /// Waits until monitord has ended; gives its exit status.
    pub fn await_end(&mut self) -> ExitStatus {
        let mut child = self.monitord.take().expect("a monitord was started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("ours") {
                return status;
            }
            if Instant::now() > deadline {
                self.monitord = Some(child);
                panic!("monitord does not end\n{}", self.logs());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until `condition` holds; panics with the logs after [`PATIENCE`].
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, || self.logs(), condition);
    }

    /// Waits until monitord has logged `text`.
    pub fn await_log(&self, text: &str) {
        self.wait_until(&format!("the log to say '{text}'"), || self.logs().contains(text));
    }

    /// A producer of facts of this installation that drops nothing: its spool holds 256 MiB.
    pub fn sender(&self) -> FifoSender {
        FifoSender::with_spool(self.fifo(), 256 << 20)
    }

    /// The same for events that are no facts, by the emit FIFO.
    pub fn emitter(&self) -> FifoSender {
        FifoSender::with_spool(self.emit_fifo(), 256 << 20)
    }

    /// Subscribes; the answer is not awaited.
    pub fn subscribe(&self, subscribe: Subscribe) -> Subscriber {
        Subscriber::subscribe(&self.socket(), subscribe).expect("monitord serves")
    }

    /// Subscribes to all there is and all that comes.
    pub fn follow_from(&self, after: u64) -> Subscriber {
        self.subscribe(Subscribe { after: Some(after), follow: true, ..Subscribe::default() })
    }

    /// monitord's own account of itself.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("monitord gives no status\n{}", self.logs()))
    }

    fn try_status(&self) -> Option<Status> {
        let mut subscriber = Subscriber::ask(&self.socket(), Request::Status).ok()?;
        let Some(Item::Status(status)) = subscriber.try_next().ok()? else { return None };
        // To the end, so that this connection is not counted any more when this returns.
        while subscriber.try_next().ok()?.is_some() {}
        Some(*status)
    }

    /// Waits until monitord has numbered an event `seq` or higher.
    pub fn await_seq(&self, seq: u64) {
        self.wait_until(&format!("event {seq}"), || self.status().seq >= seq);
    }

    /// Mounts an empty tmpfs of `size` bytes at `below`, unmounted when this goes. Needs root.
    pub fn mount_tmpfs(&mut self, below: &str, size: usize) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(&path).expect("a mount point");
        let options = format!("size={size}");
        mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("root may mount");
        self.mounts.push(path.clone());
        path
    }

    /// Makes a mounted file system read-only, or writable again.
    pub fn remount(&self, path: &Path, read_only: bool) {
        let flags = if read_only { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        mount(None::<&str>, path, None::<&str>, flags, None::<&str>).expect("root may mount");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.monitord {
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in self.mounts.iter().rev() {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}
