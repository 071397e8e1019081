//! A disk whose power fails: a real file system that is shut down while processes use it.
//!
//! Used by tests of durability. The file system's own ioctl (`xfs_io -x -c shutdown`) drops everything that is only in
//! memory; mounting the device again shows what a host would find after a power failure. Needs root, for mount(2).

use crate::host::wait_until;
use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Least size in bytes that mkfs.xfs accepts; the file is sparse.
const SIZE: u64 = 320 << 20;

/// A file system in a file, on a loop device.
#[derive(Debug)]
pub struct Disk {
    /// Mount options that allow a second file system with the same UUID.
    options: &'static str,
    device: String,
    file: PathBuf,
    /// The mount point.
    pub target: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// Makes and mounts a file system.
    pub fn new(mkfs: &str, options: &'static str) -> Self {
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

    /// Drops everything that is not on the device yet; with `is_log_written`, the file system writes its log first.
    ///
    /// The device's content is copied for the next boot. A process that has copied this mount into its namespace, as
    /// the creation of a container does, keeps the old file system mounted, and with it a cache that is still written
    /// back.
    pub fn lose_power(&self, is_log_written: bool) {
        let command = if is_log_written { "shutdown -f" } else { "shutdown" };
        tool(Command::new("xfs_io").args(["-x", "-c", command]).arg(&self.target));
        tool(Command::new("cp").arg("--sparse=always").args([&self.file, &self.copy()]));
    }

    fn copy(&self) -> PathBuf {
        self.file.with_extension("copy")
    }

    /// Mounts the copy, as the next boot would.
    pub fn come_back(&mut self) {
        // A process that was killed may not have exited yet.
        let is_unmounted = || umount2(&self.target, MntFlags::empty()).is_ok();
        wait_until("the disk to be unused", || self.target.display().to_string(), is_unmounted);
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
