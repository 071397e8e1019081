//! Bytes that an event writes to flash storage: for the journal alone, and for the journal and one reader with a cursor
//! file.
//!
//! Each figure is measured on a new ext4 on a loop device, whose statistics are read. Needs root.

use crate::disk::Disk;
use crate::options::Options;
use crate::server::beside;
use crate::system::System;
use crate::table::{print, row};
use sampan_ipc::Event;
use sampan_ipc::sender::FifoSender;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time during which events are written for one figure.
const TIME: Duration = Duration::from_secs(60);
/// Time for the daemons and the file system to become idle.
const SETTLE: Duration = Duration::from_secs(12);
/// Events per second.
const RATES: [u32; 2] = [1, 50];

/// Measures and prints.
///
/// # Errors The loop device cannot be made, or a process failed.
pub fn run(options: &Options) -> io::Result<()> {
    if !options.systems.contains(&System::Sampan) {
        return Ok(());
    }
    let mut rows = vec![row([
        "events a second",
        "journal alone, KiB an event",
        "with a reader and its cursor",
        "ratio",
    ])];
    for rate in RATES {
        let alone = bytes_an_event(rate, false)?;
        let beside = bytes_an_event(rate, true)?;
        let kib = |bytes: f64| format!("{:.2}", bytes / 1024.0);
        rows.push(vec![rate.to_string(), kib(alone), kib(beside), format!("{:.2}", beside / alone)]);
    }
    print("Bytes written to the disk", &rows);
    Ok(())
}

fn bytes_an_event(rate: u32, with_reader: bool) -> io::Result<f64> {
    let dir = tempfile::Builder::new().prefix("sampan-bench.").tempdir()?;
    let disk = Disk::attach(&dir.path().join("disk"))?;
    let mounted = disk.mount_new()?;
    let place = mounted.path();
    let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
    let mut monitord = Command::new(beside("sampan-monitord")?);
    monitord.arg("--fifo").arg(&fifo).arg("--emit-fifo").arg(dir.path().join("emit"));
    monitord.arg("--socket").arg(&socket).arg("--journal-dir").arg(place.join("journal"));
    let _monitord = Running::start(&mut monitord)?;
    await_socket(&socket)?;
    let mut reader = Command::new(beside("sampan")?);
    reader.args(["events", "--format", "json", "--socket"]).arg(&socket);
    reader.arg("--cursor-file").arg(place.join("cursor"));
    let _reader = if with_reader { Some(Running::start(&mut reader)?) } else { None };
    std::thread::sleep(SETTLE);
    let (sender, before, begun) = (FifoSender::new(fifo), disk.written()?, Instant::now());
    let all = rate * TIME.as_secs() as u32;
    for nth in 0..all {
        let due = begun + TIME * nth / all;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let event = Event::new(
            "container",
            "start",
            "4c51397be7660ef370918d5615b0f8af7088f1ed191fca35a1f7117cc9d3c17c",
        );
        sender
            .send(event.with("name", "web").with("image", "docker.io/demo/web:1").with("pid", nth))
            .map_err(io::Error::other)?;
    }
    std::thread::sleep(SETTLE);
    // Bytes that the kernel would write back later count as well.
    nix::unistd::syncfs(std::fs::File::open(place)?)?;
    Ok((disk.written()? - before) as f64 / f64::from(all))
}

fn await_socket(socket: &Path) -> io::Result<()> {
    let deadline = Instant::now() + SETTLE;
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        if Instant::now() > deadline {
            return Err(io::Error::other("monitord does not come up"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A process that ends when this is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
