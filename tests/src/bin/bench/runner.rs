//! The ways to run a container: Sampan by its protocol and by its command line, the bare runtime with a configuration
//! that Sampan has written, and peers. All of them run `true` in an equal busybox image.
//!
//! One [`Runner::run`] is one measured run. Daemons are started, and the bare runtime's mounts are made, before it.

use crate::orphans::{self, Run};
use crate::server::beside;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::time::{ClockId, clock_gettime};
use sampan_ipc::container::{AttachMessage, Create};
use sampan_tests::containers::{Containers, IMAGE};
use sampan_tests::dockerd::Dockerd;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Reference of the image in the stores of peers.
const PEERS_IMAGE: &str = "localhost/box:1";

/// A way to run a container.
pub enum Runner {
    /// The runtime alone, in a bundle like Sampan's.
    Bare(Bare),
    /// Requests to create and start, over the protocol.
    Protocol,
    /// `sampan run --rm`.
    Cli,
    /// `podman run --rm`.
    Podman(PathBuf),
    /// `ctr run --rm`.
    Ctr(Containerd),
    /// `docker run --rm`.
    Docker(Dockerd),
}

impl Runner {
    /// Name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Runner::Bare(_) => "runc run, mounted before",
            Runner::Protocol => "sampan, by the protocol",
            Runner::Cli => "sampan run --rm",
            Runner::Podman(_) => "podman run --rm",
            Runner::Ctr(_) => "ctr run --rm",
            Runner::Docker(_) => "docker run --rm",
        }
    }

    /// Runs `true` once.
    ///
    /// # Errors The run fails; the error has its output.
    pub fn run(&self, containers: &Containers, nth: u64) -> io::Result<Run> {
        let ours = [containers.host.pid(), containers.engine_pid().cast_unsigned()];
        match self {
            Runner::Bare(bare) => bare.run(nth),
            Runner::Protocol => orphans::measure(&ours, || by_protocol(containers)),
            Runner::Cli => {
                let mut command = containers.host.command_of(&beside("sampan")?);
                command.args(["run", "--rm", IMAGE, "true"]);
                orphans::measure(&ours, || succeed(&mut command))
            }
            Runner::Podman(dir) => {
                let mut command = podman(dir);
                // podman's default limits are higher than some hosts allow.
                command.args(["run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024"]);
                command.args(["--ulimit", "nproc=1024:1024", PEERS_IMAGE, "true"]);
                orphans::measure(&[], || succeed(&mut command))
            }
            Runner::Ctr(containerd) => {
                let daemon = [containerd.child.id()];
                let mut command = containerd.ctr();
                command.args(["run", "--rm", PEERS_IMAGE, &format!("run-{nth}"), "true"]);
                orphans::measure(&daemon, || succeed(&mut command))
            }
            Runner::Docker(dockerd) => {
                let mut command = dockerd.docker();
                command.args(["run", "--rm", "--network", "none", PEERS_IMAGE, "true"]);
                orphans::measure(&dockerd.pids()?, || succeed(&mut command))
            }
        }
    }
}

fn by_protocol(containers: &Containers) -> io::Result<()> {
    let create = Create {
        image: IMAGE.to_owned(),
        command: vec!["true".to_owned()],
        auto_remove: true,
        ..Create::default()
    };
    match containers.run(create, b"") {
        (AttachMessage::Exited(0), ..) => Ok(()),
        other => Err(io::Error::other(format!("the container ended with {other:?}"))),
    }
}

/// Runs a command that must succeed, with an empty standard input.
pub fn succeed(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.spawn()?.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Prepares a podman command with its own store.
fn podman(dir: &Path) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman.run"));
    command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]);
    command.args(["--events-backend", "file", "--runtime", "runc"]);
    command
}

/// Prepares podman with the image in its store.
///
/// # Errors podman is not installed, or fails.
pub fn with_podman(tar: &Path, dir: &Path) -> io::Result<Runner> {
    succeed(podman(dir).arg("import").arg(tar).arg(PEERS_IMAGE))?;
    Ok(Runner::Podman(dir.to_owned()))
}

/// Prepares Docker with the image in its store.
///
/// # Errors Docker is not installed, or fails.
pub fn with_docker(tar: &Path, dir: &Path) -> io::Result<Runner> {
    let dockerd = Dockerd::start(dir)?;
    succeed(dockerd.docker().arg("import").arg(tar).arg(PEERS_IMAGE))?;
    Ok(Runner::Docker(dockerd))
}

/// A containerd that ends when this is dropped.
pub struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts a containerd in `dir`, and imports the image that podman has there.
    ///
    /// # Errors containerd is not installed, or does not start.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let (config, socket) = (dir.join("containerd.toml"), dir.join("containerd.sock"));
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n",
            dir.join("containerd"),
            dir.join("containerd.run"),
        );
        fs::write(&config, text)?;
        let log = File::create(dir.join("containerd.log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut containerd = Containerd { child: command.spawn()?, socket };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&containerd.socket).is_err() {
            if containerd.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other("containerd does not come up"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        let archive = dir.join("box.oci");
        succeed(podman(dir).args(["save", "--format", "oci-archive", "-o"]).arg(&archive).arg(PEERS_IMAGE))?;
        succeed(containerd.ctr().args(["images", "import"]).arg(&archive))?;
        Ok(containerd)
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// A bundle with the configuration of a container of Sampan.
pub struct Bare {
    dir: PathBuf,
    layer: PathBuf,
}

impl Bare {
    /// Copies the configuration of container `id`. The container must stay, since files of its directory are mounted.
    ///
    /// # Errors There is no such container, or the image's files cannot be unpacked.
    pub fn like(containers: &Containers, id: &str) -> io::Result<Self> {
        let (dir, home) = (containers.host.path("bare"), containers.host.path("data/containers").join(id));
        let layer = dir.join("layer");
        fs::create_dir_all(&layer)?;
        let config = fs::read_to_string(home.join("config.json"))?;
        let rootfs = home.join("rootfs").display().to_string();
        let config = config.replace(&rootfs, &dir.join("rootfs").display().to_string());
        let leaf = |id: &str| format!("{id}\"");
        fs::write(dir.join("config.json"), config.replace(&leaf(id), &leaf("sampan-bench-bare")))?;
        let tar = containers.host.path("box.tar");
        succeed(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&layer))?;
        Ok(Bare { dir, layer })
    }

    /// Makes an empty upper directory and mounts it over the layer.
    fn mount(&self) -> io::Result<()> {
        for name in ["rootfs", "upper", "work"] {
            let _ = fs::remove_dir_all(self.dir.join(name));
            fs::create_dir(self.dir.join(name))?;
        }
        let path = |name: &str| self.dir.join(name).display().to_string();
        let (layer, upper, work) = (self.layer.display(), path("upper"), path("work"));
        let options = format!("lowerdir={layer},upperdir={upper},workdir={work}");
        let kind = Some("overlay");
        mount(kind, path("rootfs").as_str(), kind, MsFlags::empty(), Some(options.as_str()))?;
        Ok(())
    }

    fn unmount(&self) -> io::Result<()> {
        Ok(umount2(&self.dir.join("rootfs"), MntFlags::MNT_DETACH)?)
    }

    /// CPU time in seconds of the mounts that a run needs.
    ///
    /// # Errors The mounts are refused.
    pub fn mounts_cpu(&self) -> io::Result<f64> {
        let now = || {
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
                .map(|time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
        };
        let before = now()?;
        self.mount()?;
        self.unmount()?;
        Ok(now()? - before)
    }

    fn run(&self, nth: u64) -> io::Result<Run> {
        self.mount()?;
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.join("root")).args(["run", "--bundle"]).arg(&self.dir);
        let run = orphans::measure(&[], || succeed(command.arg(format!("sampan-bench-{nth}"))));
        self.unmount()?;
        run
    }
}
