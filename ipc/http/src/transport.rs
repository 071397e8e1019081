//! The stream of bytes below a connection: a TCP socket, or a stream that encrypts the bytes of one.
//!
//! Called by [`crate::connection`] alone. A program with TLS implements [`Transport`].

use mio::net::{TcpStream, UnixStream};
use nix::sys::sendfile::sendfile64;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

/// A stream that never blocks: each operation that would block returns [`io::ErrorKind::WouldBlock`].
///
/// After `WouldBlock`, the poll in which the stream is registered reports when the operation can be tried again.
/// `flush` hands bytes that the stream has accepted, but still keeps, to the socket.
pub trait Transport: Read + Write {
    /// Sends at most `count` bytes of `file`, from `offset` on; returns how many. 0 means that the file ends at or
    /// before `offset`. The file's position is neither used nor changed.
    ///
    /// # Errors
    /// Reading or sending fails; `WouldBlock` as for the other operations.
    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64>;

    /// Whether the stream keeps bytes that it has accepted and that the socket has not taken yet.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Whether a read that returned fewer bytes than were asked for has emptied the stream. So the next read need
    /// not be tried before the poll reports the stream.
    fn is_empty_after_short_read(&self) -> bool {
        false
    }

    /// Makes the socket send small packets at once.
    ///
    /// # Errors
    /// The kernel refuses. The stream works nevertheless, with delays.
    fn set_nodelay(&self) -> io::Result<()> {
        Ok(())
    }

    /// Tells the peer that no more bytes follow.
    ///
    /// # Errors
    /// The connection is broken.
    fn end_sending(&mut self) -> io::Result<()>;
}

/// See [`Transport::send_file`]. sendfile(2).
fn send_file(socket: &impl AsFd, file: &File, offset: u64, count: u64) -> io::Result<u64> {
    let mut at = i64::try_from(offset).map_err(io::Error::other)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(sendfile64(socket, file, Some(&mut at), count)? as u64)
}

impl Transport for TcpStream {
    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        send_file(self, file, offset, count)
    }

    // epoll(7): on a stream socket, a short read shows that the socket was empty.
    fn is_empty_after_short_read(&self) -> bool {
        true
    }

    fn set_nodelay(&self) -> io::Result<()> {
        TcpStream::set_nodelay(self, true)
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Transport for UnixStream {
    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        send_file(self, file, offset, count)
    }

    fn is_empty_after_short_read(&self) -> bool {
        true
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}
