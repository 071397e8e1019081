//! Power loss while images come and soon after: a real file system that is shut down under a real engine.
//!
//! The file system's own ioctl for that (`xfs_io -x -c shutdown`) drops what is in memory, as the mains would; what a mount
//! makes of the device then is what a host finds. Where its log is written first, names are on the device and contents may
//! not be. As root: it mounts.

use nix::mount::{MntFlags, umount2};
use sampan_ipc::engine::{Answer, Request, Verify};
use sampan_tests::engine::Engine;
use sampan_tests::host::need_root;
use sampan_tests::random::Random;
use sampan_tests::registry::{Image, Layer, LyingRegistry, Packing};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What mkfs.xfs wants at least; sparse.
const SIZE: u64 = 320 << 20;
/// How often the power fails, on each file system.
const ROUNDS: usize = 8;
/// Most images that come before it does.
const IMAGES_MAX: usize = 4;

/// A file system in a file, on a loop device.
struct Disk {
    /// How it is mounted although another one of its UUID is.
    options: &'static str,
    device: String,
    file: PathBuf,
    target: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// A new one, mounted.
    fn new(mkfs: &str, options: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, target) = (dir.path().join("disk"), dir.path().join("mounted"));
        fs::create_dir(&target).expect("made");
        File::create(&file).expect("made").set_len(SIZE).expect("sized");
        tool(Command::new(mkfs).arg("-q").arg(&file));
        let mut disk = Disk { options, device: String::new(), file, target, _dir: dir };
        disk.mount();
        disk
    }

    fn mount(&mut self) {
        let attach = ["--find", "--show"];
        self.device = tool(Command::new("losetup").args(attach).arg(&self.file)).trim().to_owned();
        tool(Command::new("mount").args(["-o", self.options, &self.device]).arg(&self.target));
    }

    /// What is not on the device is gone from here on. The log is written before, or not.
    ///
    /// What is on it is copied for the next boot: whoever has copied all mounts that there are, as a container's maker does,
    /// keeps this one, and with it a cache that goes on being written.
    fn lose_power(&self, is_log_written: bool) {
        let command = if is_log_written { "shutdown -f" } else { "shutdown" };
        tool(Command::new("xfs_io").args(["-x", "-c", command]).arg(&self.target));
        tool(Command::new("cp").arg("--sparse=always").args([&self.file, &self.copy()]));
    }

    fn copy(&self) -> PathBuf {
        self.file.with_extension("copy")
    }

    /// As the next boot finds it.
    fn come_back(&mut self) {
        umount2(&self.target, MntFlags::empty()).expect("unmounted");
        tool(Command::new("losetup").args(["--detach", &self.device]));
        fs::remove_file(&self.file).expect("removed");
        fs::rename(self.copy(), &self.file).expect("renamed");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.target, MntFlags::MNT_DETACH);
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn tool(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("started");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

fn await_settled(engine: &Engine, store: &Path) {
    engine.wait_until("all to be on the disk", || !store.join("index.settled.json").exists());
}

/// Waits so long, as the mains do: nothing tells when they fail.
fn live_on(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

fn survive(mkfs: &str, options: &'static str) {
    need_root();
    let (mut disk, registry, mut random) = (Disk::new(mkfs, options), LyingRegistry::start(), Random::new(7));
    let store = disk.target.join("store");
    let mut engine = Engine::configured(&format!("store = '{}'", store.display()));
    let layer = |name: &str| Layer::large(name, 200_000, Packing::Gzip);
    registry.publish("safe", &Image::of(&[layer("safe")], "amd64"));
    let safe = registry.reference("safe");
    engine.pull(&safe).expect("pulled");
    await_settled(&engine, &store);
    for round in 0..ROUNDS {
        let names: Vec<String> =
            (0..=random.below(IMAGES_MAX)).map(|nth| format!("r{round}i{nth}")).collect();
        for name in &names {
            registry.publish(name, &Image::of(&[layer(name), layer("shared")], "amd64"));
            engine.pull(&registry.reference(name)).expect("pulled");
        }
        // Most often before the disk is asked for it, sometimes meanwhile, or after.
        live_on(Duration::from_millis(random.below(160) as u64));
        disk.lose_power(random.one_in(2));
        engine = engine.killed_and_restarted_after(|| {
            disk.come_back();
            fs::write(store.join("boot"), "another").expect("written");
        });
        let images = engine.images();
        let has = |name: &String| images.iter().any(|image| image.references.contains(name));
        assert!(has(&safe), "round {round}: {images:?}\n{}", engine.log());
        let verified = engine.ask(Request::Verify(Verify { deep: true })).all();
        assert!(
            matches!(verified.last(), Some(Answer::Done(_))),
            "round {round}: {verified:?}\n{}",
            engine.log()
        );
        for name in &names {
            engine.pull(&registry.reference(name)).expect("pulled again");
        }
        await_settled(&engine, &store);
    }
}

#[test]
fn power_loss_leaves_a_store_that_is_whole_on_ext4() {
    survive("mkfs.ext4", "defaults");
}

#[test]
fn power_loss_leaves_a_store_that_is_whole_on_xfs() {
    survive("mkfs.xfs", "nouuid");
}
