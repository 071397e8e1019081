//! Reads a FIFO without losing records: copies its bytes first, and removes them after the records are in the journal.
//!
//! The intake owns one for facts and one for other events. [`Fifo::peek`] copies bytes by tee(2), which leaves the
//! bytes in the FIFO; [`Fifo::consume`] removes them. If this process dies between the two calls, the next process
//! finds the records in the FIFO. This module does not know the format of records.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, pipe2, read};
use sampan_ipc::fifo::{self, OpenError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes that one peek returns: the capacity of the private pipe, which is the default capacity of a pipe.
/// pipe(7).
pub(crate) const WINDOW: usize = 64 << 10;
/// Capacity of the FIFO in bytes: enough for about a second of a busy host's events while this process restarts.
/// F_SETPIPE_SZ.
const CAPACITY: i32 = 1 << 20;

/// Why the FIFO cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FifoError {
    #[error("FIFO {} is in use by another sampan-monitord", .0.display())]
    Busy(PathBuf),
    /// The FIFO cannot be opened, or the path is another kind of file.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A FIFO that no other process reads.
#[derive(Debug)]
pub(crate) struct Fifo {
    fifo: File,
    /// The lock of the FIFO, if this process has opened it by its path. A FIFO from systemd needs no lock, since
    /// systemd passes it to one process only.
    _lock: Option<Flock<File>>,
    /// The write end of the private pipe, into which tee(2) copies.
    peek_in: OwnedFd,
    peek_out: OwnedFd,
    /// /dev/null, into which consumed bytes are spliced; `None` if that is not possible, so that the bytes are read
    /// instead.
    null: Option<File>,
    window: Box<[u8]>,
}

impl Fifo {
    /// Opens the FIFO at `path`; creates it if it does not exist. Corrects its group and mode by
    /// [`fifo::set_owner_and_mode`].
    ///
    /// # Errors
    /// Another process reads the FIFO, or the FIFO cannot be created or opened.
    pub(crate) fn open(path: &Path, group: Option<Gid>) -> Result<Self, FifoError> {
        fifo::make(path)?;
        let lock = lock(path)?;
        let file = fifo::hold(path)?;
        fifo::set_owner_and_mode(&file, path, group);
        Self::with_private_pipe(file, path, Some(lock))
    }

    /// Uses a FIFO that systemd has passed. `path` is for messages.
    ///
    /// # Errors
    /// The descriptor is not a FIFO, or cannot be made non-blocking.
    pub(crate) fn adopt(fd: OwnedFd, path: &Path) -> Result<Self, FifoError> {
        let failed = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
        if !fifo::is_fifo(&fstat(&fd).map_err(failed)?) {
            return Err(OpenError::NotFifo { path: path.to_owned(), kind: "something else" }.into());
        }
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        Self::with_private_pipe(File::from(fd), path, None)
    }

    fn with_private_pipe(fifo: File, path: &Path, lock: Option<Flock<File>>) -> Result<Self, FifoError> {
        let failed = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
        if let Err(errno) = fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(CAPACITY)) {
            log::debug!(
                "{}: the FIFO keeps its capacity, {CAPACITY} bytes are refused: {errno}",
                path.display()
            );
        }
        let (peek_out, peek_in) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed)?;
        let null = OpenOptions::new().write(true).open("/dev/null").ok();
        Ok(Fifo { fifo, _lock: lock, peek_in, peek_out, null, window: vec![0; WINDOW].into_boxed_slice() })
    }

    /// The descriptor, for the poll.
    pub(crate) fn raw(&self) -> RawFd {
        self.fifo.as_raw_fd()
    }

    /// Copies at most [`WINDOW`] bytes from the front of the FIFO, and leaves them in the FIFO. Empty if the FIFO is
    /// empty.
    ///
    /// The record at the front is always complete: its writer wrote it in one write, so it is in one page of the pipe,
    /// and a copy into an empty pipe of [`WINDOW`] bytes splits no page. pipe(7), PIPE_BUF.
    ///
    /// # Errors
    /// The FIFO cannot be read.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        let teed = match tee(&self.fifo, &self.peek_in, WINDOW, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut got = 0;
        while got < teed {
            match read(&self.peek_out, self.window.get_mut(got..teed).unwrap_or_default()) {
                Ok(0) => break,
                Ok(len) => got += len,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.window.get(..got).unwrap_or_default())
    }

    /// Removes the first `len` bytes, which the caller has peeked, from the FIFO.
    ///
    /// # Errors
    /// The FIFO cannot be read.
    pub(crate) fn consume(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let taken = match &self.null {
                Some(null) => {
                    splice(&self.fifo, None, null.as_fd(), None, left, SpliceFFlags::SPLICE_F_NONBLOCK)
                }
                None => read(&self.fifo, self.window.get_mut(..left.min(WINDOW)).unwrap_or_default()),
            };
            match taken {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => left -= taken,
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL) if self.null.is_some() => self.null = None,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Locks the FIFO for this process, by a lock file in the same directory that only its owner can open.
///
/// The FIFO itself is not locked, since every process that may write to it could hold that lock. The lock file is
/// never removed: otherwise two processes could lock two different files with this name. flock(2).
fn lock(fifo: &Path) -> Result<Flock<File>, FifoError> {
    let mut path = fifo.as_os_str().to_owned();
    path.push(".lock");
    let failed = |source: io::Error| OpenError::Io { path: PathBuf::from(&path), source };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
    let file = options.open(&path).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(FifoError::Busy(fifo.to_owned())),
        Err((_, errno)) => Err(failed(errno.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::open;
    use nix::sys::stat::Mode;
    use std::io::Write;

    #[test]
    fn peeked_bytes_stay_until_they_are_consumed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        let mut fifo = Fifo::open(&path, None).expect("a FIFO");
        assert!(matches!(Fifo::open(&path, None), Err(FifoError::Busy(_))));
        assert_eq!(fifo.peek().expect("readable"), b"");
        let mut writer = OpenOptions::new().write(true).open(&path).expect("a writer");
        writer.write_all(b"first second").expect("room");
        assert_eq!(fifo.peek().expect("readable"), b"first second");
        drop(fifo);
        let mut fifo = Fifo::open(&path, None).expect("a FIFO");
        fifo.consume(6).expect("consumed");
        assert_eq!(fifo.peek().expect("readable"), b"second");
    }

    #[test]
    fn a_full_fifo_refuses_whole_records_and_is_peeked_by_windows() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        let mut fifo = Fifo::open(&path, None).expect("a FIFO");
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
        let writer = open(&path, flags, Mode::empty()).expect("a writer");
        let mut sent = 0u32;
        let end = loop {
            let mut record = [0; 300];
            record[..4].copy_from_slice(&sent.to_le_bytes());
            match nix::unistd::write(&writer, &record) {
                Ok(len) => assert_eq!(len, 300),
                Err(errno) => break errno,
            }
            sent += 1;
        };
        assert_eq!(end, Errno::EAGAIN);
        let mut got = 0u32;
        loop {
            let window = fifo.peek().expect("readable");
            if window.is_empty() {
                break;
            }
            let whole = window.chunks_exact(300);
            let len = whole.len() * 300;
            for record in whole {
                assert_eq!(record[..4], got.to_le_bytes());
                got += 1;
            }
            assert!(len > 0, "a window begins with a whole record");
            fifo.consume(len).expect("consumed");
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn a_regular_file_at_the_path_is_reported_as_such() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        std::fs::write(&path, "").expect("a file");
        let error = Fifo::open(&path, None).expect_err("a file");
        assert!(error.to_string().contains("is a regular file"), "{error}");
    }
}
