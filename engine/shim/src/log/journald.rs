//! The journald log: one datagram a line, in the native protocol, with the fields of docker's journald driver.
//!
//! systemd.journal-fields(7), and systemd's "Native Journal Protocol". While journald is slow, the shim does not read
//! the container's output, so that the container waits. While journald does not run, lines are lost.

use sampan_ipc::shim::Identity;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;

/// journald's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to journald.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(super) socket: UnixDatagram,
    prefix: Vec<u8>,
    queue: VecDeque<Vec<u8>>,
}

impl Journal {
    pub(crate) fn open(identity: &Identity, tag: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(SOCKET)?;
        Ok(Journal { socket, prefix: prefix(identity, tag), queue: VecDeque::new() })
    }

    /// Queues a line or a part of a line, and sends as many lines as journald accepts now.
    pub(crate) fn add(&mut self, line: &[u8], is_end: bool, is_error: bool) {
        self.queue.push_back(message(&self.prefix, line, is_end, is_error));
        self.flush();
    }

    /// Sends as many of the waiting lines as journald accepts now.
    pub(crate) fn flush(&mut self) {
        while let Some(message) = self.queue.front() {
            match self.socket.send(message) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => {
                    // journald may have restarted and made a new socket: connect and send again. If that fails, the
                    // line is lost.
                    let _ = self.socket.connect(SOCKET).and_then(|()| self.socket.send(message));
                }
                Ok(_) => {}
            }
            self.queue.pop_front();
        }
        self.queue = VecDeque::new();
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.queue.is_empty()
    }
}

/// The fields at the beginning of every message of the container.
fn prefix(identity: &Identity, tag: &str) -> Vec<u8> {
    let short = identity.id.get(..12).unwrap_or(&identity.id);
    let mut out = Vec::new();
    for (name, value) in [
        ("CONTAINER_ID", short),
        ("CONTAINER_ID_FULL", &identity.id),
        ("CONTAINER_NAME", &identity.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &identity.image),
        ("SYSLOG_IDENTIFIER", tag),
    ] {
        field(&mut out, name, value.as_bytes());
    }
    out
}

fn message(prefix: &[u8], line: &[u8], is_end: bool, is_error: bool) -> Vec<u8> {
    let mut out = prefix.to_vec();
    field(&mut out, "PRIORITY", if is_error { b"3" } else { b"6" });
    if !is_end {
        field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    field(&mut out, "MESSAGE", line);
    out
}

/// Appends a field in the form with a length, in which no value can be mistaken for another field.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_line_ends_stays_one_field() {
        let identity = Identity { id: "0123456789abcdef".into(), ..Identity::default() };
        let bytes = message(&prefix(&identity, "a\nPRIORITY=0"), b"x", false, true);
        let tag = [&b"CONTAINER_TAG\n\x0c\0\0\0\0\0\0\0"[..], b"a\nPRIORITY=0\n"].concat();
        assert!(bytes.windows(tag.len()).any(|window| window == tag));
        assert!(bytes.starts_with(b"CONTAINER_ID\n\x0c\0\0\0\0\0\0\x000123456789ab\n"));
        assert!(bytes.ends_with(b"MESSAGE\n\x01\0\0\0\0\0\0\0x\n"));
    }
}
