//! A new file system for every measured pull: ext4 in a file, on a loop device.
//!
//! Emptying a directory would not do: ext4 skips inodes that were freed in the last minute, one by one, so that a store
//! made where another was just removed costs many times what it costs on a host. Needs root. Unmounts and detaches what
//! it made.

use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size in bytes: room for the largest image's blobs and files, and for the additional files of peers.
const SIZE: u64 = 8 << 30;

/// A loop device on a file.
pub struct Disk {
    device: String,
    file: PathBuf,
    target: PathBuf,
}

/// A mounted file system; dropping it unmounts it.
pub struct Mounted<'a>(&'a Disk);

impl Disk {
    /// Attaches a file below `dir` to a loop device.
    ///
    /// # Errors The disk is full, or the process is not root.
    pub fn attach(dir: &Path) -> io::Result<Self> {
        let (file, target) = (dir.join("disk"), dir.join("mounted"));
        fs::create_dir_all(&target)?;
        File::create(&file)?.set_len(SIZE)?;
        // Direct I/O, so that written pages are in the page cache only once.
        let args = ["--find", "--show", "--direct-io=on"];
        let device = tool(Command::new("losetup").args(args).arg(&file))?.trim().to_owned();
        Ok(Disk { device, file, target })
    }

    /// Bytes that were written to the device since it was attached. Documentation/block/stat.rst: field 7, in sectors.
    ///
    /// # Errors The kernel's statistics cannot be read.
    pub fn written(&self) -> io::Result<u64> {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let sectors = stat.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
        sectors.map(|sectors| sectors * 512).ok_or_else(|| io::Error::other(format!("{name}: {stat}")))
    }

    /// Makes a file system on the device and mounts it.
    ///
    /// # Errors mkfs.ext4 or mount fails; the error has its output.
    pub fn mount_new(&self) -> io::Result<Mounted<'_>> {
        tool(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard", &self.device]))?;
        tool(Command::new("mount").args(["-o", "noinit_itable", &self.device]).arg(&self.target))?;
        Ok(Mounted(self))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = tool(Command::new("losetup").args(["--detach", &self.device])) {
            eprintln!("cannot detach {}: {error}", self.device);
        }
        let _ = fs::remove_file(&self.file);
    }
}

impl Mounted<'_> {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.0.target
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // podman and containerd leave mounts in their stores.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines().rev() {
            let target = line.split(' ').nth(1).unwrap_or_default();
            if Path::new(target).starts_with(&self.0.target)
                && let Err(error) = umount2(target, MntFlags::empty())
            {
                eprintln!("cannot unmount {target}: {error}");
                let _ = umount2(target, MntFlags::MNT_DETACH);
            }
        }
    }
}

/// Runs a tool that must succeed; returns its output.
fn tool(command: &mut Command) -> io::Result<String> {
    let out = command.stdin(Stdio::null()).output()?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let program = command.get_program().display();
    let stderr = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("{program} failed (is this root?): {}", stderr.trim())))
}
