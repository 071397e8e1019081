//! A file system that is new for every measured pull: ext4 in a file, through a loop device.
//!
//! Not a directory that is emptied in between: ext4 passes by inodes that were freed in the last minute, one by
//! one, so that a store made where another was just removed costs many times what it costs on a host. Needs
//! root. Unmounts and detaches what it made.

use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Room for the largest image: its blobs, its files, and what peers keep beside them.
const SIZE: u64 = 8 << 30;

/// The device.
pub struct Disk {
    device: String,
    file: PathBuf,
    target: PathBuf,
}

/// The mounted file system, gone when this goes.
pub struct Mounted<'a>(&'a Disk);

impl Disk {
    /// Attaches a file below `dir` to a loop device.
    ///
    /// # Errors
    /// There is no room, or this is not root.
    pub fn attach(dir: &Path) -> io::Result<Self> {
        let (file, target) = (dir.join("disk"), dir.join("mounted"));
        fs::create_dir_all(&target)?;
        File::create(&file)?.set_len(SIZE)?;
        // Direct: what is written is not in the page cache twice.
        let args = ["--find", "--show", "--direct-io=on"];
        let device = tool(Command::new("losetup").args(args).arg(&file))?.trim().to_owned();
        Ok(Disk { device, file, target })
    }

    /// Bytes that were written to the device since it was attached. Documentation/block/stat.rst: field 7, in sectors.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn written(&self) -> io::Result<u64> {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let sectors = stat.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
        sectors.map(|sectors| sectors * 512).ok_or_else(|| io::Error::other(format!("{name}: {stat}")))
    }

    /// Makes a file system on it and mounts it.
    ///
    /// # Errors
    /// mkfs.ext4 or mount fails; with what it said.
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
    /// Where it is mounted.
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

/// Runs a tool; gives its output.
fn tool(command: &mut Command) -> io::Result<String> {
    let out = command.stdin(Stdio::null()).output()?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let program = command.get_program().display();
    let said = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("{program} failed (is this root?): {}", said.trim())))
}
