//! `sampan events --ack-fd`: the consumer at the end of a pipeline acknowledges the events that it has processed.
//!
//! `watch` owns this module's thread, which reads sequence numbers, one per line, and commits them. The thread ends
//! when the consumer closes its end.

use crate::cli::error::{Failure, USAGE};
use crate::cli::output;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_client::{Committer, Stopper};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Longest line, in bytes: enough for a number of twenty digits and some blanks.
const LINE_MAX: u64 = 256;

/// The descriptor from which acknowledgements are read.
#[derive(Debug)]
pub(crate) struct Acks(File);

/// The thread that reads acknowledgements.
#[derive(Debug)]
pub(crate) struct AckReader {
    ended: UnixStream,
}

impl Acks {
    /// Opens descriptor `number`, which this process has inherited.
    pub(crate) fn open(number: i32) -> Result<Self, Failure> {
        // Open the descriptor by its name, since other code of this process may own the descriptor itself.
        let file = File::open(format!("/proc/self/fd/{number}"));
        file.map(Acks).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "it is not open".to_owned(),
                _ => error.to_string(),
            };
            Failure::new(format!("cannot read acknowledgements from descriptor {number}: {why}"))
                .status(USAGE)
                .hint(format!("open it: sampan events … --ack-fd {number} {number}<FIFO"))
        })
    }

    /// Starts the thread, which calls `stopper` when no more acknowledgements can come.
    pub(crate) fn read(self, committer: Committer, stopper: Stopper) -> io::Result<AckReader> {
        let (ended, end) = UnixStream::pair()?;
        let read = move || {
            take_all(BufReader::new(self.0), &committer);
            stopper.stop();
            drop(end);
        };
        sampan_os::thread::spawn("acks", 64 << 10, read)?;
        Ok(AckReader { ended })
    }
}

impl AckReader {
    /// Whether the consumer has closed its end.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
    }

    /// Waits until the consumer has closed its end, or `wake` is readable.
    pub(crate) fn wait(&self, wake: &UnixStream) {
        let mut fds = [
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(wake.as_fd(), PollFlags::POLLIN),
        ];
        while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(1..)) {}
    }
}

fn take_all(mut lines: impl BufRead, committer: &Committer) {
    let mut line = Vec::new();
    // Whether the bytes belong to a line that is too long, and are skipped.
    let mut is_rest = false;
    loop {
        line.clear();
        match lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                let is_whole = line.ends_with(b"\n");
                let seq = std::str::from_utf8(&line).ok().and_then(|line| line.trim().parse().ok());
                match seq.filter(|_| is_whole && !is_rest) {
                    Some(seq) => committer.commit(seq),
                    None if is_rest => {}
                    None => {
                        let text = String::from_utf8_lossy(&line);
                        output::note(&format!("acknowledgement {:?} is not a sequence number", text.trim()));
                    }
                }
                is_rest = !is_whole;
            }
            Err(error) => {
                output::note(&format!("cannot read acknowledgements: {error}"));
                return;
            }
        }
    }
}
