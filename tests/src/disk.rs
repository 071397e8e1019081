//! A disk whose power fails: a real file system that is shut down under the processes that use it.
//!
//! Used by tests of what survives that. The file system's own ioctl (`xfs_io -x -c shutdown`) drops what is in memory; what
//! a mount makes of the device then is what a host finds. Needs root: it mounts.

use crate::host::wait_until;
use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What mkfs.xfs wants at least; sparse.
const SIZE: u64 = 320 << 20;

/// A file system in a file, on a loop device.
#[derive(Debug)]
pub struct Disk {
    /// How it is mounted although another one of its UUID is.
    options: &'static str,
    device: String,
    file: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// A new one, mounted.
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

    /// What is not on the device is gone from here on. The log is written before, or not.
    ///
    /// What is on it is copied for the next boot: whoever has copied all mounts that there are, as a container's maker does,
    /// keeps this one, and with it a cache that goes on being written.
    pub fn lose_power(&self, is_log_written: bool) {
        let command = if is_log_written { "shutdown -f" } else { "shutdown" };
        tool(Command::new("xfs_io").args(["-x", "-c", command]).arg(&self.target));
        tool(Command::new("cp").arg("--sparse=always").args([&self.file, &self.copy()]));
    }

    fn copy(&self) -> PathBuf {
        self.file.with_extension("copy")
    }

    /// As the next boot finds it.
    pub fn come_back(&mut self) {
        // A process that was killed may be on its way out still.
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
