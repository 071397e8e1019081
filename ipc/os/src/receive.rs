//! Receives bytes from a Unix socket together with the descriptors sent with them. recvmsg(2), SCM_RIGHTS in unix(7).
//!
//! Called by the socket type of `sampan-ipc`. Closes surplus descriptors, including those of a message that the kernel
//! truncated. nix cannot do that: it does not report the descriptors of a truncated message, which would leak.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that one message can carry: SCM_MAX_FD of the kernel.
const DESCRIPTORS_MAX: usize = 253;
/// Bytes of control data for a message with [`DESCRIPTORS_MAX`] descriptors.
// SAFETY: CMSG_SPACE computes a length and touches no memory.
const CONTROL_LEN: usize =
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize;

#[repr(C)]
union Control {
    bytes: [u8; CONTROL_LEN],
    /// Gives the union the alignment that the kernel's headers need.
    _header: libc::cmsghdr,
}

/// Receives bytes and at most `max` descriptors without waiting. Returns the number of bytes; 0 means that the peer
/// closed the connection. The descriptors are close-on-exec.
///
/// # Errors
/// The errno of recvmsg(2). `EAGAIN`: there is nothing to receive. `EMFILE`: the message has more than `max`
/// descriptors, or this process has reached its limit; all descriptors of the message are closed, and its bytes are
/// lost.
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    max: usize,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    // SAFETY: msghdr consists of integers and pointers, and zero is a valid value for each. It is zeroed rather than
    // built by field because some C libraries have private padding fields in it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = ((&raw mut control).cast(), CONTROL_LEN as _);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes to `bytes`, `control` and `message`, within the lengths given. All three outlive the
    // call.
    let len = Errno::result(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) })?;
    let mut received = take_descriptors(&message);
    if received.len() > max || message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE);
    }
    descriptors.append(&mut received);
    Ok(len.unsigned_abs())
}

/// Takes ownership of the descriptors of a message. Must be called once for each recvmsg(2).
#[allow(clippy::unnecessary_cast, reason = "the type of cmsg_len depends on the C library")]
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: recvmsg has filled the control data that `message` points to with headers and correct lengths, and the
    // buffer is aligned for a header. The kernel made each descriptor for this process in that call, so nothing else
    // owns it.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = next.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let len = (header.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                taken.extend(
                    (0..len / size_of::<RawFd>())
                        .map(|at| OwnedFd::from_raw_fd(data.add(at).read_unaligned())),
                );
            }
            next = libc::CMSG_NXTHDR(message, header);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::fs::File;
    use std::io::{IoSlice, Read, Write};
    use std::os::unix::net::UnixStream;

    fn send(socket: &UnixStream, fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let part = [IoSlice::new(b"ab")];
        sendmsg::<()>(socket.as_raw_fd(), &part, &rights, MsgFlags::empty(), None).expect("sent");
    }

    #[test]
    fn expected_descriptors_are_received_and_surplus_ones_are_closed() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut bytes, mut fds) = ([0; 8], Vec::new());
        assert_eq!(receive(&ours, &mut bytes, 2, &mut fds), Err(Errno::EAGAIN));
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        send(&theirs, &[writer.as_raw_fd(), writer.as_raw_fd()]);
        drop(writer);
        assert_eq!(receive(&ours, &mut bytes, 2, &mut fds), Ok(2));
        assert_eq!((fds.len(), &bytes[..2]), (2, b"ab".as_slice()));
        File::from(fds.pop().expect("two")).write_all(b"x").expect("a pipe");
        send(&theirs, &[fds[0].as_raw_fd(); 3]);
        fds.clear();
        assert_eq!(receive(&ours, &mut bytes, 2, &mut fds), Err(Errno::EMFILE));
        assert!(fds.is_empty());
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("end of file: all write ends are closed");
        assert_eq!(text, "x");
        drop(theirs);
        assert_eq!(receive(&ours, &mut bytes, 2, &mut fds), Ok(0));
    }
}
