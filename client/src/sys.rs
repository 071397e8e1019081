//! The one thing that needs `unsafe` here: taking over a descriptor that the kernel has just handed out.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Owns a descriptor that recvmsg(2) brought by SCM_RIGHTS; `None` for what is no descriptor.
pub(crate) fn adopt(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: the kernel has made it for this process in the call that has just returned; nobody else knows it.
    (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw) })
}
