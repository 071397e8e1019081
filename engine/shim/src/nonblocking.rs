//! Moves bytes to and from clients' descriptors without blocking.
//!
//! Other processes share these descriptors, so the shim must not set O_NONBLOCK on them. It writes to a socket with
//! MSG_DONTWAIT, and to a pipe by splice(2) with SPLICE_F_NONBLOCK. The source of the splice is the container's own
//! pipe if only one client reads it; otherwise a staging pipe of the shim, which contains a copy of the bytes.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, send, sockopt,
};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{pipe2, write};
use sampan_os::syscall;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most bytes that one splice(2) moves.
pub(crate) const SPLICE_MAX: usize = 1 << 20;

/// Capacity of a pipe for a container's stdin, in bytes: the most that moves between two wake-ups of the shim.
pub(crate) const INPUT_LEN: i32 = 1 << 18;
/// Capacity of a pipe for a container's output, in bytes. Smaller than [`INPUT_LEN`], since a kill of the shim loses
/// the bytes in the pipe.
pub(crate) const OUTPUT_LEN: i32 = 1 << 17;

/// Kinds of descriptors that the shim reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pipe or a FIFO.
    Pipe,
    /// A Unix stream socket.
    Socket,
    /// /dev/null.
    Null,
    /// A regular file. Only the output of a systemd unit may be a file; a client may not send one.
    File,
}

/// The kind of `fd`; `None` for a descriptor that a client may not send.
pub(crate) fn kind(fd: &OwnedFd) -> Option<Kind> {
    let stat = fstat(fd).ok()?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO => Some(Kind::Pipe),
        SFlag::S_IFCHR if stat.st_rdev == nix::sys::stat::makedev(1, 3) => Some(Kind::Null),
        SFlag::S_IFSOCK => {
            let address: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
            let is_stream = getsockopt(fd, sockopt::SockType).ok()? == SockType::Stream;
            (is_stream && address.family() == Some(AddressFamily::Unix)).then_some(Kind::Socket)
        }
        _ => None,
    }
}

/// Grows a pipe to `to` bytes if it is smaller. Ignores errors: a smaller pipe works as well. fcntl(2), F_SETPIPE_SZ.
pub(crate) fn grow_pipe(pipe: &OwnedFd, to: i32) {
    if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|len| len < to) {
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(to));
    }
}

/// The result of one attempt to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Bytes were moved, and the source may have more.
    Moved,
    /// The source has no bytes at this moment.
    SourceEmpty,
    /// The target accepts no bytes at this moment.
    TargetFull,
    /// The source has reached its end.
    SourceEnded,
    /// The target is closed, or has failed.
    TargetBroken,
}

/// Moves bytes with splice(2). One side must be a pipe; the source may also be a socket.
pub(crate) fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Transfer {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    match splice(from, None, to, None, SPLICE_MAX, flags) {
        Ok(0) => Transfer::SourceEnded,
        Ok(_) | Err(Errno::EINTR) => Transfer::Moved,
        // The kernel does not report which side would block. If the source has bytes, the target is full.
        Err(Errno::EAGAIN) if syscall::bytes_waiting(from).is_ok_and(|bytes| bytes > 0) => {
            Transfer::TargetFull
        }
        Err(Errno::EAGAIN) => Transfer::SourceEmpty,
        Err(Errno::ECONNRESET) => Transfer::SourceEnded,
        Err(_) => Transfer::TargetBroken,
    }
}

/// A descriptor that gets a copy of an output stream, and the bytes that the descriptor has not accepted yet.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    kind: Kind,
    /// The two ends of the staging pipe: first the end to read from, then the end to write to.
    staging: Option<(OwnedFd, OwnedFd)>,
    pending: Vec<u8>,
    pub(super) is_broken: bool,
}

impl Sink {
    /// Makes a sink for the descriptor `fd` of a client; `None` for a kind of descriptor that a client may not send.
    pub(crate) fn new(fd: OwnedFd) -> Option<Self> {
        let kind = kind(&fd)?;
        if kind == Kind::Pipe {
            grow_pipe(&fd, OUTPUT_LEN);
        }
        Some(Sink { fd, kind, staging: None, pending: Vec::new(), is_broken: false })
    }

    /// Makes a sink for the stdout or stderr of a systemd unit, which may also be a regular file. Returns `None` for a
    /// terminal, since a write to a terminal might block.
    pub(crate) fn of_unit(fd: OwnedFd) -> Option<Self> {
        let is_file = |fd: &OwnedFd| {
            let mode = fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
            mode == Ok(SFlag::S_IFREG)
        };
        match is_file(&fd) {
            true => Some(Sink { fd, kind: Kind::File, staging: None, pending: Vec::new(), is_broken: false }),
            false => Sink::new(fd),
        }
    }

    /// The descriptor, if it is a pipe and no bytes wait: the kernel may then splice bytes into it directly.
    pub(crate) fn direct_pipe(&self) -> Option<BorrowedFd<'_>> {
        (self.kind == Kind::Pipe && self.is_empty()).then(|| self.fd.as_fd())
    }

    /// Writes `bytes`; keeps the bytes that the descriptor does not accept now.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.kind != Kind::Null && !self.is_broken {
            self.pending.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Writes as many of the waiting bytes as the descriptor accepts now.
    pub(crate) fn flush(&mut self) {
        loop {
            let moved = match self.kind {
                Kind::Null => Transfer::SourceEnded,
                Kind::Socket => self.flush_socket(),
                Kind::File => self.flush_file(),
                Kind::Pipe => self.flush_pipe(),
            };
            match moved {
                Transfer::Moved => {}
                Transfer::TargetBroken => {
                    self.is_broken = true;
                    break;
                }
                _ => break,
            }
        }
        if self.pending.is_empty() || self.is_broken {
            self.pending = Vec::new();
        }
    }

    fn flush_socket(&mut self) -> Transfer {
        if self.pending.is_empty() {
            return Transfer::SourceEmpty;
        }
        match send(self.fd.as_raw_fd(), &self.pending, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(len) => drop(self.pending.drain(..len)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Transfer::TargetFull,
            Err(_) => return Transfer::TargetBroken,
        }
        Transfer::Moved
    }

    /// Writes to a regular file, which does not block for long. Bytes that a full disk refuses are lost, as in a log.
    fn flush_file(&mut self) -> Transfer {
        match write(&self.fd, &self.pending) {
            Ok(len @ 1..) => drop(self.pending.drain(..len)),
            Err(Errno::EINTR) => {}
            _ => self.pending.clear(),
        }
        if self.pending.is_empty() { Transfer::SourceEnded } else { Transfer::Moved }
    }

    fn flush_pipe(&mut self) -> Transfer {
        if self.staging.is_none() && !self.pending.is_empty() {
            self.staging = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok();
            if self.staging.is_none() {
                return Transfer::TargetBroken;
            }
        }
        let Some((read, fill)) = &self.staging else { return Transfer::SourceEmpty };
        if !self.pending.is_empty()
            && let Ok(len) = write(fill, &self.pending)
        {
            self.pending.drain(..len);
        }
        transfer(read.as_fd(), self.fd.as_fd())
    }

    /// Whether no bytes wait, neither in memory nor in the staging pipe.
    pub(crate) fn is_empty(&self) -> bool {
        let held = self.staging.as_ref().map_or(0, |(read, _)| syscall::bytes_waiting(read).unwrap_or(0));
        self.is_broken || self.pending.is_empty() && held == 0
    }

    /// The descriptor that poll(2) must report as writable before waiting bytes can be written.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
