//! An installation in a private directory: a monitord that can be killed, stopped and started again.
//!
//! Used by the end-to-end tests. Programs are searched next to the test, in `target/PROFILE`, or in `SAMPAN_BIN_DIR`.
//! Ends only processes that it started; unmounts and removes what it made.

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

/// Time between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The path of one of this project's programs.
///
/// Panics with the command that builds it if it does not exist.
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("SAMPAN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = std::env::current_exe().expect("a running program has a path");
            let parent = test.parent().expect("a file has a directory");
            // Tests are in target/PROFILE/deps, programs in target/PROFILE.
            let dir = if parent.ends_with("deps") { parent.parent() } else { Some(parent) };
            dir.expect("target/PROFILE").to_owned()
        }
    };
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run 'make test', which builds it", path.display());
    path
}

/// Panics with instructions unless this process is root; for tests that mount a file system or change their user.
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

/// An installation in a private directory.
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
    /// Makes an installation without a running process.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a private directory");
        Host { dir, monitord: None, mounts: Vec::new() }
    }

    /// Makes an installation and starts monitord with `args`; monitord serves when this returns.
    pub fn with_monitord(args: &[&str]) -> Self {
        let mut host = Self::new();
        host.start_monitord(args);
        host
    }

    /// A path in the private directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Path of the monitor FIFO.
    pub fn fifo(&self) -> PathBuf {
        self.path("run/monitor.fifo")
    }

    /// Path of the emit FIFO.
    pub fn emit_fifo(&self) -> PathBuf {
        self.path("run/emit.fifo")
    }

    /// Path of the events socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/events.sock")
    }

    /// Directory of the journal.
    pub fn journal(&self) -> PathBuf {
        self.path("state/journal")
    }

    /// Paths of the journal's segments, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.journal()).expect("the journal's directory");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let mut segments: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "journal")).collect();
        segments.sort();
        segments
    }

    /// Prepares a command of this installation, with an empty standard input.
    pub fn command(&self, name: &str) -> Command {
        self.command_of(&binary(name))
    }

    /// Prepares a command of this installation that runs the program at `path`.
    pub fn command_of(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        for (name, dir) in [("RUN", "run"), ("STATE", "state"), ("DATA", "data")] {
            command.env(format!("SAMPAN_{name}_DIR"), self.path(dir));
        }
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("JOURNAL_STREAM");
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Opens, for appending, the log file that all monitords of this installation share.
    pub fn log_file(&self) -> File {
        File::options().create(true).append(true).open(self.path("monitord.log")).expect("a log file")
    }

    /// Returns the logs of all monitords so far.
    pub fn logs(&self) -> String {
        fs::read(self.path("monitord.log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into())
    }

    /// Starts monitord with `args`, and waits until it serves.
    pub fn start_monitord(&mut self, args: &[&str]) {
        let mut command = self.command("sampan-monitord");
        command.args(args);
        self.start(command);
    }

    /// Starts monitord by `command`, and waits until it serves.
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

    /// Starts monitord by `command` without waiting.
    pub fn spawn(&mut self, mut command: Command) {
        assert!(self.monitord.is_none(), "one at a time");
        // A process group of its own, so that Ctrl-C at the test's terminal does not reach monitord.
        command.stdout(Stdio::null()).stderr(self.log_file()).process_group(0);
        self.monitord = Some(command.spawn().expect("monitord starts"));
    }

    /// Runs monitord by `command` until it ends by itself; returns its status, and what it logged.
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

    /// Process ID of monitord.
    pub fn pid(&self) -> u32 {
        self.monitord.as_ref().expect("a monitord was started").id()
    }

    /// Sends `signal` to monitord.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("monitord runs");
    }

    /// Kills monitord by SIGKILL.
    pub fn kill9(&mut self) {
        let mut child = self.monitord.take().expect("a monitord was started");
        child.kill().expect("monitord runs");
        child.wait().expect("ours");
    }

    /// Sends SIGTERM to monitord and waits for its end; returns its exit status.
    pub fn term(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.await_end()
    }

    /// Waits for the end of monitord; returns its exit status.
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

    /// Makes a sender of facts that drops no event: its spool holds 256 MiB.
    pub fn sender(&self) -> FifoSender {
        FifoSender::with_spool(self.fifo(), 256 << 20)
    }

    /// Makes a sender to the emit FIFO that drops no event.
    pub fn emitter(&self) -> FifoSender {
        FifoSender::with_spool(self.emit_fifo(), 256 << 20)
    }

    /// Subscribes without waiting for a reply.
    pub fn subscribe(&self, subscribe: Subscribe) -> Subscriber {
        Subscriber::subscribe(&self.socket(), subscribe).expect("monitord serves")
    }

    /// Subscribes to all events after number `after`, and follows.
    pub fn follow_from(&self, after: u64) -> Subscriber {
        self.subscribe(Subscribe { after: Some(after), follow: true, ..Subscribe::default() })
    }

    /// Returns monitord's status.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("monitord gives no status\n{}", self.logs()))
    }

    fn try_status(&self) -> Option<Status> {
        let mut subscriber = Subscriber::ask(&self.socket(), Request::Status).ok()?;
        let Some(Item::Status(status)) = subscriber.try_next().ok()? else { return None };
        // Reads until monitord closes, so that a later status does not count this connection.
        while subscriber.try_next().ok()?.is_some() {}
        Some(*status)
    }

    /// Waits until monitord has an event with number `seq` or higher.
    pub fn await_seq(&self, seq: u64) {
        self.wait_until(&format!("event {seq}"), || self.status().seq >= seq);
    }

    /// Mounts an empty tmpfs of `size` bytes at `below`; it is unmounted when the host is dropped. Needs root.
    pub fn mount_tmpfs(&mut self, below: &str, size: usize) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(&path).expect("a mount point");
        let options = format!("size={size}");
        mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("root may mount");
        self.mounts.push(path.clone());
        path
    }

    /// Remounts a file system read-only, or writable again.
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
