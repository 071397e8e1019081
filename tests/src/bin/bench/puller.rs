//! The pullers that are compared, each with an empty store of its own: Sampan, its peers, and the floor.
//!
//! One [`Puller::pull`] is one measured pull. Daemons are started before the measured time and ended after it. The
//! store's file system is removed when the call returns.

use crate::cost::{self, Cost, Daemon};
use crate::disk::Disk;
use crate::server::beside;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::dockerd::Dockerd;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A puller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Puller {
    /// The floor with files, one thread, from the registry: the bars are multiples of it.
    Floor,
    /// The floor with files, one thread, from the registry's own files.
    FloorLocal,
    /// The floor with files, two threads, from the registry's own files.
    Floor2,
    /// The floor with files, two threads, from the registry's own files, and syncfs(2) at the end.
    Floor2Synced,
    /// The floor with one file per layer, one thread, from the registry's own files.
    FloorStream,
    /// `sampan pull`.
    Sampan,
    /// `sampan pull --no-unpack`.
    SampanNoUnpack,
    /// `podman pull`.
    Podman,
    /// `ctr images pull`.
    Ctr,
    /// `docker pull`.
    Docker,
    /// `skopeo copy` to `oci:`.
    SkopeoOci,
    /// `skopeo copy` to `dir:`.
    SkopeoDir,
}

/// An image to be pulled.
pub struct Source<'a> {
    /// `HOST:PORT/NAME:TAG`, plain HTTP.
    pub reference: &'a str,
    /// Paths of its layers among the registry's files.
    pub layers: &'a [PathBuf],
}

impl Puller {
    /// All pullers, in the table's order.
    pub const ALL: [Puller; 12] = [
        Puller::Floor,
        Puller::FloorLocal,
        Puller::Floor2,
        Puller::Floor2Synced,
        Puller::FloorStream,
        Puller::Sampan,
        Puller::Podman,
        Puller::Ctr,
        Puller::Docker,
        Puller::SampanNoUnpack,
        Puller::SkopeoOci,
        Puller::SkopeoDir,
    ];

    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Puller::Floor => "floor, one thread",
            Puller::FloorLocal => "without network",
            Puller::Floor2 => "without network, two threads",
            Puller::Floor2Synced => "without network, two threads, synced",
            Puller::FloorStream => "without network, one file a layer",
            Puller::Sampan => "sampan pull",
            Puller::SampanNoUnpack => "sampan pull --no-unpack",
            Puller::Podman => "podman pull",
            Puller::Ctr => "ctr images pull",
            Puller::Docker => "docker pull",
            Puller::SkopeoOci => "skopeo copy → oci:",
            Puller::SkopeoDir => "skopeo copy → dir:",
        }
    }

    /// True for a program of another project, which may not support every kind of image.
    pub fn is_peer(self) -> bool {
        use Puller::{Ctr, Docker, Podman, SkopeoDir, SkopeoOci};
        matches!(self, Ctr | Docker | Podman | SkopeoDir | SkopeoOci)
    }

    /// True if the puller is installed.
    pub fn is_there(self) -> bool {
        match self {
            Puller::Podman => runs("podman", &["--version"]),
            Puller::Ctr => runs("ctr", &["--version"]) && runs("containerd", &["--version"]),
            Puller::Docker => runs("dockerd", &["--version"]) && runs("docker", &["--version"]),
            Puller::SkopeoOci | Puller::SkopeoDir => runs("skopeo", &["--version"]),
            Puller::SampanNoUnpack => no_unpack_exists(),
            Puller::Sampan
            | Puller::Floor
            | Puller::FloorLocal
            | Puller::Floor2
            | Puller::Floor2Synced
            | Puller::FloorStream => true,
        }
    }

    /// Pulls once into an empty store on a new file system of `disk`.
    ///
    /// # Errors The pull fails; the error has its output.
    pub fn pull(self, source: &Source, disk: &Disk) -> io::Result<Cost> {
        let mounted = disk.mount_new()?;
        let dir = mounted.path();
        // Writes back what the puller before has left in the page cache, so that it does not count for this one.
        nix::unistd::sync();
        match self {
            Puller::Floor => floor_from_registry(source, dir),
            Puller::FloorLocal => floor("1", "files", source, dir),
            Puller::Floor2 => floor("2", "files", source, dir),
            Puller::Floor2Synced => floor("2", "synced", source, dir),
            Puller::FloorStream => floor("1", "stream", source, dir),
            Puller::Sampan => sampan(source, dir, &[]),
            Puller::SampanNoUnpack => sampan(source, dir, &["--no-unpack"]),
            Puller::Podman => podman(source, dir),
            Puller::Ctr => ctr(source, dir),
            Puller::Docker => docker(source, dir),
            Puller::SkopeoOci => skopeo(source, &format!("oci:{}/to:t", dir.display())),
            Puller::SkopeoDir => skopeo(source, &format!("dir:{}/to", dir.display())),
        }
    }
}

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn no_unpack_exists() -> bool {
    let help = beside("sampan").and_then(|sampan| Command::new(sampan).args(["pull", "--help"]).output());
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--no-unpack"))
}

fn floor(threads: &str, what: &str, source: &Source, dir: &Path) -> io::Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["floor", threads, what]).arg(dir).args(source.layers);
    cost::of(&command)
}

fn floor_from_registry(source: &Source, dir: &Path) -> io::Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["floor", "1", "files"]).arg(dir).arg(format!("http://{}", source.reference));
    cost::of(&command)
}

fn skopeo(source: &Source, to: &str) -> io::Result<Cost> {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    command.arg(format!("docker://{}", source.reference)).arg(to);
    cost::of(&command)
}

fn podman(source: &Source, dir: &Path) -> io::Result<Cost> {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
    command.args(["--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", source.reference]);
    cost::of(&command)
}

/// Cost of `client`, and of the daemons `pids` meanwhile.
fn cost_with(pids: &[u32], client: &Command) -> io::Result<Cost> {
    let before = pids.iter().map(|pid| Daemon::now(*pid)).collect::<io::Result<Vec<_>>>()?;
    let mut cost = cost::of(client)?;
    for (before, pid) in before.into_iter().zip(pids) {
        before.add_to(&mut cost, *pid)?;
    }
    Ok(cost)
}

/// A daemon that ends when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts a daemon, and waits until it listens on `socket`.
    ///
    /// # Errors It does not; the error has its log.
    pub fn start(mut command: Command, dir: &Path, socket: &Path) -> io::Result<Self> {
        let log = dir.join("daemon.log");
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let mut running = Running(child);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(socket).is_err() {
            if running.0.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "{} does not listen: {}",
                    command.get_program().display(),
                    fs::read_to_string(&log).unwrap_or_default()
                )));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(running)
    }

    /// Cost of `client`, and of the daemon meanwhile.
    ///
    /// # Errors The client fails, or the daemon has ended.
    pub fn cost_with(&self, client: &Command) -> io::Result<Cost> {
        cost_with(&[self.0.id()], client)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

fn sampan(source: &Source, dir: &Path, more: &[&str]) -> io::Result<Cost> {
    let engine = engine(dir)?;
    let mut pull = client(dir)?;
    pull.args(["pull", "--quiet"]).args(more).arg(source.reference);
    engine.cost_with(&pull)
}

/// Starts an engine that keeps its files below `dir`. It listens before it has made its store, which takes a few
/// fsync(2): a request waits for that.
///
/// # Errors It does not start; the error has its log.
pub fn engine(dir: &Path) -> io::Result<Running> {
    let mut engine = Command::new(beside("sampan-engine")?);
    let config = dir.join("sampan.toml");
    fs::write(&config, "[engine]\n")?;
    engine.envs(environment(dir)).arg("--config").arg(&config);
    let engine = Running::start(engine, dir, &dir.join("run/engine.sock"))?;
    ask(dir, &["jobs"])?;
    Ok(engine)
}

/// Runs a command of the command line with the engine below `dir`.
///
/// # Errors It fails; the error has its output.
pub fn ask(dir: &Path, args: &[&str]) -> io::Result<()> {
    let out = client(dir)?.args(args).stdin(Stdio::null()).output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned())),
    }
}

/// Prepares a command of the command line for that engine.
///
/// # Errors The program is not next to the benchmark.
pub fn client(dir: &Path) -> io::Result<Command> {
    let mut client = Command::new(beside("sampan")?);
    client.envs(environment(dir));
    Ok(client)
}

fn environment(dir: &Path) -> [(String, PathBuf); 3] {
    [("RUN", "run"), ("STATE", "state"), ("DATA", "data")]
        .map(|(name, below)| (format!("SAMPAN_{name}_DIR"), dir.join(below)))
}

fn ctr(source: &Source, dir: &Path) -> io::Result<Cost> {
    let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n",
        dir.join("root"),
        dir.join("state"),
    );
    fs::write(&config, text)?;
    let mut daemon = Command::new("containerd");
    daemon.arg("--config").arg(&config);
    let daemon = Running::start(daemon, dir, &socket)?;
    let mut pull = Command::new("ctr");
    pull.arg("--address").arg(&socket);
    pull.args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs", source.reference]);
    daemon.cost_with(&pull)
}

fn docker(source: &Source, dir: &Path) -> io::Result<Cost> {
    let dockerd = Dockerd::start(dir)?;
    let mut pull = dockerd.docker();
    pull.args(["pull", "--quiet", source.reference]);
    cost_with(&dockerd.pids()?, &pull)
}
