//! A FIFO: peeked first, consumed once its records are kept.
//!
//! The intake owns one for facts and one for others' events. tee(2) copies what the FIFO holds into a private pipe
//! without taking it out; [`Fifo::consume`] takes it out. If this process dies in between, the next one finds the
//! records where they were. Knows nothing of records.

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

/// Bytes that one peek gives at most: sixteen pages, what a pipe holds by default.
pub const WINDOW: usize = 64 << 10;
/// Bytes that the FIFO is to hold: about a second of a busy host while this process restarts. F_SETPIPE_SZ.
const CAPACITY: i32 = 1 << 20;

/// Why the FIFO cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FifoError {
    /// Another process reads it.
    #[error("FIFO {} is in use by another sampan-monitord", .0.display())]
    Busy(PathBuf),
    /// It cannot be opened, or something else is in its place.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The FIFO, read by this process alone.
#[derive(Debug)]
pub struct Fifo {
    fifo: File,
    /// Of one that was opened by its name; what systemd passes, it passes to one process.
    _lock: Option<Flock<File>>,
    peek_in: OwnedFd,
    peek_out: OwnedFd,
    null: Option<File>,
    window: Box<[u8]>,
}

impl Fifo {
    /// Opens the FIFO at `path`, making it if it is not there; gives it to `group`, as [`fifo::put_right`] says.
    ///
    /// # Errors
    /// See [`FifoError`].
    pub fn open(path: &Path, group: Option<Gid>) -> Result<Self, FifoError> {
        fifo::make(path)?;
        let lock = lock(path)?;
        let file = fifo::hold(path)?;
        fifo::put_right(&file, path, group);
        Self::read_by(file, path, Some(lock))
    }

    /// Takes an open FIFO, as systemd passes it; `path` is for messages.
    ///
    /// # Errors
    /// See [`FifoError`].
    pub fn adopt(fd: OwnedFd, path: &Path) -> Result<Self, FifoError> {
        let failed = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
        if !fifo::is_fifo(&fstat(&fd).map_err(failed)?) {
            return Err(OpenError::NotFifo { path: path.to_owned(), kind: "something else" }.into());
        }
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        Self::read_by(File::from(fd), path, None)
    }

    fn read_by(fifo: File, path: &Path, lock: Option<Flock<File>>) -> Result<Self, FifoError> {
        let failed = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
        if let Err(errno) = fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(CAPACITY)) {
            log::debug!("the FIFO keeps its size: {errno}");
        }
        let (peek_out, peek_in) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed)?;
        let null = OpenOptions::new().write(true).open("/dev/null").ok();
        Ok(Fifo { fifo, _lock: lock, peek_in, peek_out, null, window: vec![0; WINDOW].into_boxed_slice() })
    }

    /// The descriptor, to be polled.
    pub fn raw(&self) -> RawFd {
        self.fifo.as_raw_fd()
    }

    /// What the FIFO holds at its front, at most [`WINDOW`] bytes; empty if it holds nothing.
    ///
    /// The bytes stay in the FIFO. A record at the front is always whole: it was written at once, and a page
    /// of a pipe, which holds it whole, is never split here. pipe(7).
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn peek(&mut self) -> io::Result<&[u8]> {
        let teed = match tee(&self.fifo, &self.peek_in, WINDOW, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut got = 0;
        while got < teed {
            match read(&self.peek_out, &mut self.window[got..teed]) {
                Ok(0) => break,
                Ok(len) => got += len,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(&self.window[..got])
    }

    /// Takes the first `len` bytes, which were peeked, out of the FIFO.
    ///
    /// # Errors
    /// The FIFO itself failed.
    pub fn consume(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let taken = match &self.null {
                Some(null) => {
                    splice(&self.fifo, None, null.as_fd(), None, left, SpliceFFlags::SPLICE_F_NONBLOCK)
                }
                None => read(&self.fifo, &mut self.window[..left.min(WINDOW)]),
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

/// Locks the name of the FIFO for this process, by a file beside it that only its owner can open.
///
/// Not by flock(2) on the FIFO itself: a process that may only write into it could take that lock, and keep it. The lock
/// file stays: to remove it would let two processes have it.
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
    fn what_is_peeked_stays_until_it_is_consumed() {
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
    fn a_full_fifo_refuses_a_record_whole_and_is_peeked_window_by_window() {
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
    fn a_file_in_its_place_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        std::fs::write(&path, "").expect("a file");
        let error = Fifo::open(&path, None).expect_err("a file");
        assert!(error.to_string().contains("is a regular file"), "{error}");
    }
}
