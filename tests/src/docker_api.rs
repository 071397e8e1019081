//! A whole installation with the Docker API, for tests: monitord, engine, `sampan-docker-api`, a registry, and docker's
//! command line.
//!
//! [`docker_programs`] are the unmodified programs of docker; [`http`] sends requests of the test's own and
//! shows the answer as it is on the wire.

pub mod docker_py;
pub mod exchange;
pub mod http;

use crate::containers::{Containers, busybox};
use crate::host::wait_until;
use crate::registry::{DockerRegistry, Image, Layer, Packing};
use crate::terminal::Terminal;
use http::{Connection, Reply};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

/// Settings of docker's command line that a user's environment may have.
const SETTINGS: [&str; 6] = [
    "DOCKER_API_VERSION",
    "DOCKER_CERT_PATH",
    "DOCKER_CONTEXT",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CONTENT_TRUST",
];

/// Runs `check` with each docker of this machine, on an installation of its own.
pub fn with_each_docker(check: impl Fn(&DockerApi)) {
    for program in docker_programs() {
        println!("docker {}", docker_version(&program));
        let mut api = DockerApi::new();
        api.docker_program = program;
        check(&api);
    }
}

/// The programs of docker's command line on this machine: Debian's, and a newer one where there is one.
///
/// Panics if there is none.
pub fn docker_programs() -> Vec<PathBuf> {
    let paths = ["/usr/bin/docker", "/usr/local/bin/docker"].map(PathBuf::from);
    let programs: Vec<PathBuf> = paths.into_iter().filter(|path| path.exists()).collect();
    assert!(!programs.is_empty(), "there is no docker: run tests/install-deps.sh");
    programs
}

/// An installation whose gateway serves at `run/docker.sock`.
pub struct DockerApi {
    gateway: Option<Child>,
    log_level: &'static str,
    registry: OnceLock<DockerRegistry>,
    /// The program that [`DockerApi::docker`] runs.
    pub docker_program: PathBuf,
    /// The installation: monitord, engine, and the image `box:1`.
    pub containers: Containers,
}

impl Default for DockerApi {
    fn default() -> Self {
        Self::new()
    }
}

impl DockerApi {
    /// Starts an installation with the default configuration; waits until the gateway serves.
    pub fn new() -> Self {
        DockerApi::configured("")
    }

    /// Starts an installation with this `[engine]` table.
    pub fn configured(table: &str) -> Self {
        DockerApi::over(Containers::configured(table))
    }

    /// Starts an installation with this `[engine]` table, whose daemons log at their default level.
    pub fn quiet(table: &str) -> Self {
        DockerApi::logging(Containers::quiet(table), "info")
    }

    /// Starts a gateway for the installation `containers`.
    pub fn over(containers: Containers) -> Self {
        DockerApi::logging(containers, "debug")
    }

    fn logging(containers: Containers, log_level: &'static str) -> Self {
        let docker_program = docker_programs().remove(0);
        let registry = OnceLock::new();
        let mut api = DockerApi { gateway: None, log_level, registry, docker_program, containers };
        fs::create_dir(api.path("docker-config")).expect("a directory");
        api.start_gateway();
        api
    }

    /// Starts the gateway, which never ends for idleness; waits until it serves.
    pub fn start_gateway(&mut self) {
        self.start_gateway_with(&["--idle-timeout", "0"]);
    }

    /// Starts the gateway with `args`; waits until it serves.
    pub fn start_gateway_with(&mut self, args: &[&str]) {
        assert!(self.gateway.is_none(), "one at a time");
        let log = File::options().create(true).append(true).open(self.path("gateway.log")).expect("a log");
        let mut command = self.containers.host.command("sampan-docker-api");
        command.args(args).env("SAMPAN_LOG", self.log_level).stdout(Stdio::null()).stderr(log);
        self.gateway = Some(command.spawn().expect("sampan-docker-api starts"));
        let socket = self.socket();
        wait_until("the gateway to listen", || self.log(), || UnixStream::connect(&socket).is_ok());
    }

    /// Kills the gateway by SIGKILL.
    pub fn kill_gateway(&mut self) {
        let mut gateway = self.gateway.take().expect("it runs");
        gateway.kill().expect("killed");
        gateway.wait().expect("ours");
    }

    /// The gateway's process.
    pub fn gateway(&mut self) -> &mut Child {
        self.gateway.as_mut().expect("it runs")
    }

    /// Process ID of the gateway.
    pub fn gateway_pid(&self) -> u32 {
        self.gateway.as_ref().expect("it runs").id()
    }

    /// A path in the private directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.containers.host.path(below)
    }

    /// Path of the gateway's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/docker.sock")
    }

    /// The socket as `DOCKER_HOST` names it.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The logs of gateway, engine and monitord so far.
    pub fn log(&self) -> String {
        let gateway = fs::read_to_string(self.path("gateway.log")).unwrap_or_default();
        gateway + &self.containers.log()
    }

    /// Waits until `condition` holds; panics with the logs if it does not.
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, || self.log(), condition);
    }

    /// Prepares a command of docker's command line that talks to the gateway and reads no file of the user.
    pub fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.docker_program);
        for name in SETTINGS {
            command.env_remove(name);
        }
        command.env("DOCKER_HOST", self.docker_host()).env("DOCKER_CONFIG", self.path("docker-config"));
        command.env("DOCKER_CLI_HINTS", "false").env("HOME", self.path(""));
        command.args(args).current_dir(self.path("")).stdin(Stdio::null());
        command
    }

    /// Runs docker until it ends.
    pub fn docker(&self, args: &[&str]) -> Output {
        self.docker_command(args).output().expect("docker starts")
    }

    /// Runs docker, which must succeed; returns its standard output without the last line end.
    pub fn docker_ok(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {stderr}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// Runs docker, which must end with `status`; returns its standard error.
    pub fn docker_fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.docker(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "docker {args:?}: {stderr}\n{}", self.log());
        stderr
    }

    /// Runs docker with `input` as its standard input until it ends.
    pub fn docker_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.spawn_docker(args);
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            // A write error is no failure: docker need not read all of its input.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("ours")
        })
    }

    /// Starts docker with pipes as its standard streams.
    pub fn spawn_docker(&self, args: &[&str]) -> Child {
        let mut command = self.docker_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("docker starts")
    }

    /// Starts docker on a terminal of 24 rows and 80 columns.
    pub fn docker_on_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(&mut self.docker_command(args), 24, 80)
    }

    /// Opens a connection to the gateway.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.socket())
    }

    /// Sends a request without a body on a connection of its own; returns the whole answer.
    pub fn http(&self, method: &str, target: &str) -> Reply {
        self.http_with(method, target, &[], b"")
    }

    /// Sends a request on a connection of its own; returns the whole answer.
    pub fn http_with(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut connection = self.connect();
        connection.send(method, target, headers, body);
        connection.reply(method)
    }

    /// Sends a request with a JSON body; returns the whole answer.
    pub fn http_json(&self, method: &str, target: &str, body: &serde_json::Value) -> Reply {
        let headers = [("Content-Type", "application/json")];
        self.http_with(method, target, &headers, body.to_string().as_bytes())
    }

    /// Creates and starts a container of `box:1` that runs `script`; returns its ID.
    pub fn start_sh(&self, name: &str, script: &str) -> String {
        let id = self.containers.create_sh(name, script);
        self.containers.start(&id);
        id
    }

    /// The registry of this installation, which is empty at first; it starts at the first call.
    pub fn registry(&self) -> &DockerRegistry {
        self.registry.get_or_init(|| DockerRegistry::start(&self.path("")))
    }

    /// Pushes an image with busybox to the registry as `name`; returns its reference.
    pub fn push_busybox(&self, name: &str) -> String {
        self.registry().push(name, &[busybox_image()])
    }
}

/// The tar of a layer with busybox.
pub fn busybox_tar() -> Vec<u8> {
    busybox().into_inner().expect("to memory")
}

/// An image with busybox in one layer, for this machine.
pub fn busybox_image() -> Image {
    busybox_image_with(&[])
}

/// An image with busybox in its first layer, and these layers on it.
pub fn busybox_image_with(more: &[Layer]) -> Image {
    let tar = busybox_tar();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut layers = vec![Layer::of_tar(tar, Packing::Gzip)];
    layers.extend_from_slice(more);
    Image::of(&layers, architecture)
}

/// The version of docker's command line at `program`, such as `20.10.24`.
pub fn docker_version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().expect("docker starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "Docker version 28.2.2, build e6534b4"
    text.split(' ').nth(2).expect("three words").trim_end_matches([',', '\n']).to_owned()
}

impl Drop for DockerApi {
    fn drop(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("gateway.log")).unwrap_or_default();
            eprintln!("{log}");
        }
    }
}
