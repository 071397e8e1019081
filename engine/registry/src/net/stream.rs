//! A connection that ureq reads and writes: TCP, a Unix socket, or TLS to a proxy.
//!
//! [`super::dial`] makes the connections. For a plain HTTP request through a proxy, this module changes the head of
//! the request to the absolute form, which ureq does not support.

use crate::net::tunnel::Tunnel;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use sampan_job::cpu;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, ShutdownHandle, Transport};

/// A connected socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS to a proxy.
    Tls(Box<Tunnel>),
}

impl Socket {
    fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(read).and(s.set_write_timeout(write)),
            Socket::Unix(s) => s.set_read_timeout(read).and(s.set_write_timeout(write)),
            Socket::Tls(s) => s.wire().set_read_timeout(read).and(s.wire().set_write_timeout(write)),
        }
    }

    /// Whether a read can return bytes although the descriptor is not readable, because TLS has decrypted bytes
    /// already.
    pub(crate) fn has_input(&self) -> bool {
        matches!(self, Socket::Tls(tunnel) if tunnel.has_input())
    }

    /// Reads without waiting; fails with [`Errno::EAGAIN`] if nothing has arrived.
    fn read_nonblocking(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            // If less than one TLS record has arrived, a read would block.
            Socket::Tls(_) => Err(Errno::EAGAIN),
            _ => recv(self.as_fd().as_raw_fd(), into, MsgFlags::MSG_DONTWAIT),
        }
    }

    /// Whether the connection is open and has no unread byte. An unread byte between two requests means that the peer
    /// has closed the connection or broken the protocol.
    fn is_quiet(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.as_fd().as_raw_fd(), &mut [0], flags), Err(Errno::EAGAIN))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tls(tunnel) => tunnel.wire().as_fd(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(into),
            Socket::Unix(stream) => (&*stream).read(into),
            Socket::Tls(tunnel) => tunnel.read(into),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write(bytes),
            Socket::Unix(stream) => (&*stream).write(bytes),
            Socket::Tls(tunnel) => tunnel.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        // An error means that the socket is shut down already.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
            Socket::Tls(tunnel) => tunnel.wire().shutdown(Shutdown::Both),
        };
    }
}

/// The data with which a plain HTTP request goes through a proxy. RFC 9112, section 3.2.2.
#[derive(Clone)]
pub(crate) struct AbsoluteForm {
    /// `http://host:port`.
    pub(crate) origin: String,
    /// Value of the header `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

/// A connection with the buffers that ureq needs.
pub(crate) struct Stream {
    /// The socket, which the agent shares and may shut down from another thread.
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    absolute: Option<AbsoluteForm>,
    /// Whether the next byte that is written begins a request.
    at_request_start: bool,
    /// The present time limits of the socket for reads and writes.
    timeouts: (Option<Duration>, Option<Duration>),
}

impl Stream {
    pub(crate) fn new(socket: Arc<Socket>, buffers: LazyBuffers, absolute: Option<AbsoluteForm>) -> Self {
        Stream { socket, buffers, absolute, at_request_start: true, timeouts: (None, None) }
    }

    fn set_timeouts(&mut self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        if self.timeouts != (read, write) {
            self.socket.set_timeouts(read, write)?;
            self.timeouts = (read, write);
        }
        Ok(())
    }
}

/// The handle by which the agent aborts reads and writes on `socket`.
pub(crate) fn shutdown_handle(socket: &Arc<Socket>) -> Weak<dyn ShutdownHandle> {
    Arc::downgrade(socket) as Weak<dyn ShutdownHandle>
}

impl Transport for Stream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.set_timeouts(self.timeouts.0, timeout.not_zero().map(|after| *after))?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let absolute = self.absolute.as_ref().filter(|_| self.at_request_start);
        let written = match absolute.and_then(|absolute| absolute.rewrite(output)) {
            Some(rewritten) => (&*self.socket).write_all(&rewritten),
            None => (&*self.socket).write_all(output),
        };
        self.at_request_start &= amount == 0;
        written.map_err(|error| timeout_error(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.set_timeouts(timeout.not_zero().map(|after| *after), self.timeouts.1)?;
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            let message = "the head of its answer is too long";
            return Err(Error::Io(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        let socket = &*self.socket;
        let amount = match socket.read_nonblocking(input) {
            Ok(amount) => amount,
            // Try without waiting first: only a thread that must wait lets others use its processor.
            Err(Errno::EAGAIN | Errno::EINTR) => {
                cpu::idle(|| read_blocking(socket, input)).map_err(|error| timeout_error(error, timeout))?
            }
            Err(errno) => return Err(Error::Io(errno.into())),
        };
        self.buffers.input_appended(amount);
        // The answer has begun, so the next write begins another request.
        self.at_request_start |= amount > 0;
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.socket.is_quiet()
    }
}

impl AbsoluteForm {
    /// Rewrites the head of a request from `GET /path HTTP/1.1` to `GET http://host/path HTTP/1.1`; `None` if `head` is
    /// not the head of a request.
    fn rewrite(&self, head: &[u8]) -> Option<Vec<u8>> {
        let space = head.iter().position(|byte| *byte == b' ')?;
        let line = head.windows(2).position(|end| end == b"\r\n")?;
        if head.get(space + 1) != Some(&b'/') || space > line {
            return None;
        }
        let mut out = Vec::with_capacity(head.len() + self.origin.len() + 128);
        out.extend_from_slice(head.get(..=space)?);
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(head.get(space + 1..line + 2)?);
        if let Some(authorization) = &self.authorization {
            out.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
        }
        out.extend_from_slice(head.get(line + 2..)?);
        Some(out)
    }
}

fn read_blocking(mut socket: &Socket, input: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(input) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Turns the error of a read or write that reached its time limit into ureq's timeout: SO_RCVTIMEO and SO_SNDTIMEO
/// make the system call fail with EAGAIN. socket(7).
fn timeout_error(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("fd", &self.socket.as_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_through_a_proxy_has_its_absolute_form() {
        let absolute =
            AbsoluteForm { origin: "http://r:5000".to_owned(), authorization: Some("Basic eA==".to_owned()) };
        let rewritten = absolute.rewrite(b"GET /v2/ HTTP/1.1\r\nhost: r:5000\r\n\r\nbody").expect("a head");
        assert_eq!(
            String::from_utf8_lossy(&rewritten),
            "GET http://r:5000/v2/ HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nhost: r:5000\r\n\r\nbody"
        );
        for no_head in [&b""[..], b"GET", b"GET / HTTP/1.1", b"\r\nGET / HTTP", b"body \r\n"] {
            assert_eq!(absolute.rewrite(no_head), None);
        }
    }
}
