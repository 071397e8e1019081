//! A command that runs on a pseudoterminal.

use crate::host::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A command, and the master side of the terminal that it uses.
pub struct Terminal {
    /// The command's process.
    pub child: Child,
    master: File,
    slave: File,
}

impl Terminal {
    /// Starts `command` on a terminal of this size.
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Terminal {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let (master, slave) = (File::from(pair.master), File::from(pair.slave));
        let end = || Stdio::from(slave.try_clone().expect("cloned"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("built");
        Terminal { child, master, slave }
    }

    /// Types `typed` at the terminal.
    pub fn types(&mut self, typed: impl AsRef<[u8]>) {
        self.master.write_all(typed.as_ref()).expect("typed");
    }

    /// Reads the terminal's output until it contains `shown`; panics with the output after [`PATIENCE`].
    pub fn awaits(&mut self, shown: &str) {
        let deadline = Instant::now() + PATIENCE;
        let (mut seen, mut byte) = (Vec::new(), [0; 1]);
        while !String::from_utf8_lossy(&seen).contains(shown) {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).expect("less than weeks");
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let is_ready = poll(&mut fds, timeout).expect("waited") > 0;
            assert!(is_ready, "no {shown:?} in {:?}", String::from_utf8_lossy(&seen));
            assert_eq!(self.master.read(&mut byte).expect("shown"), 1);
            seen.push(byte[0]);
        }
    }

    /// Types `typed`, and reads until the output contains `shown`.
    pub fn type_for(&mut self, typed: impl AsRef<[u8]>, shown: &str) {
        self.types(typed);
        self.awaits(shown);
    }

    /// True if the command has switched the terminal to raw mode.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).expect("a terminal").local_flags.contains(LocalFlags::ICANON)
    }

    /// Number of bytes that the command has read from all files. proc_pid_io(5).
    pub fn bytes_read(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).expect("it runs");
        let field = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        field.expect("a line of that name").parse().expect("a number")
    }

    /// Waits for the command's end; returns its exit code.
    pub fn end(mut self) -> Option<i32> {
        self.child.wait().expect("ours").code()
    }
}
