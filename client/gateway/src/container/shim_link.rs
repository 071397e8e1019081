//! The control socket between a session and the container's shim: the shim's messages, and messages to the shim.
//!
//! A session owns the link, or shares it with the table of executions, which reads the exit code from it after the
//! session has ended. Never blocks, and starts no request.

use sampan_ipc::container::{AttachMessage, CONTROL_MAX, Control};
use sampan_ipc::frame::{self, Decoder};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The last message on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The process has ended with this exit code, and all its output is in the streams.
    Exited(u8),
    /// The process could not be started: exit status 125, 126 or 127, and the reason.
    Failed(u8, String),
    /// The client is detached, as it requested.
    Detached,
    /// The link has closed without a last message: the shim has died, or the engine has not started the process.
    Lost,
}

/// This process's end of a control socket.
#[derive(Debug)]
pub struct ShimLink {
    socket: UnixStream,
    decoder: Decoder,
    /// ID of the process on the host; 0 until it runs.
    pid: i32,
    /// Rows and columns that the shim gets when the process runs.
    size: Option<(u16, u16)>,
    end: Option<End>,
}

impl ShimLink {
    /// Makes a link, and the other end for the shim.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let link = ShimLink { socket, decoder: Decoder::new(CONTROL_MAX), pid: 0, size: None, end: None };
        Ok((link, theirs.into()))
    }

    /// Reads the messages that have arrived. Returns the last message, if it has come.
    pub fn receive(&mut self) -> Option<&End> {
        let mut bytes = [0; 4096];
        while self.end.is_none() {
            match self.socket.read(&mut bytes) {
                Ok(len @ 1..) => self.decode(bytes.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.end = Some(End::Lost),
            }
        }
        self.end.as_ref()
    }

    fn decode(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while self.end.is_none() {
            match self.decoder.next_message::<AttachMessage>() {
                Ok(None) => return,
                Ok(Some(AttachMessage::Started(pid))) => {
                    self.pid = pid;
                    if let Some((rows, columns)) = self.size.take() {
                        self.send(Control::Resize(rows, columns));
                    }
                }
                Ok(Some(AttachMessage::Failed(status, reason))) => {
                    self.end = Some(End::Failed(status, reason));
                }
                Ok(Some(AttachMessage::Exited(code))) => self.end = Some(End::Exited(code)),
                Ok(Some(AttachMessage::Detached)) => self.end = Some(End::Detached),
                Err(_) => self.end = Some(End::Lost),
            }
        }
    }

    /// ID of the process on the host; 0 if it has not started yet.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sets the terminal's size, now or when the process runs.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        match self.pid {
            0 => self.size = Some((rows, columns)),
            _ => self.send(Control::Resize(rows, columns)),
        }
    }

    /// Sends a message to the shim. The few messages of a session always fit into the socket's buffer; a message to a
    /// shim that has gone is lost.
    pub fn send(&mut self, message: Control) {
        if let Ok(bytes) = frame::encode(&message) {
            let _ = self.socket.write_all(&bytes);
        }
    }
}

impl AsFd for ShimLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_of_the_shim_is_kept() {
        let (mut link, theirs) = ShimLink::open().expect("a pair");
        let mut shim = UnixStream::from(theirs);
        assert_eq!(link.receive(), None);
        for message in [AttachMessage::Started(7), AttachMessage::Exited(3)] {
            shim.write_all(&frame::encode(&message).expect("small")).expect("sent");
        }
        assert_eq!(link.receive(), Some(&End::Exited(3)));
        assert_eq!(link.pid(), 7);
        drop(shim);
        assert_eq!(link.receive(), Some(&End::Exited(3)));
    }

    #[test]
    fn a_size_that_comes_before_the_start_reaches_the_shim_after_it() {
        let (mut link, theirs) = ShimLink::open().expect("a pair");
        let mut shim = UnixStream::from(theirs);
        link.resize(24, 80);
        shim.write_all(&frame::encode(&AttachMessage::Started(7)).expect("small")).expect("sent");
        assert_eq!(link.receive(), None);
        let expected = frame::encode(&Control::Resize(24, 80)).expect("small");
        let mut bytes = vec![0; expected.len()];
        shim.read_exact(&mut bytes).expect("sent");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_link_that_closes_without_a_last_message_is_lost() {
        let (mut link, theirs) = ShimLink::open().expect("a pair");
        drop(theirs);
        assert_eq!(link.receive(), Some(&End::Lost));
    }
}
