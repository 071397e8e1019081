//! Receives bytes from a Unix socket, and descriptors that come with them. recvmsg(2), SCM_RIGHTS in unix(7).
//!
//! Called by `sampan-ipc`'s socket. A descriptor that is not wanted is closed here, also one of a message that the kernel
//! had to cut: nix does not say which those are.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that a message brings: SCM_MAX_FD of the kernel.
const DESCRIPTORS_MAX: usize = 253;
/// Bytes of the control data of such a message.
// SAFETY: CMSG_SPACE computes a length and touches no memory.
const CONTROL_LEN: usize =
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize;

#[repr(C)]
union Control {
    bytes: [u8; CONTROL_LEN],
    /// For its alignment.
    _header: libc::cmsghdr,
}

/// Receives bytes without waiting, and at most `max` descriptors, which are close-on-exec. Zero bytes: the peer has closed.
///
/// # Errors
/// The errno: `EAGAIN` if nothing is there; `EMFILE` if more descriptors came, or this process can have no more. All that
/// came are closed then, and the bytes are lost.
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    max: usize,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    // SAFETY: msghdr is integers and pointers, for all of which zero is a value; some C libraries have padding in it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = ((&raw mut control).cast(), CONTROL_LEN as _);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes to `bytes`, `control` and `message`, which all live until the call is over, no more than
    // the lengths that it is given.
    let len = Errno::result(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) })?;
    let mut came = taken(&message);
    if came.len() > max || message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE);
    }
    descriptors.append(&mut came);
    Ok(len.unsigned_abs())
}

/// The descriptors of a message that was just received.
fn taken(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the kernel has written headers and their lengths to the control data that `message` points to, which is
    // aligned for a header; each descriptor is one that it made for this process in the call, so nothing else owns it.
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
    fn wanted_descriptors_are_had_and_others_closed() {
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
        reader.read_to_string(&mut text).expect("nobody has the other end any more");
        assert_eq!(text, "x");
        drop(theirs);
        assert_eq!(receive(&ours, &mut bytes, 2, &mut fds), Ok(0));
    }
}
