//! `sampan serve`, with its own engine, as the registry that the benchmark pulls its images from.

use crate::puller::{self, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A running `sampan serve`; it ends when this is dropped.
pub struct Serving {
    client: Child,
    _engine: Running,
    dir: PathBuf,
    /// `HOST:PORT` where it listens.
    pub address: String,
}

impl Serving {
    /// Starts an engine with an empty store below `dir`, and `sampan serve`.
    ///
    /// # Errors It does not start.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("serving");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let engine = puller::engine(&dir)?;
        let mut serve = puller::client(&dir)?;
        serve.args(["serve", "--listen", "127.0.0.1:0"]);
        let mut client = serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = client.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("serving on ").unwrap_or_default().to_owned();
        let serving = Serving { client, _engine: engine, dir, address };
        match serving.address.is_empty() {
            true => Err(io::Error::other(format!("sampan serve prints {line:?}"))),
            false => Ok(serving),
        }
    }

    /// Pulls an image of another registry, `HOST:PORT/NAME:TAG`; its name here is `NAME:TAG`.
    ///
    /// # Errors The pull fails; the error has its output.
    pub fn take(&self, reference: &str) -> io::Result<()> {
        puller::ask(&self.dir, &["pull", "--quiet", "--no-unpack", reference])
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.client.id().cast_signed()), Signal::SIGTERM);
        let _ = self.client.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
