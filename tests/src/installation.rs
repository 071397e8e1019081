//! A whole installation for tests: monitord, engine, command line, and a registry whose replies the test chooses.

use crate::command_line;
use crate::host::{Host, PATIENCE, binary};
use crate::registry::{Image, Layer, ScriptedRegistry};
use sampan_oci::digest::Digest;
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// An installation with monitord, an engine and a registry.
#[derive(Debug)]
pub struct Installation {
    engine: Option<Child>,
    /// The installation's directory and its monitord.
    pub host: Host,
    /// The registry that the installation pulls from.
    pub registry: ScriptedRegistry,
}

impl Installation {
    /// Starts an installation with the default configuration.
    pub fn new() -> Self {
        Installation::with_config("")
    }

    /// Starts an installation with this `[engine]` table.
    pub fn with_config(table: &str) -> Self {
        Installation::on(Host::with_monitord(&[]), ScriptedRegistry::start(), table)
    }

    /// Starts an engine on a host and with a registry that exist already.
    pub fn on(host: Host, registry: ScriptedRegistry, table: &str) -> Self {
        let mut installation = Installation { engine: None, host, registry };
        installation.start_engine(table);
        installation
    }

    /// Starts the engine with this `[engine]` table, and waits until it replies.
    pub fn start_engine(&mut self, table: &str) {
        let config = self.host.path("sampan.toml");
        fs::write(&config, format!("[engine]\n{table}")).expect("written");
        let log = File::options().create(true).append(true).open(self.host.path("engine.log"));
        let mut command = self.host.command("sampan-engine");
        command.arg("--config").arg(config).stdout(Stdio::null()).stderr(log.expect("a log"));
        self.engine = Some(command.spawn().expect("sampan-engine starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.sampan(&["info"]).status.success() {
            assert!(Instant::now() < deadline, "the engine does not come up\n{}", self.log());
        }
    }

    /// Kills the engine by SIGKILL.
    pub fn kill_engine(&mut self) {
        let mut engine = self.engine.take().expect("it was started");
        engine.kill().expect("it runs");
        engine.wait().expect("ours");
    }

    /// Returns the engine's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.host.path("engine.log")).unwrap_or_default()
    }

    /// Runs a `sampan` command until it ends.
    pub fn sampan(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it runs")
    }

    /// Prepares a `sampan` command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command_of(&binary("sampan"));
        command.args(args);
        command
    }

    /// Runs a command that must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        command_line::ok(&mut self.command(args), || self.log())
    }

    /// Runs a command that must fail with this status; returns its standard output and standard error.
    pub fn fails(&self, args: &[&str], status: i32) -> String {
        command_line::fails(&mut self.command(args), status, || self.log())
    }

    /// Runs a command that must succeed and print JSON; returns it.
    pub fn json(&self, args: &[&str]) -> Value {
        command_line::json(&mut self.command(args), || self.log())
    }

    /// Publishes an image as `name:t` and pulls it; returns its reference.
    pub fn pull(&self, name: &str, layers: &[Layer]) -> String {
        let image = Image::of(layers, arch());
        self.registry.publish(name, &image);
        let reference = self.registry.reference(name);
        self.ok(&["pull", "--quiet", &reference]);
        reference
    }

    /// Directory of the store.
    pub fn store(&self) -> PathBuf {
        self.host.path("data/store")
    }

    /// Names of all blobs, layers and temporary files in the store.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in ["blobs/sha256", "layers", "partial", "tmp"] {
            for entry in fs::read_dir(self.store().join(dir)).expect("listed") {
                names.push(format!("{dir}/{}", entry.expect("listed").file_name().to_string_lossy()));
            }
        }
        names.sort();
        names
    }

    /// Path of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.store().join("blobs/sha256").join(digest.hex())
    }

    /// Path of an unpacked layer.
    pub fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.store().join("layers").join(chain_id.hex())
    }

    /// Events so far with this action, as JSON.
    pub fn events(&self, action: &str) -> Vec<Value> {
        let filter = format!("event={action}");
        let text = self.ok(&["events", "--no-follow", "--format", "json", "--filter", &filter]);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Waits until there are `count` events with this action.
    pub fn await_events(&self, action: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events(action);
            if events.len() >= count {
                return events;
            }
            assert!(Instant::now() < deadline, "{events:?} and no more of {action}\n{}", self.log());
        }
    }

    /// The line of `sampan system df` for `kind`.
    pub fn usage(&self, kind: &str) -> Usage {
        let usage = self.json(&["system", "df", "-v", "--format", "json"]);
        let of = usage["kinds"]
            .as_array()
            .expect("an array")
            .iter()
            .find(|k| k["kind"] == kind)
            .expect("it")
            .clone();
        let number = |key: &str| of[key].as_u64().expect("a number");
        Usage {
            count: number("count"),
            active: number("active"),
            size: number("size"),
            reclaimable: number("reclaimable"),
        }
    }
}

impl Default for Installation {
    fn default() -> Self {
        Installation::new()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let _ = engine.kill();
            let _ = engine.wait();
        }
    }
}

/// A line of `sampan system df`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Number of objects of this kind.
    pub count: u64,
    /// Number of objects that are in use.
    pub active: u64,
    /// Bytes of all objects.
    pub size: u64,
    /// Bytes that a prune would free.
    pub reclaimable: u64,
}

/// The host's architecture, by its OCI name.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
