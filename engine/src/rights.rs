//! Bytes that carry descriptors over a Unix socket. SCM_RIGHTS, unix(7).

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Sends `bytes`, or the first of them; the descriptors go with the first, so they are sent if anything is. Blocks
/// if the socket does; never raises SIGPIPE.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: &impl AsRawFd, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let part = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(socket.as_raw_fd(), &part, rights, MsgFlags::MSG_NOSIGNAL, None)?)
}
