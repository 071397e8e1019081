//! Bytes that go to and come from clients' descriptors, which other processes share: never blocking, and without
//! setting O_NONBLOCK on them.
//!
//! A socket is written with MSG_DONTWAIT. A pipe is filled by splice(2) with SPLICE_F_NONBLOCK, from the
//! container's own pipe if nobody else reads that, else from a pipe of the shim's that holds what waits.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, send, sockopt,
};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{pipe2, write};
use sampan_os::syscall;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most bytes that one splice moves.
pub const SPLICE_MAX: usize = 1 << 20;

/// Room of a pipe that feeds a container: so much goes between two wake-ups of the shim.
pub const INPUT_LEN: i32 = 1 << 18;
/// Room of a pipe of its output: less, as what waits there is lost if the shim is killed.
pub const OUTPUT_LEN: i32 = 1 << 17;

/// Kinds of descriptors that clients may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pipe or FIFO.
    Pipe,
    /// A stream socket of this host.
    Socket,
    /// /dev/null.
    Null,
    /// A file, which a unit of systemd's alone has for its output.
    File,
}

/// What kind of descriptor `fd` is; `None` for one that a client may not bring.
pub fn kind(fd: &OwnedFd) -> Option<Kind> {
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

/// Makes room in a pipe that has less; one that must stay as it is works as well. F_SETPIPE_SZ, fcntl(2).
pub fn widen(pipe: &OwnedFd, to: i32) {
    if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|len| len < to) {
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(to));
    }
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Bytes went.
    Some,
    /// Nothing is there to read.
    NoBytes,
    /// Nothing more can be written now.
    NoRoom,
    /// The reading side has ended.
    End,
    /// The writing side is closed, or broken.
    Broken,
}

/// Moves bytes where one side at least is a pipe, and the other a pipe or a socket to read from.
pub fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Moved {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    match splice(from, None, to, None, SPLICE_MAX, flags) {
        Ok(0) => Moved::End,
        Ok(_) | Err(Errno::EINTR) => Moved::Some,
        // Which side it was, the kernel does not say.
        Err(Errno::EAGAIN) if syscall::bytes_waiting(from).is_ok_and(|bytes| bytes > 0) => Moved::NoRoom,
        Err(Errno::EAGAIN) => Moved::NoBytes,
        Err(Errno::ECONNRESET) => Moved::End,
        Err(_) => Moved::Broken,
    }
}

/// Where a client wants a stream to go, with what waits for it.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    kind: Kind,
    relay: Option<(OwnedFd, OwnedFd)>,
    rest: Vec<u8>,
    pub(super) is_broken: bool,
}

impl Sink {
    /// Writes to `fd`; `None` if a client may not bring such a descriptor.
    pub fn new(fd: OwnedFd) -> Option<Self> {
        let kind = kind(&fd)?;
        if kind == Kind::Pipe {
            widen(&fd, OUTPUT_LEN);
        }
        Some(Sink { fd, kind, relay: None, rest: Vec::new(), is_broken: false })
    }

    /// Writes to the standard output or error of a unit of systemd's, which may also be a file; `None` for a terminal,
    /// which might block.
    pub fn of_unit(fd: OwnedFd) -> Option<Self> {
        let is_file = |fd: &OwnedFd| {
            let mode = fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
            mode == Ok(SFlag::S_IFREG)
        };
        match is_file(&fd) {
            true => Some(Sink { fd, kind: Kind::File, relay: None, rest: Vec::new(), is_broken: false }),
            false => Sink::new(fd),
        }
    }

    /// The pipe, if it is one, and nothing waits before it.
    pub fn direct(&self) -> Option<BorrowedFd<'_>> {
        (self.kind == Kind::Pipe && self.is_empty()).then(|| self.fd.as_fd())
    }

    /// Takes bytes; what does not go now waits.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.kind != Kind::Null && !self.is_broken {
            self.rest.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Writes what waits, as far as there is room.
    pub fn flush(&mut self) {
        loop {
            let moved = match self.kind {
                Kind::Null => Moved::End,
                Kind::Socket => self.flush_socket(),
                Kind::File => self.flush_file(),
                Kind::Pipe => self.flush_pipe(),
            };
            match moved {
                Moved::Some => {}
                Moved::Broken => {
                    self.is_broken = true;
                    break;
                }
                _ => break,
            }
        }
        if self.rest.is_empty() || self.is_broken {
            self.rest = Vec::new();
        }
    }

    fn flush_socket(&mut self) -> Moved {
        if self.rest.is_empty() {
            return Moved::NoBytes;
        }
        match send(self.fd.as_raw_fd(), &self.rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(len) => drop(self.rest.drain(..len)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Moved::NoRoom,
            Err(_) => return Moved::Broken,
        }
        Moved::Some
    }

    /// A file always has room; what a full disk does not take is lost, as from a log.
    fn flush_file(&mut self) -> Moved {
        match write(&self.fd, &self.rest) {
            Ok(len @ 1..) => drop(self.rest.drain(..len)),
            Err(Errno::EINTR) => {}
            _ => self.rest.clear(),
        }
        if self.rest.is_empty() { Moved::End } else { Moved::Some }
    }

    fn flush_pipe(&mut self) -> Moved {
        if self.relay.is_none() && !self.rest.is_empty() {
            self.relay = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok();
            if self.relay.is_none() {
                return Moved::Broken;
            }
        }
        let Some((read, fill)) = &self.relay else { return Moved::NoBytes };
        if !self.rest.is_empty()
            && let Ok(len) = write(fill, &self.rest)
        {
            self.rest.drain(..len);
        }
        transfer(read.as_fd(), self.fd.as_fd())
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        let held = self.relay.as_ref().map_or(0, |(read, _)| syscall::bytes_waiting(read).unwrap_or(0));
        self.is_broken || self.rest.is_empty() && held == 0
    }

    /// What to wait on for room.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
