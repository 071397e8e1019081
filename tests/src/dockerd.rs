//! A dockerd with its containerd for a test or a benchmark: all of its files are in one directory, and it touches no
//! network.
//!
//! Needs root, and Debian's package docker.io. Both processes end when the value is dropped.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for dockerd to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A running dockerd.
pub struct Dockerd {
    child: Child,
    dir: PathBuf,
}

impl Dockerd {
    /// Starts a dockerd that keeps all files below `dir`.
    ///
    /// # Errors dockerd is not installed, or does not start; the error has its log.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("docker");
        fs::create_dir_all(&dir)?;
        // An own configuration file, since the host's daemon.json would apply otherwise.
        fs::write(dir.join("daemon.json"), "{}")?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new("dockerd");
        for (option, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "root"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(option).arg(dir.join(name));
        }
        command.arg("--host").arg(format!("unix://{}", dir.join("sock").display()));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--ip-forward=false", "--ip-masq=false"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot start dockerd of Debian's package docker.io: {error}"),
            )
        })?;
        let mut dockerd = Dockerd { child, dir };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(dockerd.dir.join("sock")).is_err() {
            if dockerd.child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(dockerd.dir.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("dockerd does not come up: {log}")));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(dockerd)
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Prepares a `docker` command that talks to this dockerd and reads no configuration of the user.
    pub fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command.env("DOCKER_CONFIG", self.dir.join("config")).stdin(Stdio::null());
        command.env("DOCKER_HOST", self.host());
        command
    }

    /// The value of `DOCKER_HOST` for clients.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("sock").display())
    }

    /// Process IDs of dockerd and its containerd.
    ///
    /// # Errors /proc cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let pid = self.child.id();
        let mut all = vec![pid];
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
        Ok(all)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
