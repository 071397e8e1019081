//! A private server of one of the systems, in its own directory; it ends when it is dropped.

use crate::receive::{PATIENCE, Stream};
use crate::system::{System, Wish};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, mkfifo};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A running server.
pub struct Server {
    /// The kind of server.
    pub system: System,
    address: String,
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts a server, and waits until it listens.
    ///
    /// # Errors It does not start.
    pub fn start(system: System) -> io::Result<Self> {
        Self::start_with(system, &[])
    }

    /// Starts a server with additional arguments, and waits until it listens.
    ///
    /// # Errors It does not start.
    pub fn start_with(system: System, more: &[&str]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("sampan-bench.").tempdir()?;
        let socket = dir.path().join("socket");
        let (mut command, address) = match system {
            System::Nats => {
                let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
                let mut command = Command::new("nats-server");
                command.args(["-a", "127.0.0.1", "-p", &port]);
                (command, port)
            }
            _ => (Self::command(system, dir.path(), &socket)?, socket.to_string_lossy().into_owned()),
        };
        let log = File::create(dir.path().join("log"))?;
        command.args(more).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {}: {error}", system.name()))
        })?;
        let mut server = Server { system, address, child, dir };
        server.wait_until("it to listen", |server| Stream::connect(&server.address).is_ok())?;
        Ok(server)
    }

    fn command(system: System, dir: &Path, socket: &Path) -> io::Result<Command> {
        let fifo = dir.join("fifo");
        Ok(match system {
            System::Bare => {
                mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
                let mut command = Command::new(beside("bare")?);
                command.arg(fifo).arg(socket);
                command
            }
            System::Sampan => {
                let mut command = Command::new(beside("sampan-monitord")?);
                command.arg("--fifo").arg(fifo).arg("--emit-fifo").arg(dir.join("emit.fifo"));
                command.arg("--socket").arg(socket);
                // The journal is large enough for the slowest subscriber: no event may be lost.
                command.arg("--journal-dir").arg(dir.join("journal")).args(["--journal-bytes", "2G"]);
                command
            }
            System::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", "0", "--save", "", "--appendonly", "no", "--maxclients", "4000"]);
                command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
                command.arg("--unixsocket").arg(socket).arg("--dir").arg(dir);
                command
            }
            System::Mosquitto | System::Nats => {
                let config = dir.join("config");
                let text =
                    "allow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\npersistence false\n";
                let user = "user root\n";
                std::fs::write(&config, format!("{user}{text}listener 0 {}\n", socket.display()))?;
                let mut command = Command::new(program("mosquitto"));
                command.arg("-c").arg(config);
                command
            }
        })
    }

    fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "{} ended: {status}\n{}",
                    self.system.name(),
                    self.log()
                )));
            }
            if Instant::now() > deadline {
                let name = self.system.name();
                return Err(io::Error::other(format!("{name}: waited in vain for {what}\n{}", self.log())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Path of the server's FIFO, for the systems with one.
    pub fn fifo(&self) -> PathBuf {
        self.dir.path().join("fifo")
    }

    /// Process ID of the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time in seconds of all threads, user and system, since the server started.
    ///
    /// # Errors The server has ended.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        cpu_seconds(self.pid())
    }

    /// Opens a publisher's connection, or the FIFO; writes block while it is full.
    ///
    /// # Errors The server refuses.
    pub fn publisher(&self) -> io::Result<Box<dyn Write + Send>> {
        if self.system.has_fifo() {
            return Ok(Box::new(File::options().write(true).open(self.fifo())?));
        }
        let mut stream = Stream::connect(&self.address)?;
        let (words, end) = self.system.publisher_greeting();
        stream.greet(&words, end)?;
        Ok(Box::new(stream))
    }

    /// Starts a process with subscribers, each of which expects `messages` messages. Returns when all are connected.
    ///
    /// # Errors They could not subscribe.
    pub fn subscribers(
        &self,
        count: usize,
        wish: Wish,
        messages: u64,
        latency: bool,
    ) -> io::Result<Receivers> {
        let wish = match wish {
            Wish::All => "all",
            Wish::Half => "half",
            Wish::HalfEach => "half-each",
        };
        let mode = if latency { "latency" } else { "count" };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["receive", self.system.name(), &self.address, &count.to_string(), wish]);
        command.args([&messages.to_string(), mode]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let mut receivers =
            Receivers { child, lines: Some(BufReader::new(stdout)), received: Arc::new(AtomicU64::new(0)) };
        match receivers.line()?.as_str() {
            "ready" => Ok(receivers),
            other => Err(io::Error::other(format!(
                "{}: no subscribers: {other}\n{}",
                self.system.name(),
                self.log()
            ))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time in seconds of process `pid`: all threads, including those that have ended. clock_getcpuclockid(3).
///
/// # Errors There is no such process.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
    let time = clock.now()?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Path of a program of this project, next to this program.
///
/// # Errors It is not built.
pub fn beside(name: &str) -> io::Result<PathBuf> {
    let dir = match std::env::var_os("SAMPAN_BIN_DIR") {
        Some(dir) if name != "bare" => PathBuf::from(dir),
        _ => std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(io::Error::other(format!("{} is not built", path.display()))) }
}

/// Path of a program by its name; searches /usr/sbin if `PATH` does not have it.
fn program(name: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.is_file() { sbin } else { name.into() }
}

/// The subscribers' process.
pub struct Receivers {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
    received: Arc<AtomicU64>,
}

impl Receivers {
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if let Some(lines) = &mut self.lines {
            lines.read_line(&mut line)?;
        }
        Ok(line.trim_end().to_owned())
    }

    /// Counts received bytes in a thread; the handle returns the last line, the counter is the present number of bytes.
    pub fn count(&mut self) -> (std::thread::JoinHandle<io::Result<(String, Instant)>>, Arc<AtomicU64>) {
        let received = Arc::clone(&self.received);
        let counter = Arc::clone(&received);
        let lines = self.lines.take();
        let handle = std::thread::spawn(move || {
            let Some(lines) = lines else { return Err(io::Error::other("counted already")) };
            for line in lines.lines() {
                let line = line?;
                match line.parse() {
                    Ok(bytes) => received.store(bytes, Ordering::Relaxed),
                    Err(_) => return Ok((line, Instant::now())),
                }
            }
            Err(io::Error::other("the subscribers did not receive all"))
        });
        (handle, counter)
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
