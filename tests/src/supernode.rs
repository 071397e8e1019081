//! A supernode in a private directory, at a private address of loopback.
//!
//! Used by the tests and the benchmark of the supernode. Each thread of a test has a network 127.A.B.0/24 of its own, so
//! that the ports are the usual ones and no other test is in the way. Ends only processes that it started.

use crate::host::{Host, PATIENCE, binary};
use crate::http_client::HttpClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The ports of a supernode.
pub const CONTROL: u16 = 8002;
/// The port from which pieces are downloaded.
pub const DOWNLOAD: u16 = 8001;
/// Time between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

thread_local! {
    static NETWORK: (u8, u8, TcpListener) = reserve_network();
}

/// Finds a network that no other test uses; the listener keeps it until this thread ends.
fn reserve_network() -> (u8, u8, TcpListener) {
    let mut next = std::process::id();
    loop {
        let (a, b) = (64 + (next >> 8) as u8 % 128, next as u8);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::new(127, a, b, 251), CONTROL)) {
            return (a, b, listener);
        }
        next = next.wrapping_add(1);
    }
}

/// Address number `host`, from 1 to 250, of this thread's own network.
pub fn address(host: u8) -> Ipv4Addr {
    NETWORK.with(|(a, b, _)| Ipv4Addr::new(127, *a, *b, host))
}

/// The body of a registration as dfget sends it, from a client at `ip` with an uploader at `port`.
pub fn registration(supernode: &Supernode, ip: Ipv4Addr, port: u16, cid: &str, url: &str) -> Value {
    json!({
        "superNodeIp": supernode.control().ip().to_string(), "rawUrl": url, "taskUrl": url, "cid": cid,
        "ip": ip.to_string(), "hostName": "vm", "port": port, "path": format!("/peer/file/out-{cid}"),
        "version": "1.0.6",
    })
}

/// A supernode that can be killed and started again.
pub struct Supernode {
    ip: Ipv4Addr,
    host: Host,
    home: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Supernode {
    /// Starts supernode number `number` of this thread (1 to 9) with additional arguments; it serves when this
    /// returns. Files on loopback are allowed as origins.
    pub fn start(number: u8, args: &[&str]) -> Self {
        let mut supernode = Self::new(number, args);
        supernode.start_again();
        supernode
    }

    /// A supernode that is not yet started. Files on loopback are allowed as origins.
    pub fn new(number: u8, args: &[&str]) -> Self {
        let fixed = ["--allow-origin", "127.0.0.0/8", "--admin", "127.0.0.0/8"];
        Self::with_defaults(number, &[&fixed, args].concat())
    }

    /// A supernode that is not yet started, with these arguments only.
    pub fn with_defaults(number: u8, args: &[&str]) -> Self {
        let ip = address(number);
        let host = Host::new();
        let home = host.path("home");
        // Whether files are deleted must not depend on the disk of the machine.
        let marks = ["--gc-free-young", "1M", "--gc-free-full", "1M"];
        let args = marks.iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        Supernode { ip, host, home, args, child: None }
    }

    /// The private directory, with its FIFO.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Mounts a tmpfs of `size` bytes for the supernode's files; before it starts. Needs root.
    pub fn mount_home(&mut self, size: usize) {
        self.home = self.host.mount_tmpfs("home", size);
    }

    /// The address of the control port.
    pub fn control(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, CONTROL)
    }

    /// The address of the download port.
    pub fn download(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, DOWNLOAD)
    }

    /// Directory of the supernode's files.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Process ID of the supernode.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    /// A client of the control port, from the supernode's own address.
    pub fn http(&self) -> HttpClient {
        HttpClient::from(self.ip, self.control())
    }

    /// What the supernode has logged.
    pub fn logs(&self) -> String {
        fs::read(self.host.path("supernode.log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into())
    }

    /// The command that starts the supernode.
    pub fn command(&self) -> Command {
        let mut command = self.host.command_of(&binary("sampan-supernode"));
        let ip = self.ip.to_string();
        command.args(["--listen", &ip, "--advertise-ip", &ip, "--port", &CONTROL.to_string()]);
        command.args(["--download-port", &DOWNLOAD.to_string()]);
        command.arg("--home-dir").arg(&self.home).arg("--fifo").arg(self.host.fifo()).args(&self.args);
        command
    }

    /// Starts the supernode without waiting until it serves.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.host.path("supernode.log"));
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(log.expect("a log file")).process_group(0);
        self.child = Some(command.spawn().expect("the supernode starts"));
    }

    /// Starts the supernode, for the first time or after its end; it serves when this returns.
    pub fn start_again(&mut self) {
        self.spawn();
        let deadline = Instant::now() + PATIENCE;
        while !self.http().get("/_ping").is_ok_and(|response| response.status == 200) {
            let ended = self.child.as_mut().expect("just started").try_wait();
            if let Ok(Some(status)) = ended {
                panic!("the supernode ended with {status}\n{}", self.logs());
            }
            assert!(Instant::now() < deadline, "the supernode does not come up\n{}", self.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Kills the supernode by SIGKILL.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it was started");
        child.kill().expect("it runs");
        child.wait().expect("ours");
    }

    /// Sends SIGTERM and waits for the end; returns the exit status.
    pub fn term(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("ours") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the supernode does not end\n{}", self.logs());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until `condition` holds; panics with the logs after [`PATIENCE`].
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        crate::host::wait_until(what, || self.logs(), condition);
    }

    /// The value of the metric `name`, which is the rest of a line without its value; `None` if there is no such line.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.http().get("/metrics").expect("an answer").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }
}

impl Drop for Supernode {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the supernode at {}\n{}", self.ip, self.logs());
        }
    }
}
